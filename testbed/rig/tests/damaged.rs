//! Images that are not what was built and signed here: not loaded, with words that say why, and the rest of the box goes on.

use std::sync::LazyLock;

use bundle::manifest::Nanos;
use interfaces::probe::Probe;
use kernel_core::incarnation::Cause;
use rig::{Damage, DomainSpec, PROBE, Rig, Settings, Start};

/// A field of the ELF header, or of the first program header (System V ABI, "ELF Header" and "Program Header").
fn put<const N: usize>(elf: &mut [u8], at: usize, bytes: [u8; N]) {
    elf[at..at + N].copy_from_slice(&bytes);
}

/// The domain and its image's name, what has happened to the image, and what is said about it.
const DAMAGED: [(&str, &str, Damage, &str); 10] = [
    ("altered", "probe-altered", Damage::Altered, "altered since it was signed"),
    ("foreign", "probe-foreign", Damage::ForeignKey, "not signed by the key that this kernel believes"),
    ("other", "probe-other", Damage::OtherCompiler, "build both together"),
    ("cut", "probe-cut", Damage::Malformed(|elf| elf.truncate(elf.len() / 2)), "not an ELF, or cut short"),
    // p_filesz of all segments: more than there is.
    (
        "beyond",
        "probe-beyond",
        Damage::Malformed(|elf| (0..4).for_each(|header| put(elf, 64 + 56 * header + 32, (1u64 << 40).to_le_bytes()))),
        "where none may be",
    ),
    ("stub", "probe-stub", Damage::Malformed(|elf| elf.truncate(50)), "not an ELF, or cut short"),
    ("text", "probe-text", Damage::Malformed(|elf| elf[..4].copy_from_slice(b"text")), "not an ELF, or cut short"),
    // e_machine: ARM.
    (
        "arm",
        "probe-arm",
        Damage::Malformed(|elf| put(elf, 18, 40u16.to_le_bytes())),
        "not a static position-independent",
    ),
    // e_entry: in no segment.
    (
        "nowhere",
        "probe-nowhere",
        Damage::Malformed(|elf| put(elf, 24, u64::MAX.to_le_bytes())),
        "entry is not in its code",
    ),
    // p_flags of all segments: writable and executable.
    (
        "writable",
        "probe-writable",
        Damage::Malformed(|elf| (0..4).for_each(|header| put(elf, 64 + 56 * header + 4, 7u32.to_le_bytes()))),
        "writable and executable",
    ),
];

static RIG: LazyLock<Rig> = LazyLock::new(|| {
    let mut domains = vec![DomainSpec::new("whole", PROBE).export("probe", "Probe")];
    for (name, image, _, _) in DAMAGED {
        let image = Start { name: image, package: "probe", path: "probe::start" };
        let domain = DomainSpec::new(name, image).export("probe", "Probe").with(|domain| {
            domain.restart.limit_burst = 2;
            domain.restart.limit_interval = Nanos(3_600_000_000_000);
        });
        domains.push(domain);
    }
    let damage = DAMAGED.map(|(_, image, damage, _)| (image, damage)).to_vec();
    Rig::start(Settings { domains, damage, ..Settings::default() })
});

/// Invariant 7: none of them is loaded, each is given up after its limit with the reason said, and what is whole serves.
#[test]
fn what_is_not_as_it_was_signed_is_not_loaded() {
    let _turn = RIG.turn();
    for (name, _, _, words) in DAMAGED {
        RIG.until("it is given up", || RIG.status(name).state == "given-up");
        let status = RIG.status(name);
        assert_eq!((status.pages, status.threads), (0, 0), "{name}");
        assert_eq!(status.last_death.expect("it has ended").1.cause, Cause::Refused, "{name}");
        let log = RIG.log();
        let said = log.lines().any(|line| line.contains(&format!("{name} did not start")) && line.contains(words));
        assert!(said, "{name}: {words:?} is not in the log:\n{log}");
    }
    let whole = RIG.port::<dyn Probe>("whole", "probe");
    assert_eq!(RIG.run(0, move || whole.next(1)), Ok(2));
    assert_eq!(RIG.status("whole").generation, 1, "what is whole has started once");
}
