//! Loom's atomics with x86's meaning of `SeqCst`: a store or read-modify-write is followed by a full fence (`xchg`, `lock`), a load is a plain one. (By itself Loom
//! takes `SeqCst` for acquire and release, which is less than x86 and the language give.) Made at the first use, since `new` is `const` in the kernel.

use std::sync::OnceLock;
pub use std::sync::atomic::Ordering;

use loom::sync::atomic as loomed;

fn fence_if(order: Ordering) {
    if order == Ordering::SeqCst {
        loomed::fence(Ordering::SeqCst);
    }
}

macro_rules! atomic {
    ($name:ident($value:ty)) => {
        pub struct $name {
            first: $value,
            made: OnceLock<loomed::$name>,
        }

        #[allow(dead_code, reason = "each protocol uses some of them")]
        impl $name {
            pub const fn new(first: $value) -> Self {
                $name { first, made: OnceLock::new() }
            }

            fn loomed(&self) -> &loomed::$name {
                self.made.get_or_init(|| loomed::$name::new(self.first))
            }

            pub fn load(&self, order: Ordering) -> $value {
                let order = if order == Ordering::SeqCst { Ordering::Acquire } else { order };
                self.loomed().load(order)
            }

            pub fn store(&self, value: $value, order: Ordering) {
                if order == Ordering::SeqCst {
                    // `xchg`, which comes before or after any other read-modify-write; to Loom a store may be on both sides of one.
                    self.swap(value, order);
                } else {
                    self.loomed().store(value, order);
                }
            }

            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                let before = self.loomed().swap(value, order);
                fence_if(order);
                before
            }

            pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                let before = self.loomed().fetch_add(value, order);
                fence_if(order);
                before
            }

            pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                let before = self.loomed().fetch_sub(value, order);
                fence_if(order);
                before
            }

            pub fn compare_exchange(
                &self,
                from: $value,
                to: $value,
                order: Ordering,
                failing: Ordering,
            ) -> Result<$value, $value> {
                let outcome = self.loomed().compare_exchange(from, to, order, failing);
                fence_if(order);
                outcome
            }
        }
    };
}

atomic!(AtomicU32(u32));
atomic!(AtomicU64(u64));
atomic!(AtomicUsize(usize));

pub struct AtomicBool(AtomicU32);

#[allow(dead_code, reason = "each protocol uses some of them")]
impl AtomicBool {
    pub const fn new(first: bool) -> Self {
        AtomicBool(AtomicU32::new(first as u32))
    }

    pub fn load(&self, order: Ordering) -> bool {
        self.0.load(order) != 0
    }

    pub fn store(&self, value: bool, order: Ordering) {
        self.0.store(u32::from(value), order);
    }

    pub fn swap(&self, value: bool, order: Ordering) -> bool {
        self.0.swap(u32::from(value), order) != 0
    }
}

pub struct AtomicPtr<T>(AtomicUsize, std::marker::PhantomData<*mut T>);

// SAFETY: a number; who follows the pointer answers for it.
unsafe impl<T> Send for AtomicPtr<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for AtomicPtr<T> {}

#[allow(dead_code, reason = "each protocol uses some of them")]
impl<T> AtomicPtr<T> {
    /// Only null is known at compile time.
    pub const fn new(first: *mut T) -> Self {
        assert!(first.is_null());
        AtomicPtr(AtomicUsize::new(0), std::marker::PhantomData)
    }

    pub fn load(&self, order: Ordering) -> *mut T {
        std::ptr::with_exposed_provenance_mut(self.0.load(order))
    }

    pub fn store(&self, value: *mut T, order: Ordering) {
        self.0.store(value.expose_provenance(), order);
    }
}
