//! What a configuration file may rely on.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail as tests do"
)]

mod bounds;
mod downstream;
mod environment;
mod keys;
mod nats;
mod policy;
mod problems;
mod programs;
mod reload;
mod routes;
mod routing;
mod samples;
mod services;
mod tunnels;
mod upstreams;

use portcullis_config::{Config, Problems, parse};

/// 32 bytes in base64.
pub const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// What every configuration needs, and nothing else.
pub const LEAST: &str = "\
authenticate_service_url: https://authenticate.example.com
insecure_server: true
idp_provider: oidc
idp_provider_url: https://idp.example.com
idp_client_id: portcullis
";

/// The least with more keys behind it.
pub fn with(more: &str) -> Result<Config, Problems> {
    parse("config.yaml", &format!("{LEAST}{more}"), &|_| None)
}

/// Its problems, each as `LINE key: wrong; right` with the lines of the least not counted.
pub fn problems(more: &str) -> Vec<String> {
    let before = LEAST.lines().count();
    let problems = with(more).expect_err("has problems").0;
    let line = |place: &portcullis_config::Place| match place {
        portcullis_config::Place::Line { line, .. } => (line - before).to_string(),
        other => other.to_string(),
    };
    problems.iter().map(|it| format!("{} {}: {}; {}", line(&it.place), it.key, it.wrong, it.right)).collect()
}
