//! What can be broken on purpose, to show that the simulation sees it.

/// A broken promise of the log or of the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Compare-and-append in two steps: another append fits in between.
    TwoSteps,
    /// The expectation is not looked at.
    IgnoresExpectation,
    /// An event id is forgotten at once: the second try of a stored append is told that it lost against itself.
    ForgetsIds,
    /// An event id is remembered although its append was lost: the second try is acknowledged and stored nowhere.
    RemembersTheLost,
    /// The last record of an aggregate is asked of a copy that lags.
    LagsBehind,
    /// The tail passes on what comes after a hole in the delivery; the fold sees it.
    SkipsHoles,
    /// The tail passes on what comes after a hole and numbers it as if there were none; the fold cannot see it.
    HidesHoles,
    /// A head is dated when it was answered, not when it was asked for.
    DatesHeadsLate,
    /// The intent of a refresh is acknowledged and stored nowhere: whoever else wants to refresh may.
    LosesIntents,
    /// The vault acknowledges now and then what it does not store.
    LosesValues,
}
