//! Graphs of real domains, as the box runs them, for tests, campaigns and benchmarks.

use bundle::manifest::{DeviceMatch, Import, Nanos, Source};
use model::NicConfig;
use serde::Serialize;

use crate::{DomainSpec, Start};

const SEGMENT: Start = Start { name: "segment", package: "segment", path: "segment::start" };
const FILTER: Start = Start { name: "filter", package: "filter", path: "filter::start" };
const SHADOW: Start = Start { name: "net-shadow", package: "net-shadow", path: "net_shadow::start" };
const MAGLEV: Start = Start { name: "maglev", package: "maglev", path: "maglev::start" };
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
