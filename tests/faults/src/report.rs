//! What is said about it all: a line for each fault, and how to see one again.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use crate::ledger::Tally;

/// What came of one fault; all promises were kept.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// What was counted from two seconds before it until all was as before.
    pub tally: Tally,
    /// How long it took from the end of the fault until somebody new was let in and every node served somebody.
    pub took: Duration,
    /// Generations of tokens that were left in doubt.
    pub doubts: usize,
    /// Refresh tokens that were presented.
    pub refreshes: usize,
    /// What else is to be said.
    pub note: Option<String>,
}

/// The head of the table.
pub const HEAD: &str = "\
fault              sign-ins        nobody   requests           a node   revoked  admitted asked/in  as before\n\
\x20                  ok/503/broken   let in   ok/503/unanswered  refuses  ok/?     late     doubt     after\n";

impl Display for Row {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { name, tally, took, doubts, refreshes, note } = self;
        let [acknowledged, refused, broken_off] = tally.sign_ins;
        let [served, try_again, unanswered] = tally.requests;
        let [revoked, unsure] = tally.revocations;
        let idle = tally.node_gaps.iter().map(|gap| gap.longest).max().unwrap_or_default();
        write!(
            f,
            "{name:<18} {:<14} {:>7}   {:<17} {:>7}   {:<8} {:>6}   {:<8} {:>7}",
            format!("{acknowledged}/{refused}/{broken_off}"),
            seconds(tally.sign_in_gap.longest),
            format!("{served}/{try_again}/{unanswered}"),
            seconds(idle),
            format!("{revoked}/{unsure}"),
            seconds(tally.latest),
            format!("{refreshes}/{doubts}"),
            seconds(*took),
        )?;
        if tally.untimely > 0 {
            write!(f, "  ({} requests of sessions from another time were refused)", tally.untimely)?;
        }
        if let Some(note) = note {
            write!(f, "  {note}")?;
        }
        Ok(())
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
