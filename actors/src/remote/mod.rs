//! Components in processes of their own: how they find each other on NATS, ask, answer, and know that nobody else does.
//!
//! A question goes to a role subject ([`subjects`]), where the processes that run the component take turns. Question,
//! answer and word are sealed with a key that every process of an installation derives from `shared_secret`
//! ([`envelope`]): whoever knows no more than the subjects learns nothing and is believed nothing.

pub mod envelope;
mod link;
pub mod lookout;
pub mod served;
pub mod subjects;
#[cfg(test)]
mod tests;

pub use link::{Line, Link, LinkError};
