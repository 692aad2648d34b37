//! The gate: what stands between a proxy and the other domain. The macros make proxies generic in it; only the kernel implements it, so that proxy code,
//! vtables and objects exist in the kernel's image and memory alone.

use core::ptr::NonNull;

use crate::{Borrowed, CallError, Cap, Exchangeable, Interface, RRef, abi::RawObject, shape};

/// Calls one method of an object in another domain, in the order that docs/ARCHITECTURE.md gives.
///
/// # Safety
/// `call` runs the method only with a continuation published and the callee alive, and moves what crosses.
pub unsafe trait Gate: Send + Sync + 'static {
    fn call<M: Method>(&self, arguments: M::Arguments) -> M::Outcome;
}

/// Calls a kernel object: a stack check, and a count of the depth that keeps the thread from being diverted.
///
/// # Safety
/// Between `enter` and `leave` the calling thread isn't diverted; `leave` returns only if its domain lives. `object` is the object that
/// the proxy stands for, of the proxy's interface.
pub unsafe trait KernelGate: Send + Sync + 'static {
    fn object(&self) -> RawObject;
    fn enter(&self);
    fn leave(&self);
    /// Puts a proxy in front of a kernel object that goes to the calling domain.
    fn hand_out<I: ?Sized + KernelInterface>(&self, cap: Cap<I>) -> Cap<I>;
}

/// One method of an interface, as the macro hands it to the gate.
pub trait Method {
    /// `&dyn Trait` or `&mut dyn Trait`.
    type This<'a>: Receiver;
    /// All arguments, by value.
    type Arguments: ArgumentList;
    type Outcome: Outcome;
    /// Of what crosses in either direction.
    const SHAPE: u64 = shape::mix(&[<Self::Arguments as ArgumentList>::SHAPE, <Self::Outcome as Outcome>::SHAPE]);

    fn invoke(this: Self::This<'_>, arguments: Self::Arguments) -> Self::Outcome;
}

/// A reference to an object of an interface, made from its raw form.
///
/// # Safety
/// Only this module implements it.
pub unsafe trait Receiver {
    /// # Safety
    /// `object` is alive as long as the reference is used, of this interface; for `&mut` nobody else uses it.
    unsafe fn from_raw(object: RawObject) -> Self;
}

// SAFETY: `from_raw`'s contract is what a reference needs.
unsafe impl<I: ?Sized + Interface> Receiver for &I {
    #[inline(always)]
    unsafe fn from_raw(object: RawObject) -> Self {
        // SAFETY: this function's contract.
        unsafe { &*I::from_raw(object) }
    }
}

// SAFETY: as above.
unsafe impl<I: ?Sized + Interface> Receiver for &mut I {
    #[inline(always)]
    unsafe fn from_raw(object: RawObject) -> Self {
        // SAFETY: this function's contract.
        unsafe { &mut *I::from_raw(object) }
    }
}

/// An interface whose objects live in domains: it has proxies with a [`Gate`] in them.
///
/// # Safety
/// Only `#[interface]` implements it. The proxy is the gate itself (`repr(transparent)`), with the interface's methods.
pub unsafe trait Callable: Interface {
    /// Of the trait's own text, comments left out.
    const SIGNATURE: u64;

