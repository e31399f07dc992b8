//! Sizes and lengths of time as people write them.

use std::time::Duration;

use bytesize::ByteSize;
use jiff::{Span, SpanRelativeTo};

/// Reads a size in bytes: `0`, `4096`, `64KiB`, `4 GiB`, `1.5GB` (`K` is 1000, `Ki` is 1024).
///
/// # Errors
/// What is wrong, for people.
pub fn size(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    // An f64 that overflows saturates silently in bytesize: digits beyond what u64 holds are refused here.
    let digits = trimmed.chars().take_while(char::is_ascii_digit).count();
    match trimmed.parse::<ByteSize>() {
        Ok(size) if digits > 0 && digits < 20 && size.0 < u64::MAX => Ok(size.0),
        _ => Err(format!("`{}` is not a size; write it like 64KiB, 4GiB or 1000000", text.escape_debug())),
    }
}

/// Reads a length of time: `7d`, `30s`, `1h30m`, `500ms`, `0`. A day is 24 hours, a week 7 days; months and years are refused.
///
/// # Errors
/// What is wrong, for people.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = |why: &str| format!("`{}` is not a length of time{why}; write it like 30s, 1h30m or 7d", text.escape_debug());
    let trimmed = text.trim();
    if trimmed == "0" {
        return Ok(Duration::ZERO);
    }
    if trimmed.bytes().all(|b| b.is_ascii_digit()) && !trimmed.is_empty() {
        return Err(wrong(": it has no unit"));
    }
    let span: Span = trimmed.parse().map_err(|_| wrong(""))?;
    if span.get_months() != 0 || span.get_years() != 0 {
        return Err(wrong(": months and years have no fixed length"));
    }
    if span.is_negative() {
        return Err(wrong(": it is negative"));
    }
    let exact = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong(": it is too long"))?;
    exact.try_into().map_err(|_| wrong(": it is negative"))
}

/// A size for people: `4.0 MiB`.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// A length of time for people, whole units from days to milliseconds: `7d`, `1h30m`, `500ms`, `0s`.
#[must_use]
pub fn show_duration(length: Duration) -> String {
    let mut rest = length.as_secs();
    let mut out = String::new();
    for (unit, secs) in [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)] {
        if rest >= secs {
            out += &format!("{}{unit}", rest / secs);
            rest %= secs;
        }
    }
    if length.subsec_millis() > 0 {
        out += &format!("{}ms", length.subsec_millis());
    }
    if out.is_empty() { "0s".into() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64KiB", 65_536),
            ("4 GiB", 4 << 30),
            ("10MB", 10_000_000),
            ("1.5KiB", 1536),
            ("2k", 2000),
            (" 1MiB ", 1 << 20),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "-1", "4 Gigs", "GiB", "1e3", "99999999999999999999", "999999EiB", "1MiB2", "."] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lengths_of_time_are_read_as_people_write_them() {
        let hour = 3600;
        for (text, secs) in
            [("7d", 7 * 24 * hour), ("30s", 30), ("1h30m", hour + 1800), ("1w", 7 * 24 * hour), ("0", 0), ("2 hours", 2 * hour)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(secs)), "{text}");
        }
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["", "7", "-7d", "7d ago", "1mo", "1y", "soon", "99999999999999d", "7x"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lengths_of_time_are_shown_in_whole_units_and_read_back() {
        for text in ["7d", "1h30m", "500ms", "2s500ms", "1d1s"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
        assert_eq!(show_duration(Duration::ZERO), "0s");
    }
}
