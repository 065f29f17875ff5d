//! A chunked body: RFC 9112 §7.1, and nothing that a lenient reader would add.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis_config::limits::{CHUNK_EXTENSION_BYTES, CHUNK_LINE_BYTES, CHUNK_TRAILER_BYTES, REQUEST_HEADERS};

/// The body is not framed as a chunked one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is badly framed")]
pub struct Malformed;

/// What was read of a chunked body.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// Content.
    Data(Bytes),
    /// Its end, with its trailer fields.
    End(HeaderMap),
    /// Nothing: more must come first.
    More,
}

/// A chunked body that is being read.
#[derive(Debug)]
pub struct Chunks {
    step: Step,
    extensions: usize,
    /// Bytes of trailers.
    trailing: usize,
    trailers: HeaderMap,
    lenient: bool,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Size,
    Data(u64),
    /// The CRLF after the data.
    End,
    Trailer,
}

impl Default for Chunks {
    fn default() -> Self {
        Self { step: Step::Size, extensions: 0, trailing: 0, trailers: HeaderMap::new(), lenient: false }
    }
}

impl Chunks {
    /// An upstream's: some pad their sizes with blanks or sign each chunk in an extension, and their trailers may have any
    /// name. Where a chunk ends is not less certain for that.
    pub fn lenient() -> Self {
        Self { lenient: true, ..Self::default() }
    }

    /// Takes what comes next from the front of `read`.
    ///
    /// # Errors
    /// [`Malformed`]: what follows cannot be told from content.
    pub fn next(&mut self, read: &mut BytesMut) -> Result<Read, Malformed> {
        loop {
            match self.step {
                Step::Data(left) => {
                    if read.is_empty() {
                        return Ok(Read::More);
                    }
                    let data = content(read, left);
                    let left = left.saturating_sub(length(&data));
                    self.step = if left == 0 { Step::End } else { Step::Data(left) };
                    return Ok(Read::Data(data));
                }
                Step::End => match (read.first(), read.get(1)) {
                    (None, _) | (Some(b'\r'), None) => return Ok(Read::More),
                    (Some(b'\r'), Some(b'\n')) => {
                        read.advance(2);
                        self.step = Step::Size;
                    }
                    (Some(_), _) => return Err(Malformed),
                },
                Step::Size => {
                    let Some(line) = line(read)? else { return Ok(Read::More) };
                    self.step = self.size(&line)?;
                }
                Step::Trailer => {
                    let Some(line) = line(read)? else { return Ok(Read::More) };
                    if line.is_empty() {
                        return Ok(Read::End(std::mem::take(&mut self.trailers)));
                    }
                    self.trailer(line)?;
                }
            }
        }
    }

    fn size(&mut self, line: &[u8]) -> Result<Step, Malformed> {
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
        self.extensions += line.len() - digits.len();
        let digits = if self.lenient { digits.trim_ascii_end() } else { digits };
        let countable = !digits.is_empty() && digits.len() <= 15 && digits.iter().all(u8::is_ascii_hexdigit);
        if !countable || (self.extensions > CHUNK_EXTENSION_BYTES && !self.lenient) {
            return Err(Malformed);
        }
        let digits = std::str::from_utf8(digits).map_err(|_| Malformed)?;
        let size = u64::from_str_radix(digits, 16).map_err(|_| Malformed)?;
        Ok(if size == 0 { Step::Trailer } else { Step::Data(size) })
    }

    fn trailer(&mut self, mut line: Bytes) -> Result<(), Malformed> {
        self.trailing += line.len();
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Malformed)?;
        let name = line.split_to(colon);
        line.advance(1);
        let token = self.lenient || name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
        if !token || self.trailing > CHUNK_TRAILER_BYTES || self.trailers.len() >= REQUEST_HEADERS {
            return Err(Malformed);
        }
        let name = HeaderName::from_bytes(&name).map_err(|_| Malformed)?;
        let value = HeaderValue::from_bytes(line.trim_ascii()).map_err(|_| Malformed)?;
        self.trailers.append(name, value);
        Ok(())
    }
}

/// Up to `left` bytes from the front of `read`, without copying them.
pub fn content(read: &mut BytesMut, left: u64) -> Bytes {
    let here = usize::try_from(left).unwrap_or(usize::MAX).min(read.len());
    read.split_to(here).freeze()
}

/// How many bytes these are.
pub fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// A line without its CRLF, once it is whole.
fn line(read: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
    let Some(end) = read.iter().position(|byte| *byte == b'\n') else {
        return if read.len() > CHUNK_LINE_BYTES { Err(Malformed) } else { Ok(None) };
    };
    if end > CHUNK_LINE_BYTES {
        return Err(Malformed);
    }
    let mut line = read.split_to(end + 1).freeze();
    if !line.ends_with(b"\r\n") {
        return Err(Malformed);
    }
    line.truncate(end - 1);
    let clean = line.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f));
    clean.then_some(Some(line)).ok_or(Malformed)
}
