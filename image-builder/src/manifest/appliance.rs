//! The manifest as typed values: what may stand in it, and the defaults. What the parts mean to each other is checked in [`super::check`].

use super::diagnostic::{Diagnostic, Diagnostics, closest};
use super::read::{FromNode, Reader, read};
use super::source::{At, Location, Node, Table, Value};
use bundle::manifest::{DeviceMatch, Iommu, PanicAction, PciAddress, RestartPolicy};
use interfaces::config::{Duration, Size};

/// A box and everything on it, as its manifest has it.
#[derive(Clone, Debug)]
pub struct Appliance {
    pub machine: Machine,
    pub console: Console,
    /// In the order in which they are written.
    pub domains: Vec<Domain>,
}

#[derive(Clone, Debug)]
pub struct Machine {
    pub memory: At<Size>,
    pub cpus: At<u32>,
    pub packet_buffers: u32,
    pub on_panic: PanicAction,
    pub iommu: Iommu,
}

#[derive(Clone, Copy, Debug)]
pub struct Console {
    pub fault_injection: bool,
    pub feed: bool,
}

#[derive(Clone, Debug)]
pub struct Domain {
    pub name: At<String>,
    pub image: At<String>,
    pub device: Option<At<DeviceMatch>>,
    /// Whether a device is named at all, be it wrongly.
    pub names_device: bool,
    pub memory: At<Size>,
    pub exchange: At<Size>,
    pub threads: At<u32>,
    pub handles: u32,
    pub packet_buffers: At<u32>,
    pub cpus: At<Vec<u32>>,
    pub watchdog: Duration,
    pub start_timeout: Duration,
    pub min_stack: Size,
    pub restart: Restart,
    pub imports: Vec<Import>,
    /// The `config` table, for the domain's own type to read; its place, or the domain's where there is none.
    pub config: Node,
}

#[derive(Clone, Copy, Debug)]
pub struct Restart {
    pub policy: RestartPolicy,
    pub delay: Duration,
    pub max_delay: Duration,
    pub limit_burst: u32,
    pub limit_interval: Duration,
}

/// `net = "ixgbe0.net"`
#[derive(Clone, Debug)]
pub struct Import {
    pub port: At<String>,
    pub at: Location,
    pub domain: String,
    pub from_port: String,
}

/// Packet buffers where the manifest doesn't say: two rings of 1,024 on two CPUs, and as much again on its way.
const DEFAULT_PACKET_BUFFERS: u32 = 8_192;
const DEFAULT_MEMORY: Size = Size(4 << 20);
const DEFAULT_EXCHANGE: Size = Size(4 << 20);
/// Besides one for each of its CPUs.
pub const DEFAULT_THREADS: u32 = 8;
/// A queue or a socket or two for each CPU of a large box.
const DEFAULT_HANDLES: u32 = 256;
/// The part of the box's packet buffers that a domain may keep while others go short.
const DEFAULT_BUFFERS_PART: u32 = 2;
const DEFAULT_WATCHDOG: Duration = Duration::from_millis(100);
/// A disk's reset and a log that is read again take seconds; what takes longer waits for something that doesn't come.
const DEFAULT_START_TIMEOUT: Duration = Duration::from_millis(30_000);
const DEFAULT_MIN_STACK: Size = Size(16 << 10);
/// As in the manifest's documentation: at once, then more slowly, and not for ever.
const DEFAULT_RESTART: Restart = Restart {
    policy: RestartPolicy::OnFailure,
    delay: Duration::from_millis(5),
    max_delay: Duration::from_millis(1_000),
    limit_burst: 5,
    limit_interval: Duration::from_millis(10_000),
};

