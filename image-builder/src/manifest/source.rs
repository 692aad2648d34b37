//! Manifest files as trees whose every key and value knows where it stands, `inherit` followed.

use super::diagnostic::{Diagnostic, Diagnostics};
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// A stretch of one of the manifest's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    pub file: usize,
    pub span: Range<usize>,
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At<T> {
    pub value: T,
    pub at: Location,
}

/// All files that a manifest was read from, for showing their lines.
#[derive(Default)]
pub struct Sources {
    pub files: Vec<SourceFile>,
}

pub struct SourceFile {
    pub path: PathBuf,
    pub text: String,
}

pub type Node = At<Value>;

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    /// Dates have no use in a manifest; kept so that they can be pointed at.
    Date,
    Array(Vec<Node>),
    Table(Table),
}

impl Eq for Value {}

impl Value {
    /// With its article, for "expected …, found …".
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a text",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a fraction",
            Value::Boolean(_) => "true or false",
            Value::Date => "a date",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

/// A table's entries in the order in which they were written, inherited ones first.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Table {
    pub entries: Vec<(At<String>, Node)>,
}

impl Table {
    pub fn get(&self, key: &str) -> Option<&(At<String>, Node)> {
        self.entries.iter().find(|(own, _)| own.value == key)
    }

    /// Lays `over` over this table, which stands at `place`: tables merge, everything else is replaced. So is a domain's `device`: two ways of saying which it
    /// is would be one too many.
    fn merge(&mut self, over: Table, place: &[&str]) {
        for (key, node) in over.entries {
            let name = key.value.clone();
            let here = [place, &[&name]].concat();
            match self.entries.iter_mut().find(|(own, _)| own.value == name) {
                None => self.entries.push((key, node)),
                Some((own, below)) => match (&mut below.value, node.value) {
                    (Value::Table(below), Value::Table(over)) if !matches!(here[..], ["domains", _, "device"]) => {
                        below.merge(over, &here);
                    }
                    (_, value) => {
                        *own = key;
                        *below = At { value, at: node.at };
                    }
                },
            }
        }
    }
}

/// More than anybody needs; stops a chain that is a mistake.
const MAX_INHERITANCE: usize = 8;

/// Reads `path` and what it inherits. What can't be read or parsed is said in `diagnostics`; the rest is returned.
pub fn load(path: &Path, sources: &mut Sources, diagnostics: &mut Diagnostics) -> Option<Table> {
    load_level(path, None, &mut Vec::new(), sources, diagnostics)
}

fn load_level(
    path: &Path,
    named_at: Option<Location>,
    chain: &mut Vec<PathBuf>,
    sources: &mut Sources,
    diagnostics: &mut Diagnostics,
) -> Option<Table> {
    let refuse = |message: String, label: &str| {
        let diagnostic = Diagnostic::new(message);
        match &named_at {
            Some(at) => diagnostic.at(at.clone(), label),
            None => diagnostic,
        }
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            diagnostics.push(refuse(format!("{}: {error}", path.display()), "named here"));
            return None;
        }
    };
    let identity = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if chain.contains(&identity) || chain.len() >= MAX_INHERITANCE {
        diagnostics.push(refuse(format!("{} inherits from itself", path.display()), "this closes the circle"));
        return None;
    }
    chain.push(identity);

    let file = sources.files.len();
    let (parsed, errors) = DeTable::parse_recoverable(&text);
    let parses = errors.is_empty();
    for error in errors {
        let at = Location { file, span: error.span().unwrap_or(0..0) };
        diagnostics.push(Diagnostic::new("this is no TOML").at(at, error.message()));
    }
    let mut table = read_table(parsed.get_ref(), file);
    sources.files.push(SourceFile { path: path.to_owned(), text });

    // What is left of a file that doesn't parse is guesswork: it would only be blamed for what nobody wrote.
    parses.then_some(())?;

    let Some(index) = table.entries.iter().position(|(key, _)| key.value == "inherit") else {
        return Some(table);
    };
    let (_, node) = table.entries.remove(index);
    let Value::Text(base) = &node.value else {
        diagnostics.push(
            Diagnostic::new("`inherit` names a file")
                .at(node.at, format!("expected a text such as \"base.toml\", found {}", node.value.kind())),
        );
        return Some(table);
    };
    let base = path.parent().unwrap_or(Path::new(".")).join(base);
    let mut whole = load_level(&base, Some(node.at), chain, sources, diagnostics)?;
    whole.merge(table, &[]);
    Some(whole)
}

