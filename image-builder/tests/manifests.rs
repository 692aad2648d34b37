//! Wrong manifests, each with everything that must be said about it: `manifests/NAME.toml` beside `manifests/NAME.expected`.
//!
//! After a change that is meant: `REDLEAF_UPDATE_EXPECTED=1 cargo test -p image-builder --test manifests`, and read the difference.

use image_builder::manifest::examine;
use image_builder::manifest::source::Sources;
use image_builder::workspace::Workspace;
use std::fs;
use std::path::{Path, PathBuf};

/// What is said about the manifest at `path`, in plain text.
fn complaints(path: &Path) -> String {
    let mut sources = Sources::default();
    let (_, diagnostics) = examine(&Workspace::find(), path, &mut sources).unwrap();
    diagnostics.render_plain(&sources)
}

fn wrong_manifests() -> Vec<PathBuf> {
    let entries = fs::read_dir("tests/manifests").unwrap().map(|entry| entry.unwrap().path());
    let mut manifests: Vec<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml") && !path.ends_with("base.toml"))
        .collect();
    manifests.sort();
    manifests
}

/// Each wrong manifest gets its message: with file and line, the text underlined, what was probably meant, and nothing else.
#[test]
fn wrong_manifests_are_explained() {
    let manifests = wrong_manifests();
    assert!(manifests.len() >= 20);
    let update = std::env::var_os("REDLEAF_UPDATE_EXPECTED").is_some();
    let mut differing = Vec::new();
    for manifest in manifests {
        let found = complaints(&manifest);
        let expected = manifest.with_extension("expected");
        assert!(!found.is_empty(), "{}: nothing is found wrong with it", manifest.display());
        if update {
            fs::write(&expected, &found).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != found {
            differing.push(format!("{}:\n{found}", manifest.display()));
        }
    }
    assert!(differing.is_empty(), "other messages than expected:\n{}", differing.join("\n"));
}

/// What the others are wrong variants of is right, and so are the manifests that are shipped.
#[test]
fn right_manifests_pass() {
    let shipped = fs::read_dir("../configs").unwrap().map(|entry| entry.unwrap().path());
    let shipped = shipped.filter(|path| {
        let name = path.to_string_lossy();
        name.ends_with(".toml") && !name.ends_with(".lab.toml")
    });
    for manifest in shipped.chain([PathBuf::from("tests/manifests/base.toml")]) {
        assert_eq!(complaints(&manifest), "", "{}", manifest.display());
    }
}

/// Nobody has to say how large packet buffers are: as large as the longest frame that any driver's config admits needs them, and what they cost is counted.
#[test]
fn buffers_are_as_large_as_the_longest_frame_needs() {
    let folder = tempfile::tempdir().unwrap();
    let inherited = fs::canonicalize("../configs/maglev.toml").unwrap();
    let manifest = folder.path().join("own.toml");
    let examined = |more: &str| {
        fs::write(&manifest, format!("inherit = {inherited:?}\n{more}")).unwrap();
        let mut sources = Sources::default();
        let (checked, diagnostics) = examine(&Workspace::find(), &manifest, &mut sources).unwrap();
        (checked.unwrap().inquiry.longest_frame, diagnostics.render_plain(&sources))
    };
    assert_eq!(examined(""), (1_518, String::new()));
    let of_mtu = |mtu: u16, more: &str| examined(&format!("[domains.ixgbe0.config]\nmtu = {mtu}\n{more}"));
    assert_eq!(of_mtu(9_000, ""), (9_018, String::new()));
    let (longest, complaints) = of_mtu(15_850, "");
    assert_eq!(longest, 15_868);
    assert!(complaints.contains("128 for packet buffers (8192 of 16KiB"), "{complaints}");
    assert_eq!(of_mtu(15_850, "[box]\npacket-buffers = 4096\n"), (15_868, String::new()));
    // In a strict box each has pages of its own, and one more for its head.
    let (_, complaints) = examined("[box]\niommu = \"strict\"\npacket-buffers = 16384\n");
    assert!(complaints.contains("128 for packet buffers (16384 of 8KiB"), "{complaints}");
    let (_, complaints) = of_mtu(9_000, "[box]\niommu = \"strict\"\n");
    assert!(complaints.contains("128 for packet buffers (8192 of 16KiB"), "{complaints}");
    let (_, complaints) = of_mtu(16_000, "");
    assert!(complaints.contains("16000 bytes: the device takes from 68 to 15850"), "{complaints}");
}

/// What lies beside a manifest is found there, wherever the one is that inherits from it.
#[test]
fn an_inherited_folder_is_beside_the_file_that_names_it() {
    let elsewhere = tempfile::tempdir().unwrap();
    let inherited = fs::canonicalize("../configs/httpd.toml").unwrap();
    let manifest = elsewhere.path().join("own.toml");
    let write = |more: &str| fs::write(&manifest, format!("inherit = {inherited:?}\n{more}")).unwrap();
    write("");
    assert_eq!(complaints(&manifest), "");
    // One's own is beside oneself.
    write("[domains.web.config]\ncontent = \"pages\"\n");
    let pages = elsewhere.path().join("pages");
    assert!(complaints(&manifest).contains(&format!("{}: No such file", pages.display())));
    fs::create_dir(&pages).unwrap();
    fs::write(pages.join("index.html"), "mine").unwrap();
    assert_eq!(complaints(&manifest), "");
}

/// A folder of more than a bundle's manifest holds is refused where it is named, with how much there may be: not only when the bundle is made.
#[test]
fn a_folder_that_no_bundle_holds_is_refused() {
    let most = bundle::format::MAX_MANIFEST_BYTES - (64 << 10);
    let folder = tempfile::tempdir().unwrap();
    let inherited = fs::canonicalize("../configs/httpd.toml").unwrap();
    let manifest = folder.path().join("own.toml");
    fs::write(&manifest, format!("inherit = {inherited:?}\n[domains.web.config]\ncontent = \"pages\"\n")).unwrap();
    let large = folder.path().join("pages/large");
    fs::create_dir(folder.path().join("pages")).unwrap();
    fs::write(&large, vec![0; most]).unwrap();
    let found = complaints(&manifest);
    assert!(found.contains("content = \"pages\"") && found.contains(&format!("{} KiB at most", most >> 10)), "{found}");
    // (An archive has a few words more.)
    fs::write(&large, vec![0; most - (32 << 10)]).unwrap();
    assert_eq!(complaints(&manifest), "");
}

/// Who inherits a domain may have its device elsewhere, and says so as if for the first time; everything else that the domain has it keeps.
#[test]
fn an_inherited_device_is_replaced_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let inherited = fs::canonicalize("../configs/maglev.toml").unwrap();
    let manifest = folder.path().join("own.toml");
    let device = "device = { mac = \"52:54:00:72:6c:07\" }\nrestart = { delay = \"7ms\" }";
    fs::write(&manifest, format!("inherit = {inherited:?}\n[domains.ixgbe0]\n{device}\n")).unwrap();
    let (checked, diagnostics) = examine(&Workspace::find(), &manifest, &mut Sources::default()).unwrap();
    assert!(diagnostics.is_empty());
    let domains = &checked.unwrap().table["domains"];
    let (device, restart) = (&domains["ixgbe0"]["device"], &domains["ixgbe0"]["restart"]);
    assert_eq!((device.get("id"), device["mac"].as_str()), (None, Some("52:54:00:72:6c:07")));
    assert_eq!((restart["delay"].as_str(), restart["policy"].as_str()), (Some("7ms"), Some("on-failure")));
}
