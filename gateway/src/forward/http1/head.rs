//! The head of an upstream's answer: where it ends, what it says, and how its body is framed (RFC 9112 §4 to §6).

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};
use hyper::ext::ReasonPhrase;
use portcullis_config::limits::UPSTREAM_HEADERS;

use crate::h1::{Chunks, length_of};

/// An answer that is not HTTP/1, or that could be read in more than one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer is no HTTP/1, or could be read in more than one way")]
pub struct Malformed;

/// How much of a body is still to come.
#[derive(Debug)]
pub enum Coming {
    /// Nothing.
    Nothing,
    /// So many bytes; at least one.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// All until the connection ends.
    UntilClose,
    /// Another protocol.
    Switch,
    /// It broke off, or what comes cannot be told apart any more.
    Broken,
}

/// A whole head.
#[derive(Debug)]
pub struct Head {
    /// Status and headers.
    pub parts: Parts,
    /// The body.
    pub coming: Coming,
    /// Whether the upstream keeps the connection for another request.
    pub persistent: bool,
}

/// Where a head ends in what has come, looking at each byte once; `from` is where it goes on. A line may end without CR
/// (RFC 9112 §2.2): what is passed on is written anew.
pub fn end(bytes: &[u8], from: &mut usize) -> Option<usize> {
    loop {
        let Some(at) = bytes.get(*from..)?.iter().position(|byte| *byte == b'\n') else {
            *from = bytes.len();
            return None;
        };
        let next = *from + at + 1;
        match (bytes.get(next), bytes.get(next + 1)) {
            (Some(b'\n'), _) => return Some(next + 1),
            (Some(b'\r'), Some(b'\n')) => return Some(next + 2),
            (None, _) | (Some(b'\r'), None) => {
                *from = next - 1;
                return None;
            }
            (Some(_), _) => *from = next,
        }
    }
}

impl Head {
    /// Reads a head of which `end` has found the end. `bodiless` is the answer to a HEAD.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn read(bytes: &Bytes, bodiless: bool) -> Result<Self, Malformed> {
        let mut space = [const { MaybeUninit::uninit() }; UPSTREAM_HEADERS.1];
        let mut read = httparse::Response::new(&mut []);
        let strict = httparse::ParserConfig::default();
        match strict.parse_response_with_uninit_headers(&mut read, bytes, &mut space) {
            Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
            Ok(_) | Err(_) => return Err(Malformed),
        }
        let (Some(code), Some(version)) = (read.code, read.version) else { return Err(Malformed) };
        let mut parts = Response::new(()).into_parts().0;
        parts.status = StatusCode::from_u16(code).map_err(|_| Malformed)?;
        parts.version = if version == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
        parts.headers = HeaderMap::with_capacity(read.headers.len() + 4);
        for header in read.headers.iter() {
            let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| Malformed)?;
            let value = HeaderValue::from_maybe_shared(bytes.slice_ref(header.value)).map_err(|_| Malformed)?;
            parts.headers.append(name, value);
        }
        if let Some(reason) = read.reason.filter(|reason| Some(*reason) != parts.status.canonical_reason())
            && !reason.is_empty()
            && let Ok(reason) = ReasonPhrase::try_from(bytes.slice_ref(reason.as_bytes()))
        {
            parts.extensions.insert(reason);
        }
        let coming = framing(&parts, bodiless)?;
        let persistent = !matches!(coming, Coming::UntilClose | Coming::Switch) && stays_open(&parts);
        Ok(Self { parts, coming, persistent })
    }
}

/// RFC 9112 §6.3. One length in digits, or one `chunked`, or neither: whoever sends more may be splitting answers.
fn framing(parts: &Parts, bodiless: bool) -> Result<Coming, Malformed> {
    let mut lengths = parts.headers.get_all(CONTENT_LENGTH).iter();
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    let (length, coding) = (lengths.next(), codings.next());
    if lengths.next().is_some() || codings.next().is_some() || (length.is_some() && coding.is_some()) {
        return Err(Malformed);
    }
    let chunked = match coding {
        // RFC 9112 §6.1: a transfer coding in HTTP/1.0 means faulty framing
        Some(coding) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") && parts.version > Version::HTTP_10 => true,
        Some(_) => return Err(Malformed),
        None => false,
    };
    let length = length.map(|length| length_of(length.as_bytes()).ok_or(Malformed)).transpose()?;
    let status = parts.status;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Coming::Switch);
    }
    if bodiless || status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok(Coming::Nothing);
    }
    Ok(match length {
        _ if chunked => Coming::Chunked(Chunks::lenient()),
        Some(0) => Coming::Nothing,
        Some(length) => Coming::Length(length),
        None => Coming::UntilClose,
    })
}

