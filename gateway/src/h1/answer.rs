//! An answer as HTTP/1.1 writes it: the head, and how its body is framed (RFC 9112 §6.3).

use std::cell::RefCell;
use std::io::Write as _;

use bytes::Buf;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderMap, Method, StatusCode, Version};
use hyper::body::SizeHint;
use hyper::ext::ReasonPhrase;
use portcullis_actors::clock;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// What of a request decides how it is answered.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// `HEAD`
    pub head: bool,
    /// HTTP/1.0
    pub old: bool,
    /// Whether the client reads trailers.
    pub trailers: bool,
}

impl Asked {
    /// Of a request that nobody understood.
    pub const UNKNOWN: Self = Self { head: false, old: false, trailers: false };

    /// What a request asks for.
    pub fn of(method: &Method, version: Version, trailers: bool) -> Self {
        Self { head: *method == Method::HEAD, old: version == Version::HTTP_10, trailers }
    }
}

/// How the body of an answer is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// There is none, whatever length the head names.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// By the end of the connection: for HTTP/1.0 alone.
    UntilClose,
}

impl Coding {
    /// That of an answer whose body has this length. After `switching` there is no body, but another protocol.
    pub fn of(asked: Asked, status: StatusCode, size: &SizeHint, switching: bool) -> Self {
        let empty = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        match size.exact() {
            _ if switching || asked.head || empty || status.is_informational() => Self::None,
            Some(length) => Self::Length(length),
            None if asked.old => Self::UntilClose,
            None => Self::Chunked,
        }
    }
}

/// What is said of the connection after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It takes another request.
    Open,
    /// It closes.
    Close,
    /// It switches protocols: what the answer itself says is written.
    Switch,
}

