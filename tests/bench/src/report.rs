//! What was found: a table for people, all rounds as JSON.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use crate::load::Outcome;
use crate::machine::Machine;
use crate::row::Row;
use crate::statistics::Spread;

/// One turn of each.
#[derive(Debug, Clone, Serialize)]
pub struct Round {
    /// Bare nginx.
    pub nginx: Outcome,
    /// The whole pipeline.
    pub portcullis: Outcome,
}

/// One row.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    row: Row,
    figures: Vec<Figure>,
    rounds: Vec<Round>,
}

/// One figure of both.
#[derive(Debug, Clone, Serialize)]
struct Figure {
    name: &'static str,
    nginx: Spread,
    portcullis: Spread,
    /// portcullis over nginx, round by round.
    ratio: Spread,
}

impl Measured {
    /// A row from its rounds.
    pub fn new(row: Row, rounds: Vec<Round>) -> Self {
        let figure = |name, read: fn(&Outcome) -> f64| Figure {
            name,
            nginx: Spread::of(rounds.iter().map(|round| read(&round.nginx))),
            portcullis: Spread::of(rounds.iter().map(|round| read(&round.portcullis))),
            ratio: Spread::of(rounds.iter().map(|round| read(&round.portcullis) / read(&round.nginx))),
        };
        let figures = vec![
            figure("CPU, µs a request", Outcome::cpu_us),
            figure("requests a second", Outcome::rate),
            figure("p50, µs", |outcome| outcome.p50_us),
            figure("p99, µs", |outcome| outcome.p99_us),
        ];
        Self { row, figures, rounds }
    }
}

/// Everything.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    machine: Machine,
    under_way: u32,
    rows: Vec<Measured>,
}

impl Report {
    /// A report.
    pub const fn new(machine: Machine, under_way: u32, rows: Vec<Measured>) -> Self {
        Self { machine, under_way, rows }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Machine { cpu, cores, kernel, load, nginx, portcullis, rustc, command } = &self.machine;
        writeln!(f, "portcullis, whole pipeline, beside bare nginx: the same upstream, 1 KB, both with an access log")?;
        writeln!(f, "  machine   {cpu}, {cores} cores, Linux {kernel}, load {load} at the start")?;
        writeln!(f, "  versions  {portcullis}; {nginx}; {rustc}")?;
        writeln!(f, "  workers   {cores} each; {} requests under way", self.under_way)?;
        writeln!(f, "  command   {command}")?;
        for measured in &self.rows {
            write!(f, "\n{measured}")?;
        }
        Ok(())
    }
}

impl Display for Measured {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({} rounds; least, median, greatest)", self.row.title(), self.rounds.len())?;
        writeln!(f, "  {:<18} {:^29} {:^29} {:^20}", "", "nginx", "portcullis", "ratio, by pairs")?;
        for Figure { name, nginx, portcullis, ratio } in &self.figures {
            write!(f, "  {name:<18}")?;
            for Spread { min, median, max } in [nginx, portcullis] {
                write!(f, " {min:>9.1} {median:>9.1} {max:>9.1}")?;
            }
            writeln!(f, "  {:>6.2} {:>6.2} {:>6.2}", ratio.min, ratio.median, ratio.max)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(cpu_seconds: f64) -> Outcome {
        Outcome { answers: 1100, counted: 1000, seconds: 2.0, cpu_seconds, p50_us: 10.0, p99_us: 20.0 }
    }

    #[test]
    fn the_ratio_is_that_of_pairs_and_not_of_medians() {
        let pairs = [(0.010, 0.020), (0.020, 0.030), (0.040, 0.048)];
        let rounds = pairs.map(|(nginx, portcullis)| Round { nginx: outcome(nginx), portcullis: outcome(portcullis) });
        let measured = Measured::new(Row::Plain, rounds.to_vec());
        let text = measured.to_string();
        let cpu = text.lines().find(|line| line.contains("CPU")).unwrap();
        let numbers: Vec<&str> = cpu.split_whitespace().skip(4).collect();
        assert_eq!(numbers, ["10.0", "20.0", "40.0", "20.0", "30.0", "48.0", "1.20", "1.50", "2.00"]);
    }
}
