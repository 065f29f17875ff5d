//! One request head: where it ends, and what it says. RFC 9112 §2 to §6, and nothing that a lenient reader would add.

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};
use portcullis_config::limits::{REQUEST_HEAD_BYTES, REQUEST_HEADERS};

use crate::metrics::tally::Misread;

/// Why a head becomes no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not HTTP/1, or could be read in more than one way.
    #[error("the head is malformed, or could be read in more than one way")]
    Malformed,
    /// Its lines are too long, or too many.
    #[error("the head is too large")]
    TooLarge,
    /// Its first line is too long.
    #[error("the target is too long")]
    TargetTooLong,
    /// It is of another version of HTTP.
    #[error("another version of HTTP")]
    Version,
    /// It did not come to its end in time.
    #[error("the head took too long to come")]
    Late,
}

impl Refusal {
    /// The status that says so.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Late => StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// What it is counted as.
    pub const fn misread(self) -> Misread {
        match self {
            Self::Malformed | Self::Version => Misread::Malformed,
            Self::TooLarge | Self::TargetTooLong => Misread::TooLarge,
            Self::Late => Misread::Late,
        }
    }
}

/// Looks for the end of a head in what has come of it, each byte once.
#[derive(Debug, Default)]
pub struct Scan {
    /// Where it goes on.
    at: usize,
    /// Where the line begins that it is at.
    line: usize,
    /// Where the request line begins: behind the empty line that is forgiven.
    begin: usize,
    /// The request line is whole.
    begun: bool,
}

impl Scan {
    /// Looks at what was read so far, of which nothing may have been taken away. Where the head is once it is whole.
    ///
    /// # Errors
    /// [`Refusal`], as soon as no further byte could mend it.
    pub fn look(&mut self, bytes: &[u8]) -> Result<Option<Range<usize>>, Refusal> {
        loop {
            let rest = bytes.get(self.at..).unwrap_or_default();
            let plain = rest.iter().position(|byte| is_control(*byte));
            self.at += plain.unwrap_or(rest.len());
            if self.at - self.begin > REQUEST_HEAD_BYTES {
                return Err(if self.begun { Refusal::TooLarge } else { Refusal::TargetTooLong });
            }
            match (bytes.get(self.at), bytes.get(self.at + 1)) {
                (None, _) | (Some(b'\r'), None) => return Ok(None),
                (Some(b'\r'), Some(b'\n')) => {}
                // a bare CR, a bare LF, or what is allowed nowhere
                (Some(_), _) => return Err(Refusal::Malformed),
            }
            let line = bytes.get(self.line..self.at).unwrap_or_default();
            self.at += 2;
            self.line = self.at;
            match (line.is_empty(), self.begun) {
                (true, true) => return Ok(Some(self.begin..self.at)),
                // RFC 9112 §2.2: one empty line before the request line is forgiven
                (true, false) if self.begin == 0 => self.begin = self.at,
                (true, false) => return Err(Refusal::Malformed),
                (false, true) => {}
                (false, false) => {
                    request_line(line)?;
                    self.begun = true;
                }
            }
        }
    }
}

/// What no line has in it; a tab is for whoever reads the line.
const fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

/// Three parts with one space between them, and nothing in the target that an address cannot have.
fn request_line(line: &[u8]) -> Result<(), Refusal> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::Malformed);
    };
    // a fragment is never sent (RFC 9112 §3.2), and would be cut off without a word
    let clean = target.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#');
    if method.is_empty() || target.is_empty() || !clean {
        return Err(Refusal::Malformed);
    }
    match version {
        b"HTTP/1.1" | b"HTTP/1.0" => Ok(()),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => Err(Refusal::Version),
        _ => Err(Refusal::Malformed),
    }
}

/// How the body after a head is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// So many bytes; at least one.
    Length(u64),
    /// Chunks.
    Chunked,
    /// The request asks for another protocol that is spoken here, or for a tunnel: whatever follows is not ours to frame.
    Switch,
}

/// A whole head.
#[derive(Debug)]
pub struct Head {
    /// The request.
    pub parts: Parts,
    /// What follows it.
    pub framing: Framing,
    /// Whether the client keeps the connection for more.
    pub persistent: bool,
    /// Whether it waits for `100 Continue` before it sends the body.
    pub expects: bool,
    /// Whether it reads trailers.
    pub trailers: bool,
}

