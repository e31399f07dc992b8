//! Reads a WHEN: the moment of a project's history that a person means.
//!
//! | written | meaning |
//! |---|---|
//! | `@1a2f` | after the operation with this log sequence number (hexadecimal) |
//! | `now`, `now~3` | the newest state; that of three versions before it |
//! | `yesterday`, `yesterday 15:04`, `today 9:30` | that day at that time of the clock; without one, at the time that it is now |
//! | `2h ago`, `1h30m ago`, `7d ago` | so long ago; a day is 24 hours |
//! | `2026-01-02`, `2026-01-02 15:04:05`, `15:04` | local time; a day without a time is its first moment |
//! | `2026-01-02T15:04:05Z`, `...+01:00` | RFC 3339 |
//! | anything else of `0-9 a-f` (up to 16) or `A-Z 2-7` (up to 53) | the id of a change, or the start of one |
//!
//! The forms do not overlap: a time has a `-`, a `:` or a space in it, which no id has. So `20260102` and `10d` are starts of ids.

use jiff::civil::{Date, DateTime, Time as Clock};
use jiff::{ToSpan, Zoned};

pub use crate::control::message::When;
use crate::error::{Class, Error, Result};
use crate::ids::{Lsn, Time};
use crate::project::units;

/// Reads `text`; `now` gives the present and the zone.
///
/// # Errors
/// [`Class::Usage`] when it is none of the forms.
pub fn parse(text: &str, now: &Zoned) -> Result<When> {
    let text = text.trim();
    if let Some(hex) = text.strip_prefix('@') {
        let digits = !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
        return match hex.parse::<Lsn>() {
            Ok(lsn) if digits => Ok(When::Lsn(lsn)),
            _ => Err(wrong(text, "an LSN is `@` and up to 16 hexadecimal digits")),
        };
    }
    if let Some(rest) = text.strip_prefix("now") {
        return match (rest, rest.strip_prefix('~').map(|n| (n, n.parse::<u32>()))) {
            ("", _) => Ok(When::Now { back: 0 }),
            (_, Some((n, Ok(back)))) if n.bytes().all(|b| b.is_ascii_digit()) => Ok(When::Now { back }),
            _ => Err(wrong(text, "it is `now`, or `now~3` for three versions before")),
        };
    }
    if let Some(length) = text.strip_suffix("ago").filter(|l| l.ends_with(char::is_whitespace)) {
        let length = units::duration(length).map_err(|why| wrong(text, &why))?;
        return match now.timestamp().checked_sub(length) {
            Ok(then) => Ok(When::Time(time(then))),
            Err(_) => Err(wrong(text, "that is before all calendars")),
        };
    }
    let (first, rest) = text.split_once(char::is_whitespace).map_or((text, ""), |(a, b)| (a, b.trim_start()));
    let day = match first {
        "today" => Some(now.clone()),
        "yesterday" => now.checked_sub(1.day()).ok(),
        _ => None,
    };
    if let Some(day) = day {
        if rest.is_empty() {
            return Ok(When::Time(time(day.timestamp())));
        }
        let clock = clock(rest).ok_or_else(|| wrong(text, "after the day comes a time like 15:04"))?;
        return local(day.date().to_datetime(clock), now).ok_or_else(|| wrong(text, "there is no such time"));
    }
    if text.contains(['-', ':', ' ']) {
        return moment(text, now).ok_or_else(|| wrong(text, "there is no such time; write it like `2026-01-02 15:04`"));
    }
    let hex = (1..=16).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let base32 = (1..=53).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'A'..=b'Z' | b'2'..=b'7'));
    if hex || base32 { Ok(When::Id(text.to_owned())) } else { Err(wrong(text, "it is neither an id nor a time")) }
}

fn moment(text: &str, now: &Zoned) -> Option<When> {
    // With an offset or a zone it stands for itself; without one it is local.
    if let Ok(stamp) = text.parse::<jiff::Timestamp>() {
        return Some(When::Time(time(stamp)));
    }
    if let Ok(zoned) = text.parse::<Zoned>() {
        return Some(When::Time(time(zoned.timestamp())));
    }
    if let Some(clock) = clock(text) {
        return local(now.date().to_datetime(clock), now);
    }
    if let Ok(date) = text.parse::<Date>()
        && text.len() <= 10
    {
        return local(date.to_datetime(Clock::midnight()), now);
    }
    local(text.parse::<DateTime>().ok()?, now)
}

/// `15:04`, `9:30`, `15:04:05.5`.
fn clock(text: &str) -> Option<Clock> {
    let padded = if text.find(':') == Some(1) { format!("0{text}") } else { text.to_owned() };
    let plain = padded.bytes().all(|b| b.is_ascii_digit() || matches!(b, b':' | b'.')) && padded.contains(':');
    if plain { padded.parse().ok() } else { None }
}

