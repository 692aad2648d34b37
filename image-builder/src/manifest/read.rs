//! Reading typed values out of a tree: whatever is wrong is said, and reading goes on, so that all errors come at once.

use super::diagnostic::{Diagnostic, Diagnostics};
use super::source::{At, Location, Node, Table, Value};
use interfaces::config::{Duration, Size};
use std::str::FromStr;

/// A table being read: knows which keys were asked for, so that the others can be refused.
pub struct Reader<'a> {
    table: &'a Table,
    /// What it is, for messages: "domain lb".
    what: String,
    at: Location,
    known: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    pub fn new(table: &'a Table, what: impl Into<String>, at: Location) -> Reader<'a> {
        Reader { table, what: what.into(), at, known: Vec::new() }
    }

    /// The value of `key`, whatever it is.
    pub fn node(&mut self, key: &'static str) -> Option<&'a Node> {
        self.known.push(key);
        self.table.get(key).map(|(_, node)| node)
    }

    /// The value of `key` by `T`'s own reading.
    pub fn get<T: FromNode>(&mut self, key: &'static str, diagnostics: &mut Diagnostics) -> Option<At<T>> {
        let node = self.node(key)?;
        read(node, &format!("`{key}`"), diagnostics)
    }

    /// The same, where it must be there.
    pub fn require<T: FromNode>(&mut self, key: &'static str, diagnostics: &mut Diagnostics) -> Option<At<T>> {
        if self.table.get(key).is_none() {
            self.known.push(key);
            diagnostics.push(
                Diagnostic::new(format!("{} has no `{key}`", self.what))
                    .at(self.at.clone(), format!("expected `{key} = …`, {}", T::EXPECTED)),
            );
            return None;
        }
        self.get(key, diagnostics)
    }

    /// Refuses whatever nobody asked for.
    pub fn finish(self, diagnostics: &mut Diagnostics) {
        for (key, _) in self.table.entries.iter().filter(|(key, _)| !self.known.contains(&key.value.as_str())) {
            diagnostics.push(
                Diagnostic::new(format!("{} has no field `{}`", self.what, key.value))
                    .at(key.at.clone(), "unknown field")
                    .meant(&key.value, self.known.iter().copied()),
            );
        }
    }
}

/// A value that can be read from a node.
pub trait FromNode: Sized {
    const EXPECTED: &'static str;
    fn from_node(value: &Value) -> Option<Self>;
}

/// Reads `node` as a `T`, or says what was expected of `what`.
pub fn read<T: FromNode>(node: &Node, what: &str, diagnostics: &mut Diagnostics) -> Option<At<T>> {
    let value = T::from_node(&node.value);
    if value.is_none() {
        let label = match &node.value {
            Value::Text(_) => format!("expected {}", T::EXPECTED),
            other => format!("expected {}, found {}", T::EXPECTED, other.kind()),
        };
        diagnostics.push(Diagnostic::new(format!("{what} has a value that it can't have")).at(node.at.clone(), label));
    }
    value.map(|value| At { value, at: node.at.clone() })
}

impl FromNode for String {
    const EXPECTED: &'static str = "a text";
    fn from_node(value: &Value) -> Option<String> {
        match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }
}

impl FromNode for bool {
    const EXPECTED: &'static str = "true or false";
    fn from_node(value: &Value) -> Option<bool> {
        match value {
            Value::Boolean(value) => Some(*value),
            _ => None,
        }
    }
}

impl FromNode for u32 {
    const EXPECTED: &'static str = "a whole number from 0 to 4294967295";
    fn from_node(value: &Value) -> Option<u32> {
        match value {
            Value::Integer(value) => u32::try_from(*value).ok(),
            _ => None,
        }
    }
}

fn unit<T: FromStr>(value: &Value) -> Option<T> {
    match value {
        Value::Text(text) => text.parse().ok(),
        _ => None,
    }
}

impl FromNode for Duration {
    const EXPECTED: &'static str = "a duration with its unit, such as \"250ms\" (ns, us, ms, s, m, h)";
    fn from_node(value: &Value) -> Option<Duration> {
        unit(value)
    }
}

impl FromNode for Size {
    const EXPECTED: &'static str = "a size with its unit, such as \"64MiB\" (B, KiB, MiB, GiB, kB, MB, GB)";
    fn from_node(value: &Value) -> Option<Size> {
        unit(value)
    }
}

impl FromNode for Table {
    const EXPECTED: &'static str = "a table";
    fn from_node(value: &Value) -> Option<Table> {
        match value {
            Value::Table(table) => Some(table.clone()),
            _ => None,
        }
    }
}

impl FromNode for Vec<Node> {
    const EXPECTED: &'static str = "a list";
    fn from_node(value: &Value) -> Option<Vec<Node>> {
        match value {
            Value::Array(items) => Some(items.clone()),
            _ => None,
        }
    }
}
