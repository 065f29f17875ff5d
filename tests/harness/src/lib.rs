//! What the tests stand on: the binary itself, real servers, a browser, and peers that do as they are told.

pub mod agreement;
pub mod app;
pub mod certificate;
pub mod chromium;
pub mod client;
pub mod connect;
pub mod cookies;
pub mod echo;
pub mod form;
pub mod gateway;
pub mod grpc;
pub mod idp;
pub mod nats;
pub mod nats_cluster;
mod nats_process;
pub mod oidc;
mod open;
pub mod pattern;
pub mod process;
pub mod raw_upstream;
pub mod relay;
pub mod sign_in;
mod stage;
pub mod upstream;
pub mod websocket;
pub mod world;