impl Head {
    /// Reads a head that [`Scan`] has found.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn read(bytes: &Bytes) -> Result<Self, Refusal> {
        let mut space = [const { MaybeUninit::uninit() }; REQUEST_HEADERS];
        let mut read = httparse::Request::new(&mut []);
        match read.parse_with_uninit_headers(bytes, &mut space) {
            // the two must agree where it ends
            Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
            Err(httparse::Error::TooManyHeaders) => return Err(Refusal::TooLarge),
            Ok(_) | Err(_) => return Err(Refusal::Malformed),
        }
        let (Some(method), Some(target), Some(version)) = (read.method, read.path, read.version) else {
            return Err(Refusal::Malformed);
        };
        let mut headers = HeaderMap::with_capacity(read.headers.len());
        let mut said = Said::default();
        for header in read.headers.iter() {
            let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| Refusal::Malformed)?;
            said.hear(&name, header.value)?;
            let value = bytes.slice_ref(header.value);
            headers.append(name, HeaderValue::from_maybe_shared(value).map_err(|_| Refusal::Malformed)?);
        }
        let mut parts = Request::new(()).into_parts().0;
        parts.method = Method::from_bytes(method.as_bytes()).map_err(|_| Refusal::Malformed)?;
        parts.uri = Uri::from_maybe_shared(bytes.slice_ref(target.as_bytes())).map_err(|_| {
            // `http` counts in sixteen bits
            if target.len() > usize::from(u16::MAX) - 1 { Refusal::TargetTooLong } else { Refusal::Malformed }
        })?;
        parts.version = if version == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
        parts.headers = headers;
        let old = version == 0;
        let framing = said.framing(old, parts.method == Method::CONNECT)?;
        Ok(Self {
            framing,
            persistent: !said.close && (!old || said.keep_alive),
            // RFC 9110 §10.1.1: not where there is no body, and not of an older client
            expects: said.expects && !old && matches!(framing, Framing::Length(_) | Framing::Chunked),
            trailers: said.trailers && !old,
            parts,
        })
    }
}

/// What the fields say of the connection and the body.
#[derive(Debug, Default)]
struct Said {
    length: Option<u64>,
    chunked: bool,
    switch: bool,
    close: bool,
    keep_alive: bool,
    expects: bool,
    trailers: bool,
}

impl Said {
    fn hear(&mut self, name: &HeaderName, value: &[u8]) -> Result<(), Refusal> {
        if *name == CONTENT_LENGTH {
            let length = length_of(value).filter(|_| self.length.is_none());
            self.length = Some(length.ok_or(Refusal::Malformed)?);
        } else if *name == TRANSFER_ENCODING {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::Malformed);
            }
            self.chunked = true;
        } else if *name == CONNECTION {
            for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                self.close |= option.eq_ignore_ascii_case(b"close");
                self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        } else if *name == UPGRADE {
            self.switch |= is_for_websocket(value);
        } else if *name == EXPECT {
            self.expects |= value.eq_ignore_ascii_case(b"100-continue");
        } else if *name == TE {
            self.trailers |= value.eq_ignore_ascii_case(b"trailers");
        }
        Ok(())
    }

    fn framing(&self, old: bool, tunnel: bool) -> Result<Framing, Refusal> {
        let switch = self.switch || tunnel;
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Refusal::Malformed),
            // RFC 9112 §6.1: a transfer coding in HTTP/1.0 means faulty framing
            (None, true) if old => Err(Refusal::Malformed),
            // nothing switches protocols and has a body
            (Some(1..), false) | (None, true) if switch => Err(Refusal::Malformed),
            (None, true) => Ok(Framing::Chunked),
            (Some(0) | None, false) if switch => Ok(Framing::Switch),
            (Some(0) | None, false) => Ok(Framing::None),
            (Some(length), false) => Ok(Framing::Length(length)),
        }
    }
}

/// RFC 9110 §8.6: digits and nothing else; as many as can be counted.
pub fn length_of(value: &[u8]) -> Option<u64> {
    let countable = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
    countable.then(|| std::str::from_utf8(value).ok()?.parse().ok())?
}

/// Whether a value of `Upgrade` asks for a WebSocket, among whatever else. Any other protocol is not spoken here, and the
/// request is one like others (RFC 9110 §7.8).
pub fn is_for_websocket(value: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|protocol| {
        let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"websocket")
    })
}
