//! The generated program's side: domains' types behind one face.

use crate::{Accepted, Concern, Config, ConfigFault, Port, Ports, Request, Response, UnknownField};
use interfaces::config::Configuration;
use interfaces::folder::Folder;
use runtime::env::{Env, StartError};
use runtime::wiring::{Exports, Imports, PortSpec};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;

type ReadConfig = fn(Config) -> Result<Accepted, Vec<ConfigFault>>;

/// One domain's crate.
pub struct Subject {
    image: &'static str,
    imports: &'static [PortSpec],
    exports: &'static [PortSpec],
    read: ReadConfig,
}

impl Subject {
    /// The crate's types are those of its `start`, whatever they are called.
    pub fn new<I: Imports, E: Exports, C: Configuration>(
        image: &'static str,
        _start: fn(Env, I, C) -> Result<E, StartError>,
    ) -> Subject {
        Subject { image, imports: I::PORTS, exports: E::PORTS, read: read::<C> }
    }
}

/// Answers the request on standard input: the whole of the generated program.
pub fn answer(subjects: &[Subject]) -> io::Result<()> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    let request: Request = serde_json::from_str(&text)?;
    let mut response = Response::default();
    for subject in subjects {
        let ports = |specs: &[PortSpec]| {
            let port = |spec: &PortSpec| Port {
                name: spec.name.into(),
                interface: spec.interface.name.into(),
                optional: spec.optional,
            };
            specs.iter().map(port).collect()
        };
        let ports = Ports { imports: ports(subject.imports), exports: ports(subject.exports) };
        response.ports.insert(subject.image.into(), ports);
    }
    for (domain, config) in request.configs {
        if let Some(subject) = subjects.iter().find(|subject| subject.image == config.image) {
            response.configs.insert(domain, (subject.read)(config));
        }
    }
    io::stdout().write_all(&serde_json::to_vec(&response)?)
}

/// More faults than anybody mends at once.
const MAX_FAULTS: usize = 50;

/// Reads a table as a `C`. serde stops at the first fault; so what is at fault is taken out and the rest is read again, until nothing more is
/// found, or only that what was taken out is now missing.
fn read<C: Configuration>(Config { mut table, wired, beside, .. }: Config) -> Result<Accepted, Vec<ConfigFault>> {
    let mut faults: Vec<ConfigFault> = Vec::new();
    let mut removed: Vec<String> = Vec::new();
    while faults.len() < MAX_FAULTS {
        let error = match serde_path_to_error::deserialize::<_, C>(&table) {
            Ok(mut config) => {
                // A default in the place of what was taken out could be blamed for what nobody wrote.
                if removed.is_empty() {
                    faults.extend(config.validate().into_iter().map(|fault| ConfigFault {
                        path: fault.path,
                        message: fault.message,
                        concern: Concern::Value,
                    }));
                    let wired: Vec<&str> = wired.iter().map(String::as_str).collect();
                    let of_wiring = config.wiring_faults(&wired).into_iter();
                    faults.extend(of_wiring.map(|message| ConfigFault { concern: Concern::Wiring, ..whole(message) }));
                }
                if faults.is_empty() {
                    faults.extend(pack_folders(&mut config, &beside));
                }
                if faults.is_empty() {
                    let bytes = postcard::to_stdvec(&config).map_err(|error| vec![whole(error.to_string())])?;
                    return Ok(Accepted { bytes, longest_frame: config.longest_frame() });
                }
                break;
            }
            Err(error) => error,
        };
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { path };
        let message = error.inner().to_string();
        if let Some(unknown) = UnknownField::parse(&message) {
            let parent = parent_of(&path, &unknown.name).to_owned();
            let found = take_out(&mut table, &join(&parent, &unknown.name));
            let concern = Concern::Unknown(unknown);
            faults.push(ConfigFault { path: parent, message: "unknown field".into(), concern });
            if !found {
                break;
            }
            continue;
        }
        let missing =
            message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')).map(str::to_owned);
        if missing.as_ref().is_some_and(|field| removed.contains(&join(&path, field))) {
            // We took it out, and so take out what it was in, as far as fields go: what stands beside that is still to be looked at.
            let mut around = path.as_str();
            while let Some((list, _)) = around.strip_suffix(']').and_then(|at| at.rsplit_once('[')) {
                around = list;
            }
            if around.is_empty() || !take_out(&mut table, around) {
                break;
            }
            removed.push(around.to_owned());
            continue;
        }
        faults.push(ConfigFault { path: path.clone(), message, concern: Concern::Value });
        if missing.is_some() || !take_out(&mut table, &path) {
            break;
        }
        removed.push(path);
    }
    Err(faults)
}

