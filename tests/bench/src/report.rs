//! The report: tables for people, all rounds as JSON.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use crate::bars::{self, Bar};
use crate::figures::{Figure, Table};
use crate::machine::Machine;
use crate::statistics::Spread;

/// Width of a cell.
const CELL: usize = 25;

/// Everything.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    machine: Machine,
    /// How it was measured, in lines.
    how: Vec<String>,
    /// What was found.
    pub tables: Vec<Table>,
    bars: Vec<Bar>,
}

impl Report {
    /// A report.
    pub fn new(machine: Machine, how: Vec<String>, tables: Vec<Table>) -> Self {
        let bars = bars::of(&tables);
        Self { machine, how, tables, bars }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Machine { cpu, cores, kernel, load, peers, portcullis, rustc, command } = &self.machine;
        writeln!(f, "portcullis, whole pipeline, beside other proxies: the same upstream, everybody's access log on")?;
        writeln!(f, "  machine   {cpu}, {cores} cores, Linux {kernel}, load {load} at the start")?;
        writeln!(f, "  versions  {portcullis}; {rustc}")?;
        for peer in peers {
            writeln!(f, "            {peer}")?;
        }
        for (number, line) in self.how.iter().enumerate() {
            writeln!(f, "  {:<9} {line}", if number == 0 { "how" } else { "" })?;
        }
        writeln!(f, "  command   {command}")?;
        if !self.bars.is_empty() {
            writeln!(f, "\nWhat is asked, and what was found")?;
        }
        for bar in &self.bars {
            writeln!(f, "{bar}")?;
        }
        for table in &self.tables {
            write!(f, "\n{table}")?;
        }
        Ok(())
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let rounds = self.figures.iter().flat_map(|figure| &figure.found).map(Vec::len).max().unwrap_or_default();
        writeln!(f, "{} ({rounds} rounds: median, least to greatest)", self.title)?;
        if !self.note.is_empty() {
            writeln!(f, "  {}", self.note)?;
        }
        write!(f, "  {:<32}", "")?;
        for subject in &self.subjects {
            write!(f, "{subject:>CELL$}")?;
        }
        writeln!(f)?;
        for figure in &self.figures {
            self.lines_of(figure, f)?;
        }
        Ok(())
    }
}

impl Table {
    /// A figure, and the first subject over each of the others.
    fn lines_of(&self, figure: &Figure, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "  {:<32}", figure.name)?;
        for subject in 0..self.subjects.len() {
            write!(f, "{:>CELL$}", cell(figure.spread(subject), figure.digits))?;
        }
        writeln!(f)?;
        if (1..self.subjects.len()).all(|subject| self.compared(figure, subject).is_none()) {
            return Ok(());
        }
        let first = self.subjects.first().map_or("", String::as_str);
        let compared = if self.grows { format!("  over {first}") } else { format!("  {first} over it") };
        write!(f, "  {:<32}{:>CELL$}", compared, "")?;
        for subject in 1..self.subjects.len() {
            write!(f, "{:>CELL$}", cell(self.compared(figure, subject), 2))?;
        }
        writeln!(f)
    }
}

fn cell(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(
        || "-".to_owned(),
        |Spread { min, median, max }| format!("{median:.digits$} ({min:.digits$}-{max:.digits$})"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_shows_its_median_with_its_spread_and_the_ratio_to_each_peer() {
        let mut table = Table::new("row", "a note".into(), ["ours", "theirs"].map(str::to_owned));
        for (ours, theirs) in [(20.0, 10.0), (30.0, 20.0), (48.0, 40.0)] {
            table.add("CPU, µs", 1, 0, ours);
            table.add("CPU, µs", 1, 1, theirs);
        }
        let text = table.to_string();
        for wanted in ["3 rounds", "a note", "30.0 (20.0-48.0)", "20.0 (10.0-40.0)", "ours over it", "1.50 (1.20-2.00)"]
        {
            assert!(text.contains(wanted), "{wanted} is not in\n{text}");
        }
    }
}