fn local(at: DateTime, now: &Zoned) -> Option<When> {
    at.to_zoned(now.time_zone().clone()).ok().map(|z| When::Time(time(z.timestamp())))
}

fn time(stamp: jiff::Timestamp) -> Time {
    std::time::SystemTime::from(stamp).into()
}

fn wrong(text: &str, why: &str) -> Error {
    Error::new(Class::Usage, format!("`{}` is not a moment: {why}", text.escape_debug()))
        .hint("a moment is @LSN, a change id, `now`, `now~3`, `2h ago`, `yesterday` or a time like `2026-01-02 15:04`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Zoned {
        "2026-03-10T12:30:15.25+01:00[Europe/Berlin]".parse().unwrap()
    }

    fn at(rfc3339: &str) -> When {
        When::Time(time(rfc3339.parse().unwrap()))
    }

    #[test]
    fn every_form_means_what_the_table_says() {
        let id = |s: &str| When::Id(s.into());
        for (text, meaning) in [
            ("@1a2f", When::Lsn(Lsn(0x1a2f))),
            ("@0", When::Lsn(Lsn(0))),
            ("@ffffffffffffffff", When::Lsn(Lsn(u64::MAX))),
            ("@1A2F", When::Lsn(Lsn(0x1a2f))),
            ("now", When::Now { back: 0 }),
            (" now ", When::Now { back: 0 }),
            ("now~3", When::Now { back: 3 }),
            ("2h ago", at("2026-03-10T09:30:15.25Z")),
            ("10m ago", at("2026-03-10T11:20:15.25Z")),
            ("7d ago", at("2026-03-03T11:30:15.25Z")),
            ("0 ago", at("2026-03-10T11:30:15.25Z")),
            ("yesterday", at("2026-03-09T11:30:15.25Z")),
            ("yesterday 9:30", at("2026-03-09T08:30:00Z")),
            ("today 00:00", at("2026-03-09T23:00:00Z")),
            ("15:04", at("2026-03-10T14:04:00Z")),
            ("2026-01-02", at("2026-01-01T23:00:00Z")),
            ("2026-01-02 15:04", at("2026-01-02T14:04:00Z")),
            ("2026-01-02 15:04:05.5", at("2026-01-02T14:04:05.5Z")),
            ("2026-01-02T15:04", at("2026-01-02T14:04:00Z")),
            ("2026-07-02 15:04", at("2026-07-02T13:04:00Z")),
            ("2026-01-02T15:04:05Z", at("2026-01-02T15:04:05Z")),
            ("2026-01-02 15:04:05+05:30", at("2026-01-02T09:34:05Z")),
            ("2026-01-02T15:04[America/New_York]", at("2026-01-02T20:04:00Z")),
            ("1969-12-31 23:59:59.5Z", at("1969-12-31T23:59:59.5Z")),
            ("1a2f", id("1a2f")),
            ("0123456789abcdef", id("0123456789abcdef")),
            ("20260102", id("20260102")),
            ("10d", id("10d")),
            ("MZXW6YTB", id("MZXW6YTB")),
            ("7", id("7")),
        ] {
            assert_eq!(parse(text, &now()).unwrap(), meaning, "{text}");
        }
    }

    #[test]
    fn what_is_no_form_is_a_usage_error_with_a_hint() {
        for text in [
            "",
            " ",
            "@",
            "@xyz",
            "@+1",
            "@-1",
            "@10000000000000000",
            "@@1",
            "now~",
            "now~-1",
            "now~+1",
            "now~x",
            "nowhere",
            "now~99999999999",
            "ago",
            "ago ago",
            "-2h ago",
            "2 ago",
            "1mo ago",
            "999999999999999999h ago",
            "9999999h ago x",
            "2026-02-30",
            "2026-13-01 10:00",
            "25:00",
            "15:04:99",
            "yesterday noon",
            "tomorrow!",
            "0123456789abcdef0",
            "1a2F",
            "0O",
            "a b",
            "2026-01-02 15:04 Z Z",
            "é",
            "-p",
            "2026-01-02T15:04:05+99:99",
        ] {
            let e = parse(text, &now()).map_err(|e| (e.class, e.hint.is_some()));
            assert_eq!(e, Err((Class::Usage, true)), "{text:?}");
        }
    }

    #[test]
    fn a_prefix_matches_hexadecimal_in_lower_and_base32_in_upper_case() {
        let id = 0x00ab_0000_0000_0001;
        for (prefix, matches) in [
            ("00ab", true),
            ("00ab000000000001", true),
            ("0", true),
            ("ab", false),
            ("MZ", true),
            ("mz", false),
            ("MZXW6X", false),
            ("", false),
        ] {
            assert_eq!(When::id_matches(prefix, id, Some("MZXW6")), matches, "{prefix}");
        }
        assert!(!When::id_matches("MZ", id, None));
    }
}
