//! `#[interface]` and `#[derive(Exchangeable)]`.

use proc_macro::TokenStream;
use quote::quote;
use syn::{DeriveInput, ItemTrait, parse_macro_input, parse_quote};

#[proc_macro_attribute]
pub fn interface(_arguments: TokenStream, item: TokenStream) -> TokenStream {
    let mut item = parse_macro_input!(item as ItemTrait);
    let shared = item.items.iter().all(|item| match item {
        syn::TraitItem::Fn(method) => method.sig.receiver().is_some_and(|receiver| receiver.mutability.is_none()),
        _ => true,
    });
    item.supertraits.push(parse_quote!(Send));
    if shared {
        item.supertraits.push(parse_quote!(Sync));
    }
    quote!(#item).into()
}

#[proc_macro_derive(Exchangeable)]
pub fn exchangeable(item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as DeriveInput);
    let name = &item.ident;
    let (generics, arguments, bounds) = item.generics.split_for_impl();
    let kind = name.to_string().bytes().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)) | 0x100;
    quote! {
        // SAFETY: derived.
        unsafe impl #generics ::interfaces::Exchangeable for #name #arguments #bounds { const KIND: u32 = #kind; }
        // SAFETY: derived: plain data.
        unsafe impl #generics ::interfaces::rref::Plain for #name #arguments #bounds {}
    }
    .into()
}
