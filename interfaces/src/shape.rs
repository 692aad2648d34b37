//! Shapes: one number for what a type is in memory and in meaning, made by the compiler in each image that uses the type.
//!
//! An interface's hash is made of its own text and of the shapes of all types in its signatures; kernel and domain compare hashes before an object is
//! taken for one of that interface. The ABI hash, which is over the sources, is checked before; this is what holds where that one was wrong.

/// Numbers made into one, order included.
pub const fn mix(parts: &[u64]) -> u64 {
    // FNV-1a over whole words, then a finalizer so that small differences reach all bits (the one of SplitMix64).
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < parts.len() {
        hash = (hash ^ parts[at]).wrapping_mul(0x0000_0100_0000_01b3);
        hash ^= hash >> 29;
        at += 1;
    }
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

/// The shape of a type of which no more is known than this.
pub const fn of<T>(kind: u64) -> u64 {
    mix(&[kind, size_of::<T>() as u64, align_of::<T>() as u64])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Exchangeable, Interface};

    #[derive(Clone, Copy, Exchangeable)]
    struct Plain {
        _a: u32,
        _b: u16,
    }

    mod elsewhere {
        use crate::{CallError, Exchangeable, interface};

        /// The same name, the same size: other fields.
        #[derive(Clone, Copy, Exchangeable)]
        pub struct Plain {
            _a: u16,
            _b: u32,
        }

        #[derive(Clone, Copy, Exchangeable)]
        pub struct Asked {
            _what: [Plain; 2],
        }

        #[interface]
        pub trait Ask {
            fn ask(&self, what: Asked) -> Result<u32, CallError>;
        }
    }

    mod apart {
        use crate::{CallError, Exchangeable, interface};

        #[derive(Clone, Copy, Exchangeable)]
        pub struct Asked {
            _what: [super::Plain; 2],
        }

        /// Word for word the same trait, over another `Asked`.
        #[interface]
        pub trait Ask {
            fn ask(&self, what: Asked) -> Result<u32, CallError>;
        }
    }

    mod again {
        use super::elsewhere::Asked;
        use crate::{CallError, interface};

        /// Another word about it changes nothing.
        #[interface]
        pub trait Ask {
            /// Nor here.
            fn ask(&self, what: Asked) -> Result<u32, CallError>;
        }
    }

    /// What a field deep inside an argument is made of tells two interfaces apart, and comments don't.
    #[test]
    fn a_hash_is_of_all_that_crosses() {
        assert_ne!(Plain::SHAPE, elsewhere::Plain::SHAPE);
        assert_ne!(<dyn elsewhere::Ask>::HASH, <dyn apart::Ask>::HASH);
        assert_eq!(<dyn elsewhere::Ask>::HASH, <dyn again::Ask>::HASH);
    }

    #[test]
    fn order_counts() {
        assert_ne!(mix(&[1, 2]), mix(&[2, 1]));
        assert_ne!(mix(&[0]), mix(&[0, 0]));
        assert_ne!(of::<u32>(1), of::<u64>(1));
    }
}
