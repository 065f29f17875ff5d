//! The one spelling of a path (RFC 3986 §6.2.2), and whether somebody behind us could read it as another one.

use std::borrow::Cow;

use portcullis_config::{EscapedSlashes, Reading};

use super::BadRequest;

/// What became of a path.
#[derive(Default)]
pub(super) struct Canonical {
    /// The canonical path, where it is another text than the one that came.
    pub(super) rewritten: Option<String>,
    /// A lenient back-end could read it as another path.
    pub(super) odd: bool,
    /// It had escaped slashes, which are slashes now.
    pub(super) unescaped: bool,
}

/// Makes a path canonical: decodes what need not be escaped, merges slashes, then removes dot segments; each as far as
/// that is wanted. What is refused is so in any case.
pub(super) fn canonical(path: &str, reading: Reading) -> Result<Canonical, BadRequest> {
    if !path.starts_with('/') {
        return Err(BadRequest::Target);
    }
    if is_plain(path) {
        return Ok(Canonical::default());
    }
    let came = match reading.escaped_slashes {
        EscapedSlashes::Redirect | EscapedSlashes::Forward => unescape_slashes(path),
        EscapedSlashes::Reject | EscapedSlashes::Keep => Cow::Borrowed(path),
    };
    let decoded = decode_unreserved(&came)?;
    if decoded.contains("%2F") && reading.escaped_slashes == EscapedSlashes::Reject {
        return Err(BadRequest::EscapedSlash);
    }
    let rewritten = match (reading.normalize_path, reading.merge_slashes) {
        (true, true) => remove_dot_segments(&decoded),
        (true, false) => remove_dot_segments_alone(&decoded),
        (false, true) => merge_slashes(&came),
        (false, false) => came.clone().into_owned(),
    };
    Ok(Canonical {
        odd: is_odd(&decoded),
        unescaped: matches!(came, Cow::Owned(_)),
        rewritten: (rewritten != path).then_some(rewritten),
    })
}

/// `%2F` and `%5C` become what they stand for.
fn unescape_slashes(path: &str) -> Cow<'_, str> {
    let is_slash = |at: usize| {
        let digits = path.get(at..at + 3)?;
        [("%2f", '/'), ("%5c", '\\')].iter().find(|(escape, _)| digits.eq_ignore_ascii_case(escape)).map(|(_, to)| *to)
    };
    if !path.match_indices('%').any(|(at, _)| is_slash(at).is_some()) {
        return Cow::Borrowed(path);
    }
    let mut unescaped = String::with_capacity(path.len());
    let mut from = 0;
    for (at, _) in path.match_indices('%') {
        if let Some(slash) = is_slash(at) {
            unescaped.push_str(path.get(from..at).unwrap_or_default());
            unescaped.push(slash);
            from = at + 3;
        }
    }
    unescaped.push_str(path.get(from..).unwrap_or_default());
    Cow::Owned(unescaped)
}

fn merge_slashes(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !merged.ends_with('/') {
            merged.push(character);
        }
    }
    merged
}

/// RFC 3986 §5.2.4, with empty segments as segments like others.
fn remove_dot_segments_alone(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

/// Whether there is nothing to do: most paths. No escape, no parameter, no empty segment, none that begins with a dot.
fn is_plain(path: &str) -> bool {
    let mut before = 0;
    path.bytes().all(|byte| {
        let after_slash = before == b'/';
        before = byte;
        match byte {
            b'/' | b'.' => !after_slash,
            b';' => false,
            _ => is_path_character(byte),
        }
    })
}

/// Decodes escaped unreserved characters, writes other escapes in upper case, and escapes what a path must not hold.
/// Backslashes and bytes beyond ASCII stay as they are: they make the path odd.
fn decode_unreserved(path: &str) -> Result<String, BadRequest> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let (value, after) = escaped(after).ok_or(BadRequest::PercentEncoding)?;
                rest = after;
                match value {
                    _ if is_unreserved(value) => decoded.push(value),
                    _ => escape(value, &mut decoded),
                }
            }
            b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}' => escape(byte, &mut decoded),
            b'/' | b'\\' | 0x80.. => decoded.push(byte),
            _ if is_path_character(byte) => decoded.push(byte),
            _ => return Err(BadRequest::Target),
        }
    }
    String::from_utf8(decoded).map_err(|_| BadRequest::Target)
}

/// RFC 3986 §5.2.4 over merged slashes. Nothing leads above the root.
fn remove_dot_segments(path: &str) -> String {
    let mut kept = String::with_capacity(path.len());
    let mut ends_in_slash = false;
    for segment in path.split('/').skip(1) {
        ends_in_slash = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => kept.truncate(kept.rfind('/').unwrap_or(0)),
            _ => {
                kept.push('/');
                kept.push_str(segment);
            }
        }
    }
    if ends_in_slash {
        kept.push('/');
    }
    kept
}

/// Looked at before dot segments are removed, so that what they take away is judged as well.
fn is_odd(decoded: &str) -> bool {
    let mut bytes = Vec::with_capacity(decoded.len());
    let mut rest = decoded.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let value = match escaped(after) {
            Some((value, after)) if byte == b'%' => {
                rest = after;
                if value == b'%' && is_escaped_again(after) {
                    return true;
                }
                value
            }
            _ if byte >= 0x80 => return true,
            _ => byte,
        };
        if matches!(value, b'\\' | 0..=0x1f | 0x7f) {
            return true;
        }
        bytes.push(value);
    }
    // overlong forms are not UTF-8
    let Ok(text) = std::str::from_utf8(&bytes) else { return true };
    text.contains(is_lookalike) || has_misplaced_parameter(text)
}

