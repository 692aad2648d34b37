//! `#[derive(Imports)]` and `#[derive(Exports)]`: a domain's ports as a struct, one field per port.
//!
//! What they make is safe code without exception, so that a domain which uses them can still be checked to hold no `unsafe` after expansion.

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::{ToTokens, quote};
use syn::{
    Data, DeriveInput, Error, Fields, GenericArgument, Ident, PathArguments, Result, Type, TypeParamBound,
    parse_macro_input, spanned::Spanned,
};

/// Makes a struct of `Port<dyn Interface>` fields the import ports of a domain. One that is an `Option<Port<dyn Interface>>` needn't be wired.
#[proc_macro_derive(Imports)]
pub fn imports(item: TokenStream) -> TokenStream {
    derive(&IMPORTS, &parse_macro_input!(item as DeriveInput))
}

/// Makes a struct of `Box<dyn Interface>` fields the export ports of a domain.
#[proc_macro_derive(Exports)]
pub fn exports(item: TokenStream) -> TokenStream {
    derive(&EXPORTS, &parse_macro_input!(item as DeriveInput))
}

/// What tells the two derives apart.
struct Direction {
    name: &'static str,
    port: &'static str,
    /// The type around `dyn Interface`, and the one that belongs to the other derive.
    holder: &'static str,
    other_holder: &'static str,
    other_name: &'static str,
}

const IMPORTS: Direction =
    Direction { name: "Imports", port: "import port", holder: "Port", other_holder: "Box", other_name: "Exports" };
const EXPORTS: Direction =
    Direction { name: "Exports", port: "export port", holder: "Box", other_holder: "Port", other_name: "Imports" };

/// One field: its Rust name, its name in manifests, and its `dyn Interface`.
struct Port<'a> {
    field: &'a Ident,
    name: String,
    interface: &'a Type,
    /// Whether the manifest may leave it unwired.
    optional: bool,
}

fn derive(direction: &Direction, item: &DeriveInput) -> TokenStream {
    match ports(direction, item) {
        Ok(ports) => implementation(direction, &item.ident, &ports).into(),
        Err(error) => {
            // The implementation is there all the same, so that this error is not followed by others about its absence.
            let empty = implementation_of_nothing(direction, item);
            let error = error.to_compile_error();
            quote!(#error #empty).into()
        }
    }
}

fn ports<'a>(direction: &Direction, item: &'a DeriveInput) -> Result<Vec<Port<'a>>> {
    let Direction { name, port, holder, .. } = direction;
    let shape = format!(
        "`#[derive({name})]` is for a struct with named fields, one per {port}, such as `net: {holder}<dyn Net>`"
    );
    let Data::Struct(data) = &item.data else { return Err(Error::new(item.ident.span(), shape)) };
    let fields = match &data.fields {
        Fields::Named(fields) => &fields.named,
        Fields::Unit | Fields::Unnamed(_) => return Err(Error::new(item.ident.span(), shape)),
    };
    if let Some(generic) = item.generics.params.first() {
        return Err(Error::new(
            generic.span(),
            format!("a domain's ports are known when it is built: `#[derive({name})]` takes no generics or lifetimes"),
        ));
    }
    let (mut ports, mut errors) = (Vec::new(), None::<Error>);
    for field in fields {
        let ident = field.ident.as_ref().expect("the fields are named");
        let inner = if direction.name == IMPORTS.name { inside_option(&field.ty) } else { None };
        match interface(direction, inner.unwrap_or(&field.ty)) {
            Ok(interface) => {
                ports.push(Port { field: ident, name: port_name(ident), interface, optional: inner.is_some() })
            }
            Err(error) => match &mut errors {
                Some(errors) => errors.combine(error),
                None => errors = Some(error),
            },
        }
    }
    errors.map_or(Ok(ports), Err)
}

/// `snd_queue` is `snd-queue` in a manifest, as all its keys are.
fn port_name(ident: &Ident) -> String {
    let name = ident.to_string();
    name.strip_prefix("r#").unwrap_or(&name).replace('_', "-")
}

/// The type in an `Option`.
fn inside_option(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last().filter(|last| last.ident == "Option")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first()? {
        GenericArgument::Type(inner) => Some(inner),
        _ => None,
    }
}

