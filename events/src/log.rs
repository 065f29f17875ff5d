//! The log itself: its first event names the epoch, so that a log that was replaced is noticed.

use serde::{Deserialize, Serialize};

use crate::Epoch;

/// What happens to a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It was created. Always sequence 1, and never again.
    Created(Created),
}

/// `portcullis.log.created.v1`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// The identity of this log.
    pub epoch: Epoch,
}
