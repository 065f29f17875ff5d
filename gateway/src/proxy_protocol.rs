//! The header of the PROXY protocol, versions 1 and 2, with which a load balancer says whose connection it hands over.
//!
//! It is taken from the socket to its last byte and no further, so that TLS or HTTP begin where it ends.

use std::io;
use std::net::{IpAddr, SocketAddr};

use portcullis_config::limits::{PROXY_HEADER_BYTES, PROXY_HEADER_TIMEOUT};
use ppp::{HeaderResult, PartialResult, v1, v2};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Why a connection is not taken.
#[derive(Debug, thiserror::Error)]
pub enum NoHeader {
    /// The connection broke, or ended before the header did.
    #[error(transparent)]
    Broken(#[from] io::Error),
    /// It begins with something else, or with a header that is none.
    #[error("it begins with no header of the PROXY protocol")]
    Malformed,
    /// Longer than `PROXY_HEADER_BYTES`, or than version 1 allows.
    #[error("the header is too long")]
    TooLong,
    /// It did not come within `PROXY_HEADER_TIMEOUT`.
    #[error("the header took too long")]
    Late,
}

/// What a header says of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    /// Its bytes.
    length: usize,
    /// The client; `None` where whoever is connected speaks for itself (`LOCAL`, as health checks do) or does not know.
    client: Option<SocketAddr>,
}

/// Takes the header off a connection from `peer`; whose it is.
///
/// # Errors
/// [`NoHeader`]: the connection is to be closed.
pub async fn take(stream: &mut TcpStream, peer: SocketAddr) -> Result<SocketAddr, NoHeader> {
    let header = tokio::time::timeout(PROXY_HEADER_TIMEOUT, taken(stream)).await.map_err(|_| NoHeader::Late)??;
    Ok(header.client.unwrap_or(peer))
}

async fn taken(stream: &mut TcpStream) -> Result<Header, NoHeader> {
    let mut bytes = vec![0; PROXY_HEADER_BYTES];
    let mut had = 0;
    loop {
        let room = bytes.get_mut(had..).filter(|room| !room.is_empty()).ok_or(NoHeader::TooLong)?;
        let seen = had + stream.peek(room).await?;
        if seen == had {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let header = read(bytes.get(..seen).unwrap_or_default())?;
        // until the header is whole, all that was seen belongs to it
        let end = header.map_or(seen, |header| header.length);
        stream.read_exact(bytes.get_mut(had..end).unwrap_or_default()).await?;
        match header {
            Some(header) => return Ok(header),
            None => had = seen,
        }
    }
}

/// The header that bytes begin with; `None` where more of it is to come.
fn read(bytes: &[u8]) -> Result<Option<Header>, NoHeader> {
    let begins_as = |start: &[u8]| bytes.iter().zip(start).all(|(byte, wanted)| byte == wanted);
    if begins_as(v2::PROTOCOL_PREFIX) {
        let announced =
            bytes.get(14..16).map_or(0, |length| length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)));
        if V2_BYTES + announced > PROXY_HEADER_BYTES {
            return Err(NoHeader::TooLong);
        }
    } else if !begins_as(b"PROXY ") {
        return Err(NoHeader::Malformed);
    } else if !bytes.iter().take(V1_BYTES).any(|byte| *byte == b'\n') {
        // the parser takes a line that ends early for one that is wrong
        return if bytes.len() < V1_BYTES { Ok(None) } else { Err(NoHeader::TooLong) };
    }
    let parsed = HeaderResult::parse(bytes);
    if parsed.is_incomplete() && begins_as(v2::PROTOCOL_PREFIX) {
        return Ok(None);
    }
    match parsed {
        HeaderResult::V1(Ok(header)) => {
            let client = match header.addresses {
                v1::Addresses::Tcp4(it) => Some(SocketAddr::new(IpAddr::V4(it.source_address), it.source_port)),
                v1::Addresses::Tcp6(it) => Some(SocketAddr::new(IpAddr::V6(it.source_address), it.source_port)),
                v1::Addresses::Unknown => None,
            };
            Ok(Some(Header { length: header.header.len(), client }))
        }
        HeaderResult::V2(Ok(header)) => {
            let client = match (header.command, header.protocol, header.addresses) {
                (v2::Command::Local, _, _) | (_, _, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => None,
                (_, v2::Protocol::Stream, v2::Addresses::IPv4(it)) => {
                    Some(SocketAddr::new(IpAddr::V4(it.source_address), it.source_port))
                }
                (_, v2::Protocol::Stream, v2::Addresses::IPv6(it)) => {
                    Some(SocketAddr::new(IpAddr::V6(it.source_address), it.source_port))
                }
                // what came by UDP is no connection
                (_, _, _) => return Err(NoHeader::Malformed),
            };
            Ok(Some(Header { length: header.header.len(), client }))
        }
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Err(NoHeader::Malformed),
    }
}

