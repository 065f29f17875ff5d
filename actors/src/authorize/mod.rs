//! authorize: decides on every request by the policy of its route, and says upstream who is behind it.
//!
//! [`Policies`] are compiled when a configuration comes into force; [`authorize`] makes a [`Decision`] for the log and a
//! [`Permit`] or a refusal for the request; [`identity`] makes the headers that a permit carries to the upstream.

pub mod assertion;
pub mod authorizer;
pub mod check;
pub mod checker;
mod claim;
pub mod crier;
mod criterion;
mod decision;
pub mod decision_log;
pub mod identity;
mod matcher;
mod permit;
mod policies;

#[cfg(test)]
mod tests;

pub use decision::{Decision, Reason, Reasons, RefusalKind};
pub use permit::{Mismatch, Permit, Standing, admit, authorize};
pub use policies::Policies;
