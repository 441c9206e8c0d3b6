//! When changes may be made: windows that open by weekday and time of day, and freezes, each in a time zone of its own.
//!
//! Pure: whoever asks brings the time. The zones' rules are built in, so that every machine answers alike.

use std::fmt;

use jiff::civil::{Date, DateTime, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// How far ahead an opening or a closing is looked for: windows come round every week.
const AHEAD_DAYS: i64 = 9;
/// The days with their names in plans.
pub(super) const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];
/// Minutes of a day.
pub(super) const DAY: u16 = 1_440;

/// Every window and freeze of a plan. Without any, changes may be made at all times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calendar {
    /// Changes may be made in any of them; at all times when there is none.
    pub windows: Vec<Window>,
    /// No change may be made in any of them.
    pub freezes: Vec<Freeze>,
}

/// A stretch of time that comes round every week.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The days that it begins on.
    pub days: Vec<Weekday>,
    /// Minutes after midnight.
    pub from: u16,
    /// Minutes after midnight, at most a whole day; not after `from` is on the next day.
    pub to: u16,
    /// Whose midnight.
    pub zone: TimeZone,
}

/// A stretch of time in which nothing changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// Its first moment, on the zone's clocks.
    pub from: DateTime,
    /// The first moment after it.
    pub to: DateTime,
    /// Whose clocks.
    pub zone: TimeZone,
    /// Why, for people.
    pub reason: String,
}

/// What the calendar says of a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Changes may be made.
    Open {
        /// Until then, milliseconds since the Unix epoch; `None` is for as long as anybody can tell.
        until_ms: Option<i64>,
    },
    /// No change may be made.
    Closed {
        /// Why, and when it opens again: one sentence.
        why: String,
        /// When it opens, milliseconds since the Unix epoch; `None` when it does not within a week after the last freeze.
        opens_ms: Option<i64>,
    },
}

