//! The derive: every field must be plain exchangeable data, and there must be no drop glue.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::{Data, DeriveInput, Error, Fields, Type, parse_quote_spanned, spanned::Spanned};

use crate::{
    all,
    crossing::{Place, check},
};

pub fn expand(item: DeriveInput) -> syn::Result<TokenStream> {
    let fields: Vec<&Type> = match &item.data {
        Data::Struct(data) => types(&data.fields),
        Data::Enum(data) => data.variants.iter().flat_map(|variant| types(&variant.fields)).collect(),
        Data::Union(_) => {
            return Err(Error::new(
                item.ident.span(),
                "a union cannot be exchangeable: nobody could tell which of its fields is valid",
            ));
        }
    };
    let mut generics = item.generics.clone();
    if let Some(lifetime) = generics.lifetimes().next() {
        return Err(Error::new(
            lifetime.span(),
            "what crosses a domain boundary borrows nothing: a type with a lifetime cannot be exchangeable",
        ));
    }
    all(fields.iter().map(|field| check(field, Place::Object)))?;
    // By its looks; the bounds below refuse every other way round with an error that says less.
    let itself = format!("Nested < {} >", item.ident);
    if let Some(field) = fields.iter().find(|field| field.to_token_stream().to_string().contains(&itself)) {
        return Err(Error::new(
            field.span(),
            "a recursive type cannot be exchangeable: how deep a hierarchy is must be known from its types",
        ));
    }
    let bounds = generics.make_where_clause();
    for field in &fields {
        bounds.predicates.push(parse_quote_spanned!(field.span()=> #field: ::interfaces::rref::Plain));
    }
    let name = &item.ident;
    let (parameters, arguments, bounds) = generics.split_for_impl();
    // Below 0x100 are the kinds that `interfaces` numbers itself.
    let kind = crate::fnv(&name.to_string()) as u32 | 0x100;
    let text = crate::signature(&item.to_token_stream());
    let no_drop = quote_spanned!(name.span()=> assert!(!::core::mem::needs_drop::<Self>(), "an exchangeable type has no drop glue"));
    Ok(quote! {
        // SAFETY: every field is plain exchangeable data (the bounds), and nothing runs when it is dropped (the assertion).
        #[diagnostic::do_not_recommend]
        unsafe impl #parameters ::interfaces::Exchangeable for #name #arguments #bounds {
            const KIND: u32 = { #no_drop; #kind };
            const SHAPE: u64 = ::interfaces::shape::mix(&[
                #text,
                ::core::mem::size_of::<Self>() as u64,
                ::core::mem::align_of::<Self>() as u64,
                #(<#fields as ::interfaces::Exchangeable>::SHAPE),*
            ]);
        }
        // SAFETY: as above.
        #[diagnostic::do_not_recommend]
        unsafe impl #parameters ::interfaces::rref::Plain for #name #arguments #bounds {}
    })
}

fn types(fields: &Fields) -> Vec<&Type> {
    fields.iter().map(|field| &field.ty).collect()
}