    fn proxy<G: Gate>(gate: NonNull<G>) -> NonNull<Self>;
}

/// An interface whose objects live in the kernel.
///
/// # Safety
/// Only `#[interface(kernel)]` implements it. The proxy is the gate itself (`repr(transparent)`), with the interface's methods.
pub unsafe trait KernelInterface: Interface {
    fn proxy<G: KernelGate>(gate: NonNull<G>) -> NonNull<Self>;
}

/// From one domain to another: who owns what, after.
pub trait Passage {
    /// An object on the exchange heap changes its owner.
    fn object(&self, object: NonNull<u8>);
    /// An object is lent to the callee, for this call.
    fn lend(&self, object: NonNull<u8>);
    /// The call to which an object was lent is over.
    fn give_back(&self, object: NonNull<u8>);
    /// A capability changes its holder; its maker's own object gets a proxy in front of it.
    fn capability<I: ?Sized + Callable>(&self, cap: &mut Cap<I>);
}

/// What may be an argument or a result of an interface's method.
///
/// # Safety
/// Only this crate implements it. After `cross` nothing in the value belongs to the sender.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument or a result of an interface",
    label = "cannot cross a domain boundary",
    note = "what may cross: plain data with `#[derive(Exchangeable)]`, `RRef<T>`, `Borrowed<'_, T>` as an argument, `Cap<dyn Interface>`; no references, closures, `Box`, `Vec`, `Arc` or pointers"
)]
pub unsafe trait Crossing {
    /// Whether values of this type carry anything that has an owner.
    const MOVES: bool;
    /// Whether it is a loan, which ends with the call.
    const LENDS: bool = false;
    /// Whether it is a capability, or may be one.
    const HANDLE: bool = false;
    /// Of what it is made of.
    const SHAPE: u64;

    fn cross<P: Passage>(&mut self, passage: &P);

    fn lend<P: Passage>(&self, _: &P) {}
    fn give_back<P: Passage>(&self, _: &P) {}
}

/// How the macro hands a [`Borrowed`] to the gate. Signatures have `Borrowed<'_, T>` and nothing else, so that a callee can't keep one beyond its call.
#[repr(transparent)]
pub struct Lent<'a, T: Exchangeable>(pub Borrowed<'a, T>);

// SAFETY: it owns nothing; the kernel counts the loan.
unsafe impl<T: Exchangeable + Sync> Crossing for Lent<'_, T> {
    const MOVES: bool = false;
    const LENDS: bool = true;
    const SHAPE: u64 = shape::mix(&[0x43, T::SHAPE]);

    #[inline(always)]
    fn cross<P: Passage>(&mut self, _: &P) {}

    #[inline(always)]
    fn lend<P: Passage>(&self, passage: &P) {
        passage.lend(self.0.address().cast());
    }

    #[inline(always)]
    fn give_back<P: Passage>(&self, passage: &P) {
        passage.give_back(self.0.address().cast());
    }
}

// SAFETY: exchangeable data has no owner (`Exchangeable`'s contract).
unsafe impl<T: Exchangeable + Copy> Crossing for T {
    const MOVES: bool = false;
    const SHAPE: u64 = <T as Exchangeable>::SHAPE;

    #[inline(always)]
    fn cross<P: Passage>(&mut self, _: &P) {}
}

// SAFETY: the object is all there is, and only a root has an owner.
unsafe impl<T: Exchangeable> Crossing for RRef<T> {
    const MOVES: bool = true;
    const SHAPE: u64 = shape::mix(&[0x40, T::SHAPE]);

    #[inline(always)]
    fn cross<P: Passage>(&mut self, passage: &P) {
        passage.object(self.address().cast());
    }
}

// SAFETY: the kernel's table knows who holds a capability.
unsafe impl<I: ?Sized + Callable> Crossing for Cap<I> {
    const MOVES: bool = true;
    const HANDLE: bool = true;
    // Not all that the interface's own types are made of: an interface may mint capabilities of its own kind, and the compiler couldn't end.
    const SHAPE: u64 = shape::mix(&[0x41, I::SIGNATURE]);

    fn cross<P: Passage>(&mut self, passage: &P) {
        passage.capability(self);
    }
}

/// The arguments of a call, all of which cross.
///
/// (Not `Crossing` itself, so that the compiler names the argument that can't rather than the list.)
///
/// # Safety
/// As for [`Crossing`].
pub unsafe trait ArgumentList {
    /// Whether any of them carries something that has an owner.
    const MOVES: bool;
    /// Whether any of them is a loan.
    const LENDS: bool;
    const SHAPE: u64;

    fn cross<P: Passage>(&mut self, passage: &P);

    /// Has the loans counted.
    fn lend<P: Passage>(&self, passage: &P);

    /// Ends them.
    fn give_back<P: Passage>(&self, passage: &P);
}

