//! What a damaged, truncated, foreign or invented bundle does to its reader: an error that names the part at fault, never a panic.

use bundle::format::{HEADER_BYTES, PAGE, RECORD_BYTES};
use bundle::manifest::*;
use bundle::write::{ImageSource, SigningKey, bundle as write};
use bundle::{Bundle, BundleError, Hash, ImageError, Trust};
use proptest::prelude::*;

fn domain(name: &str, image: u32, imports: Vec<Import>) -> Domain {
    Domain {
        name: name.into(),
        image,
        device: None,
        memory: Bytes(1 << 20),
        exchange: Bytes(1 << 20),
        threads: 8,
        handles: 16,
        packet_buffers: 256,
        cpus: vec![0],
        watchdog: Nanos(100_000_000),
        start_timeout: Nanos(30_000_000_000),
        min_stack: Bytes(16 << 10),
        restart: Restart {
            policy: RestartPolicy::OnFailure,
            delay: Nanos(5_000_000),
            max_delay: Nanos(1_000_000_000),
            limit_burst: 5,
            limit_interval: Nanos(10_000_000_000),
        },
        imports,
        exports: vec![Export { port: "net".into(), interface: "Net".into() }],
        config: vec![1, 2, 3],
    }
}

fn manifest(images: &[ImageSource<'_>]) -> Manifest {
    let import =
        Import { port: "net".into(), from: Source::Domain { index: 0, port: "net".into() }, interface: "Net".into() };
    Manifest {
        schema: SCHEMA,
        name: "test".into(),
        machine: Machine {
            memory: Bytes(256 << 20),
            cpus: 2,
            packet_buffers: 4096,
            packet_bytes: 2048,
            on_panic: PanicAction::Halt,
            iommu: Iommu::Use,
        },
        console: Console { fault_injection: true, feed: false },
        images: images.iter().map(ImageSource::reference).collect(),
        domains: vec![domain("ixgbe0", 0, vec![]), domain("lb", 1, vec![import])],
    }
}

const ABI: Hash = Hash([7; 32]);
const BUILD: Hash = Hash([9; 32]);

fn key() -> SigningKey {
    SigningKey::from_seed([1; 32])
}

fn trust() -> Trust {
    Trust { key: key().public(), abi: ABI }
}

fn sources<'a>(driver: &'a [u8], maglev: &'a [u8]) -> [ImageSource<'a>; 2] {
    [
        ImageSource { name: "ixgbe", elf: driver, abi: ABI, build: BUILD },
        ImageSource { name: "maglev", elf: maglev, abi: ABI, build: BUILD },
    ]
}

fn sample() -> Vec<u8> {
    let (driver, maglev) = ([0xaa; 5000], [0xbb; 100]);
    let images = sources(&driver, &maglev);
    write(&manifest(&images), &images, &key(), ABI, BUILD).unwrap()
}

/// The way it is meant to be: what was written is what is read, images on page boundaries.
#[test]
fn round_trip() {
    let bytes = sample();
    let bundle = Bundle::parse(&bytes, trust()).unwrap();
    let (driver, maglev) = ([0xaa; 5000], [0xbb; 100]);
    assert_eq!(*bundle.manifest(), manifest(&sources(&driver, &maglev)));
    assert_eq!(bundle.image(0).unwrap().elf, driver);
    assert_eq!(bundle.image(1).unwrap().elf, maglev);
    assert_eq!(bundle.image(1).unwrap().build, BUILD);
    assert!((bundle.image(0).unwrap().elf.as_ptr() as usize - bytes.as_ptr() as usize).is_multiple_of(PAGE));
    assert!(matches!(bundle.image(2), Err(ImageError::Absent { .. })));
    assert_eq!(bytes, sample(), "writing isn't deterministic");
}