impl Calendar {
    /// The plan says nothing about it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty() && self.freezes.is_empty()
    }

    /// Why no change may be made at `at_ms`, and when one may again; `None` when one may.
    #[must_use]
    pub fn closed(&self, at_ms: i64) -> Option<String> {
        match self.look(at_ms) {
            Opening::Open { .. } => None,
            Opening::Closed { why, .. } => Some(why),
        }
    }

    /// What it says of a moment, milliseconds since the Unix epoch.
    #[must_use]
    pub fn look(&self, at_ms: i64) -> Opening {
        if self.is_empty() {
            return Opening::Open { until_ms: None };
        }
        let frozen = self.freezes.iter().filter(|f| f.holds(at_ms)).max_by_key(|f| f.ends());
        if frozen.is_none() && self.in_window(at_ms) {
            let ends = self.edges(at_ms, Edge::Close);
            return Opening::Open { until_ms: ends.into_iter().filter(|t| !self.is_open(*t)).min() };
        }
        let opens_ms = self.edges(at_ms, Edge::Open).into_iter().filter(|t| self.is_open(*t)).min();
        let zone = frozen.map(|f| &f.zone).or(self.windows.first().map(|w| &w.zone));
        let until = match (opens_ms, zone) {
            (Some(ms), Some(zone)) => format!("closed until {}", moment(ms, zone)),
            _ => "closed, with no opening in the week after it".to_owned(),
        };
        let why = match frozen {
            Some(f) => format!("{until}: change freeze, {}", f.reason),
            None => format!("{until}: outside the change window"),
        };
        Opening::Closed { why, opens_ms }
    }

    fn is_open(&self, at_ms: i64) -> bool {
        self.in_window(at_ms) && !self.freezes.iter().any(|f| f.holds(at_ms))
    }

    fn in_window(&self, at_ms: i64) -> bool {
        let near = |w: &Window| w.around(at_ms, 2, 1).iter().any(|(from, to)| (*from..*to).contains(&at_ms));
        self.windows.is_empty() || self.windows.iter().any(near)
    }

    /// Every moment after `at_ms` at which it may open, or close: what begins or ends then.
    fn edges(&self, at_ms: i64, edge: Edge) -> Vec<i64> {
        let ends = self.freezes.iter().map(Freeze::ends);
        let mut found: Vec<i64> = match edge {
            Edge::Open => ends.clone().collect(),
            Edge::Close => self.freezes.iter().map(Freeze::begins).collect(),
        };
        // A freeze may cover every window of a week: what follows it counts too.
        for from in ends.filter(|e| *e > at_ms).chain([at_ms]) {
            let spans = self.windows.iter().flat_map(|w| w.around(from, 2, AHEAD_DAYS));
            found.extend(spans.map(|(opens, closes)| if edge == Edge::Open { opens } else { closes }));
        }
        found.retain(|t| *t > at_ms);
        found
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Edge {
    Open,
    Close,
}

impl Window {
    /// Its occurrences that begin from some days before a moment to some days after it. Empty ones, where a clock was set, are left out.
    fn around(&self, at_ms: i64, before: i64, after: i64) -> Vec<(i64, i64)> {
        let today = stamp(at_ms).to_zoned(self.zone.clone()).date();
        let days = (-before..=after).filter_map(|n| today.checked_add(n.days()).ok());
        let on = days.filter(|d| self.days.contains(&d.weekday()));
        on.map(|d| (self.at(d, self.from), self.at(self.last_day(d), self.to))).filter(|(from, to)| from < to).collect()
    }

    fn last_day(&self, first: Date) -> Date {
        if self.to > self.from { first } else { first.saturating_add(1.day()) }
    }

    fn at(&self, day: Date, minutes: u16) -> i64 {
        let (day, minutes) = if minutes >= DAY { (day.saturating_add(1.day()), minutes - DAY) } else { (day, minutes) };
        instant(day.at((minutes / 60) as i8, (minutes % 60) as i8, 0, 0), &self.zone)
    }
}

impl Freeze {
    fn begins(&self) -> i64 {
        instant(self.from, &self.zone)
    }

    fn ends(&self) -> i64 {
        instant(self.to, &self.zone)
    }

    fn holds(&self, at_ms: i64) -> bool {
        (self.begins()..self.ends()).contains(&at_ms)
    }
}

impl fmt::Display for Window {
    /// `mon, tue from 09:00 to 17:00, Europe/Berlin`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days: Vec<&str> = DAYS.iter().filter(|(_, d)| self.days.contains(d)).map(|(n, _)| *n).collect();
        let [from, to] = [self.from, self.to].map(|m| format!("{:02}:{:02}", m / 60, m % 60));
        write!(f, "{} from {from} to {to}, {}", days.join(", "), self.zone.iana_name().unwrap_or("UTC"))
    }
}

impl fmt::Display for Freeze {
    /// `from 2026-12-18 00:00 until 2027-01-05 00:00, Europe/Berlin: year-end closing`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [from, to] = [self.from, self.to].map(|t| t.strftime("%Y-%m-%d %H:%M").to_string());
        write!(f, "from {from} until {to}, {}: {}", self.zone.iana_name().unwrap_or("UTC"), self.reason)
    }
}

/// A time on a zone's clocks. One that is skipped when clocks go forward is that much later; of one that comes twice, the first.
fn instant(t: DateTime, zone: &TimeZone) -> i64 {
    zone.to_ambiguous_timestamp(t).compatible().map_or(i64::MAX, Timestamp::as_millisecond)
}

fn stamp(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(if ms < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

/// `Mon 2026-11-30 09:00 Europe/Berlin`.
fn moment(ms: i64, zone: &TimeZone) -> String {
    let t = stamp(ms).to_zoned(zone.clone());
    let name = zone.iana_name().unwrap_or("UTC");
    format!("{} {name}", t.strftime("%a %Y-%m-%d %H:%M"))
}

#[cfg(test)]
#[path = "calendar_tests.rs"]
mod tests;
