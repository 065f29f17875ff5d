//! Plain connections to the upstreams of tunnels.

use portcullis_config::HostPort;
use portcullis_config::limits::UPSTREAM_CONNECT;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::socket::{self, Impatient};

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreached {
    /// Nobody has said anything in time.
    Late,
    /// Somebody has said no, or there is no such place.
    Refused,
}

/// Connects to the first of these places that takes a connection; all of them together have as long as one.
///
/// # Errors
/// [`Unreached`].
pub async fn connect(places: impl Iterator<Item = &HostPort>) -> Result<Impatient<TcpStream>, Unreached> {
    let until = Instant::now() + UPSTREAM_CONNECT;
    for place in places {
        match timeout_at(until, TcpStream::connect((socket::connect_host(&place.host), place.port))).await {
            Ok(Ok(stream)) => return Ok(socket::ready(stream)),
            Ok(Err(error)) => tracing::warn!(upstream = %place, %error, "an upstream cannot be reached"),
            Err(_) => {
                tracing::warn!(upstream = %place, "an upstream does not answer");
                return Err(Unreached::Late);
            }
        }
    }
    Err(Unreached::Refused)
}