/// An altered byte *anywhere* is noticed, and what it hits is what becomes unusable: header, manifest and its record the whole
/// bundle; an image or its record that image alone.
#[test]
fn every_single_byte_altered() {
    let good = sample();
    let driver_page = good.len() - 3 * PAGE;
    for at in 0..good.len() {
        // Steps of 7 inside the images: each byte takes a signature check or a hash of everything.
        if at > driver_page && !at.is_multiple_of(7) {
            continue;
        }
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        let record = at.checked_sub(HEADER_BYTES).map(|at| at / RECORD_BYTES).filter(|&record| record < 3);
        let broken = match (record, at) {
            (Some(1), _) => Some(0),
            (Some(2), _) => Some(1),
            (None, at) if at >= driver_page => Some(u32::from(at >= driver_page + 2 * PAGE)),
            _ => None,
        };
        match (Bundle::parse(&bytes, trust()), broken) {
            (Err(_), None) => {}
            (Ok(bundle), Some(broken)) => {
                assert!(bundle.image(broken).is_err(), "byte {at}: image {broken} still loads");
                assert!(bundle.image(1 - broken).is_ok(), "byte {at}: the other image is lost too");
            }
            (Ok(_), None) => panic!("byte {at}: unnoticed"),
            (Err(error), Some(image)) => {
                panic!("byte {at} of image {image} spoils everything: {error}")
            }
        }
    }
}

/// Every truncation, and anything behind the end, is named as such.
#[test]
fn truncated_and_trailing() {
    let good = sample();
    for len in (0..good.len()).step_by(13) {
        assert!(matches!(Bundle::parse(&good[..len], trust()), Err(BundleError::Truncated { .. })), "{len} bytes");
    }
    let longer = [&good[..], &[0]].concat();
    assert!(matches!(Bundle::parse(&longer, trust()), Err(BundleError::Trailing { .. })));
}

/// Another key, another compiler: told apart, so that the message can say what to do.
#[test]
fn foreign() {
    let bytes = sample();
    let foreign_key = Trust { key: SigningKey::from_seed([2; 32]).public(), ..trust() };
    assert!(matches!(
        Bundle::parse(&bytes, foreign_key),
        Err(BundleError::Manifest(ImageError::ForeignKey { image })) if image == "manifest"
    ));
    let foreign_abi = Trust { abi: Hash([8; 32]), ..trust() };
    assert!(matches!(Bundle::parse(&bytes, foreign_abi), Err(BundleError::Manifest(ImageError::ForeignAbi { .. }))));

    let (driver, maglev) = ([0xaa; 5000], [0xbb; 100]);
    let mut images = sources(&driver, &maglev);
    images[1].abi = Hash([8; 32]);
    let bytes = write(&manifest(&images), &images, &key(), ABI, BUILD).unwrap();
    let bundle = Bundle::parse(&bytes, trust()).unwrap();
    assert!(bundle.image(0).is_ok());
    assert!(matches!(bundle.image(1), Err(ImageError::ForeignAbi { image, .. }) if image == "maglev"));
}

/// A validly signed image of the same name and length from another bundle isn't the one that the manifest meant.
#[test]
fn transplanted_image() {
    let mut bytes = sample();
    let (driver, maglev) = ([0xaa; 5000], [0xcc; 100]);
    let images = sources(&driver, &maglev);
    let other = write(&manifest(&images), &images, &key(), ABI, BUILD).unwrap();
    let record = HEADER_BYTES + 2 * RECORD_BYTES;
    let payload = bytes.len() - PAGE;
    bytes[record..record + RECORD_BYTES].copy_from_slice(&other[record..record + RECORD_BYTES]);
    bytes[payload..].copy_from_slice(&other[payload..]);
    let bundle = Bundle::parse(&bytes, trust()).unwrap();
    assert_eq!(bundle.image(1).unwrap_err(), ImageError::ForeignBundle { image: "maglev".into() });
    assert!(bundle.image(0).is_ok());
}

