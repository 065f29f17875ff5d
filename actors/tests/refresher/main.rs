//! Tokens have one owner at a time and are never lost: the refresher at a scripted provider, and in races with itself.

#![expect(clippy::unwrap_used, reason = "a step that does not work fails its test")]

mod caretaker;
mod crashes;
#[path = "../ground/databroker.rs"]
mod ground;
mod neighbours;
mod node;
mod provider;
mod races;
#[path = "../ground/registration.rs"]
mod registration;
mod rotating;
