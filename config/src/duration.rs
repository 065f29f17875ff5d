//! Durations in Go's syntax (`time.ParseDuration`): numbers with units, one after another.

use std::time::Duration;

/// Why a text is no duration. Never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// No number where one must stand.
    #[error("is not a duration")]
    Malformed,
    /// A number without a unit.
    #[error("is a duration without a unit")]
    NoUnit,
    /// A unit other than `ns us µs ms s m h`.
    #[error("has a unit that is not known")]
    UnknownUnit,
    /// Longer than Go can hold (about 292 years).
    #[error("is too long a duration")]
    TooLong,
    /// Below zero.
    #[error("is a negative duration")]
    Negative,
}

/// Digits after the point that count; Go ignores what does not fit its integer.
const FRACTION_DIGITS: usize = 18;

/// Parses `1h30m`, `1.5h`, `300ms`, `.5s`, `0`.
///
/// # Errors
/// The text is no duration, a negative one, or one that does not fit 63 bits of nanoseconds.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let (rest, negative) = match (text.strip_prefix('-'), text.strip_prefix('+')) {
        (Some(rest), _) => (rest, true),
        (None, Some(rest)) => (rest, false),
        (None, None) => (text, false),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(DurationError::Malformed);
    }
    let mut rest = rest;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (term, after) = term(rest)?;
        total = total.saturating_add(term);
        rest = after;
    }
    if total > u128::from(i64::MAX.unsigned_abs()) {
        return Err(DurationError::TooLong);
    }
    if negative && total > 0 {
        return Err(DurationError::Negative);
    }
    u64::try_from(total).map(Duration::from_nanos).map_err(|_| DurationError::TooLong)
}

/// The first number with its unit, in nanoseconds, and what follows it.
fn term(text: &str) -> Result<(u128, &str), DurationError> {
    let (whole, rest) = digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => digits(rest),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(DurationError::Malformed);
    }
    let end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at_checked(end).ok_or(DurationError::Malformed)?;
    let unit: u128 = match unit {
        "" => return Err(DurationError::NoUnit),
        "ns" => 1,
        // both of Unicode's micro signs, as in Go
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(DurationError::UnknownUnit),
    };
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| DurationError::TooLong)? };
    let counted = fraction.get(..FRACTION_DIGITS).unwrap_or(fraction);
    let scale = counted.bytes().fold(1_u128, |scale, _| scale * 10);
    let fraction: u128 = if counted.is_empty() { 0 } else { counted.parse().map_err(|_| DurationError::Malformed)? };
    Ok((u128::from(whole) * unit + fraction * unit / scale, rest))
}

fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_read_as_go_reads_it() {
        let nanoseconds: &[(&str, u64)] = &[
            ("0", 0),
            ("+0", 0),
            ("-0", 0),
            ("0s", 0),
            ("-0s", 0),
            ("1ns", 1),
            ("+5s", 5_000_000_000),
            ("300ms", 300_000_000),
            ("1.5h", 5_400_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("30m1h", 5_400_000_000_000),
            ("1h1h", 7_200_000_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("12us", 12_000),
            ("12\u{b5}s", 12_000),
            ("12\u{3bc}s", 12_000),
            ("14h", 50_400_000_000_000),
            ("0.000000001s", 1),
            ("0.3333333333333333333h", 1_200_000_000_000 - 1),
            ("9223372036854775807ns", 9_223_372_036_854_775_807),
        ];
        for (text, expected) in nanoseconds {
            assert_eq!(parse(text), Ok(Duration::from_nanos(*expected)), "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        use DurationError::*;
        for (text, error) in [
            ("", Malformed),
            ("-", Malformed),
            (".", Malformed),
            (".s", Malformed),
            ("s", Malformed),
            ("3000", NoUnit),
            ("1h30", NoUnit),
            ("1.5", NoUnit),
            ("1d", UnknownUnit),
            ("1 h", UnknownUnit),
            ("1H", UnknownUnit),
            ("1h ", UnknownUnit),
            ("1hour", UnknownUnit),
            ("9223372036854775808ns", TooLong),
            ("99999999999999999999999s", TooLong),
            ("3000000h", TooLong),
            ("-1s", Negative),
            ("--1s", Malformed),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }
}
