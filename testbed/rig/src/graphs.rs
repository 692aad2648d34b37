//! Graphs of real domains, as the box runs them, for tests, campaigns and benchmarks.

use bundle::manifest::{Bytes, DeviceMatch, Import, Nanos, Source};
use interfaces::folder::{self, Coding, File, Folder, Representation};
use model::NicConfig;
use serde::Serialize;

use crate::{DomainSpec, Start};

const SEGMENT: Start = Start { name: "segment", package: "segment", path: "segment::start" };
const FILTER: Start = Start { name: "filter", package: "filter", path: "filter::start" };
const SHADOW: Start = Start { name: "net-shadow", package: "net-shadow", path: "net_shadow::start" };
const MAGLEV: Start = Start { name: "maglev", package: "maglev", path: "maglev::start" };
const CLASSIFIER: Start = Start { name: "classifier", package: "classifier", path: "classifier::start" };
const STACK: Start = Start { name: "netstack", package: "netstack", path: "netstack::start" };
const KV: Start = Start { name: "kv", package: "kv", path: "kv::start" };
const HTTPD: Start = Start { name: "httpd", package: "httpd", path: "httpd::start" };
const NVME: Start = Start { name: "nvme", package: "nvme", path: "nvme::start" };
const DISK: Start = Start { name: "block-shadow", package: "block-shadow", path: "block_shadow::start" };
const IXGBE: Start = Start { name: "ixgbe", package: "ixgbe", path: "ixgbe::start" };

const LB: &str = r#"
address = "10.0.1.2/24"
connections = 4096
vips = [{ name = "web", address = "10.0.1.100", port = 80, protocol = "tcp", backends = [{ name = "b1" }, { name = "b2" }, { name = "b3" }] }]
backends = [
    { name = "b1", address = "10.0.1.11" },
    { name = "b2", address = "10.0.1.12" },
    { name = "b3", address = "10.0.1.13" },
]
"#;

const INNER: &str =
    r#"rules = [{ name = "web", action = "count", direction = "receive", protocol = "tcp", destination-port = 80 }]"#;

/// A domain's configuration, as the builder compiles it.
fn compiled(config: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(config).expect("a configuration has a binary form")
}

// Not in the order of the domains' `Exports`: ports are found by their names.
fn card(name: &str, image: Start) -> DomainSpec {
    DomainSpec::new(name, image).export("control", "Control").export("net", "Net")
}

/// `segment` ← `shadow` ← `outer` ← `inner` ← `lb`: the load balancer behind two filters and a shadow, above a segment whose clients never stop. `first` domains stand before them.
pub fn balancer(first: u32) -> Vec<DomainSpec> {
    let lb = compiled(&toml::from_str::<maglev::Config>(LB).expect("a good configuration"));
    let inner = compiled(&toml::from_str::<filter::Config>(INNER).expect("a good configuration"));
    let outer = compiled(&filter::Config::default());
    vec![
        card("segment", SEGMENT),
        card("shadow", SHADOW).import("net", "Net", first, "net"),
        card("outer", FILTER).import("net", "Net", first + 1, "net").with(|spec| spec.config = outer),
        card("inner", FILTER).import("net", "Net", first + 2, "net").with(|spec| spec.config = inner),
        DomainSpec::new("lb", MAGLEV)
            .export("control", "Control")
            .import("net", "Net", first + 3, "net")
            .with(|spec| spec.config = lb),
    ]
}

/// `ixgbe0` ← `shadow0`: the 82599's driver and what hides its restarts. The machine has to have a card.
pub fn driver(first: u32) -> Vec<DomainSpec> {
    let on_device =
        |interface: &str| Import { port: "device".into(), from: Source::Device, interface: interface.into() };
    let driver = card("ixgbe0", IXGBE).with(|spec| {
        spec.device = Some(DeviceMatch::Id { vendor: 0x8086, device: NicConfig::default().device });
        spec.imports.push(on_device("IxgbeDevice"));
        spec.cpus = vec![0];
        spec.watchdog = Nanos(50_000_000);
        spec.config = compiled(&ixgbe::Config::default());
    });
    vec![driver, card("shadow0", SHADOW).import("net", "Net", first, "net")]
}

/// One of each kind, as [`appliance`] has them.
pub const APPLIANCE: [&str; 10] = ["ixgbe0", "shadow0", "filter", "sort", "lb", "stack", "kv", "web", "nvme0", "disk"];

/// All services above one card, as `configs/appliance.toml` wires them, with a filter on the way; and a disk behind its shadow. The machine has to have a card and a drive.
pub fn appliance() -> Vec<DomainSpec> {
    let lb = compiled(&toml::from_str::<maglev::Config>(LB).expect("a good configuration"));
    let listed = compiled(
        &toml::from_str::<classifier::Config>(r#"listed = ["10.0.1.2", "10.0.1.100"]"#).expect("a good configuration"),
    );
    let stack = compiled(&toml::from_str::<netstack::Config>("address = '10.0.1.3/24'").expect("a good configuration"));
    let kv = compiled(&toml::from_str::<kv::Config>("memory = '4MiB'").expect("a good configuration"));
    let mut web: httpd::Config = toml::from_str("content = 'site'").expect("a good configuration");
    let page = File {
        path: b"index.html",
        media_type: "text/html",
        modified: 0,
        representations: Box::from([Representation { coding: Coding::Identity, tag: 1, bytes: b"<p>A page.</p>" }]),
    };
    web.content = Folder::packed(folder::write(&[page]));
    let large = |spec: &mut bundle::manifest::Domain| (spec.memory, spec.exchange) = (Bytes(96 << 20), Bytes(16 << 20));
    let service = |name: &str, image: Start| {
        DomainSpec::new(name, image).export("control", "Control").import("stack", "NetStack", 5, "stack").with(large)
    };
    let mut domains = driver(0);
    domains.extend([
        card("filter", FILTER)
            .import("net", "Net", 1, "net")
            .with(|spec| spec.config = compiled(&filter::Config::default())),
        DomainSpec::new("sort", CLASSIFIER)
            .export("listed", "Net")
            .export("others", "Net")
            .export("control", "Control")
            .import("net", "Net", 2, "net")
            .with(|spec| spec.config = listed),
        DomainSpec::new("lb", MAGLEV)
            .export("control", "Control")
            .import("net", "Net", 3, "listed")
            .with(|spec| (spec.cpus, spec.config) = (vec![0], lb)),
        DomainSpec::new("stack", STACK)
            .export("stack", "NetStack")
            .export("control", "Control")
            .import("net", "Net", 3, "others")
            .with(large)
            .with(|spec| (spec.cpus, spec.config) = (vec![0], stack)),
        service("kv", KV).with(|spec| (spec.cpus, spec.config) = (vec![0], kv)),
        service("web", HTTPD).with(|spec| (spec.cpus, spec.config) = (vec![0], compiled(&web))),
        DomainSpec::new("nvme0", NVME).export("block", "Block").export("control", "Control").with(|spec| {
            spec.device = Some(DeviceMatch::Id { vendor: 0x1b36, device: 0x0010 });
            let (port, from, interface) = ("device".into(), Source::Device, "NvmeDevice".into());
            spec.imports.push(Import { port, from, interface });
            spec.cpus = vec![0];
            spec.config = compiled(&nvme::Config::default());
        }),
        DomainSpec::new("disk", DISK)
            .export("block", "Block")
            .export("control", "Control")
            .import("block", "Block", 8, "block"),
    ]);
    domains
}
