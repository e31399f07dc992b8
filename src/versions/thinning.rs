//! Which versions go when a store has become too large: pure, from their times, labels and the time it is.
//!
//! Time is cut into periods (hours, days, weeks, months of 30 days, from 1970 on, so that a period is the same whenever it is looked at);
//! of the versions that end in one period the last one stays and stands for the others. How long the periods are follows from the age; if
//! that does not free enough, everything is thinned to a [`Grain`] at least so coarse, the oldest first. Pinned versions always stay.

use std::collections::HashSet;
use std::time::Duration;

use crate::ids::{Time, VersionSeq};

/// How densely versions stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grain {
    /// Every one.
    All,
    /// One an hour.
    Hourly,
    /// One a day.
    Daily,
    /// One a week.
    Weekly,
    /// One in 30 days.
    Monthly,
    /// Only what is pinned.
    Pinned,
}

impl Grain {
    /// The coarser ones in order.
    pub const HARDER: [Self; 5] = [Self::Hourly, Self::Daily, Self::Weekly, Self::Monthly, Self::Pinned];

    /// Length of its period in seconds; `None` for all and for none.
    const fn period(self) -> Option<i64> {
        match self {
            Self::All | Self::Pinned => None,
            Self::Hourly => Some(3600),
            Self::Daily => Some(86_400),
            Self::Weekly => Some(7 * 86_400),
            Self::Monthly => Some(30 * 86_400),
        }
    }

    /// For people: what stays.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::All => "every version",
            Self::Hourly => "one version an hour",
            Self::Daily => "one version a day",
            Self::Weekly => "one version a week",
            Self::Monthly => "one version in 30 days",
            Self::Pinned => "labelled versions and the newest only",
        }
    }
}

/// Up to which age versions stay how densely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ages {
    /// All of them. `retention.keep-all`.
    pub all: Duration,
    /// One an hour. `retention.keep-hourly`.
    pub hourly: Duration,
    /// One a day; `None` for ever. Beyond it one a week. `retention.keep-daily`.
    pub daily: Option<Duration>,
}

impl Default for Ages {
    fn default() -> Self {
        Self { all: Duration::from_secs(30 * 86_400), hourly: Duration::from_secs(90 * 86_400), daily: None }
    }
}

impl Ages {
    fn grain(&self, age: i64) -> Grain {
        let within = |limit: Duration| age <= i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
        if within(self.all) {
            Grain::All
        } else if within(self.hourly) {
            Grain::Hourly
        } else if self.daily.is_none_or(within) {
            Grain::Daily
        } else {
            Grain::Weekly
        }
    }
}

/// What is known of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its number.
    pub seq: VersionSeq,
    /// Clamped time of its end: never less than that of the one before.
    pub end: Time,
    /// It must stay: labelled, the newest, or wanted by somebody.
    pub pinned: bool,
    /// It and the next one are parts of one stretch of the log, which goes or stays as a whole.
    pub goes_on: bool,
}

/// A stretch of versions that stays or goes as a whole.
struct Whole<'a> {
    parts: &'a [Known],
    end: Time,
    pinned: bool,
}

fn wholes(versions: &[Known]) -> impl DoubleEndedIterator<Item = Whole<'_>> {
    let stretches: Vec<&[Known]> = versions.chunk_by(|a, _| a.goes_on).collect();
    stretches.into_iter().map(|parts| Whole {
        parts,
        end: parts.last().map(|p| p.end).unwrap_or_default(),
        pinned: parts.iter().any(|p| p.pinned),
    })
}

/// Which of `versions` (oldest first) go, oldest first, when each has the grain of its age (with `ages`; without them, because the clock
/// cannot be trusted, age says nothing) and at least `least`.
#[must_use]
pub fn doomed(versions: &[Known], now: Time, ages: Option<&Ages>, least: Grain) -> Vec<VersionSeq> {
    let mut taken: HashSet<(Grain, i64)> = HashSet::new();
    let mut going = Vec::new();
    // From the newest on: of each period the last one stays.
    for whole in wholes(versions).rev() {
        let age = now.secs.saturating_sub(whole.end.secs);
        let grain = ages.map_or(Grain::All, |ages| ages.grain(age)).max(least);
        let stays = match (grain, grain.period()) {
            (Grain::All, _) => true,
            (_, Some(period)) => taken.insert((grain, whole.end.secs.div_euclid(period))),
            (_, None) => false,
        };
        if !stays && !whole.pinned {
            going.extend(whole.parts.iter().rev().map(|p| p.seq));
        }
    }
    going.reverse();
    going
}

