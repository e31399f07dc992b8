//! Times: for people in the local zone or as an age, in JSON in UTC.

use jiff::tz::TimeZone;

use crate::ids::Time;

/// A time for people, in the local zone: `2026-01-02 15:04:05+01:00`.
#[must_use]
pub fn time(t: Time) -> String {
    time_in(t, TimeZone::system())
}

fn time_in(t: Time, zone: TimeZone) -> String {
    match timestamp(t) {
        Some(stamp) => stamp.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S%:z").to_string(),
        None => format!("{} s after 1970", t.secs),
    }
}

/// A time in JSON: RFC 3339 in UTC with nanoseconds where there are any.
#[must_use]
pub fn json_time(t: Time) -> String {
    timestamp(t).map_or_else(|| format!("{}.{:09}", t.secs, t.nanos), |stamp| stamp.to_string())
}

fn timestamp(t: Time) -> Option<jiff::Timestamp> {
    // From the epoch plus a duration: a time before 1970 has negative seconds and positive nanoseconds.
    jiff::Timestamp::from_second(t.secs).ok()?.checked_add(std::time::Duration::from_nanos(u64::from(t.nanos))).ok()
}

/// How long ago `t` was at `now`, in its largest unit: `3h ago`; `in 5m` for one to come.
#[must_use]
pub fn age(t: Time, now: Time) -> String {
    let seconds = i128::from(now.secs) - i128::from(t.secs);
    let length = seconds.unsigned_abs();
    let (n, unit) = match length {
        0..60 => (length, "s"),
        60..3600 => (length / 60, "m"),
        3600..86_400 => (length / 3600, "h"),
        _ => (length / 86_400, "d"),
    };
    if seconds < 0 { format!("in {n}{unit}") } else { format!("{n}{unit} ago") }
}

/// Writes many times of one zone, most of them in the second of the one before: `2026-01-02 15:04:05.123`.
#[derive(Debug)]
pub struct Clock {
    zone: TimeZone,
    second: Option<(i64, String)>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { zone: TimeZone::system(), second: None }
    }
}

impl Clock {
    /// Columns that [`Clock::show`] takes for every year of four digits.
    pub const WIDTH: usize = 23;

    /// A local time with milliseconds.
    pub fn show(&mut self, t: Time) -> String {
        let millis = t.nanos / 1_000_000;
        if let Some((secs, text)) = &self.second
            && *secs == t.secs
        {
            return format!("{text}.{millis:03}");
        }
        let Some(stamp) = timestamp(Time { secs: t.secs, nanos: 0 }) else { return format!("{} s after 1970", t.secs) };
        let text = stamp.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string();
        let shown = format!("{text}.{millis:03}");
        self.second = Some((t.secs, text));
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_and_beyond_all_calendars_are_shown() {
        let utc = TimeZone::UTC;
        assert_eq!(time_in(Time { secs: 0, nanos: 0 }, utc.clone()), "1970-01-01 00:00:00+00:00");
        assert_eq!(json_time(Time { secs: -1, nanos: 500_000_000 }), "1969-12-31T23:59:59.5Z");
        assert_eq!(time_in(Time { secs: i64::MAX, nanos: 0 }, utc.clone()), format!("{} s after 1970", i64::MAX));
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        assert_eq!(time_in(Time { secs: 1_767_366_245, nanos: 1 }, zone), "2026-01-02 16:04:05+01:00");
        let mut clock = Clock { zone: utc, second: None };
        assert_eq!(clock.show(Time { secs: i64::MIN, nanos: 0 }), format!("{} s after 1970", i64::MIN));
        assert_eq!(clock.show(Time { secs: 1_767_366_245, nanos: 7_999_999 }), "2026-01-02 15:04:05.007");
        assert_eq!(clock.show(Time { secs: 1_767_366_245, nanos: 999_999_999 }), "2026-01-02 15:04:05.999");
        assert_eq!(clock.show(Time { secs: 1_767_366_246, nanos: 0 }), "2026-01-02 15:04:06.000");
    }

    #[test]
    fn an_age_has_one_unit() {
        let at = |secs| Time { secs, nanos: 0 };
        for (then, text) in
            [(0, "0s ago"), (-59, "59s ago"), (-60, "1m ago"), (-3 * 3600 - 59, "3h ago"), (-86_400 * 9, "9d ago"), (90, "in 1m")]
        {
            assert_eq!(age(at(1_000_000 + then), at(1_000_000)), text);
        }
        assert!(age(at(i64::MIN), at(i64::MAX)).ends_with("d ago"), "no length overflows");
    }
}