/// RFC 9112 §9.3.
fn stays_open(parts: &Parts) -> bool {
    let says = |wanted: &[u8]| {
        let all = parts.headers.get_all(CONNECTION).iter();
        all.flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(wanted))
    };
    !says(b"close") && (parts.version > Version::HTTP_10 || says(b"keep-alive"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Head, Malformed> {
        Head::read(&Bytes::copy_from_slice(text.as_bytes()), false)
    }

    /// How an answer with these fields is framed, and whether another may follow.
    fn framed(status_line: &str, fields: &str) -> Result<(String, bool), Malformed> {
        let head = read(&format!("{status_line}\r\n{fields}\r\n"))?;
        Ok((format!("{:?}", head.coming).split(' ').next().unwrap().to_owned(), head.persistent))
    }

    #[test]
    fn the_end_is_found_however_the_head_comes() {
        for text in ["HTTP/1.1 200 OK\r\na: b\r\n\r\nbody\n\n", "HTTP/1.1 200 OK\na: b\n\nbody\r\n\r\n", "X\r\n\nbody"]
        {
            let whole = text.find("body").unwrap();
            for step in 1..text.len() {
                let (mut from, mut found) = (0, None);
                for here in (0..text.len()).step_by(step).chain([text.len()]) {
                    found = found.or_else(|| end(&text.as_bytes()[..here], &mut from));
                }
                assert_eq!(found, Some(whole), "{text:?} by {step}");
            }
        }
    }

    #[test]
    fn an_answer_is_framed_by_one_thing() {
        let ok = "HTTP/1.1 200 OK";
        let is = |coming: &str, persistent| Ok((coming.to_owned(), persistent));
        assert_eq!(framed(ok, "content-length: 12\r\n"), is("Length(12)", true));
        assert_eq!(framed(ok, "content-length: 0\r\n"), is("Nothing", true));
        assert_eq!(framed(ok, "content-length: 1\r\nconnection: x, Close\r\n"), is("Length(1)", false));
        assert_eq!(framed(ok, ""), is("UntilClose", false));
        assert_eq!(framed("HTTP/1.0 200 OK", "content-length: 1\r\n"), is("Length(1)", false));
        assert_eq!(framed("HTTP/1.0 200 OK", "content-length: 1\r\nconnection: Keep-Alive\r\n"), is("Length(1)", true));
        assert_eq!(framed("HTTP/1.1 204 No Content", "content-length: 7\r\n"), is("Nothing", true));
        assert_eq!(framed("HTTP/1.1 304 Not Modified", "content-length: 7\r\n"), is("Nothing", true));
        assert!(framed(ok, "transfer-encoding: Chunked\r\n").unwrap().0.starts_with("Chunked"));
        for fields in [
            "content-length: 1\r\ntransfer-encoding: chunked\r\n",
            "content-length: 1\r\ncontent-length: 1\r\n",
            "content-length: 1, 1\r\n",
            "content-length: +1\r\n",
            "content-length: \r\n",
            "content-length: 99999999999999999999\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "a : b\r\n",
            "a: b\r\n c\r\n",
            "a: b\0\r\n",
        ] {
            assert_eq!(framed(ok, fields), Err(Malformed), "{fields:?}");
        }
        assert_eq!(framed("HTTP/1.0 200 OK", "transfer-encoding: chunked\r\n"), Err(Malformed));
        for line in ["HTTP/2 200 OK", "HTTP/1.1 20 OK", "HTTP/1.1 2000 OK", "ICY 200 OK", ""] {
            assert_eq!(framed(line, "content-length: 0\r\n"), Err(Malformed), "{line:?}");
        }
    }

    #[test]
    fn the_answer_to_a_head_has_no_body_whatever_it_says() {
        let head = Head::read(&Bytes::from_static(b"HTTP/1.1 200 Fine\r\ncontent-length: 9\r\n\r\n"), true).unwrap();
        assert!(matches!(head.coming, Coming::Nothing) && head.persistent);
        assert_eq!(head.parts.extensions.get::<ReasonPhrase>().unwrap().as_bytes(), b"Fine");
    }
}
