//! What authorize promises.

mod identity;
mod matrix;
pub(super) mod people;
mod properties;
mod rules;
mod standing;
