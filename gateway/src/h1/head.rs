//! One request head, byte by byte: RFC 9112 §2 to §6, and nothing that a lenient reader would add.

use portcullis_config::limits::REQUEST_HEAD_BYTES;

/// The first byte that may not pass, counted from the start of what was just read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// How many bytes before it may pass.
    pub at: usize,
}

/// How the body after a head is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// The request asks for a WebSocket.
    Switch,
}

/// A head that is being read.
#[derive(Debug, Default)]
pub struct Head {
    line: Vec<u8>,
    read: usize,
    begun: bool,
    blank: bool,
    old: bool,
    length: Option<u64>,
    chunked: bool,
    switch: bool,
}

impl Head {
    /// Takes bytes up to the end of the head; says how many, and the framing once the head is whole.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn take(&mut self, bytes: &[u8]) -> Result<(usize, Option<Framing>), Violation> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                self.keep(rest).ok_or(Violation { at })?;
                return Ok((bytes.len(), None));
            };
            let part = rest.get(..end).unwrap_or_default();
            let violation = Violation { at: at + end };
            let framing = if self.line.is_empty() {
                // the usual case: the whole line is here, and is read where it is
                self.count(part).ok_or(Violation { at })?;
                self.whole_line(part)
            } else {
                self.keep(part).ok_or(Violation { at })?;
                let line = std::mem::take(&mut self.line);
                self.whole_line(&line)
            };
            at += end + 1;
            if let Some(framing) = framing.ok_or(violation)? {
                return Ok((at, Some(framing)));
            }
        }
        Ok((at, None))
    }

    fn count(&mut self, bytes: &[u8]) -> Option<()> {
        self.read += bytes.len() + 1;
        (self.read <= REQUEST_HEAD_BYTES + 2).then_some(())
    }

    fn keep(&mut self, bytes: &[u8]) -> Option<()> {
        self.count(bytes)?;
        self.line.extend_from_slice(bytes);
        Some(())
    }

    /// One line up to its LF: `None` refuses it, `Some(Some(…))` ends the head.
    fn whole_line(&mut self, line: &[u8]) -> Option<Option<Framing>> {
        let line = line.strip_suffix(b"\r")?;
        if !self.begun {
            if line.is_empty() {
                // RFC 9112 §2.2: one empty line before the request line is forgiven
                return (!std::mem::replace(&mut self.blank, true)).then_some(None);
            }
            self.begun = true;
            return self.request_line(line).map(|()| None);
        }
        if line.is_empty() {
            return self.framing().map(Some);
        }
        self.field(line).map(|()| None)
    }

    fn request_line(&mut self, line: &[u8]) -> Option<()> {
        let mut parts = line.split(|byte| *byte == b' ');
        let (method, target, version) = (parts.next()?, parts.next()?, parts.next()?);
        let whole = parts.next().is_none() && !target.is_empty();
        self.old = version == b"HTTP/1.0";
        let version = self.old || version == b"HTTP/1.1";
        // a fragment is never sent (RFC 9112 §3.2), and hyper would cut it off without a word
        let clean = target.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#');
        (whole && version && clean && is_token(method)).then_some(())
    }

    fn field(&mut self, line: &[u8]) -> Option<()> {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (line.get(..colon)?, line.get(colon + 1..)?);
        let clean = value.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f));
        if !is_token(name) || !clean {
            return None;
        }
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.is_some() || value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
                return None;
            }
            self.length = Some(std::str::from_utf8(value).ok()?.parse().ok()?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return None;
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.switch |= is_for_websocket(value);
        }
        Some(())
    }

    fn framing(&self) -> Option<Framing> {
        match (self.length, self.chunked) {
            (Some(_), true) => None,
            // RFC 9112 §6.1: a transfer coding in HTTP/1.0 means faulty framing
            (None, true) if self.old => None,
            // nothing switches protocols and has a body
            (Some(1..), false) | (None, true) if self.switch => None,
            (None, true) => Some(Framing::Chunked),
            (Some(0) | None, false) if self.switch => Some(Framing::Switch),
            (Some(length), false) => Some(Framing::Length(length)),
            (None, false) => Some(Framing::None),
        }
    }
}

/// Whether a value of `Upgrade` asks for a WebSocket, among whatever else. Any other protocol is not spoken here, and the
/// request is one like others (RFC 9110 §7.8).
pub fn is_for_websocket(value: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|protocol| {
        let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"websocket")
    })
}

/// RFC 9110 §5.6.2
fn is_token(bytes: &[u8]) -> bool {
    let is_tchar = |byte: &u8| matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'^'..=b'z' | b'|' | b'~');
    !bytes.is_empty() && bytes.iter().all(is_tchar)
}