fn read_table(table: &DeTable<'_>, file: usize) -> Table {
    let mut entries: Vec<_> = table
        .iter()
        .map(|(key, value)| {
            let key = At { value: key.get_ref().to_string(), at: Location { file, span: key.span() } };
            (key, read_value(value.get_ref(), Location { file, span: value.span() }))
        })
        .collect();
    entries.sort_by_key(|(key, _)| key.at.span.start);
    Table { entries }
}

fn read_value(value: &DeValue<'_>, at: Location) -> Node {
    let value = match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(integer) => Value::Integer(integer),
            // Beyond 64 bits: whoever reads it expects less.
            Err(_) => Value::Float(f64::INFINITY),
        },
        DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(items) => {
            let items =
                items.iter().map(|item| read_value(item.get_ref(), Location { file: at.file, span: item.span() }));
            Value::Array(items.collect())
        }
        DeValue::Table(table) => Value::Table(read_table(table, at.file)),
    };
    At { value, at }
}

/// Where `path` (such as `vips[1].address`) leads below `node`: as far as it goes, so that there is always something to point at.
pub fn locate(node: &Node, path: &str) -> Location {
    let mut here = node;
    for step in steps(path) {
        let Some(next) = step_into(here, step) else {
            break;
        };
        here = next;
    }
    here.at.clone()
}

/// Where the key `key` of the table at `path` stands.
pub fn locate_key(node: &Node, path: &str, key: &str) -> Option<Location> {
    let mut here = node;
    for step in steps(path) {
        here = step_into(here, step)?;
    }
    match &here.value {
        Value::Table(table) => table.get(key).map(|(key, _)| key.at.clone()),
        _ => None,
    }
}

fn steps(path: &str) -> impl Iterator<Item = &str> {
    path.split(['.', '[']).map(|step| step.trim_end_matches(']')).filter(|step| !step.is_empty())
}

fn step_into<'a>(node: &'a Node, step: &str) -> Option<&'a Node> {
    match &node.value {
        Value::Table(table) => table.get(step).map(|(_, node)| node),
        Value::Array(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
        _ => None,
    }
}

/// The tree as plain TOML again, `inherit` resolved: what an image carries to say what it was made from.
pub fn to_toml(table: &Table) -> toml::Table {
    table.entries.iter().map(|(key, node)| (key.value.clone(), value_to_toml(&node.value))).collect()
}

fn value_to_toml(value: &Value) -> toml::Value {
    match value {
        Value::Text(text) => text.clone().into(),
        Value::Integer(integer) => (*integer).into(),
        Value::Float(float) => (*float).into(),
        Value::Boolean(value) => (*value).into(),
        // Refused by whoever reads it; so no manifest that is built has one.
        Value::Date => String::new().into(),
        Value::Array(items) => toml::Value::Array(items.iter().map(|node| value_to_toml(&node.value)).collect()),
        Value::Table(table) => toml::Value::Table(to_toml(table)),
    }
}

/// Plain TOML as a tree without places: for what has been checked before.
pub fn from_toml(table: &toml::Table) -> Table {
    let nowhere = || Location { file: 0, span: 0..0 };
    let entries = table.iter().map(|(key, value)| {
        let node = At { value: value_from_toml(value), at: nowhere() };
        (At { value: key.clone(), at: nowhere() }, node)
    });
    Table { entries: entries.collect() }
}

fn value_from_toml(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::Text(text.clone()),
        toml::Value::Integer(integer) => Value::Integer(*integer),
        toml::Value::Float(float) => Value::Float(*float),
        toml::Value::Boolean(value) => Value::Boolean(*value),
        toml::Value::Datetime(_) => Value::Date,
        toml::Value::Array(items) => {
            let node = |item| At { value: value_from_toml(item), at: Location { file: 0, span: 0..0 } };
            Value::Array(items.iter().map(node).collect())
        }
        toml::Value::Table(table) => Value::Table(from_toml(table)),
    }
}
