//! What is asked of the figures, and whether it is met. Medians count.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use crate::figures::Table;
use crate::peer::Peer;
use crate::row::Row;

/// A bar.
#[derive(Debug, Clone, Serialize)]
pub struct Bar {
    /// What is asked.
    pub asked: String,
    /// What was found.
    pub found: f64,
    /// Whether the bar is met.
    pub met: bool,
}

/// The bars of whatever was measured.
pub fn of(tables: &[Table]) -> Vec<Bar> {
    let mut bars = Vec::new();
    let mut most = |asked: &str, found: Option<f64>, most: f64| {
        bars.extend(found.map(|found| Bar { asked: asked.to_owned(), found, met: found <= most }));
    };
    most("CPU, HTTP/1.1, over nginx: at most 1.2", ratio(tables, Row::H1, "CPU", Peer::Nginx), 1.2);
    let (envoy, nginx) = (Peer::Envoy, Peer::Nginx);
    most("CPU, HTTP/1.1, over Envoy + ext_authz: at most 1/9", ratio(tables, Row::H1, "CPU", envoy), 1.0 / 9.0);
    most("CPU, HTTP/1.1 over TLS, over nginx: at most 1.1", ratio(tables, Row::TlsH1, "CPU", nginx), 1.1);
    most("CPU, HTTP/2 over TLS, over nginx: at most 1.3", ratio(tables, Row::TlsH2, "CPU", nginx), 1.3);
    most("CPU, a new TLS connection, over nginx: below 1", ratio(tables, Row::Connections, "CPU", nginx), 0.999);
    for row in [Row::H1, Row::TlsH1, Row::TlsH2] {
        let asked = format!("p99 at a fixed rate, {}, over nginx: at most 1.1", row.title());
        most(&asked, ratio(tables, row, "p99", nginx), 1.1);
    }
    most("idle, MB: at most 40", first(tables, Row::Memory, "idle"), 40.0);
    most("an idle connection, KB: at most 16", first(tables, Row::Memory, "a connection, KB"), 16.0);
    most("an idle connection over TLS, KB: at most 16", first(tables, Row::Memory, "a TLS connection, KB"), 16.0);
    most("CPU, the most routes over 1: less than 1.1", growth(tables, Row::Routes), 1.099);
    most("CPU, the most sessions over the least: less than 1.1", growth(tables, Row::Sessions), 1.099);
    most("a session, bytes: at most 1024", first_of_last(tables, Row::Sessions, "a session"), 1024.0);
    bars
}

fn table(tables: &[Table], row: Row) -> Option<&Table> {
    tables.iter().find(|table| table.title == row.title())
}

/// Portcullis over a peer, by pairs.
fn ratio(tables: &[Table], row: Row, figure: &str, peer: Peer) -> Option<f64> {
    let table = table(tables, row)?;
    let (ours, theirs) = (table.subject(Peer::Portcullis.title())?, table.subject(peer.title())?);
    Some(table.figure(figure)?.ratio(ours, theirs)?.median)
}

/// The figure of portcullis itself.
fn first(tables: &[Table], row: Row, figure: &str) -> Option<f64> {
    let table = table(tables, row)?;
    Some(table.figure(figure)?.spread(table.subject(Peer::Portcullis.title())?)?.median)
}

/// The figure of the last subject.
fn first_of_last(tables: &[Table], row: Row, figure: &str) -> Option<f64> {
    let table = table(tables, row)?;
    Some(table.figure(figure)?.spread(table.subjects.len().checked_sub(1)?)?.median)
}

/// The last subject's CPU over the first's, by pairs.
fn growth(tables: &[Table], row: Row) -> Option<f64> {
    let table = table(tables, row)?;
    Some(table.figure("CPU")?.ratio(table.subjects.len().checked_sub(1)?, 0)?.median)
}

impl Display for Bar {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { asked, found, met } = self;
        write!(f, "  {asked:<62} {found:>9.3}   {}", if *met { "met" } else { "not met" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_met_by_the_median_of_pairs_and_absent_where_nothing_was_measured() {
        let subjects = [Peer::Portcullis, Peer::Nginx].map(|peer| peer.title().to_owned());
        let mut table = Table::new(Row::H1.title(), String::new(), subjects);
        for (ours, theirs) in [(11.0, 10.0), (12.5, 10.0), (11.5, 10.0)] {
            table.add("CPU, µs a request", 1, 0, ours);
            table.add("CPU, µs a request", 1, 1, theirs);
        }
        let bars = of(&[table]);
        assert_eq!(bars.len(), 1, "{bars:?}");
        assert!(bars[0].met && bars[0].found > 1.149 && bars[0].found < 1.151, "{bars:?}");
    }
}