/// Of what goes, the oldest quarter, and more as long as it is parts of one stretch: so much is thinned at once before it is looked whether it
/// was enough.
#[must_use]
pub fn first_quarter(versions: &[Known], going: &[VersionSeq]) -> Vec<VersionSeq> {
    let many = going.len().div_ceil(4);
    let wanted: HashSet<VersionSeq> = going.iter().copied().collect();
    let mut out = Vec::new();
    for whole in wholes(versions) {
        if out.len() >= many {
            break;
        }
        out.extend(whole.parts.iter().map(|p| p.seq).filter(|seq| wanted.contains(seq)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;
    const DAY: i64 = 86_400;
    /// A Thursday at midnight, the beginning of a week as weeks are counted here.
    const START: i64 = 7 * DAY * 2900;

    fn at(secs: i64) -> Time {
        Time { secs, nanos: 0 }
    }

    /// Versions that ended at these seconds after [`START`], numbered from 1.
    fn ended(times: &[i64]) -> Vec<Known> {
        let known = |(i, t): (usize, &i64)| Known { seq: VersionSeq(i as u64 + 1), end: at(START + t), pinned: false, goes_on: false };
        times.iter().enumerate().map(known).collect()
    }

    fn seqs(of: &[u64]) -> Vec<VersionSeq> {
        of.iter().map(|n| VersionSeq(*n)).collect()
    }

    fn ages(all: i64, hourly: i64, daily: Option<i64>) -> Ages {
        let length = |n: i64| Duration::from_secs(n as u64);
        Ages { all: length(all), hourly: length(hourly), daily: daily.map(length) }
    }

    #[test]
    fn young_ones_stay_and_old_ones_are_one_an_hour_then_one_a_day() {
        let minute = 60;
        // Two hours of day 0 (each 3), two of day 1, then two young ones.
        let versions = ended(&[
            minute,
            2 * minute,
            3 * minute,
            HOUR + minute,
            HOUR + 2 * minute,
            HOUR + 3 * minute,
            DAY + minute,
            DAY + 2 * minute,
            DAY + HOUR,
            10 * DAY,
            10 * DAY + 1,
        ]);
        let now = at(START + 10 * DAY + 2);
        assert_eq!(doomed(&versions, now, Some(&ages(20 * DAY, 30 * DAY, None)), Grain::All), [], "all young");
        assert_eq!(doomed(&versions, now, Some(&ages(DAY, 30 * DAY, None)), Grain::All), seqs(&[1, 2, 4, 5, 7]), "hourly");
        assert_eq!(doomed(&versions, now, Some(&ages(DAY, 2 * DAY, None)), Grain::All), seqs(&[1, 2, 3, 4, 5, 7, 8]), "daily");
        assert_eq!(
            doomed(&versions, now, Some(&ages(DAY, 9 * DAY, None)), Grain::All),
            seqs(&[1, 2, 3, 4, 5, 7]),
            "day 1 is hourly, day 0 daily"
        );
        let weekly = ages(DAY, 2 * DAY, Some(3 * DAY));
        assert_eq!(doomed(&versions, now, Some(&weekly), Grain::All), seqs(&[1, 2, 3, 4, 5, 6, 7, 8]), "beyond daily: weekly");
        assert_eq!(doomed(&versions, now, Some(&ages(0, 0, None)), Grain::All), seqs(&[1, 2, 3, 4, 5, 7, 8, 10]));
    }

    #[test]
    fn thinning_twice_thins_nothing_more() {
        let times: Vec<i64> = (0..500).map(|i| i * 1700).collect();
        let mut versions = ended(&times);
        let now = at(START + 500 * 1700);
        let rules = ages(DAY, 4 * DAY, None);
        for _ in 0..2 {
            let gone = doomed(&versions, now, Some(&rules), Grain::All);
            versions.retain(|v| !gone.contains(&v.seq));
        }
        assert_eq!(doomed(&versions, now, Some(&rules), Grain::All), []);
        // One a day beyond 4 days, at most one an hour, all of the last day.
        assert!(versions.len() > 50 && versions.len() < 200, "{}", versions.len());
    }

    #[test]
    fn pinned_ones_stay_at_any_grain() {
        let mut versions = ended(&[0, 1, 2, 3, 4]);
        versions[1].pinned = true;
        versions[4].pinned = true;
        for grain in Grain::HARDER {
            assert_eq!(doomed(&versions, at(START + 5), None, grain), seqs(&[1, 3, 4]), "{grain:?}");
        }
        assert_eq!(doomed(&versions, at(START + 5), Some(&ages(0, 0, None)), Grain::All), seqs(&[1, 3, 4]));
    }

    #[test]
    fn each_grain_is_coarser_than_the_one_before() {
        let times: Vec<i64> = (0..400).map(|i| i * 7 * HOUR / 2).collect();
        let versions = ended(&times);
        let now = at(START + 400 * 4 * HOUR);
        let mut before = 0;
        for grain in Grain::HARDER {
            let gone = doomed(&versions, now, None, grain).len();
            assert!(gone > before || grain == Grain::Hourly, "{grain:?}: {gone} after {before}");
            before = gone;
        }
        assert_eq!(before, 400, "without pinned ones nothing stays at last");
    }

    #[test]
    fn age_says_nothing_when_the_clock_cannot_be_trusted() {
        let versions = ended(&[0, 1, 2]);
        let later = at(START + 10_000 * DAY);
        assert_eq!(doomed(&versions, later, None, Grain::All), []);
        assert_eq!(doomed(&versions, later, Some(&Ages::default()), Grain::All), seqs(&[1, 2]));
        // A clock that was set back: what is of tomorrow is young.
        assert_eq!(doomed(&versions, at(0), Some(&Ages::default()), Grain::All), []);
    }

    #[test]
    fn parts_of_a_stretch_stay_and_go_together() {
        let mut versions = ended(&[0, 1, 2, 3, 4, 5]);
        for i in [0, 1, 3] {
            versions[i].goes_on = true;
        }
        // 1, 2 and 3 are one stretch, 4 and 5 another, 6 a third.
        assert_eq!(doomed(&versions, at(START), None, Grain::Hourly), seqs(&[1, 2, 3, 4, 5]));
        versions[1].pinned = true;
        assert_eq!(doomed(&versions, at(START), None, Grain::Hourly), seqs(&[4, 5]));
        versions[1].pinned = false;
        let all = doomed(&versions, at(START), None, Grain::Pinned);
        assert_eq!(first_quarter(&versions, &all), seqs(&[1, 2, 3]));
        assert_eq!(first_quarter(&versions, &seqs(&[4, 5, 6])), seqs(&[4, 5]));
        assert_eq!(first_quarter(&versions, &[]), []);
    }
}