impl Appliance {
    /// Reads the whole file. `None` only if what is missing leaves nothing to check.
    pub fn read(table: &Table, diagnostics: &mut Diagnostics) -> Option<Appliance> {
        let start = Location { file: 0, span: 0..0 };
        let mut top = Reader::new(table, "the manifest", start.clone());
        let machine = top.require::<Table>("box", diagnostics);
        let console = top.get::<Table>("console", diagnostics);
        let domains = top.require::<Table>("domains", diagnostics);
        top.finish(diagnostics);

        let domains = domains?;
        let highest_cpu = highest_cpu(&domains.value);
        let machine = machine.and_then(|machine| Machine::read(&machine, highest_cpu + 1, diagnostics));
        let console = Console::read(console.as_ref(), diagnostics);
        if domains.value.entries.is_empty() {
            diagnostics
                .push(Diagnostic::new("the manifest has no domains").at(domains.at.clone(), "nothing would run"));
        }
        let cpus = machine.as_ref().map_or(highest_cpu + 1, |machine| machine.cpus.value);
        let buffers = machine.as_ref().map_or(DEFAULT_PACKET_BUFFERS, |machine| machine.packet_buffers);
        let domains = domains
            .value
            .entries
            .iter()
            .filter_map(|(name, node)| Domain::read(name, node, cpus, buffers, diagnostics));
        let domains: Vec<Domain> = domains.collect();
        Some(Appliance { machine: machine?, console, domains })
    }
}

/// The highest CPU that any domain names: the box has at least that many where it doesn't say.
fn highest_cpu(domains: &Table) -> u32 {
    let cpus = domains.entries.iter().filter_map(|(_, node)| match &node.value {
        Value::Table(domain) => match &domain.get("cpus")?.1.value {
            Value::Array(cpus) => {
                cpus.iter().filter_map(|cpu| u32::from_node(&cpu.value)).filter(|&cpu| cpu < MAX_CPUS).max()
            }
            _ => None,
        },
        _ => None,
    });
    cpus.max().unwrap_or(0)
}

/// As many as the kernel has per-CPU areas for.
pub const MAX_CPUS: u32 = 64;

impl Machine {
    fn read(table: &At<Table>, default_cpus: u32, diagnostics: &mut Diagnostics) -> Option<Machine> {
        let mut reader = Reader::new(&table.value, "`[box]`", table.at.clone());
        let memory = reader.require("memory", diagnostics);
        let cpus: Option<At<u32>> = reader.get("cpus", diagnostics);
        if let Some(cpus) = cpus.as_ref().filter(|cpus| cpus.value == 0 || cpus.value > MAX_CPUS) {
            let label = format!("expected 1 to {MAX_CPUS}");
            diagnostics.push(Diagnostic::new("a box can't have that many CPUs").at(cpus.at.clone(), label));
        }
        let packet_buffers = reader.get("packet-buffers", diagnostics);
        let on_panic =
            choice(&mut reader, "on-panic", &[("reset", PanicAction::Reset), ("halt", PanicAction::Halt)], diagnostics);
        let kinds = [("strict", Iommu::Strict), ("require", Iommu::Require), ("use", Iommu::Use), ("off", Iommu::Off)];
        let iommu = choice(&mut reader, "iommu", &kinds, diagnostics);
        reader.finish(diagnostics);
        Some(Machine {
            memory: memory?,
            cpus: cpus.unwrap_or(At { value: default_cpus, at: table.at.clone() }),
            packet_buffers: packet_buffers.map_or(DEFAULT_PACKET_BUFFERS, |buffers| buffers.value),
            on_panic: on_panic.unwrap_or(PanicAction::Reset),
            iommu: iommu.unwrap_or(Iommu::Use),
        })
    }
}

impl Console {
    fn read(table: Option<&At<Table>>, diagnostics: &mut Diagnostics) -> Console {
        let mut console = Console {
            fault_injection: false,
            // Nobody needs to listen: it is the second serial port.
            feed: true,
        };
        if let Some(table) = table {
            let mut reader = Reader::new(&table.value, "`[console]`", table.at.clone());
            let mut flag = |key| reader.get::<bool>(key, diagnostics).is_some_and(|flag| flag.value);
            console = Console {
                fault_injection: flag("fault-injection"),
                feed: reader.get::<bool>("feed", diagnostics).is_none_or(|feed| feed.value),
            };
            reader.finish(diagnostics);
        }
        console
    }
}

