//! Who does it: the four components, each a set of actix actors around pure functions.
//!
//! A component imports only [`databroker`], [`idp`] and the proof made by the stage before it.

pub mod ask;
pub mod authenticate;
pub mod authorize;
pub mod clock;
pub mod databroker;
pub mod idp;
pub mod keyring;
pub mod metrics;
pub mod proxy;
pub mod remote;
pub mod request;
pub mod trust;
