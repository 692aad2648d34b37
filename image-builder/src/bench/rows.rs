//! What benchmarks report: a list of rows, each with one figure.

use crate::build::BuildError;
use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was measured, in words between dots: `net.forward.own-domain.batch-32`.
    pub row: String,
    pub metric: String,
    pub median: f64,
    pub unit: String,
}

/// The rows in a file; none if whoever was to write it didn't get that far, of which it has said why.
pub fn read(file: &Path) -> Result<Vec<Row>, BuildError> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(file).map_err(BuildError::file("reading", file))?;
    serde_json::from_str(&text).map_err(|error| BuildError::File {
        action: "understanding",
        path: file.to_owned(),
        source: error.into(),
    })
}

pub fn json(rows: &[Row]) -> String {
    serde_json::to_string_pretty(rows).unwrap_or_default() + "\n"
}

/// What costs are compared by in a grid, then everything else.
pub fn table(rows: &[Row]) -> String {
    let grid = Grid::new(rows);
    let mut text = String::new();
    if !grid.paths.is_empty() {
        text += &format!("{}\n{}\n\n", grid.title, grid.table());
    }
    let rest: Vec<&Row> = rows.iter().filter(|row| Place::of(row).is_none()).collect();
    if rest.is_empty() {
        return text;
    }
    let mut others = Table::new();
    others.load_preset(presets::NOTHING).set_header(["row", "metric", "median", "unit"]);
    for row in rest {
        others.add_row([row.row.clone(), row.metric.clone(), format!("{:.1}", row.median), row.unit.clone()]);
    }
    if let Some(column) = others.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    text + &others.to_string()
}

/// Where a row stands in the grid of costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub path: String,
    pub column: String,
}

impl Place {
    /// `net.DIRECTION.PATH.batch-N`, likewise `nvme` and `maglev`; the cost of `kv.WORKLOAD.SIDE` and `httpd.WORKLOAD.SIDE`, in QEMU (and `maglev`'s there) in instructions; and that of calls.
    pub fn of(row: &Row) -> Option<Place> {
        let parts: Vec<&str> = row.row.split('.').collect();
        let (path, column) = match parts[..] {
            ["net" | "nvme" | "maglev", direction, path, batch, ..]
                if ["cost", INSTRUCTIONS].contains(&row.metric.as_str()) =>
            {
                (path, format!("{direction} × {}", batch.strip_prefix("batch-")?))
            }
            ["kv" | "httpd", workload, side] if row.metric == "cost" => (workload, side.to_owned()),
            ["kv" | "httpd" | "maglev", workload, side] if row.metric == INSTRUCTIONS => (workload, side.to_owned()),
            ["call", path] => (path, "call".to_owned()),
            ["linux", path @ "syscall"] => (path, "call".to_owned()),
            _ => return None,
        };
        Some(Place { path: path.to_owned(), column })
    }
}

/// Costs by path (or workload), and by direction and batch (or side).
pub struct Grid {
    pub title: &'static str,
    pub paths: Vec<String>,
    pub columns: Vec<String>,
    cells: Vec<(Place, f64)>,
}

/// What is counted in QEMU.
const INSTRUCTIONS: &str = "instructions";
/// How our sides' names begin, beside one that we did not write.
pub const OURS: &str = "ours";

impl Grid {
    pub fn new(rows: &[Row]) -> Grid {
        let cells: Vec<(Place, f64)> = rows.iter().filter_map(|row| Some((Place::of(row)?, row.median))).collect();
        let (mut paths, mut columns) = (Vec::new(), Vec::new());
        for (place, _) in &cells {
            if !paths.contains(&place.path) {
                paths.push(place.path.clone());
            }
            if !columns.contains(&place.column) {
                columns.push(place.column.clone());
            }
        }
        let counted = rows.iter().any(|row| Place::of(row).is_some() && row.metric == INSTRUCTIONS);
        let benchmark = rows.iter().find(|row| Place::of(row).is_some()).and_then(|row| row.row.split('.').next());
        let title = match benchmark {
            Some("nvme") if counted => "instructions an I/O of 4 KiB, of the whole guest in QEMU",
            _ if counted => "instructions a request, of the whole guest in QEMU",
            Some("call") => "cycles a call",
            Some("nvme") => "cycles an I/O of 4 KiB",
            Some("kv" | "httpd") => "cycles a request",
            _ => "cycles a packet, 64-byte frames",
        };
        Grid { title, paths, columns, cells }
    }

    pub fn cell(&self, path: &str, column: &str) -> Option<f64> {
        let is_it = |place: &Place| place.path == path && place.column == column;
        self.cells.iter().find(|(place, _)| is_it(place)).map(|(_, value)| *value)
    }

