//! Large bodies that need no memory: one piece over and over, and the digest of it.

use aws_lc_rs::digest;
use bytes::Bytes;
use http_body_util::channel::Sender;

/// Bodies travel in pieces of this size.
const PIECE: usize = 16 * 1024;

/// Sends `bytes` bytes of the pattern, as fast as they are taken. Ends early where nobody takes them.
pub async fn send_pattern<E>(sender: &mut Sender<Bytes, E>, bytes: u64) {
    let piece = pattern();
    let mut left = bytes;
    while left > 0 {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
        if sender.send_data(piece.slice(..take)).await.is_err() {
            return;
        }
        left -= u64::try_from(take).unwrap_or(left);
    }
}

/// The piece of which large bodies are made, over and over.
#[must_use]
pub fn pattern() -> Bytes {
    (0..PIECE).map(|index| u8::try_from(index % 251).unwrap_or_default()).collect()
}

/// The hexadecimal SHA-256 of `bytes` bytes of the pattern.
#[must_use]
pub fn pattern_sha256(bytes: u64) -> String {
    let piece = pattern();
    let mut context = digest::Context::new(&digest::SHA256);
    let mut left = bytes;
    while left > 0 {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
        context.update(piece.get(..take).unwrap_or_default());
        left -= u64::try_from(take).unwrap_or(left);
    }
    hex(context.finish().as_ref())
}

/// Bytes in hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
