//! The domain graph, drawn: for the terminal in boxes, or as Graphviz's `dot`.

use crate::manifest::Checked;
use crate::manifest::appliance::Domain;
use crate::manifest::check::start_order;
use bundle::manifest::is_device_interface;
use std::fmt::Write;

/// One line of what connects two boxes, or a box and its device.
struct Edge {
    port: String,
    interface: String,
    target: String,
}

fn edges(checked: &Checked, domain: &Domain) -> Vec<Edge> {
    let ports = checked.inquiry.ports.get(&domain.image.value);
    let imports = ports.into_iter().flat_map(|ports| &ports.imports);
    imports
        .map(|port| {
            let wired = domain.imports.iter().find(|import| import.port.value == port.name);
            let target = match (is_device_interface(&port.interface), wired, &domain.device) {
                (true, _, Some(device)) => format!("device {}", device.value),
                (_, Some(import), _) => format!("{}.{}", import.domain, import.from_port),
                _ => "nothing".to_owned(),
            };
            Edge { port: port.name.clone(), interface: port.interface.clone(), target }
        })
        .collect()
}

/// Domains in the order in which they start; in each box what it exports, what it is given, and whom it calls.
pub fn draw(checked: &Checked) -> String {
    let appliance = &checked.appliance;
    let order = start_order(appliance).unwrap_or_default();
    let boxes: Vec<Vec<String>> = order.iter().map(|&at| box_lines(checked, &appliance.domains[at])).collect();
    let width = boxes.iter().flatten().map(|line| line.chars().count()).max().unwrap_or(0);
    // Only the calls between domains are drawn beside the boxes; each in a column of its own, from caller up to callee.
    let mut lanes: Vec<(usize, usize)> = Vec::new();
    for (caller, &at) in order.iter().enumerate() {
        for import in &appliance.domains[at].imports {
            let callee = order.iter().position(|&other| appliance.domains[other].name.value == import.domain);
            lanes.extend(callee.map(|callee| (callee, caller)));
        }
    }
    let mut text = String::new();
    for (index, lines) in boxes.iter().enumerate() {
        // Writing to a string can't fail.
        let _ = writeln!(text, "┌{}┐{}", "─".repeat(width + 2), passing(&lanes, index, false));
        for (number, line) in lines.iter().enumerate() {
            let side = match number {
                0 => touching(&lanes, index),
                _ => passing(&lanes, index, true),
            };
            let _ = writeln!(text, "│ {line:width$} │{side}");
        }
        let _ = writeln!(text, "└{}┘{}", "─".repeat(width + 2), passing(&lanes, index, true));
    }
    text.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

/// The lanes beside a line of box `index` where none begins or ends; `below` its name or above.
fn passing(lanes: &[(usize, usize)], index: usize, below: bool) -> String {
    let inside = |&(callee, caller): &(usize, usize)| match below {
        true => callee <= index && index < caller,
        false => callee < index && index <= caller,
    };
    lanes.iter().map(|lane| if inside(lane) { "   │" } else { "    " }).collect()
}

/// The lanes beside a box's name: an arrow head where others call it, a branch where it calls others.
fn touching(lanes: &[(usize, usize)], index: usize) -> String {
    let last = lanes.iter().rposition(|&(callee, caller)| callee == index || caller == index);
    let mut text = String::new();
    for (lane, &(callee, caller)) in lanes.iter().enumerate() {
        let through = callee < index && index < caller;
        let reached = last.is_some_and(|last| lane <= last);
        let line = if reached { '─' } else { ' ' };
        let head = if lane == 0 && reached { head(lanes, index) } else { line };
        let node = match () {
            () if callee == index => '┐',
            () if caller == index => '┘',
            () if through => '│',
            () => line,
        };
        // A branch that goes on to a further lane.
        let node = match node {
            '┐' if Some(lane) != last => '┬',
            '┘' if Some(lane) != last => '┴',
            node => node,
        };
        text.extend([head, line, line, node]);
    }
    text
}

fn head(lanes: &[(usize, usize)], index: usize) -> char {
    if lanes.iter().any(|&(callee, _)| callee == index) { '◀' } else { '─' }
}

fn box_lines(checked: &Checked, domain: &Domain) -> Vec<String> {
    let name = &domain.name.value;
    let mut lines = vec![match domain.image.value == *name {
        true => name.clone(),
        false => format!("{name} ({})", domain.image.value),
    }];
    let ports = checked.inquiry.ports.get(&domain.image.value);
    for port in ports.into_iter().flat_map(|ports| &ports.exports) {
        lines.push(format!("exports {}: {}", port.name, port.interface));
    }
    for edge in edges(checked, domain) {
        lines.push(format!("imports {}: {} = {}", edge.port, edge.interface, edge.target));
    }
    let cpus: Vec<String> = domain.cpus.value.iter().map(u32::to_string).collect();
    lines.push(format!("memory {}, exchange {}, CPUs {}", domain.memory.value, domain.exchange.value, cpus.join(" ")));
    lines
}

/// For Graphviz: callers point at callees.
pub fn dot(checked: &Checked) -> String {
    let mut text = String::from("digraph domains {\n    rankdir = LR;\n    node [shape = box];\n");
    for domain in &checked.appliance.domains {
        let name = &domain.name.value;
        // Names are letters, digits, `-` and `_`: checked, so that quoting them is enough.
        let _ = writeln!(text, "    \"{name}\" [label = \"{name}\\n{}\"];", domain.image.value);
        for edge in edges(checked, domain) {
            let label = format!("{}: {}", edge.port, edge.interface);
            let target = match edge.target.strip_prefix("device ") {
                Some(device) => {
                    let _ = writeln!(text, "    \"{device}\" [shape = component];");
                    device.to_owned()
                }
                None => edge.target.split('.').next().unwrap_or_default().to_owned(),
            };
            let _ = writeln!(text, "    \"{name}\" -> \"{target}\" [label = \"{label}\"];");
        }
    }
    text + "}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lanes of a chain of three with one call across: each call's line begins at the caller, ends with an arrow at the callee, and passes
    /// whatever lies between.
    #[test]
    fn lanes() {
        let lanes = [(0, 1), (0, 2)];
        assert_eq!(touching(&lanes, 0), "◀──┬───┐");
        assert_eq!(passing(&lanes, 0, true), "   │   │");
        assert_eq!(touching(&lanes, 1), "───┘   │");
        assert_eq!(passing(&lanes, 1, true), "       │");
        assert_eq!(touching(&lanes, 2), "───────┘");
        assert_eq!(passing(&lanes, 2, true).trim(), "");
    }
}
