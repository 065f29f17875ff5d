//! Where one WebSocket frame ends and the next begins (RFC 6455 §5.2): all that is known of what a tunnel carries.

use portcullis_actors::proxy::leash::Cut;

/// Counts frames as they pass.
#[derive(Debug, Default)]
pub struct Frames {
    head: Vec<u8>,
    left: u64,
}

impl Frames {
    /// Looks at bytes that have passed.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let here = u64::try_from(bytes.len()).unwrap_or(u64::MAX).min(self.left);
                self.left -= here;
                bytes = bytes.get(usize::try_from(here).unwrap_or(bytes.len())..).unwrap_or_default();
                continue;
            }
            self.head.push(*first);
            bytes = rest;
            if let Some(length) = payload(&self.head) {
                self.head.clear();
                self.left = length;
            }
        }
    }

    /// Whether a frame of our own may stand here.
    pub const fn is_between(&self) -> bool {
        self.head.is_empty() && self.left == 0
    }
}

/// The length of what follows a head, once the head is whole.
fn payload(head: &[u8]) -> Option<u64> {
    let second = *head.get(1)?;
    let (extended, short) = match second & 0x7f {
        126 => (2, None),
        127 => (8, None),
        length => (0, Some(u64::from(length))),
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    if head.len() < 2 + extended + mask {
        return None;
    }
    let long = || head.iter().skip(2).take(extended).fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    Some(short.unwrap_or_else(long))
}

/// A close frame (RFC 6455 §5.5.1): 1001 where the node goes away, 1008 where a rule is why.
pub const fn close(why: Cut) -> [u8; 4] {
    let code: u16 = match why {
        Cut::Stopping => 1001,
        Cut::PermitLost | Cut::Stalled | Cut::Idle | Cut::AnswerLate | Cut::UploadLate | Cut::Lasting => 1008,
    };
    let [high, low] = code.to_be_bytes();
    [0x88, 2, high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match length {
            0..126 => frame.push(mask | u8::try_from(length).unwrap()),
            126..65536 => {
                frame.push(mask | 126);
                frame.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend_from_slice(&u64::try_from(length).unwrap().to_be_bytes());
            }
        }
        // what is inside looks like heads as well
        frame.resize(frame.len() + usize::from(masked) * 4 + length, 0x82);
        frame
    }

    #[test]
    fn a_frame_may_follow_exactly_where_one_has_ended() {
        for length in [0, 1, 125, 126, 127, 65535, 65536, 70_000] {
            for masked in [false, true] {
                let frame = frame(length, masked);
                for piece in [1, 3, frame.len()] {
                    let mut frames = Frames::default();
                    for _ in 0..2 {
                        let mut passed = 0;
                        for bytes in frame.chunks(piece) {
                            frames.pass(bytes);
                            passed += bytes.len();
                            assert_eq!(
                                frames.is_between(),
                                passed == frame.len(),
                                "{length} {masked} {piece} {passed}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_reason_of_a_close_is_a_code_of_the_rfc() {
        assert_eq!(close(Cut::PermitLost), [0x88, 2, 0x03, 0xf0]);
        assert_eq!(close(Cut::Stopping), [0x88, 2, 0x03, 0xe9]);
    }
}
