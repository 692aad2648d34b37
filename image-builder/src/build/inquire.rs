//! Asking the domains' crates: generates and runs the program that [`inquiry`] describes.

use super::cargo::{plain_cargo, run};
use super::{BuildError, shims, take_turn};
use crate::manifest::appliance::Appliance;
use crate::manifest::source::{Node, Sources, Value};
use crate::workspace::{DomainCrate, Workspace};
use inquiry::{Config, ConfigFault, Ports, Request, Response};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the crates answered.
#[derive(Clone, Debug, Default)]
pub struct Inquiry {
    /// By image.
    pub ports: BTreeMap<String, Ports>,
    /// By domain: the config as its own type wrote it.
    pub configs: BTreeMap<String, Vec<u8>>,
    /// The longest frame that any domain's card may bring.
    pub longest_frame: u16,
    /// By domain, where its own type refused the table.
    pub faults: BTreeMap<String, Vec<ConfigFault>>,
}

/// Asks the crates of all of `appliance`'s images that exist.
pub fn inquire(workspace: &Workspace, appliance: &Appliance, sources: &Sources) -> Result<Inquiry, BuildError> {
    let crates = super::crates_of(workspace, appliance);
    if crates.is_empty() {
        return Ok(Inquiry::default());
    }
    let program = {
        let _turn = take_turn(workspace)?;
        build_program(workspace, &crates)?
    };
    let configs = appliance.domains.iter().map(|domain| {
        let (table, mut beside) = (to_json(&domain.config), BTreeMap::new());
        note_texts(&domain.config, String::new(), sources, &mut beside);
        let wired = domain.imports.iter().map(|import| import.port.value.clone()).collect();
        let config = Config { image: domain.image.value.clone(), table, wired, beside };
        (domain.name.value.clone(), config)
    });
    let response = ask(&program, &Request { configs: configs.collect() })?;
    let mut inquiry = Inquiry { ports: response.ports, ..Inquiry::default() };
    for (domain, answer) in response.configs {
        match answer {
            Ok(accepted) => {
                inquiry.longest_frame = inquiry.longest_frame.max(accepted.longest_frame);
                inquiry.configs.insert(domain, accepted.bytes);
            }
            Err(faults) => _ = inquiry.faults.insert(domain, faults),
        }
    }
    Ok(inquiry)
}

fn build_program(workspace: &Workspace, crates: &[&DomainCrate]) -> Result<PathBuf, BuildError> {
    let folder = workspace.work().join("inquiry");
    let mut manifest = format!(
        "[package]\nname = \"ask\"\nversion = \"0.0.0\"\nedition = \"2024\"\npublish = false\n\n\
         [[bin]]\nname = \"ask\"\npath = \"main.rs\"\n\n\
         [dependencies]\ninquiry = {{ path = {:?}, features = [\"subjects\"] }}\n",
        workspace.root().join("image-builder/inquiry")
    );
    let mut source = String::from(
        "//! Generated: answers the builder's questions about domains' crates.\nfn main() -> std::io::Result<()> {\n    inquiry::answer(&[\n",
    );
    for domain in crates {
        // Writing to a string can't fail.
        let _ = writeln!(manifest, "{} = {{ path = {:?} }}", domain.name, domain.folder);
        let _ = writeln!(source, "        inquiry::Subject::new({:?}, {}::start),", domain.name, domain.module());
    }
    source += "    ])\n}\n";
    shims::generate_workspace(workspace, &folder, &[shims::Member { name: "ask".into(), manifest, source }])?;

    let target_folder = workspace.target().join("inquiry");
    let mut command = plain_cargo(workspace, &folder, &target_folder);
    command.args(["build", "--quiet"]);
    run(command, "a domain (for its ports and its configuration)")?;
    // A copy with a name of its own, since another run may rebuild it for another set of domains meanwhile.
    let program = target_folder.join("debug/ask");
    let names: Vec<&str> = crates.iter().map(|domain| domain.name.as_str()).collect();
    let own = target_folder.join(format!("ask-{:.8}", bundle::Hash::of(names.join(" ").as_bytes())));
    let bytes = std::fs::read(&program).map_err(BuildError::file("reading", &program))?;
    if std::fs::read(&own).ok().as_deref() != Some(&bytes) {
        super::write_program(&own, &bytes)?;
    }
    Ok(own)
}

fn ask(program: &Path, request: &Request) -> Result<Response, BuildError> {
    let failed = |error: std::io::Error| BuildError::Inquiry(error.to_string());
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let text = serde_json::to_vec(request).map_err(|error| BuildError::Inquiry(error.to_string()))?;
    let mut stdin = child.stdin.take().expect("piped above");
    // It reads everything before it answers, so this can't block for ever.
    stdin.write_all(&text).map_err(failed)?;
    drop(stdin);
    let output = child.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        return Err(BuildError::Inquiry(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| BuildError::Inquiry(error.to_string()))
}

/// Notes the folder of the file in which each text below `node` stands, by the text's path.
fn note_texts(node: &Node, path: String, sources: &Sources, beside: &mut BTreeMap<String, PathBuf>) {
    match &node.value {
        Value::Text(_) => {
            let file = sources.files.get(node.at.file).and_then(|file| std::path::absolute(&file.path).ok());
            beside.extend(file.and_then(|file| Some((path, file.parent()?.to_owned()))));
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                note_texts(item, format!("{path}[{index}]"), sources, beside);
            }
        }
        Value::Table(table) => {
            let dot = if path.is_empty() { "" } else { "." };
            for (key, node) in &table.entries {
                note_texts(node, format!("{path}{dot}{}", key.value), sources, beside);
            }
        }
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Date => {}
    }
}

fn to_json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Text(text) => text.clone().into(),
        Value::Integer(integer) => (*integer).into(),
        Value::Float(float) => (*float).into(),
        Value::Boolean(value) => (*value).into(),
        // No config has dates: the type that reads it refuses this.
        Value::Date => serde_json::Value::Null,
        Value::Array(items) => items.iter().map(to_json).collect(),
        Value::Table(table) => serde_json::Value::Object(
            table.entries.iter().map(|(key, node)| (key.value.clone(), to_json(node))).collect(),
        ),
    }
}
