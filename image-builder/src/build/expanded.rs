//! No `unsafe` in a domain, macros expanded. `forbid(unsafe_code)` alone isn't enough: a dependency's macro can wrap the caller's own
//! tokens in `unsafe` without a diagnostic. So the crate is looked at after expansion.

use super::cargo::{DOMAIN_FLAGS, PROFILE, TARGET, cargo};
use super::{BuildError, shims, write_changed};
use crate::workspace::{DomainCrate, Workspace};
use bundle::Hash;
use std::process::Stdio;
use syn::visit::{self, Visit};

/// Refuses `domain` if its expansion has `unsafe` in any form. What has been looked at once isn't looked at again until it changes.
pub fn check(workspace: &Workspace, domain: &DomainCrate) -> Result<(), BuildError> {
    let folder = workspace.work().join("expanded");
    let target_folder = shims::target_folder(workspace);
    let library = target_folder.join(TARGET).join(PROFILE).join(format!("lib{}.rlib", domain.module()));
    let built = std::fs::read(&library).map(|bytes| Hash::of(&bytes).to_string()).unwrap_or_default();
    let seen = folder.join(format!("{}.seen", domain.name));
    if !built.is_empty() && std::fs::read_to_string(&seen).is_ok_and(|seen| seen == built) {
        return Ok(());
    }
    let mut command =
        cargo(workspace, &workspace.work().join("domains"), &target_folder.join("expanded"), DOMAIN_FLAGS);
    command.args(["rustc", "--quiet", "-p", &domain.name, "--lib", "--profile", PROFILE, "--target", TARGET]);
    // Unstable, for this look alone: what is shipped is built without it.
    command.args(["--", "-Zunpretty=expanded"]).env("RUSTC_BOOTSTRAP", "1");
    command.stderr(Stdio::inherit());
    let output = command.output().map_err(|source| BuildError::Program { program: "cargo", source })?;
    if !output.status.success() {
        return Err(BuildError::Cargo { what: format!("{}, expanded,", domain.name) });
    }
    let faults = faults(&String::from_utf8_lossy(&output.stdout));
    if !faults.is_empty() {
        return Err(BuildError::Refused { image: domain.name.clone(), faults });
    }
    write_changed(&seen, &built)
}

/// Every place in expanded source where something is `unsafe`, with the item that it is in.
fn faults(source: &str) -> Vec<String> {
    match syn::parse_file(source) {
        Ok(file) => {
            let mut finder = Finder::default();
            finder.visit_file(&file);
            finder.faults
        }
        Err(error) => vec![format!("the expanded crate can't be read: {error}")],
    }
}

#[derive(Default)]
struct Finder {
    /// Names of the items that we are in.
    place: Vec<String>,
    faults: Vec<String>,
}

impl Finder {
    fn found(&mut self, what: &str) {
        let place = if self.place.is_empty() { "the crate's root".to_owned() } else { self.place.join("::") };
        self.faults.push(format!("{what} in {place}, after macros are expanded"));
    }

    fn inside(&mut self, name: String, visit: impl FnOnce(&mut Finder)) {
        self.place.push(name);
        visit(self);
        self.place.pop();
    }
}

/// Traits whose derive writes `unsafe impl`: ours, whose macro checks what the trait demands, and one of the standard derives' own, which is unstable
/// and so can't be implemented by hand. By hand any of them would be refused by `forbid(unsafe_code)`.
const DERIVED_UNSAFE_TRAITS: [&[&str]; 3] =
    [&["interfaces", "Exchangeable"], &["interfaces", "rref", "Plain"], &["core", "clone", "TrivialClone"]];

impl<'ast> Visit<'ast> for Finder {
    fn visit_expr_unsafe(&mut self, expression: &'ast syn::ExprUnsafe) {
        if !is_derived_unreachable(&expression.block) {
            self.found("an `unsafe` block");
        }
        visit::visit_expr_unsafe(self, expression);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        if signature.unsafety.is_some() {
            self.found(&format!("`unsafe fn {}`", signature.ident));
        }
        visit::visit_signature(self, signature);
    }

    fn visit_item_foreign_mod(&mut self, _: &'ast syn::ItemForeignMod) {
        self.found("an `extern` block");
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        if item.unsafety.is_some() {
            self.found(&format!("`unsafe trait {}`", item.ident));
        }
        self.inside(item.ident.to_string(), |finder| visit::visit_item_trait(finder, item));
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let of = item.trait_.as_ref().map(|(_, path, _)| path);
        let derived = of.is_some_and(|path| {
            let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            DERIVED_UNSAFE_TRAITS.iter().any(|known| segments == *known)
        });
        if item.unsafety.is_some() && !derived {
            self.found("an `unsafe impl`");
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.inside(item.ident.to_string(), |finder| visit::visit_item_mod(finder, item));
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.inside(item.sig.ident.to_string(), |finder| visit::visit_item_fn(finder, item));
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let plain = ["no_mangle", "export_name", "link_section"].iter().any(|name| attribute.path().is_ident(name));
        if plain || attribute.path().is_ident("unsafe") {
            self.found("an attribute that reaches outside the language's rules");
        }
        visit::visit_attribute(self, attribute);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        // Expanded source has no macros but the compiler's own; of these the assembler must not be there.
        let last = item.path.segments.last().map(|segment| segment.ident.to_string()).unwrap_or_default();
        if ["asm", "global_asm", "naked_asm"].contains(&last.as_str()) {
            self.found(&format!("`{last}!`"));
        }
        visit::visit_macro(self, item);
    }
}

/// `derive(PartialEq)` and its like on an enum end in exactly this. Written by hand it doesn't compile: intrinsics are unstable.
fn is_derived_unreachable(block: &syn::Block) -> bool {
    let [syn::Stmt::Expr(syn::Expr::Call(call), None)] = block.stmts.as_slice() else {
        return false;
    };
    let syn::Expr::Path(function) = &*call.func else {
        return false;
    };
    let segments: Vec<String> = function.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
    call.args.is_empty() && segments == ["core", "intrinsics", "unreachable"]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every form that `unsafe` takes is found.
    #[test]
    fn all_forms() {
        for source in [
            "mod m { fn f() { unsafe { g() } } }",
            "unsafe fn f() {}",
            "impl T { unsafe fn f() {} }",
            "unsafe impl Send for T {}",
            "unsafe trait T {}",
            "unsafe extern \"C\" { fn f(); }",
            "extern \"C\" { fn f(); }",
            "#[unsafe(no_mangle)] fn f() {}",
            "#[link_section = \"x\"] static X: u8 = 0;",
            "unsafe impl interfaces::Evil for T {}",
            "core::arch::global_asm!(\"hlt\");",
            "fn f() { let x = || { if true { unsafe { g() } } }; }",
            "fn f() { unsafe { ::core::intrinsics::unreachable(); g() } }",
            "fn f() { unsafe { ::core::intrinsics::unreachable(g()) } }",
        ] {
            assert_eq!(faults(source).len(), 1, "{source}");
        }
    }

    /// What safe crates expand to passes, our own derives included.
    #[test]
    fn safe_code_passes() {
        let source = "fn f() { let unsafe_looking = \"unsafe {\"; } unsafe impl ::interfaces::Exchangeable for T { const KIND: u32 = 1; } \
                      unsafe impl ::core::clone::TrivialClone for T {} \
                      fn e() { match x { _ => unsafe { ::core::intrinsics::unreachable() } } }";
        assert_eq!(faults(source), Vec::<String>::new());
    }
}
