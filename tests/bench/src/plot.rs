//! Pictures of the figures: bars, side by side, in SVG that is readable on light and on dark ground.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::figures::{Figure, Table};

/// Widths and heights, in pixels.
const WIDTH: f64 = 760.0;
const LABEL: f64 = 150.0;
const BAR: f64 = 430.0;
const LINE: f64 = 22.0;
const HEAD: f64 = 34.0;
const TOP: f64 = 44.0;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}.h{font-weight:600}.t{font-size:16px;font-weight:600}\
    .n{fill:#59636e}.o{fill:#8c959f}.p{fill:#0969da}.w{stroke:#1f2328;stroke-width:1.5}.b{fill:#fff}\
    @media(prefers-color-scheme:dark){text{fill:#f0f6fc}.n{fill:#9198a1}.o{fill:#656c76}.p{fill:#4493f8}.w{stroke:#f0f6fc}.b{fill:#0d1117}}";

/// A picture of one figure, for every table that has it.
#[derive(Debug, Clone, Copy)]
pub struct Picture {
    /// The file's name.
    pub file: &'static str,
    /// What it shows.
    pub title: &'static str,
    /// What its figures have in their names.
    pub figure: &'static str,
}

/// What is drawn.
pub const PICTURES: [Picture; 4] = [
    Picture { file: "results-cpu.svg", title: "CPU time, all processes: less is better", figure: "CPU" },
    Picture { file: "results-rate.svg", title: "Under the same CPU quota: more is better", figure: "under the quota" },
    Picture { file: "results-p99.svg", title: "p99 at a fixed rate: less is better", figure: "p99" },
    Picture {
        file: "results-memory.svg",
        title: "Memory for each idle connection: less is better",
        figure: "connection, KB",
    },
];

/// Draws all pictures for which there are figures into a directory, and says which.
///
/// # Errors
/// A file cannot be written.
pub fn draw(tables: &[Table], dir: &Path) -> Result<Vec<Picture>> {
    let mut drawn = Vec::new();
    for picture in PICTURES {
        if let Some(svg) = svg(tables, picture) {
            let file = dir.join(picture.file);
            std::fs::write(&file, svg).with_context(|| format!("cannot write {}", file.display()))?;
            drawn.push(picture);
        }
    }
    Ok(drawn)
}

fn svg(tables: &[Table], picture: Picture) -> Option<String> {
    let mut body = String::new();
    let mut top = TOP;
    for table in tables {
        for figure in table.figures.iter().filter(|figure| figure.name.contains(picture.figure)) {
            top = panel(&mut body, top, table, figure);
        }
    }
    if body.is_empty() {
        return None;
    }
    let height = top + 8.0;
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         role=\"img\"><title>{title}</title><style>{STYLE}</style>\n\
         <rect class=\"b\" width=\"{WIDTH}\" height=\"{height}\"/><text class=\"t\" x=\"8\" y=\"24\">{title}</text>\n{body}</svg>\n",
        title = escaped(picture.title)
    ))
}

/// One figure of one table; says where the next may begin.
fn panel(out: &mut String, top: f64, table: &Table, figure: &Figure) -> f64 {
    let spreads: Vec<_> = (0..table.subjects.len()).map(|subject| figure.spread(subject)).collect();
    let greatest = spreads.iter().flatten().map(|spread| spread.max).fold(0.0, f64::max);
    if greatest <= 0.0 {
        return top;
    }
    let heading = format!("{}: {}", table.title, figure.name);
    let _ = writeln!(out, "<text class=\"h\" x=\"8\" y=\"{:.0}\">{}</text>", top + 20.0, escaped(&heading));
    let mut y = top + HEAD;
    for (number, (subject, spread)) in table.subjects.iter().zip(spreads).enumerate() {
        let Some(spread) = spread else { continue };
        let long = |value: f64| value / greatest * BAR;
        let (middle, class) = (y + LINE / 2.0, if number == 0 { "p" } else { "o" });
        let _ = writeln!(
            out,
            "<text x=\"8\" y=\"{text:.0}\">{name}</text><rect class=\"{class}\" x=\"{LABEL}\" y=\"{bar:.0}\" \
             width=\"{width:.1}\" height=\"{height:.0}\" rx=\"2\"/><line class=\"w\" x1=\"{least:.1}\" x2=\"{most:.1}\" \
             y1=\"{middle:.0}\" y2=\"{middle:.0}\"/><text class=\"n\" x=\"{value:.0}\" y=\"{text:.0}\">{median:.digits$}</text>",
            text = middle + 4.0,
            name = escaped(subject),
            bar = y + 3.0,
            width = long(spread.median),
            height = LINE - 6.0,
            least = LABEL + long(spread.min),
            most = LABEL + long(spread.max),
            value = LABEL + long(spread.max) + 8.0,
            median = spread.median,
            digits = figure.digits,
        );
        y += LINE;
    }
    y + 8.0
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_a_bar_for_everybody_who_was_measured() {
        let mut table = Table::new("a < b", String::new(), ["one", "two", "three"].map(str::to_owned));
        for (subject, value) in [(0, 10.0), (1, 20.0)] {
            table.add("CPU, µs", 1, subject, value);
        }
        let svg = svg(&[table], PICTURES[0]).unwrap();
        assert_eq!(svg.matches("rx=\"2\"").count(), 2, "{svg}");
        assert!(svg.contains("a &lt; b") && svg.contains(">20.0<"), "{svg}");
        assert!(super::svg(&[], PICTURES[0]).is_none());
    }
}
