//! What authorize promises.

mod apart;
mod certificates;
mod identity;
mod matrix;
pub(super) mod people;
mod properties;
mod rules;
mod standing;