/// Packs the folders that `config` names, each from beside the file that names it.
fn pack_folders(config: &mut impl Configuration, beside: &BTreeMap<String, PathBuf>) -> Vec<ConfigFault> {
    let pack = |(path, folder): (String, &mut Folder)| {
        let place = beside.get(&path).map_or(folder.path().into(), |place| place.join(folder.path()));
        let packed = crate::pack::pack(&place);
        packed.map(|packed| *folder = packed).err().map(|message| ConfigFault {
            path,
            message,
            concern: Concern::Value,
        })
    };
    config.folders().into_iter().filter_map(pack).collect()
}

fn whole(message: String) -> ConfigFault {
    ConfigFault { path: String::new(), message, concern: Concern::Value }
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.into() } else { format!("{path}.{field}") }
}

/// serde names the table or the field, depending on who noticed: this is the table.
fn parent_of<'a>(path: &'a str, field: &str) -> &'a str {
    match path.strip_suffix(field) {
        Some("") => "",
        Some(parent) => parent.strip_suffix('.').unwrap_or(path),
        None => path,
    }
}

/// Removes the field at `path`; elements of lists can't be removed without moving others.
fn take_out(table: &mut Value, path: &str) -> bool {
    let pointer: String = path.split(['.', '[']).map(|step| format!("/{}", step.trim_end_matches(']'))).collect();
    let Some((parent, field)) = pointer.rsplit_once('/') else {
        return false;
    };
    match table.pointer_mut(parent) {
        Some(Value::Object(object)) => object.remove(field).is_some(),
        _ => false,
    }
}

impl UnknownField {
    /// From serde's "unknown field `x`, expected one of `a`, `b`".
    fn parse(message: &str) -> Option<UnknownField> {
        let mut quoted = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2).map(str::to_owned);
        Some(UnknownField { name: quoted.next()?, known: quoted.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use interfaces::config::{Duration, Fault};
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    struct Sample {
        hosts: Vec<Host>,
        #[serde(default)]
        think_time: Option<Duration>,
    }

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Host {
        address: std::net::Ipv4Addr,
        weight: u16,
    }

    impl Configuration for Sample {
        fn validate(&self) -> Vec<Fault> {
            let heavy = self.hosts.iter().position(|host| host.weight > 9);
            heavy
                .map(|at| Fault { path: format!("hosts[{at}].weight"), message: "too heavy".into() })
                .into_iter()
                .collect()
        }
    }

    fn read_sample(table: Value) -> Result<Accepted, Vec<ConfigFault>> {
        read::<Sample>(Config { image: "sample".into(), table, wired: vec![], beside: BTreeMap::new() })
    }

    fn faults(table: Value) -> Vec<(String, String)> {
        let faults = read_sample(table).unwrap_err();
        faults
            .into_iter()
            .map(|fault| match fault.concern {
                Concern::Unknown(unknown) => (fault.path, unknown.name),
                Concern::Value | Concern::Wiring => (fault.path, fault.message),
            })
            .collect()
    }

    /// Several faults of different kinds come out together, each with its place.
    #[test]
    fn all_at_once() {
        let table = json!({ "hosts": [{ "address": "10.0.0.300", "weight": 1, "x": 1 }], "think-time": 5, "y": 2 });
        let found = faults(table);
        let paths: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
        assert!(paths.contains(&"hosts[0].address") && paths.contains(&"think-time"), "{found:?}");
        assert!(
            found.contains(&("hosts[0]".into(), "x".into())) && found.contains(&("".into(), "y".into())),
            "{found:?}"
        );
        assert_eq!(found.len(), 4, "what was taken out isn't reported as missing: {found:?}");
    }

    /// A missing field is reported at its table, the domain's own checks only on what has the right shape.
    #[test]
    fn missing_and_invalid() {
        let found = faults(json!({ "hosts": [{ "address": "10.0.0.3" }] }));
        assert_eq!(found, [("hosts[0]".into(), "missing field `weight`".into())]);
        let found = faults(json!({ "hosts": [{ "address": "10.0.0.3", "weight": 10 }] }));
        assert_eq!(found, [("hosts[0].weight".into(), "too heavy".into())]);
        // An unknown field doesn't hide what the domain itself has to say.
        assert_eq!(faults(json!({ "hosts": [{ "address": "10.0.0.3", "weight": 10 }], "z": 0 })).len(), 2);
    }

    /// What goes into the bundle is what the domain reads back.
    #[test]
    fn bytes_round_trip() {
        let accepted =
            read_sample(json!({ "hosts": [{ "address": "10.0.0.3", "weight": 2 }], "think-time": "5ms" })).unwrap();
        let sample: Sample = postcard::from_bytes(&accepted.bytes).unwrap();
        assert_eq!((sample.hosts[0].weight, sample.think_time), (2, Some(Duration::from_millis(5))));
    }
}
