//! What we were told: one file and the environment over it become a [`Config`], or every problem at once.
//!
//! This crate reads files and variables and nothing else; it opens no socket and starts nothing.

pub mod limits;
mod model;
pub mod policy;
mod problem;
mod secret;

pub use model::*;
pub use problem::{Place, Problem, Problems};
pub use secret::Secret;
