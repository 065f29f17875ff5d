//! How questions, answers and words look on the wire: a version, then one sealed text.
//!
//! A question is bound to its subject, has a random id and a time. An answer is bound to subject and question: to the
//! hash of every byte of it. A word is bound to its subject and has a time. Nothing opens in the place of another.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_config::limits::{CLOCK_LEEWAY, ROLE_MESSAGE_BYTES};
use portcullis_events::Time;

use crate::ask::AskError;
use crate::keyring::{Sealer, random};

/// What everything on the wire begins with: the version of these forms and of the messages in them.
const VERSION: &str = "1 ";

/// What was asked, as far as its answer has to know.
pub struct Asked(String);

/// A question on `subject`, ready to be sent at `now`, and what its answer will be held against.
///
/// # Errors
/// [`AskError::Bytes`] where it is too large, or cannot be sealed.
pub fn question(sealer: &Sealer, subject: &str, message: &[u8], now: Time) -> Result<(Vec<u8>, Asked), AskError> {
    let payload = sealed(sealer, &format!("question\0{subject}"), message, now)?;
    let asked = asked(subject, &payload);
    Ok((payload, asked))
}

/// The message in a question that came on `subject`, and what its answer is to be bound to.
///
/// # Errors
/// [`AskError::Version`], [`AskError::Forged`], [`AskError::Clocks`].
pub fn open_question(sealer: &Sealer, subject: &str, payload: &[u8], now: Time) -> Result<(Vec<u8>, Asked), AskError> {
    let message = opened(sealer, &format!("question\0{subject}"), payload, now)?;
    Ok((message, asked(subject, payload)))
}

/// The answer to a question.
///
/// # Errors
/// [`AskError::Bytes`] where it is too large, or cannot be sealed.
pub fn answer(sealer: &Sealer, to: &Asked, message: &[u8]) -> Result<Vec<u8>, AskError> {
    written(sealer, &to.0, message)
}

/// What answers a question that cannot be opened: it says our version, and nothing else.
#[must_use]
pub fn no_answer() -> Vec<u8> {
    VERSION.as_bytes().to_vec()
}

/// The message in the answer to a question.
///
/// # Errors
/// [`AskError::Version`], [`AskError::Forged`].
pub fn open_answer(sealer: &Sealer, to: &Asked, payload: &[u8]) -> Result<Vec<u8>, AskError> {
    read(sealer, &to.0, payload)
}

/// A word to all who listen to `subject`.
///
/// # Errors
/// [`AskError::Bytes`] where it is too large, or cannot be sealed.
pub fn word(sealer: &Sealer, subject: &str, message: &[u8], now: Time) -> Result<Vec<u8>, AskError> {
    sealed(sealer, &format!("word\0{subject}"), message, now)
}

/// The message in a word that came on `subject`.
///
/// # Errors
/// [`AskError::Version`], [`AskError::Forged`], [`AskError::Clocks`].
pub fn open_word(sealer: &Sealer, subject: &str, payload: &[u8], now: Time) -> Result<Vec<u8>, AskError> {
    opened(sealer, &format!("word\0{subject}"), payload, now)
}

fn asked(subject: &str, payload: &[u8]) -> Asked {
    let hash = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, payload));
    Asked(format!("answer\0{subject}\0{hash}"))
}

/// Time and a random id before the message: the same is never asked twice in the same bytes.
fn sealed(sealer: &Sealer, audience: &str, message: &[u8], now: Time) -> Result<Vec<u8>, AskError> {
    let id: [u8; 16] = random().map_err(|_| AskError::Bytes)?;
    let plain = [&now.millis().to_be_bytes()[..], &id[..], message].concat();
    written(sealer, audience, &plain)
}

fn opened(sealer: &Sealer, audience: &str, payload: &[u8], now: Time) -> Result<Vec<u8>, AskError> {
    let plain = read(sealer, audience, payload)?;
    let (at, rest) = plain.split_first_chunk::<8>().ok_or(AskError::Forged)?;
    let (_, message) = rest.split_first_chunk::<16>().ok_or(AskError::Forged)?;
    let at = Time::from_millis(i64::from_be_bytes(*at));
    if at > now.plus(CLOCK_LEEWAY) || at < now.minus(CLOCK_LEEWAY) {
        return Err(AskError::Clocks);
    }
    Ok(message.to_vec())
}

fn written(sealer: &Sealer, audience: &str, plain: &[u8]) -> Result<Vec<u8>, AskError> {
    let text = sealer.seal(audience, plain).map_err(|_| AskError::Bytes)?;
    let payload = [VERSION, &text].concat().into_bytes();
    if payload.len() > ROLE_MESSAGE_BYTES { Err(AskError::Bytes) } else { Ok(payload) }
}

