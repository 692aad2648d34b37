//! The real thing, against the machine's own mirror: run by `redleaf test interop`, by hand with `--ignored`.

use prefix::{Prefix, Tool};

/// Fetched into an empty cache, the programs run and are new enough; the second time needs neither apt nor network.
#[test]
#[ignore = "tier interop: fetches 60 MB from the machine's Debian mirror"]
fn tools_run() {
    let tools = [Tool::Qemu, Tool::Grub, Tool::Nginx, Tool::Network, Tool::Disk];
    let cache = tempfile::tempdir().unwrap();
    let prefix = Prefix::ensure_in(cache.path(), &tools).unwrap();
    let version = |program: &str, flag: &str| {
        let output = prefix.command(program).unwrap().arg(flag).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{program}: {text}");
        text
    };
    let qemu = version("qemu-system-x86_64", "--version");
    let number = qemu
        .split("version ")
        .nth(1)
        .and_then(|text| text.split('.').next())
        .and_then(|major| major.parse::<u32>().ok());
    assert!(
        number.is_some_and(|major| major >= 11 || qemu.contains("version 10.1") || qemu.contains("version 10.2")),
        "{qemu}"
    );
    for (program, flag) in [
        ("grub-mkimage", "--version"),
        ("nginx", "-v"),
        ("ip", "-V"),
        ("ethtool", "--version"),
        ("sgdisk", "--version"),
        ("fsck.vfat", "--help"),
    ] {
        version(program, flag);
    }
    prefix.file(Tool::Qemu, "usr/share/OVMF/OVMF_CODE_4M.fd").unwrap();
    std::fs::remove_dir_all(cache.path().join("prefix/apt")).unwrap();
    Prefix::ensure_in(cache.path(), &tools).unwrap();
}
