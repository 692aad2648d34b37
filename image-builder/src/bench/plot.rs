//! Costs as a picture: a group of bars for each path or workload, one bar for each direction and batch, or for each side.

use super::rows::{Grid, Row};
use std::fmt::Write;

const BAR: f64 = 11.0;
const GAP: f64 = 12.0;
/// Of the names on the left, of the figures on the right, of the legend above.
const LEFT: f64 = 190.0;
const RIGHT: f64 = 60.0;
const TOP: f64 = 56.0;
const WIDTH: f64 = 860.0;
/// Dark for batches of 32, light for 1, and a hue for each direction; or ours in one hue, and a peer in another.
const COLOURS: [&str; 6] = ["#1b5e9c", "#9cc4e8", "#2e7d32", "#a5d6a7", "#b3541e", "#f0bd98"];

/// The picture of all rows that are in the grid.
pub fn svg(rows: &[Row]) -> String {
    let grid = Grid::new(rows);
    let values = grid.paths.iter().flat_map(|path| grid.columns.iter().filter_map(|column| grid.cell(path, column)));
    // A batch of one may cost many times as much: what counts are the others, so longer bars are cut, with their figure.
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let longest = sorted.get(sorted.len() * 9 / 10).copied().unwrap_or(1.0).max(1.0);
    let scale = (WIDTH - LEFT - RIGHT) / longest;
    let mut bars = String::new();
    let mut y = TOP;
    for path in &grid.paths {
        let begun = y;
        for (column, colour) in grid.columns.iter().zip(COLOURS.iter().cycle()) {
            let Some(value) = grid.cell(path, column) else { continue };
            let length = value.min(longest) * scale;
            let _ = writeln!(
                bars,
                r#"<rect x="{LEFT}" y="{y:.1}" width="{length:.1}" height="{BAR}" fill="{colour}"/><text x="{:.1}" y="{:.1}">{value:.1}</text>"#,
                LEFT + length + 4.0,
                y + BAR - 2.0
            );
            y += BAR + 1.0;
        }
        let middle = (begun + y) / 2.0 + 4.0;
        let _ = writeln!(
            bars,
            r#"<text x="{}" y="{middle:.1}" text-anchor="end" font-weight="bold">{path}</text>"#,
            LEFT - 8.0
        );
        y += GAP;
    }
    let mut legend = String::new();
    for (at, (column, colour)) in grid.columns.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let x = LEFT + 105.0 * at as f64;
        let _ = writeln!(
            legend,
            r#"<rect x="{x}" y="30" width="{BAR}" height="{BAR}" fill="{colour}"/><text x="{}" y="39">{column}</text>"#,
            x + 15.0
        );
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y:.0}\" font-family=\"sans-serif\" font-size=\"10\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"18\" font-size=\"13\">{}: shorter is better</text>\n{legend}{bars}</svg>\n",
        grid.title
    )
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::row;
    use super::*;

    /// A bar and a figure for each row of cycles a packet, also where one is much longer than the others; and well-formed as far as tags go.
    #[test]
    fn every_figure_has_its_bar() {
        let rows =
            [row("net.receive.ours.batch-32", 40.0), row("net.receive.ours.batch-1", 9000.0), row("recovery.64", 1.0)];
        let picture = svg(&rows);
        assert_eq!(picture.matches("<rect").count(), 2 + 2 + 1, "bars, legend, background");
        assert!(picture.contains(">40.0<") && picture.contains(">9000.0<") && !picture.contains("recovery"));
        assert_eq!(picture.matches("<text").count(), picture.matches("</text>").count());
    }
}