fn read(sealer: &Sealer, audience: &str, payload: &[u8]) -> Result<Vec<u8>, AskError> {
    if payload.len() > ROLE_MESSAGE_BYTES {
        return Err(AskError::Bytes);
    }
    let text = std::str::from_utf8(payload).map_err(|_| AskError::Forged)?;
    let text = match text.strip_prefix(VERSION) {
        Some(text) => text,
        None if text.split_once(' ').is_some_and(|(version, _)| version.parse::<u16>().is_ok()) => {
            return Err(AskError::Version);
        }
        None => return Err(AskError::Forged),
    };
    sealer.open(audience, text).ok_or(AskError::Forged)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use portcullis_config::Secret;

    use super::*;
    use crate::keyring::{Keyring, Purpose};

    const NOW: Time = Time::from_secs(1_000_000);

    fn sealer(byte: u8) -> Sealer {
        Keyring::new(vec![Secret::new(vec![byte; 32])]).unwrap().sealer(Purpose::Role).unwrap()
    }

    #[test]
    fn a_question_opens_on_its_own_subject_for_a_minute() {
        let ours = sealer(1);
        let (payload, _) = question(&ours, "a.b", b"hello", NOW).unwrap();
        let open = |sealer: &Sealer, subject, now| open_question(sealer, subject, &payload, now).map(|(text, _)| text);
        assert_eq!(open(&ours, "a.b", NOW).as_deref(), Ok(b"hello".as_slice()));
        assert_eq!(open(&ours, "a.c", NOW), Err(AskError::Forged));
        assert_eq!(open(&sealer(2), "a.b", NOW), Err(AskError::Forged));
        let later = NOW.plus(CLOCK_LEEWAY).plus(Duration::from_millis(1));
        assert_eq!(open(&ours, "a.b", later), Err(AskError::Clocks));
        assert_eq!(open(&ours, "a.b", NOW.minus(CLOCK_LEEWAY).minus(Duration::from_millis(1))), Err(AskError::Clocks));
        assert_eq!(open_word(&ours, "a.b", &payload, NOW), Err(AskError::Forged), "a question is no word");
    }

    #[test]
    fn an_answer_opens_for_the_question_that_it_was_made_for_and_for_no_other() {
        let ours = sealer(1);
        let (payload, asked) = question(&ours, "a.b", b"hello", NOW).unwrap();
        let (_, told) = open_question(&ours, "a.b", &payload, NOW).unwrap();
        let yes = answer(&ours, &told, b"yes").unwrap();
        assert_eq!(open_answer(&ours, &asked, &yes).as_deref(), Ok(b"yes".as_slice()));
        // the same message, asked again in the same moment; on another subject; by somebody with another key
        let (_, again) = question(&ours, "a.b", b"hello", NOW).unwrap();
        let (_, elsewhere) = question(&ours, "a.c", b"hello", NOW).unwrap();
        for other in [again, elsewhere] {
            assert_eq!(open_answer(&ours, &other, &yes), Err(AskError::Forged));
        }
        assert_eq!(open_answer(&sealer(2), &asked, &yes), Err(AskError::Forged));
        for forged in [answer(&sealer(2), &told, b"yes").unwrap(), payload, b"1 yes".to_vec(), b"yes".to_vec()] {
            assert_eq!(open_answer(&ours, &asked, &forged), Err(AskError::Forged));
        }
        for at in 0..yes.len() {
            let mut changed = yes.clone();
            changed[at] ^= 1;
            assert!(open_answer(&ours, &asked, &changed).is_err(), "at {at}");
        }
    }

    #[test]
    fn another_version_is_called_that() {
        let ours = sealer(1);
        let (payload, asked) = question(&ours, "a.b", b"hello", NOW).unwrap();
        let newer = [b"2", &payload[1..]].concat();
        assert_eq!(open_question(&ours, "a.b", &newer, NOW).err(), Some(AskError::Version));
        assert_eq!(open_answer(&ours, &asked, b"2 "), Err(AskError::Version));
        assert_eq!(open_answer(&ours, &asked, &no_answer()), Err(AskError::Forged));
    }

    #[test]
    fn nothing_larger_than_the_bound_is_sent_or_read() {
        let ours = sealer(1);
        let large = vec![b'x'; ROLE_MESSAGE_BYTES];
        assert_eq!(question(&ours, "a.b", &large, NOW).err(), Some(AskError::Bytes));
        assert_eq!(open_question(&ours, "a.b", &vec![b'1'; ROLE_MESSAGE_BYTES + 1], NOW).err(), Some(AskError::Bytes));
    }
}
