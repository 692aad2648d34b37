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

/// Cycles a packet in a grid, then everything else.
pub fn table(rows: &[Row]) -> String {
    let grid = Grid::new(rows);
    let mut text = String::new();
    if !grid.paths.is_empty() {
        text += &format!("cycles a packet, 64-byte frames\n{}\n\n", grid.table());
    }
    let mut others = Table::new();
    others.load_preset(presets::NOTHING).set_header(["row", "metric", "median", "unit"]);
    for row in rows.iter().filter(|row| Place::of(row).is_none()) {
        others.add_row([row.row.clone(), row.metric.clone(), format!("{:.1}", row.median), row.unit.clone()]);
    }
    if let Some(column) = others.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    text + &others.to_string()
}

/// Where a row stands in the grid of cycles a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub direction: String,
    pub path: String,
    pub batch: String,
}

impl Place {
    /// `net.DIRECTION.PATH.batch-N`
    pub fn of(row: &Row) -> Option<Place> {
        let mut parts = row.row.strip_prefix("net.")?.split('.');
        let (direction, path, batch) = (parts.next()?, parts.next()?, parts.next()?);
        let batch = batch.strip_prefix("batch-")?;
        Some(Place { direction: direction.into(), path: path.into(), batch: batch.into() })
    }
}

/// Cycles a packet by path, and by direction and batch.
pub struct Grid {
    pub paths: Vec<String>,
    /// Direction and batch.
    pub columns: Vec<(String, String)>,
    cells: Vec<(Place, f64)>,
}

impl Grid {
    pub fn new(rows: &[Row]) -> Grid {
        let cells: Vec<(Place, f64)> = rows.iter().filter_map(|row| Some((Place::of(row)?, row.median))).collect();
        let (mut paths, mut columns) = (Vec::new(), Vec::new());
        for (place, _) in &cells {
            let column = (place.direction.clone(), place.batch.clone());
            if !paths.contains(&place.path) {
                paths.push(place.path.clone());
            }
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
        Grid { paths, columns, cells }
    }

    pub fn cell(&self, path: &str, (direction, batch): &(String, String)) -> Option<f64> {
        let is_it = |place: &Place| place.path == path && place.direction == *direction && place.batch == *batch;
        self.cells.iter().find(|(place, _)| is_it(place)).map(|(_, value)| *value)
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        let heads = self.columns.iter().map(|(direction, batch)| format!("{direction} × {batch}"));
        table.load_preset(presets::NOTHING).set_header(std::iter::once(String::new()).chain(heads));
        for path in &self.paths {
            let value = |column| self.cell(path, column).map_or("–".to_owned(), |value| format!("{value:.1}"));
            table.add_row(std::iter::once(path.clone()).chain(self.columns.iter().map(value)));
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
        assert_eq!(grid.cell("dpdk", &("receive".into(), "32".into())), Some(44.25));
        assert_eq!(grid.cell("dpdk", &("receive".into(), "1".into())), None);
        let table = table(&rows);
        assert!(["40.0", "44.2", "90.0", "recovery.64", "–"].iter().all(|text| table.contains(text)), "{table}");
        assert_eq!(serde_json::from_str::<Vec<Row>>(&json(&rows)).unwrap(), rows);
    }
}