macro_rules! argument_lists {
    ($($name:ident)*) => {
        // SAFETY: each of them crosses.
        unsafe impl<$($name: Crossing),*> ArgumentList for Arguments<($($name,)*)> {
            const MOVES: bool = false $(|| $name::MOVES)*;
            const LENDS: bool = false $(|| $name::LENDS)*;
            const SHAPE: u64 = shape::mix(&[$($name::SHAPE),*]);

            #[inline(always)]
            fn cross<P: Passage>(&mut self, _passage: &P) {
                #[allow(non_snake_case)]
                let ($($name,)*) = &mut self.0;
                $($name.cross(_passage);)*
            }

            #[inline(always)]
            fn lend<P: Passage>(&self, _passage: &P) {
                #[allow(non_snake_case)]
                let ($($name,)*) = &self.0;
                $($name.lend(_passage);)*
            }

            #[inline(always)]
            fn give_back<P: Passage>(&self, _passage: &P) {
                #[allow(non_snake_case)]
                let ($($name,)*) = &self.0;
                $($name.give_back(_passage);)*
            }
        }
    };
}

/// The arguments of a call, by value.
pub struct Arguments<T>(pub T);

argument_lists!();
argument_lists!(A);
argument_lists!(A B);
argument_lists!(A B C);
argument_lists!(A B C D);
argument_lists!(A B C D E);
argument_lists!(A B C D E F);

// SAFETY: an error is plain data; the rest crosses. (So that what came back from a call may be handed on as an outcome of another.)
unsafe impl<T: Crossing, E: Exchangeable + Copy> Crossing for Result<T, E> {
    const MOVES: bool = T::MOVES;
    const HANDLE: bool = T::HANDLE;
    const SHAPE: u64 = shape::mix(&[0x42, T::SHAPE, <E as Exchangeable>::SHAPE]);

    #[inline(always)]
    fn cross<P: Passage>(&mut self, passage: &P) {
        if let Ok(value) = self {
            value.cross(passage);
        }
    }
}

/// What an interface's method returns: a result that can say that the call itself failed.
///
/// # Safety
/// Only this crate implements it.
#[diagnostic::on_unimplemented(
    message = "an interface's method cannot return `{Self}`",
    label = "not `Result<T, E>` with `E: From<CallError>`",
    note = "any call across domains may fail since the callee may crash: return `Result<T, CallError>`, or an error of your own that is `Exchangeable + Copy` and `From<CallError>`"
)]
pub unsafe trait Outcome {
    /// Whether a result of this type carries anything that has an owner.
    const MOVES: bool;
    /// Whether it may be a capability.
    const HANDLE: bool;
    const SHAPE: u64;

    /// Moves what is in it to the caller.
    fn cross<P: Passage>(&mut self, passage: &P);

    /// The value that stands in `place`, taken in the pieces in which it was written: a copy by wider loads than its stores were waits until those have left
    /// the store buffer, about 12 cycles each time.
    ///
    /// # Safety
    /// `place` isn't used as a value any more.
    unsafe fn moved(place: &Self) -> Self;

    fn failed(error: CallError) -> Self;
}

// SAFETY: an error is plain data; the rest crosses.
unsafe impl<T: Crossing, E: Exchangeable + Copy + From<CallError>> Outcome for Result<T, E> {
    const MOVES: bool = {
        assert!(!T::LENDS, "what is lent ends with the call: it cannot be a result");
        T::MOVES
    };
    const HANDLE: bool = T::HANDLE;
    const SHAPE: u64 = shape::mix(&[0x42, T::SHAPE, <E as Exchangeable>::SHAPE]);

    #[inline(always)]
    fn cross<P: Passage>(&mut self, passage: &P) {
        if let Ok(value) = self {
            value.cross(passage);
        }
    }

    #[inline(always)]
    unsafe fn moved(place: &Self) -> Self {
        match place {
            // SAFETY: this function's contract.
            Ok(value) => Ok(unsafe { core::ptr::read(value) }),
            Err(error) => Err(*error),
        }
    }

    #[inline(always)]
    fn failed(error: CallError) -> Self {
        Err(error.into())
    }
}
