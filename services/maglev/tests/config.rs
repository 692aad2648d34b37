//! The `config` table: what is taken, what is refused and in which words.

mod stage;

use interfaces::config::{Configuration, Duration};
use maglev::Config;
use stage::CONFIG;

fn faults(text: &str) -> Vec<(String, String)> {
    let config: Config = toml::from_str(text).unwrap_or_else(|error| panic!("{error}"));
    config.validate().into_iter().map(|fault| (fault.path, fault.message)).collect()
}

#[test]
fn a_good_table_has_no_faults_and_sensible_defaults() {
    assert_eq!(faults(CONFIG), []);
    let config: Config = toml::from_str(CONFIG).unwrap();
    assert_eq!(config.vips[1].port, None);
    assert_eq!(config.vips[0].backends[2].weight, 2);
    assert_eq!(config.neighbours.interval, Duration::from_millis(1_000));
}

/// The builder compiles the table to a form without names and units; nothing may get lost on that way.
#[test]
fn a_table_is_read_back_as_written_and_as_compiled() {
    let config: Config = toml::from_str(CONFIG).unwrap();
    let text = toml::to_string(&config).unwrap();
    assert_eq!(toml::from_str::<Config>(&text).unwrap(), config);
    let compiled = postcard::to_allocvec(&config).unwrap();
    assert_eq!(postcard::from_bytes::<Config>(&compiled).unwrap(), config);
}

#[test]
fn unknown_fields_and_wrong_types_are_refused() {
    for (wrong, words) in [
        ("vlan = 3", "unknown field `vlan`"),
        ("neighbours = { attempts = \"three\" }", "expected u32"),
        ("lifetimes = { opening = 30 }", "duration with its unit"),
        ("lifetimes = { oppening = \"30s\" }", "unknown field `oppening`"),
    ] {
        let error = toml::from_str::<Config>(&format!("{wrong}\n{CONFIG}")).unwrap_err().to_string();
        assert!(error.contains(words), "{wrong}: {error}");
    }
    let error = toml::from_str::<Config>(&CONFIG.replace("\"tcp\"", "\"sctp\"")).unwrap_err().to_string();
    assert!(error.contains("`tcp` or `udp`"), "{error}");
}

/// Each change of the good table, the path of the fault and words of its message.
#[test]
fn faults_are_named_by_path_and_reason() {
    let cases: &[(&str, &str, &str, &str)] = &[
        ("address = \"10.0.1.2/24\"", "address = \"10.0.1.2/32\"", "address", "no place for backends"),
        ("address = \"10.0.1.2/24\"", "address = \"10.0.1.255/24\"", "address", "no host's address on 10.0.1.0/24"),
        (
            "table-size = 5003",
            "table-size = 5000",
            "table-size",
            "5000 is not a prime up to 16777259; the next is 5003",
        ),
        ("table-size = 5003", "table-size = 101", "table-size", "3 backends need 300 slots"),
        ("table-size = 5003", "table-size = 4294967295", "table-size", "not a prime"),
        ("connections = 4096", "connections = 3", "connections", "3 is not between 64"),
        ("connections = 4096", "neighbours = { retry = \"0s\" }", "neighbours.retry", "0ns is not between 1ms"),
        ("connections = 4096", "neighbours = { attempts = 0 }", "neighbours.attempts", "0 is not between"),
        ("name = \"b2\", address", "name = \"b1\", address", "backends[1].name", "already that of backends[0]"),
        ("name = \"b3\", address", "name = \"b 3\", address", "backends[2].name", "letters, digits"),
        ("10.0.1.12", "10.0.2.12", "backends[1].address", "no host's address on the box's segment 10.0.1.0/24"),
        ("10.0.1.12", "10.0.1.0", "backends[1].address", "no host's address on the box's segment"),
        ("10.0.1.12", "10.0.1.2", "backends[1].address", "the box's own address"),
        ("10.0.1.12", "10.0.1.11", "backends[1].address", "already the address of backends[0]"),
        ("name = \"dns\"", "name = \"web\"", "vips[1].name", "already that of vips[0]"),
        (
            "10.0.1.101\", protocol = \"udp\"",
            "10.0.1.100\", port = 80, protocol = \"tcp\"",
            "vips[1].address",
            "same address, port and protocol",
        ),
        ("10.0.1.101", "10.0.1.2", "vips[1].address", "the box's own address"),
        ("10.0.1.101", "10.0.1.12", "vips[1].address", "the address of backends[1]"),
        ("10.0.1.101", "224.0.0.1", "vips[1].address", "no host's address"),
        ("port = 80", "port = 0", "vips[0].port", "leave `port` out"),
        (
            "{ name = \"b2\" }, { name = \"b3\"",
            "{ name = \"b9\" }, { name = \"b3\"",
            "vips[0].backends[1].name",
            "no backend is named \"b9\"; there are: b1, b2, b3",
        ),
        (
            "{ name = \"b2\" }, { name = \"b3\"",
            "{ name = \"b1\" }, { name = \"b3\"",
            "vips[0].backends[1].name",
            "already backends[0]",
        ),
        ("weight = 2", "weight = 0", "vips[0].backends[2].weight", "at least 1"),
    ];
    for (from, to, path, words) in cases {
        assert!(CONFIG.contains(from), "{from}");
        let found = faults(&CONFIG.replacen(from, to, 1));
        assert!(found.iter().any(|(p, message)| p == path && message.contains(words)), "{to}: {found:?}");
    }
}

#[test]
fn all_faults_are_shown_at_once() {
    let text = "address = \"10.0.1.2/32\"\nvips = []\nbackends = []\ntable-size = 4\n";
    let paths: Vec<String> = faults(text).into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["address", "backends", "vips", "table-size"]);
}