    /// With sides of ours and another's, what each of ours is of that.
    fn table(&self) -> Table {
        let mut table = Table::new();
        let (ours, others): (Vec<&String>, Vec<&String>) =
            self.columns.iter().partition(|column| column.starts_with(OURS));
        let ratios: Vec<(&String, &String)> =
            ours.iter().flat_map(|own| others.first().map(|peer| (*own, *peer))).collect();
        let heads = ratios.iter().map(|(own, peer)| format!("{own} / {peer}"));
        let heads = std::iter::once(String::new()).chain(self.columns.iter().cloned()).chain(heads);
        table.load_preset(presets::NOTHING).set_header(heads);
        for path in &self.paths {
            let value =
                |column: &String| self.cell(path, column).map_or("–".to_owned(), |value| format!("{value:.1}"));
            let ratio = |(own, peer): &(&String, &String)| match (self.cell(path, own), self.cell(path, peer)) {
                (Some(own), Some(theirs)) => format!("{:.2}", own / theirs),
                _ => "–".to_owned(),
            };
            let cells = self.columns.iter().map(value).chain(ratios.iter().map(ratio));
            table.add_row(std::iter::once(path.clone()).chain(cells));
        }
        table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        table
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn row(name: &str, median: f64) -> Row {
        Row { row: name.into(), metric: "cost".into(), median, unit: "cycles/packet".into() }
    }

    /// What is reported is what was measured, by name; nothing goes into the grid that isn't cycles a packet, and nothing is left out of the table.
    #[test]
    fn every_row_is_shown_once() {
        let rows = [
            row("net.receive.own-domain.batch-32", 40.0),
            row("net.receive.dpdk.batch-32", 44.25),
            row("net.receive.own-domain.batch-1", 90.0),
            row("recovery.64", 7.0),
        ];
        let grid = Grid::new(&rows);
        assert_eq!(grid.paths, ["own-domain", "dpdk"]);
        assert_eq!(grid.cell("dpdk", "receive × 32"), Some(44.25));
        assert_eq!(grid.cell("dpdk", "receive × 1"), None);
        let table = table(&rows);
        assert!(["40.0", "44.2", "90.0", "recovery.64", "–"].iter().all(|text| table.contains(text)), "{table}");
        assert_eq!(serde_json::from_str::<Vec<Row>>(&json(&rows)).unwrap(), rows);
    }

    /// Each benchmark's picture says what it is of, and has its rows: none of them would be an empty one.
    #[test]
    fn each_benchmark_has_its_grid() {
        for (name, title, path, column) in [
            ("call.proxied", "cycles a call", "proxied", "call"),
            ("nvme.read.shadow.batch-32", "cycles an I/O of 4 KiB", "shadow", "read × 32"),
            ("maglev.forward.c-on-dpdk.batch-32", "cycles a packet, 64-byte frames", "c-on-dpdk", "forward × 32"),
            ("httpd.small.nginx", "cycles a request", "small", "nginx"),
        ] {
            let grid = Grid::new(&[row("part.publish", 7.0), row(name, 3.5)]);
            assert_eq!((grid.title, grid.cell(path, column)), (title, Some(3.5)), "{name}");
        }
    }

    /// What was counted in QEMU is never shown as cycles, nor beside what idling and latencies come to.
    #[test]
    fn instructions_are_called_so() {
        let counted = |name: &str, metric: &str, median| Row { metric: metric.into(), ..row(name, median) };
        let rows = [
            counted("maglev.short.ours", "instructions", 9000.0),
            counted("maglev.short.ours", "instructions_idle", 77.0),
            counted("maglev.short.ipvs", "instructions", 18000.0),
        ];
        let grid = Grid::new(&rows);
        assert!(grid.title.starts_with("instructions a request"), "{}", grid.title);
        assert_eq!((&grid.paths[..], grid.columns.len()), (&["short".to_owned()][..], 2));
        assert!(table(&rows).contains("0.50") && table(&rows).contains("77.0"));
    }

    /// Who is measured beside a peer is compared with it, also where a row of the peer's is missing; what a cost is made of is no cost to compare.
    #[test]
    fn ours_is_shown_as_a_part_of_theirs() {
        let rows = [
            row("kv.mix.ours", 3000.0),
            row("kv.mix.ours.stack", 2900.0),
            Row { metric: "latency".into(), ..row("kv.mix.ours", 77.0) },
            row("kv.mix.ours-library", 2400.0),
            row("kv.mix.memcached", 12000.0),
            row("kv.get.ours", 1.0),
        ];
        let table = table(&rows);
        let line = |name: &str| table.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_default();
        assert!(table.starts_with("cycles a request") && table.contains("ours / memcached"), "{table}");
        assert!(table.contains("ours-library / memcached") && !table.contains("ours / ours"), "{table}");
        assert!(["3000.0", "12000.0", "0.25", "0.20"].iter().all(|text| line("mix").contains(text)), "{table}");
        assert!(line("get").matches('–').count() == 4, "{table}");
        assert!(line("kv.mix.ours.stack").contains("2900.0") && table.contains("77.0"), "{table}");
    }
}
