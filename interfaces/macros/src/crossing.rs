//! What can be said of a type by its looks alone: the types of Rust that everybody tries first and that cannot cross, each with what to use instead.
//!
//! This is for the author's sake. What holds the promise are the bounds in the expansions (`Crossing`, `Plain`): a type that hides behind an alias gets past
//! here, and is refused there.

use syn::{Error, GenericArgument, PathArguments, PathSegment, Type, TypeParamBound, TypePath, spanned::Spanned};

/// Where a type stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// An argument or a result of an interface's method.
    Signature,
    /// Inside an exchangeable object.
    Object,
}

/// An error at the first part of `kind` that cannot cross.
pub fn check(kind: &Type, place: Place) -> syn::Result<()> {
    let refuse = |message: &str| Err(Error::new(kind.span(), message));
    match kind {
        Type::Reference(reference) if reference.mutability.is_some() => refuse(
            "a mutable borrow cannot cross a domain boundary: a callee that crashes would leave the object half written; move an `RRef<T>` in, and \
             return it",
        ),
        Type::Reference(_) if place == Place::Object => refuse(
            "a reference cannot be part of an exchangeable object: what it borrows from may be gone with its domain; hold the data itself (text is \
             `interfaces::control::Text<N>`)",
        ),
        Type::Reference(_) => refuse(
            "a reference cannot cross a domain boundary: it would point into the caller's stack, heap or image, which may be gone while the callee runs; \
             pass a copy, lend an object as `Borrowed<'_, T>`, or move an `RRef<T>` and return it",
        ),
        Type::Ptr(_) => refuse(
            "a raw pointer cannot cross a domain boundary: nobody could tell whose memory it points at; move an `RRef<T>`",
        ),
        Type::BareFn(_) => refuse(
            "a function pointer cannot cross a domain boundary: it leads into an image that may be gone; export an interface and call that",
        ),
        Type::ImplTrait(_) => refuse(
            "a closure or another unnamed type cannot cross a domain boundary: its code lies in the caller's image; export an interface and call that",
        ),
        Type::TraitObject(_) => refuse(
            "a trait object cannot cross a domain boundary by itself: an object of an interface crosses as `Cap<dyn Interface>`",
        ),
        Type::Slice(_) => {
            refuse("a slice cannot cross a domain boundary: move an `RRef` of an array, or an `RRef<Bytes>`")
        }
        Type::Array(array) => check(&array.elem, place),
        Type::Group(group) => check(&group.elem, place),
        Type::Paren(paren) => check(&paren.elem, place),
        Type::Tuple(tuple) => tuple.elems.iter().try_for_each(|kind| check(kind, place)),
        Type::Path(path) => named(path, place),
        _ => Ok(()),
    }
}

fn named(path: &TypePath, place: Place) -> syn::Result<()> {
    let Some(last) = path.path.segments.last() else { return Ok(()) };
    let name = last.ident.to_string();
    let instead = match &*name {
        "Box" => "its memory is of a private heap; move an `RRef<T>`",
        "Rc" | "Arc" | "Weak" => "two domains would share its count; an `RRef<T>` has one owner",
        "Vec" | "VecDeque" | "BTreeMap" | "BTreeSet" | "HashMap" | "HashSet" | "BinaryHeap" | "LinkedList" => {
            "its memory is of a private heap; move an `RRef<Deque<T, N>>`, an `RRef<Bytes>`, or an `RRef` of an array"
        }
        "String" | "CString" | "OsString" | "PathBuf" | "Cow" => {
            "its memory is of a private heap; text crosses as `RRef<Text<N>>`"
        }
        "NonNull" | "AtomicPtr" => "nobody could tell whose memory it points at; move an `RRef<T>`",
        "Cell" | "RefCell" | "UnsafeCell" | "OnceCell" | "LazyCell" | "Mutex" | "RwLock" | "OnceLock" => {
            "it is to be written through a shared borrow, and nothing is shared between domains; move the data itself"
        }
        _ if name.starts_with("Atomic") => {
            "it is to be written through a shared borrow, and nothing is shared between domains; move the number itself"
        }
        "PhantomData" => "it stands for something that the object borrows or owns, and it does neither",
        "Port" => {
            "the manifest alone wires ports, so that a domain has exactly the authority that it shows; hand out a `Cap<dyn Interface>`"
        }
        "RRef" if place == Place::Object => {
            "an `RRef` has an owner of its own, and only the root of an object has one; hold a `Nested<T>`, and put it there"
        }
        "Cap" if place == Place::Object => {
            "the kernel's table knows the holder of each capability, and would lose sight of it; return it as a result of its own"
        }
        "Borrowed" if place == Place::Object => "what is lent ends with a call; hold a `Nested<T>`",
        "Borrowed" => {
            "what is lent ends with the call: it is an argument by itself, `Borrowed<'_, T>`, no part of another, no result, and of no other lifetime"
        }
        "Nested" if place == Place::Signature => "it is a place in an object; move the `RRef<T>` itself",
        "RRef" => return arguments(last).try_for_each(|kind| check(kind, Place::Object)),
        "Cap" => return capability(last),
        _ => return arguments(last).try_for_each(|kind| check(kind, place)),
    };
    let what = match place {
        Place::Signature => "cannot cross a domain boundary",
        Place::Object => "cannot be part of an exchangeable object",
    };
    Err(Error::new(last.span(), format!("`{name}` {what}: {instead}")))
}

/// The `T` of an argument that is `Borrowed<'_, T>`.
pub fn lent(kind: &Type) -> Option<&Type> {
    let Type::Path(path) = kind else { return None };
    let last = path.path.segments.last().filter(|segment| segment.ident == "Borrowed")?;
    let PathArguments::AngleBracketed(list) = &last.arguments else { return None };
    let mut lifetimes = list.args.iter().filter_map(|argument| match argument {
        GenericArgument::Lifetime(lifetime) => Some(lifetime),
        _ => None,
    });
    let mut types = arguments(last);
    match (lifetimes.all(|lifetime| lifetime.ident == "_"), types.next(), types.next()) {
        (true, Some(object), None) => Some(object),
        _ => None,
    }
}

fn capability(segment: &PathSegment) -> syn::Result<()> {
    arguments(segment).try_for_each(|kind| match kind {
        Type::TraitObject(object)
            if matches!(object.bounds.iter().collect::<Vec<_>>()[..], [TypeParamBound::Trait(_)]) =>
        {
            Ok(())
        }
        other => Err(Error::new(other.span(), "a capability is for exactly one interface: `Cap<dyn NetQueue>`")),
    })
}

fn arguments(segment: &PathSegment) -> impl Iterator<Item = &Type> {
    let arguments = match &segment.arguments {
        PathArguments::AngleBracketed(arguments) => Some(&arguments.args),
        _ => None,
    };
    arguments.into_iter().flatten().filter_map(|argument| match argument {
        GenericArgument::Type(kind) => Some(kind),
        _ => None,
    })
}