/// The `dyn Interface` in `Port<dyn Interface>` or `Box<dyn Interface>`.
fn interface<'a>(direction: &Direction, ty: &'a Type) -> Result<&'a Type> {
    let Direction { port, holder, other_holder, other_name, .. } = direction;
    let shown = ty
        .to_token_stream()
        .to_string()
        .replace(" <", "<")
        .replace("< ", "<")
        .replace(" >", ">")
        .replace(" :: ", "::")
        .replace("& ", "&");
    let wrong = |hint: String| Err(Error::new(ty.span(), hint));
    let Type::Path(path) = ty else {
        return wrong(format!(
            "an {port} is a `{holder}<dyn Interface>`, such as `{holder}<dyn Net>`; `{shown}` isn't"
        ));
    };
    let last = path.path.segments.last().expect("a path has a segment");
    if last.ident == other_holder {
        return wrong(format!(
            "an {port} is a `{holder}<dyn Interface>`; a `{other_holder}` belongs into `#[derive({other_name})]`: \
             imports arrive as `Port`, exports are given away as `Box`"
        ));
    }
    if last.ident != holder {
        return wrong(format!(
            "an {port} is a `{holder}<dyn Interface>`, such as `{holder}<dyn Net>`; `{shown}` isn't (what the domain is configured with \
             belongs into its `Config`)"
        ));
    }
    let PathArguments::AngleBracketed(arguments) = &last.arguments else {
        return wrong(format!("of which interface? An {port} is typed: `{holder}<dyn Net>`"));
    };
    let mut arguments = arguments.args.iter();
    let (Some(GenericArgument::Type(interface)), None) = (arguments.next(), arguments.next()) else {
        return wrong(format!("an {port} has one interface: `{holder}<dyn Net>`"));
    };
    let Type::TraitObject(object) = interface else {
        let shown = interface.to_token_stream();
        return wrong(format!(
            "write `{holder}<dyn {shown}>`: a port is typed by an interface, a trait of crate `interfaces`"
        ));
    };
    if object.bounds.len() != 1 || !matches!(object.bounds[0], TypeParamBound::Trait(_)) || object.dyn_token.is_none() {
        return wrong(format!(
            "a port is typed by exactly one interface: `{holder}<dyn Net>`, without `+ Send` or a lifetime (interfaces are `Send` already)"
        ));
    }
    Ok(interface)
}

fn implementation(direction: &Direction, item: &Ident, ports: &[Port]) -> Tokens {
    let fields: Vec<_> = ports.iter().map(|port| port.field).collect();
    let names: Vec<_> = ports.iter().map(|port| &port.name).collect();
    let interfaces: Vec<_> = ports.iter().map(|port| port.interface).collect();
    let optional: Vec<_> = ports.iter().map(|port| port.optional).collect();
    let take = ports.iter().map(|port| if port.optional { quote!(optional_port) } else { quote!(port) });
    let specs = quote! {
        const PORTS: &'static [::runtime::wiring::PortSpec] = &[
            #(::runtime::wiring::PortSpec {
                name: #names,
                interface: ::runtime::wiring::InterfaceId::of::<#interfaces>(),
                optional: #optional,
            }),*
        ];
    };
    if direction.name == IMPORTS.name {
        quote! {
            #[automatically_derived]
            impl ::runtime::wiring::Imports for #item {
                #specs
                fn take(imported: &mut ::runtime::wiring::Imported<'_>) -> Self {
                    #item { #(#fields: imported.#take::<#interfaces>(#names)),* }
                }
            }
        }
    } else {
        quote! {
            #[automatically_derived]
            impl ::runtime::wiring::Exports for #item {
                #specs
                fn give(self, exported: &mut ::runtime::wiring::Exported<'_>) {
                    #(exported.object::<#interfaces>(#names, self.#fields);)*
                }
            }
        }
    }
}

fn implementation_of_nothing(direction: &Direction, item: &DeriveInput) -> Tokens {
    let name = &item.ident;
    let (generics, arguments, bounds) = item.generics.split_for_impl();
    let specs = quote!(
        const PORTS: &'static [::runtime::wiring::PortSpec] = &[];
    );
    if direction.name == IMPORTS.name {
        quote! {
            impl #generics ::runtime::wiring::Imports for #name #arguments #bounds {
                #specs
                fn take(_: &mut ::runtime::wiring::Imported<'_>) -> Self { ::core::unreachable!() }
            }
        }
    } else {
        quote! {
            impl #generics ::runtime::wiring::Exports for #name #arguments #bounds {
                #specs
                fn give(self, _: &mut ::runtime::wiring::Exported<'_>) {}
            }
        }
    }
}