/// The longest line of version 1, with its end.
const V1_BYTES: usize = 107;
/// A header of version 2 without what its length announces.
const V2_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, length: u16, rest: &[u8]) -> Vec<u8> {
        [v2::PROTOCOL_PREFIX, &[0x20 | command, family], &length.to_be_bytes(), rest].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 192, 0, 2, 1, 0x30, 0x39, 1, 187];

    fn all() -> Vec<(Vec<u8>, Option<&'static str>)> {
        let v6 = [[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7].as_slice(), &[0; 16], &[0x30, 0x39, 1, 187]]
            .concat();
        vec![
            (b"PROXY TCP4 192.0.2.7 192.0.2.1 12345 443\r\n".to_vec(), Some("192.0.2.7:12345")),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 12345 443\r\n".to_vec(), Some("[2001:db8::7]:12345")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (v2(1, 0x11, 12, &V4), Some("192.0.2.7:12345")),
            (v2(1, 0x21, 36, &v6), Some("[2001:db8::7]:12345")),
            (v2(1, 0x11, 17, &[V4.as_slice(), &[4, 0, 2, 0, 0]].concat()), Some("192.0.2.7:12345")),
            (v2(0, 0x00, 0, &[]), None),
            (v2(0, 0x11, 12, &V4), None),
            (v2(1, 0x00, 0, &[]), None),
        ]
    }

    #[test]
    fn both_versions_name_the_client_and_end_where_they_end() {
        for (header, client) in all() {
            for behind in [&b""[..], b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n", b"PROXY UNKNOWN\r\n"] {
                let read = read(&[header.as_slice(), behind].concat()).unwrap().unwrap();
                assert_eq!(read.client.map(|client| client.to_string()).as_deref(), client, "{header:?}");
                assert_eq!(read.length, header.len(), "{header:?}");
            }
        }
    }

    #[test]
    fn of_a_header_that_is_not_whole_more_is_waited_for() {
        for (header, _) in all() {
            for cut in 1..header.len() {
                assert_eq!(read(&header[..cut]).unwrap(), None, "{:?}", &header[..cut]);
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused_as_soon_as_that_is_seen() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(200));
        for (wrong, too_long) in [
            (b"GET / HTTP/1.1\r\n".to_vec(), false),
            (b"\x16\x03\x01\x02".to_vec(), false),
            (b"PROXX".to_vec(), false),
            (b"proxy TCP4 1.1.1.1 1.1.1.1 1 1\r\n".to_vec(), false),
            (b"PROXY TCP4 192.0.2.7 192.0.2.1 12345\r\n".to_vec(), false),
            (b"PROXY TCP4 192.0.2.777 192.0.2.1 1 443\r\n".to_vec(), false),
            (b"PROXY TCP4 2001:db8::7 2001:db8::1 1 443\r\n".to_vec(), false),
            (b"PROXY TCP4 192.0.2.7 192.0.2.1 123456 443\r\n".to_vec(), false),
            (b"PROXY TCP4 192.0.2.7 192.0.2.1 1 443\n".to_vec(), false),
            (b"PROXY TCP4 192.0.2.7  192.0.2.1 1 443\r\n".to_vec(), false),
            (b"PROXY UDP4 192.0.2.7 192.0.2.1 1 443\r\n".to_vec(), false),
            (long.into_bytes(), true),
            (v2(2, 0x11, 12, &V4), false),
            (v2(1, 0x41, 12, &V4), false),
            (v2(1, 0x12, 12, &V4), false),
            (v2(1, 0x11, 4, &V4), false),
            (v2(1, 0x11, u16::MAX, &V4), true),
        ] {
            match read(&wrong) {
                Err(NoHeader::TooLong) => assert!(too_long, "{wrong:?}"),
                Err(_) => assert!(!too_long, "{wrong:?}"),
                Ok(header) => panic!("{:?} was taken: {header:?}", String::from_utf8_lossy(&wrong)),
            }
        }
    }
}