/// Writes the head of an answer. `own` is the length of a body of ours that is not sent, because only the head was asked
/// for.
pub fn head(out: &mut Vec<u8>, parts: &Parts, asked: Asked, coding: Coding, own: Option<u64>, after: After) {
    status_line(out, parts, asked);
    let switching = after == After::Switch;
    // a length that stands for a body that is not there (RFC 9110 §8.6)
    let keeps_length = coding == Coding::None && (asked.head || parts.status == StatusCode::NOT_MODIFIED) && !switching;
    let mut dated = false;
    for (name, value) in &parts.headers {
        let skipped = match *name {
            CONNECTION => !switching,
            CONTENT_LENGTH => !keeps_length,
            TRANSFER_ENCODING => true,
            _ => false,
        };
        if !skipped {
            dated |= *name == DATE;
            field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    // writing to memory cannot fail
    let _ = match coding {
        Coding::Length(length) => write!(out, "content-length: {length}\r\n"),
        Coding::Chunked => out.write_all(b"transfer-encoding: chunked\r\n"),
        Coding::None if keeps_length && !parts.headers.contains_key(CONTENT_LENGTH) => match own {
            Some(length @ 1..) => write!(out, "content-length: {length}\r\n"),
            Some(0) | None => Ok(()),
        },
        Coding::None | Coding::UntilClose => Ok(()),
    };
    match after {
        After::Close => field(out, b"connection", b"close"),
        After::Open if asked.old => field(out, b"connection", b"keep-alive"),
        After::Open | After::Switch => {}
    }
    if !dated {
        date(out);
    }
    out.extend_from_slice(b"\r\n");
}

fn status_line(out: &mut Vec<u8>, parts: &Parts, asked: Asked) {
    let status = parts.status;
    out.extend_from_slice(if asked.old { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    match parts.extensions.get::<ReasonPhrase>() {
        Some(reason) => out.extend_from_slice(reason.as_bytes()),
        None => out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes()),
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a field line.
pub fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// RFC 9110 §5.6.7
const IMF_FIXDATE: &[BorrowedFormatItem<'_>] =
    format_description!("date: [weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT\r\n");

thread_local! {
    /// The second that was written last, and how.
    static NOW: RefCell<(i64, Vec<u8>)> = const { RefCell::new((i64::MIN, Vec::new())) };
}

fn date(out: &mut Vec<u8>) {
    let second = clock::now().secs();
    NOW.with_borrow_mut(|(written, line)| {
        if *written != second {
            line.clear();
            *written = second;
            let now = OffsetDateTime::from_unix_timestamp(second).ok();
            // a time that cannot be written is left out
            if now.and_then(|now| now.format_into(line, IMF_FIXDATE).ok()).is_none() {
                line.clear();
            }
        }
        out.extend_from_slice(line);
    });
}

/// Writes the beginning of a chunk; its content is followed by CRLF.
pub fn chunk(out: &mut Vec<u8>, length: usize) {
    // writing to memory cannot fail
    let _ = write!(out, "{length:x}\r\n");
}

/// Writes the end of a chunked body, with its trailer fields.
pub fn last_chunk(out: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Takes as much from the front of `data` as the length allows that was announced.
pub fn within(coding: &mut Coding, mut data: bytes::Bytes) -> bytes::Bytes {
    if let Coding::Length(left) = coding {
        let here = usize::try_from(*left).unwrap_or(usize::MAX).min(data.remaining());
        data.truncate(here);
        *left = left.saturating_sub(super::chunk::length(&data));
    }
    data
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderValue, Response};

    use super::*;

    /// The head of an answer with these fields, without its date.
    fn written(
        status: u16,
        fields: &[(&'static str, &str)],
        asked: Asked,
        size: &SizeHint,
        after: After,
    ) -> (String, Coding) {
        let mut parts = Response::builder().status(status).body(()).unwrap().into_parts().0;
        for (name, value) in fields {
            parts.headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let coding = Coding::of(asked, parts.status, size, after == After::Switch);
        let mut out = Vec::new();
        head(&mut out, &parts, asked, coding, size.exact(), after);
        let text = String::from_utf8(out).unwrap();
        let (before, rest) = text.split_once("date: ").unwrap();
        let (date, rest) = rest.split_once("\r\n").unwrap();
        assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
        (format!("{before}{rest}"), coding)
    }

    const PLAIN: Asked = Asked { head: false, old: false, trailers: false };
    const HEAD: Asked = Asked { head: true, ..PLAIN };
    const OLD: Asked = Asked { old: true, ..PLAIN };

    #[test]
    fn an_answer_is_framed_once_and_by_what_its_body_is() {
        let (exact, unknown) = (SizeHint::with_exact(2), SizeHint::default());
        let lies = [("content-length", "7"), ("transfer-encoding", "gzip"), ("connection", "x"), ("a", "b")];
        for (status, asked, size, head, coding) in [
            (200, PLAIN, &exact, "HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 2\r\n\r\n", Coding::Length(2)),
            (200, PLAIN, &unknown, "HTTP/1.1 200 OK\r\na: b\r\ntransfer-encoding: chunked\r\n\r\n", Coding::Chunked),
            (200, HEAD, &exact, "HTTP/1.1 200 OK\r\ncontent-length: 7\r\na: b\r\n\r\n", Coding::None),
            (304, PLAIN, &exact, "HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\na: b\r\n\r\n", Coding::None),
            (204, PLAIN, &exact, "HTTP/1.1 204 No Content\r\na: b\r\n\r\n", Coding::None),
            (599, PLAIN, &exact, "HTTP/1.1 599 \r\na: b\r\ncontent-length: 2\r\n\r\n", Coding::Length(2)),
            (
                200,
                OLD,
                &exact,
                "HTTP/1.0 200 OK\r\na: b\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\n",
                Coding::Length(2),
            ),
        ] {
            assert_eq!(written(status, &lies, asked, size, After::Open), (head.to_owned(), coding));
        }
        let (old, coding) = written(200, &[], OLD, &unknown, After::Close);
        assert_eq!((old.as_str(), coding), ("HTTP/1.0 200 OK\r\nconnection: close\r\n\r\n", Coding::UntilClose));
        let (ours, _) = written(404, &[], HEAD, &exact, After::Close);
        assert_eq!(ours, "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\nconnection: close\r\n\r\n");
    }

    #[test]
    fn a_switch_is_said_as_it_was_agreed() {
        let fields = [("connection", "Upgrade"), ("upgrade", "websocket"), ("content-length", "0")];
        let (head, coding) = written(101, &fields, PLAIN, &SizeHint::with_exact(0), After::Switch);
        let expected = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
        assert_eq!((head.as_str(), coding), (expected, Coding::None));
    }

    #[test]
    fn no_more_is_written_than_was_announced() {
        let mut coding = Coding::Length(3);
        assert_eq!(within(&mut coding, Bytes::from_static(b"ab")), "ab");
        assert_eq!(within(&mut coding, Bytes::from_static(b"cd")), "c");
        assert_eq!((within(&mut coding, Bytes::from_static(b"e")).as_ref(), coding), (&b""[..], Coding::Length(0)));
        let mut out = Vec::new();
        chunk(&mut out, 31);
        last_chunk(&mut out, None);
        let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("t"), HeaderValue::from_static("v"))]);
        last_chunk(&mut out, Some(&trailers));
        assert_eq!(out, b"1f\r\n0\r\n\r\n0\r\nt: v\r\n\r\n");
    }
}