impl Domain {
    fn read(
        name: &At<String>,
        node: &Node,
        box_cpus: u32,
        box_buffers: u32,
        diagnostics: &mut Diagnostics,
    ) -> Option<Domain> {
        if bundle::format::Name::new(&name.value).is_none() {
            diagnostics.push(
                Diagnostic::new(format!("`{}` is no name for a domain", name.value))
                    .at(name.at.clone(), "expected letters, digits, `-` and `_`"),
            );
        }
        let table: At<Table> = read(node, &format!("domain {}", name.value), diagnostics)?;
        let mut reader = Reader::new(&table.value, format!("domain {}", name.value), name.at.clone());
        let image = reader.require("image", diagnostics);
        let device_table = reader.get::<Table>("device", diagnostics);
        let names_device = device_table.is_some();
        let device = device_table.and_then(|device| read_device(&device, diagnostics));
        let memory = reader.get("memory", diagnostics).unwrap_or(At { value: DEFAULT_MEMORY, at: name.at.clone() });
        let exchange =
            reader.get("exchange", diagnostics).unwrap_or(At { value: DEFAULT_EXCHANGE, at: name.at.clone() });
        let cpus = match reader.get::<Vec<Node>>("cpus", diagnostics) {
            Some(list) => read_cpus(&list, box_cpus, diagnostics),
            None => At { value: (0..box_cpus).collect(), at: name.at.clone() },
        };
        let here = |value: u32| At { value, at: name.at.clone() };
        let threads = reader.get("threads", diagnostics).unwrap_or(here(DEFAULT_THREADS + cpus.value.len() as u32));
        let handles = reader.get("handles", diagnostics).map_or(DEFAULT_HANDLES, |handles| handles.value);
        let packet_buffers =
            reader.get("packet-buffers", diagnostics).unwrap_or(here(box_buffers / DEFAULT_BUFFERS_PART));
        let watchdog = reader.get("watchdog", diagnostics).map_or(DEFAULT_WATCHDOG, |watchdog| watchdog.value);
        let start_timeout =
            reader.get("start-timeout", diagnostics).map_or(DEFAULT_START_TIMEOUT, |timeout| timeout.value);
        let min_stack = reader.get("min-stack", diagnostics).map_or(DEFAULT_MIN_STACK, |stack| stack.value);
        let restart = reader.get::<Table>("restart", diagnostics);
        let restart = restart.map_or(DEFAULT_RESTART, |restart| Restart::read(&restart, diagnostics));
        let imports = reader.get::<Table>("imports", diagnostics);
        let imports = imports.map_or(Vec::new(), |imports| read_imports(&imports.value, diagnostics));
        let config = reader.get::<Table>("config", diagnostics);
        let config = config.unwrap_or(At { value: Table::default(), at: name.at.clone() });
        reader.finish(diagnostics);
        Some(Domain {
            name: name.clone(),
            image: image?,
            device,
            names_device,
            memory,
            exchange,
            threads,
            handles,
            packet_buffers,
            cpus,
            watchdog,
            start_timeout,
            min_stack,
            restart,
            imports,
            config: At { value: Value::Table(config.value), at: config.at },
        })
    }
}

