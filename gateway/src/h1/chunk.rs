//! A chunked body, byte by byte: RFC 9112 §7.1.

use super::head::Violation;

/// Longest line of a chunk's size and extensions, or of a trailer field.
const LINE_BYTES: usize = 4096;
/// Most bytes of trailer fields.
const TRAILER_BYTES: usize = 16 * 1024;

/// A chunked body that is being read.
#[derive(Debug)]
pub struct Chunks {
    step: Step,
    line: Vec<u8>,
    trailers: usize,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Size,
    Data(u64),
    /// The CRLF after the data; true once the CR was seen.
    End(bool),
    Trailer,
}

impl Default for Chunks {
    fn default() -> Self {
        Self { step: Step::Size, line: Vec::new(), trailers: 0 }
    }
}

impl Chunks {
    /// Takes bytes up to the end of the body; says how many, and whether the body has ended.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn take(&mut self, bytes: &[u8]) -> Result<(usize, bool), Violation> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match self.step {
                Step::Data(left) => {
                    let here = u64::try_from(rest.len()).unwrap_or(u64::MAX).min(left);
                    at += usize::try_from(here).unwrap_or(rest.len());
                    self.step = if here == left { Step::End(false) } else { Step::Data(left - here) };
                }
                Step::End(seen) => {
                    let wanted = if seen { b'\n' } else { b'\r' };
                    if rest.first() != Some(&wanted) {
                        return Err(Violation { at });
                    }
                    at += 1;
                    self.step = if seen { Step::Size } else { Step::End(true) };
                }
                Step::Size | Step::Trailer => {
                    let (taken, line) = self.line(rest).ok_or(Violation { at })?;
                    let Some(line) = line else { return Ok((bytes.len(), false)) };
                    // the last byte of a refused line does not pass: the line never ends
                    let violation = Violation { at: at + taken - 1 };
                    at += taken;
                    if self.end_line(&line).ok_or(violation)? {
                        return Ok((at, true));
                    }
                }
            }
        }
        Ok((at, false))
    }

    /// Collects a line: how many bytes were taken, and the line without its CRLF once it is whole.
    fn line(&mut self, bytes: &[u8]) -> Option<(usize, Option<Vec<u8>>)> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = bytes.get(..end.unwrap_or(bytes.len()))?;
        if self.line.len() + part.len() > LINE_BYTES {
            return None;
        }
        self.line.extend_from_slice(part);
        match end {
            None => Some((bytes.len(), None)),
            Some(end) => {
                let line = std::mem::take(&mut self.line);
                let line = line.strip_suffix(b"\r")?;
                let clean = line.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f));
                clean.then(|| (end + 1, Some(line.to_vec())))
            }
        }
    }

    /// What a whole line means: true ends the body, `None` refuses it.
    fn end_line(&mut self, line: &[u8]) -> Option<bool> {
        if matches!(self.step, Step::Trailer) {
            self.trailers += line.len();
            if line.is_empty() {
                return Some(true);
            }
            let name = line.split(|byte| *byte == b':').next().filter(|name| name.len() < line.len())?;
            let token = !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
            return (token && self.trailers <= TRAILER_BYTES).then_some(false);
        }
        let digits = line.split(|byte| *byte == b';').next()?;
        if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let size = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        self.step = if size == 0 { Step::Trailer } else { Step::Data(size) };
        Some(false)
    }
}