/// The kernel's own check of what an authentic manifest says, each rule with the manifest that breaks it.
#[test]
fn content_is_checked_again() {
    let (driver, maglev) = ([0xaa; 50], [0xbb; 100]);
    let images = sources(&driver, &maglev);
    let refused = |change: fn(&mut Manifest)| {
        let mut manifest = manifest(&images);
        change(&mut manifest);
        manifest.check().unwrap_err()
    };
    assert!(matches!(refused(|m| m.schema = 0), ManifestError::Schema { found: 0 }));
    assert!(matches!(refused(|m| m.domains[1].name = "ixgbe0".into()), ManifestError::DuplicateDomain { .. }));
    assert!(matches!(refused(|m| m.domains[1].image = 2), ManifestError::NoSuchImage { image: 2, .. }));
    assert!(
        matches!(
            refused(|m| m.domains[1].imports[0].from = Source::Domain { index: 1, port: "net".into() }),
            ManifestError::Dangling { .. }
        ),
        "a cycle"
    );
    assert!(matches!(
        refused(|m| m.domains[1].imports[0].from = Source::Domain { index: 9, port: "net".into() }),
        ManifestError::Dangling { .. }
    ));
    assert!(matches!(
        refused(|m| m.domains[1].imports[0].from = Source::Domain { index: 0, port: "x".into() }),
        ManifestError::Dangling { .. }
    ));
    assert!(matches!(refused(|m| m.domains[1].imports[0].interface = "Block".into()), ManifestError::Mistyped { .. }));
    assert!(matches!(
        refused(|m| {
            let again = m.domains[0].exports[0].clone();
            m.domains[0].exports.push(again);
        }),
        ManifestError::DuplicatePort { .. }
    ));
    assert!(matches!(
        refused(|m| m
            .domains
            .iter_mut()
            .for_each(|d| d.device = Some(DeviceMatch::Id { vendor: 0x8086, device: 0x10fb }))),
        ManifestError::DeviceTwice { .. }
    ));
    assert!(matches!(refused(|m| m.machine.memory = Bytes(0)), ManifestError::QuotasBeyondMemory { .. }));
    assert!(matches!(refused(|m| m.domains[0].memory = Bytes(u64::MAX)), ManifestError::QuotasBeyondMemory { .. }));
    assert!(matches!(refused(|m| m.domains[0].cpus.push(2)), ManifestError::NoCpu { .. }));
    assert!(matches!(refused(|m| m.domains[1].imports[0].from = Source::Device), ManifestError::Dangling { .. }));
    assert!(matches!(refused(|m| m.domains[0].threads = 0), ManifestError::NoThread { .. }));
    let crowd = ManifestError::ThreadsBeyondBox { threads: THREADS - KERNEL_THREADS + 1 };
    assert_eq!(refused(|m| m.domains[0].threads = THREADS - KERNEL_THREADS + 1 - m.domains[1].threads), crowd);
    for (refused, bytes) in [
        (refused(|m| m.machine.packet_bytes = 1024), 1024),
        (refused(|m| m.machine.packet_bytes = 2049), 2049),
        (refused(|m| m.machine.packet_bytes = 17 << 10), 17 << 10),
    ] {
        assert_eq!(refused, ManifestError::PacketBytes { bytes });
    }
    assert!(matches!(refused(|m| m.domains[0].cpus.clear()), ManifestError::NoCpu { .. }));
}

proptest! {
    /// Invented bytes, with and without a plausible header: an error, no panic.
    #[test]
    fn invented_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..9000), header in any::<bool>()) {
        let good = sample();
        if header && bytes.len() >= HEADER_BYTES {
            bytes[..HEADER_BYTES].copy_from_slice(&good[..HEADER_BYTES]);
            let len = bytes.len() as u64;
            bytes[16..24].copy_from_slice(&len.to_le_bytes());
        }
        prop_assert!(Bundle::parse(&bytes, trust()).is_err());
    }

    /// A decoder that is handed any bytes as a manifest: totality of what lies behind the signature.
    #[test]
    fn invented_manifest(bytes in proptest::collection::vec(any::<u8>(), 0..2000), keep in 0usize..400) {
        let (driver, maglev) = ([0xaa; 50], [0xbb; 100]);
        let images = sources(&driver, &maglev);
        let mut mixed = postcard::to_allocvec(&manifest(&images)).unwrap();
        mixed.truncate(keep);
        mixed.extend(bytes);
        let _ = Manifest::from_bytes(&mixed);
    }

    /// Random bytes over a good bundle's table: no panic whatever offsets and lengths come out, and nothing altered is handed out.
    #[test]
    fn random_table(at in 0usize..HEADER_BYTES + 3 * RECORD_BYTES, noise in proptest::collection::vec(any::<u8>(), 1..64)) {
        let mut bytes = sample();
        let end = (at + noise.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&noise[..end - at]);
        if let Ok(bundle) = Bundle::parse(&bytes, trust()) {
            for (index, expected) in [(0, vec![0xaa; 5000]), (1, vec![0xbb; 100])] {
                if let Ok(image) = bundle.image(index) {
                    prop_assert_eq!(image.elf, &expected[..]);
                }
            }
        }
    }
}