impl Restart {
    fn read(table: &At<Table>, diagnostics: &mut Diagnostics) -> Restart {
        let mut restart = DEFAULT_RESTART;
        let mut reader = Reader::new(&table.value, "`restart`", table.at.clone());
        let policies = [
            ("never", RestartPolicy::Never),
            ("on-failure", RestartPolicy::OnFailure),
            ("always", RestartPolicy::Always),
        ];
        if let Some(policy) = choice(&mut reader, "policy", &policies, diagnostics) {
            restart.policy = policy;
        }
        let delay = reader.get::<Duration>("delay", diagnostics);
        let max_delay = reader.get::<Duration>("max-delay", diagnostics);
        if let Some(burst) = reader.get::<u32>("limit-burst", diagnostics) {
            restart.limit_burst = burst.value;
        }
        if let Some(interval) = reader.get::<Duration>("limit-interval", diagnostics) {
            restart.limit_interval = interval.value;
        }
        reader.finish(diagnostics);
        restart.delay = delay.as_ref().map_or(restart.delay, |delay| delay.value);
        restart.max_delay = max_delay.as_ref().map_or(restart.max_delay.max(restart.delay), |delay| delay.value);
        if let (Some(delay), Some(max)) = (delay, max_delay)
            && delay.value > max.value
        {
            diagnostics.push(
                Diagnostic::new("the first delay is longer than the longest")
                    .at(delay.at, "`delay` grows from here")
                    .and(max.at, "up to here"),
            );
        }
        restart
    }
}

/// One of a few words.
fn choice<T: Copy>(
    reader: &mut Reader<'_>,
    key: &'static str,
    words: &[(&'static str, T)],
    diagnostics: &mut Diagnostics,
) -> Option<T> {
    let text = reader.get::<String>(key, diagnostics)?;
    let found = words.iter().find(|(word, _)| *word == text.value);
    if found.is_none() {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let label = format!("expected one of: {}", known.join(", "));
        let diagnostic = Diagnostic::new(format!("`{key}` can't be \"{}\"", text.value)).at(text.at, label);
        diagnostics.push(match closest(&text.value, &known) {
            Some(closest) => diagnostic.help(format!("did you mean \"{closest}\"?")),
            None => diagnostic,
        });
    }
    found.map(|(_, value)| *value)
}

fn read_cpus(list: &At<Vec<Node>>, box_cpus: u32, diagnostics: &mut Diagnostics) -> At<Vec<u32>> {
    let mut cpus = Vec::new();
    for node in &list.value {
        let Some(cpu) = read::<u32>(node, "a CPU's number", diagnostics) else {
            continue;
        };
        if cpu.value >= box_cpus {
            let label = match box_cpus {
                1 => "the box has CPU 0 alone".to_owned(),
                _ => format!("the box has CPUs 0 to {}", box_cpus - 1),
            };
            diagnostics.push(Diagnostic::new(format!("there is no CPU {}", cpu.value)).at(cpu.at, label));
        } else if cpus.contains(&cpu.value) {
            diagnostics.push(Diagnostic::new(format!("CPU {} is named twice", cpu.value)).at(cpu.at, "again here"));
        } else {
            cpus.push(cpu.value);
        }
    }
    if list.value.is_empty() {
        let diagnostic = Diagnostic::new("a domain without CPUs never runs").at(list.at.clone(), "no CPU");
        diagnostics.push(diagnostic.help("leave `cpus` out to allow all of them"));
    }
    cpus.sort_unstable();
    At { value: cpus, at: list.at.clone() }
}

fn read_imports(table: &Table, diagnostics: &mut Diagnostics) -> Vec<Import> {
    let mut imports = Vec::new();
    for (port, node) in &table.entries {
        let Some(target) = read::<String>(node, &format!("import `{}`", port.value), diagnostics) else {
            continue;
        };
        match target.value.split_once('.') {
            Some((domain, from_port)) if !domain.is_empty() && !from_port.is_empty() => imports.push(Import {
                port: port.clone(),
                at: target.at,
                domain: domain.to_owned(),
                from_port: from_port.to_owned(),
            }),
            _ => diagnostics.push(
                Diagnostic::new(format!("import `{}` is wired to no port", port.value))
                    .at(target.at, "expected \"DOMAIN.PORT\", such as \"ixgbe0.net\""),
            ),
        }
    }
    imports
}

fn read_device(table: &At<Table>, diagnostics: &mut Diagnostics) -> Option<At<DeviceMatch>> {
    let mut reader = Reader::new(&table.value, "`device`", table.at.clone());
    let mut field = |key, parse: fn(&str) -> Option<DeviceMatch>, expected: &str, diagnostics: &mut Diagnostics| {
        let text: At<String> = reader.get(key, diagnostics)?;
        let device = parse(&text.value);
        if device.is_none() {
            let label = format!("expected {expected}");
            diagnostics.push(Diagnostic::new(format!("\"{}\" names no device", text.value)).at(text.at, label));
        }
        device
    };
    let id = field("id", parse_id, "vendor and device, such as \"8086:10fb\"", diagnostics);
    let mac = field("mac", parse_mac, "six bytes, such as \"52:54:00:12:34:56\"", diagnostics);
    let serial = field("serial", parse_serial, "a serial number", diagnostics);
    let address = field("address", parse_address, "a place on the bus, such as \"0000:03:00.0\"", diagnostics);
    reader.finish(diagnostics);
    let named = [id, mac, serial, address].into_iter().flatten().collect::<Vec<_>>();
    match (named.as_slice(), table.value.entries.len()) {
        ([device], 1) => Some(At { value: device.clone(), at: table.at.clone() }),
        (_, 1) => None,
        _ => {
            diagnostics.push(
                Diagnostic::new("a device is named in one way")
                    .at(table.at.clone(), "expected exactly one of `id`, `mac`, `serial`, `address`"),
            );
            None
        }
    }
}

/// So many digits and nothing else: the standard parser would take a sign too.
fn hexadecimal(text: &str, digits: usize) -> Option<u16> {
    let plain = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u16::from_str_radix(text, 16).ok()).flatten()
}

fn parse_id(text: &str) -> Option<DeviceMatch> {
    let (vendor, device) = text.split_once(':')?;
    let digits = |text: &str| hexadecimal(text, 4);
    Some(DeviceMatch::Id { vendor: digits(vendor)?, device: digits(device)? })
}

fn parse_mac(text: &str) -> Option<DeviceMatch> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| hexadecimal(byte, 2).map(|byte| byte as u8)).collect();
    Some(DeviceMatch::Mac(bytes?.try_into().ok()?))
}

