//! What authorize promises.

mod apart;
mod identity;
mod matrix;
pub(super) mod people;
mod properties;
mod rules;
mod standing;
