//! The messages of `envoy.service.auth.v3.Authorization/Check`, as far as they are needed, in the encoding of Protocol
//! Buffers: read where they lie, written into one buffer.

/// What a request says of itself, of `CheckRequest.attributes.request.http`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Check<'a> {
    /// `method`.
    pub method: &'a str,
    /// `path`, with its query.
    pub path: &'a str,
    /// `host`.
    pub host: &'a str,
    /// The header `cookie`.
    pub cookie: Option<&'a str>,
    /// The header `x-request-id`.
    pub request_id: &'a str,
}

/// The answer, a `CheckResponse`.
#[derive(Debug)]
pub enum Verdict<'a> {
    /// Let it pass with these headers in the place of what it has, and without those.
    Pass {
        /// Names and values.
        headers: &'a [(&'static str, String)],
        /// Names.
        without: &'a [&'static str],
    },
    /// Refuse it.
    Refuse {
        /// The HTTP status.
        status: u16,
        /// The body.
        body: &'static str,
    },
}

/// The codes of gRPC for what is refused with 401, and with anything else.
const UNAUTHENTICATED: u64 = 16;
const PERMISSION_DENIED: u64 = 7;
/// `HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD`.
const OVERWRITE: u64 = 2;

impl<'a> Check<'a> {
    /// Reads one; `None` for what is no message.
    pub fn read(message: &'a [u8]) -> Option<Self> {
        let attributes = field(message, 1)?;
        let http = field(field(attributes, 4)?, 2)?;
        let mut check = Self::default();
        for (number, value) in Fields(http) {
            match number {
                2 => check.method = text(value)?,
                3 => {
                    let name = field(value, 1).and_then(text).unwrap_or_default();
                    let content = field(value, 2).and_then(text);
                    match name {
                        "cookie" => check.cookie = content,
                        "x-request-id" => check.request_id = content.unwrap_or_default(),
                        _ => {}
                    }
                }
                4 => check.path = text(value)?,
                5 => check.host = text(value)?,
                _ => {}
            }
        }
        Some(check)
    }
}

impl Verdict<'_> {
    /// Writes it.
    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        match self {
            Self::Pass { headers, without } => {
                // `status` with its code 0, which is left out as every default is
                put(&mut out, 1, &[]);
                let mut ok = Vec::with_capacity(1024);
                for (name, value) in *headers {
                    put(&mut ok, 2, &header(name, value));
                }
                for name in *without {
                    put(&mut ok, 5, name.as_bytes());
                }
                put(&mut out, 3, &ok);
            }
            Self::Refuse { status, body } => {
                let code = if *status == 401 { UNAUTHENTICATED } else { PERMISSION_DENIED };
                put(&mut out, 1, &number(1, code));
                let mut denied = Vec::new();
                put(&mut denied, 1, &number(1, u64::from(*status)));
                put(&mut denied, 3, body.as_bytes());
                put(&mut out, 2, &denied);
            }
        }
        out
    }
}

/// `HeaderValueOption`
fn header(name: &str, value: &str) -> Vec<u8> {
    let mut pair = Vec::with_capacity(name.len() + value.len() + 8);
    put(&mut pair, 1, name.as_bytes());
    put(&mut pair, 2, value.as_bytes());
    let mut option = Vec::with_capacity(pair.len() + 8);
    put(&mut option, 1, &pair);
    option.extend_from_slice(&number(3, OVERWRITE));
    option
}

fn put(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    out.extend_from_slice(bytes);
}

fn number(field: u64, value: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(4);
    varint(&mut out, field << 3);
    varint(&mut out, value);
    out
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let byte = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        if value == 0 {
            return out.push(byte);
        }
        out.push(byte | 0x80);
    }
}

/// The fields of a message that have a length; others are passed over. Ends where nothing more can be read.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let key = self.varint()?;
            match key & 7 {
                0 => {
                    self.varint()?;
                }
                1 => self.0 = self.0.get(8..)?,
                2 => {
                    let length = usize::try_from(self.varint()?).ok()?;
                    let (value, rest) = self.0.split_at_checked(length)?;
                    self.0 = rest;
                    return Some((key >> 3, value));
                }
                5 => self.0 = self.0.get(4..)?,
                _ => return None,
            }
        }
    }
}

impl Fields<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

fn field(message: &[u8], number: u64) -> Option<&[u8]> {
    Fields(message).find_map(|(found, value)| (found == number).then_some(value))
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(parts: &[(u64, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (field, bytes) in parts {
            put(&mut out, *field, bytes);
        }
        out
    }

    #[test]
    fn a_check_is_read_whatever_else_stands_in_it() {
        let long = "v".repeat(300);
        let cookie = message(&[(1, b"cookie"), (2, b"a=b")]);
        let other = message(&[(1, b"user-agent"), (2, long.as_bytes())]);
        let mut http =
            message(&[(1, b"id"), (2, b"GET"), (3, &other), (3, &cookie), (4, b"/x?y=1"), (5, b"app.localhost")]);
        http.extend_from_slice(&number(9, 300));
        let time = number(1, 1_790_000_000);
        let request = message(&[(1, &time), (2, &http)]);
        let attributes = message(&[(1, b"source"), (4, &request)]);
        let encoded = message(&[(1, &attributes)]);
        let check = Check::read(&encoded).unwrap();
        let wanted =
            Check { method: "GET", path: "/x?y=1", host: "app.localhost", cookie: Some("a=b"), request_id: "" };
        assert_eq!(check, wanted);
    }

    #[test]
    fn what_is_cut_short_is_no_message() {
        assert_eq!(Check::read(&[]), None);
        assert_eq!(Check::read(&[0x0a, 0x05, 0x01]), None);
        assert_eq!(Check::read(&[0xff; 11]), None);
    }

    #[test]
    fn a_verdict_carries_its_headers_or_its_status() {
        let headers = [("x-pomerium-claim-email", "alice@example.com".to_owned())];
        let passed = Verdict::Pass { headers: &headers, without: &["cookie"] }.write();
        let ok = field(&passed, 3).unwrap();
        let pair = field(field(ok, 2).unwrap(), 1).unwrap();
        assert_eq!(field(pair, 2).and_then(text), Some("alice@example.com"));
        assert_eq!(field(ok, 5).and_then(text), Some("cookie"));
        assert_eq!(field(&passed, 1), Some(&[][..]), "the code of what passes is 0");
        let refused = Verdict::Refuse { status: 403, body: "no" }.write();
        assert_eq!(field(&refused, 1), Some(&number(1, PERMISSION_DENIED)[..]));
        assert_eq!(field(field(&refused, 2).unwrap(), 1), Some(&[0x08, 0x93, 0x03][..]));
    }
}