fn parse_serial(text: &str) -> Option<DeviceMatch> {
    (!text.is_empty()).then(|| DeviceMatch::Serial(text.to_owned()))
}

fn parse_address(text: &str) -> Option<DeviceMatch> {
    let mut parts = text.split([':', '.']);
    let mut part = |digits: usize| hexadecimal(parts.next()?, digits);
    let (segment, bus, device, function) = (part(4)?, part(2)?, part(2)?, part(1)?);
    let address = PciAddress { segment, bus: bus as u8, device: device as u8, function: function as u8 };
    // Written back it must be the same text: that checks separators, and rules out anything behind it.
    (device < 32 && function < 8 && address.to_string().eq_ignore_ascii_case(text))
        .then_some(DeviceMatch::Address(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The four ways to name a device, as lspci and labels on cards write them; nearly right isn't right.
    #[test]
    fn devices() {
        assert_eq!(parse_id("8086:10fb"), Some(DeviceMatch::Id { vendor: 0x8086, device: 0x10fb }));
        assert_eq!(parse_mac("52:54:00:12:34:ff"), Some(DeviceMatch::Mac([0x52, 0x54, 0, 0x12, 0x34, 0xff])));
        let address = PciAddress { segment: 0, bus: 3, device: 0x1f, function: 7 };
        assert_eq!(parse_address("0000:03:1f.7"), Some(DeviceMatch::Address(address)));
        assert!(
            ["8086", "8086:10f", "8086:10fbb", "808g:10fb", "+086:10fb"].iter().all(|text| parse_id(text).is_none())
        );
        assert!(
            ["52:54:00:12:34", "52:54:00:12:34:5", "52-54-00-12-34-56"].iter().all(|text| parse_mac(text).is_none())
        );
        for wrong in ["03:00.0", "0000:03:20.0", "0000:03:00.8", "0000.03.00.0", "0000:03:00.0x", "0000:03:00:0"] {
            assert_eq!(parse_address(wrong), None, "{wrong}");
        }
    }
}
