//! The opening handshake of a WebSocket that we begin ourselves, for a client that asked by a stream of HTTP/2.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::SEC_WEBSOCKET_ACCEPT;
use http::{HeaderMap, HeaderValue};
use portcullis_actors::keyring::{self, KeyError};

/// A key that nobody has used before (RFC 6455 §4.1).
///
/// # Errors
/// The operating system gives no randomness.
pub fn fresh_key() -> Result<HeaderValue, KeyError> {
    let key = STANDARD.encode(keyring::random::<16>()?);
    HeaderValue::try_from(key).map_err(|_| KeyError::Derive)
}

/// Whether an answer accepts the handshake with this key, and no other (RFC 6455 §4.1).
pub fn is_accepted(key: &HeaderValue, answer: &HeaderMap) -> bool {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let expected = STANDARD.encode(context.finish());
    let mut accepts = answer.get_all(SEC_WEBSOCKET_ACCEPT).iter();
    matches!((accepts.next(), accepts.next()), (Some(accept), None) if accept.as_bytes() == expected.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_accepts_one_key() {
        // RFC 6455 §1.3
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        let accept = HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let mut answer = HeaderMap::from_iter([(SEC_WEBSOCKET_ACCEPT, accept.clone())]);
        assert!(is_accepted(&key, &answer));
        assert!(!is_accepted(&fresh_key().unwrap(), &answer));
        assert_ne!(fresh_key().unwrap(), fresh_key().unwrap());
        answer.append(SEC_WEBSOCKET_ACCEPT, accept);
        assert!(!is_accepted(&key, &answer));
        assert!(!is_accepted(&key, &HeaderMap::new()));
    }
}