/// Whether what follows a `%25` would be an escape of something that matters, once decoded.
fn is_escaped_again(after: &[u8]) -> bool {
    if after.first().is_some_and(|byte| byte.eq_ignore_ascii_case(&b'u')) {
        return after.get(1).is_some_and(u8::is_ascii_hexdigit);
    }
    escaped(after).is_some_and(|(value, _)| matches!(value, b'.' | b'/' | b'\\' | b'%' | b';' | 0..=0x1f | 0x7f..))
}

/// Characters that compatibility normalisation (Unicode NFKC) turns into a dot, a separator or a percent sign.
fn is_lookalike(character: char) -> bool {
    matches!(
        character,
        '\u{2024}'
            | '\u{2025}'
            | '\u{fe52}'
            | '\u{ff0e}'
            | '\u{ff0f}'
            | '\u{fe68}'
            | '\u{ff3c}'
            | '\u{ff05}'
            | '\u{fe6a}'
    )
}

/// A parameter on an empty or a dot segment, or dot segments beside any: a servlet container cuts parameters off
/// first and removes dot segments afterwards.
fn has_misplaced_parameter(text: &str) -> bool {
    let is_dots = |segment: &str| matches!(segment, "." | "..");
    text.contains(';')
        && text.split('/').skip(1).any(|segment| match segment.split_once(';') {
            Some((name, _)) => name.is_empty() || is_dots(name),
            None => is_dots(segment),
        })
}

/// See [`super::Canonical::other_readings`].
pub(super) fn other_readings(path: &str, reading: Reading) -> Vec<String> {
    let is_usual = reading.normalize_path && reading.merge_slashes && reading.escaped_slashes != EscapedSlashes::Keep;
    if is_usual {
        return other_reading(path).into_iter().collect();
    }
    if is_plain(path) || !path.starts_with('/') {
        return Vec::new();
    }
    let usual = decode_unreserved(&unescape_slashes(path)).map(|decoded| remove_dot_segments(&decoded));
    // it could be decoded when it came
    let usual = usual.unwrap_or_else(|_| path.to_owned());
    let twice = other_reading(&usual);
    std::iter::once(usual).chain(twice).filter(|reading| reading != path).collect()
}

/// Whether somebody behind us could find a dot segment in a path.
pub(super) fn has_dot_segments(path: &str) -> bool {
    !is_plain(path) && segments(path).is_none_or(|decoded| decoded.split(SLASHES).any(|it| matches!(it, "." | "..")))
}

/// Whether somebody behind us could be led by a path to above where it begins.
pub(super) fn leads_above(path: &str) -> bool {
    if is_plain(path) {
        return false;
    }
    let Some(decoded) = segments(path) else { return true };
    let mut depth = 0_usize;
    decoded.split(SLASHES).any(|segment| {
        match segment {
            "" | "." => {}
            ".." => match depth.checked_sub(1) {
                Some(above) => depth = above,
                None => return true,
            },
            _ => depth += 1,
        }
        false
    })
}

const SLASHES: [char; 2] = ['/', '\\'];

/// A path as whoever decodes all of it reads its segments.
fn segments(path: &str) -> Option<String> {
    decode_unreserved(&unescape_slashes(path)).ok()
}

/// Of a path that is canonical in the usual way.
fn other_reading(path: &str) -> Option<String> {
    if !path.contains(['%', ';']) {
        return None;
    }
    let decoded = if path.contains("%25") { decode_again(path) } else { None };
    let whole = decoded.as_deref().unwrap_or(path);
    let mut reading = String::with_capacity(whole.len());
    for (index, segment) in before(whole, ["%23", "%3F"]).split('/').enumerate() {
        if index > 0 {
            reading.push('/');
        }
        reading.push_str(before(segment, [";", "%3B"]));
    }
    let reading = remove_dot_segments(&reading);
    (reading != path).then_some(reading)
}

/// What a second decoding makes of a path that escapes escapes; `None` where it makes no path.
fn decode_again(path: &str) -> Option<String> {
    let mut parts = path.split("%25");
    let mut decoded = parts.next()?.to_owned();
    for part in parts {
        decoded.push_str(if escaped(part.as_bytes()).is_some() { "%" } else { "%25" });
        decoded.push_str(part);
    }
    decode_unreserved(&decoded).ok()
}

fn before<'a>(text: &'a str, marks: [&str; 2]) -> &'a str {
    let end = marks.iter().filter_map(|mark| text.find(mark)).min();
    end.and_then(|end| text.get(..end)).unwrap_or(text)
}

/// The value of two hex digits, and what follows them.
fn escaped(after: &[u8]) -> Option<(u8, &[u8])> {
    let ([high, low], rest) = after.split_first_chunk::<2>()?;
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some((digit(high)? << 4 | digit(low)?, rest))
}

fn escape(value: u8, out: &mut Vec<u8>) {
    let digit = |value: u8| if value < 10 { b'0' + value } else { b'A' + value - 10 };
    out.extend([b'%', digit(value >> 4), digit(value & 0x0f)]);
}

/// RFC 3986 §2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// `pchar` of RFC 3986 §3.3, escapes apart.
const fn is_path_character(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@')
}
