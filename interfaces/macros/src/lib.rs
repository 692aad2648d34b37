//! `#[interface]`, `#[interface(kernel)]` and `#[derive(Exchangeable)]`.
//!
//! What they promise: a trait marked as an interface gets a proxy, generic in the gate that only the kernel implements, and a method whose signature
//! can't cross a domain boundary is a compile error that says what could. A caller's tokens never stand inside an `unsafe` block or function: what is
//! unsafe in the expansion names only the trait and its proxy.

mod crossing;
mod exchangeable;
mod interface;

use proc_macro::TokenStream;
use syn::{DeriveInput, ItemTrait, parse_macro_input};

/// Makes a trait callable across domains: `&self` methods for ports, `&mut self` for capabilities.
///
/// `#[interface(kernel)]` marks a trait whose objects live in the kernel's image; its methods may have any signature, since nothing in it
/// crosses between domains.
#[proc_macro_attribute]
pub fn interface(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as ItemTrait);
    let declared = quote::quote!(#item);
    interface::expand(arguments.into(), item)
        .unwrap_or_else(|error| {
            // The trait is there all the same, so that this error is not followed by others about its absence.
            let error = error.to_compile_error();
            quote::quote!(#declared #error)
        })
        .into()
}

/// Says that a struct or enum is plain data that may cross a boundary. Every field must be so too.
#[proc_macro_derive(Exchangeable)]
pub fn exchangeable(item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as DeriveInput);
    exchangeable::expand(item).unwrap_or_else(|error| error.to_compile_error()).into()
}

/// All errors at once.
fn all(results: impl Iterator<Item = syn::Result<()>>) -> syn::Result<()> {
    let errors = results.filter_map(Result::err).reduce(|mut all, error| {
        all.combine(error);
        all
    });
    errors.map_or(Ok(()), Err)
}

/// The hash of an item's text, comments left out.
fn signature(tokens: &proc_macro2::TokenStream) -> u64 {
    fn write(tokens: proc_macro2::TokenStream, text: &mut String) {
        use proc_macro2::TokenTree;
        let mut tokens = tokens.into_iter().peekable();
        while let Some(token) = tokens.next() {
            match token {
                // `#[doc = "…"]`, which is what a comment has become.
                TokenTree::Punct(mark) if mark.as_char() == '#' => {
                    let is_comment = matches!(tokens.peek(), Some(TokenTree::Group(group))
                        if group.stream().into_iter().next().is_some_and(|word| word.to_string() == "doc"));
                    if is_comment {
                        tokens.next();
                    } else {
                        text.push('#');
                    }
                }
                TokenTree::Group(group) => {
                    text.push_str(&format!("{:?}", group.delimiter()));
                    write(group.stream(), text);
                    text.push(';');
                }
                token => {
                    text.push_str(&token.to_string());
                    text.push(' ');
                }
            }
        }
    }
    let mut text = String::new();
    write(tokens.clone(), &mut text);
    fnv(&text)
}

/// FNV-1a, 64 bits: the hash of names and signatures, the same in every build.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
