//! The controller: from readings against limits to a speed. Pure, and in whole thousandths.
//!
//! A reading over its limit lowers the speed by two fifths, at most every two seconds; when every reading is known and has been well
//! under its limit for a while, the speed grows by a twentieth of the full one a second. A reading that is not known stops growth and
//! nothing else. There is a floor, and a band far beyond a limit in which work that can wait stops.

use crate::runtime::Micros;

/// Full speed.
pub(in crate::engine) const FULL: u32 = 1_000;
/// What is left of the speed after a decrease, in thousandths.
const KEEP: u32 = 600;
/// A decrease is given time to show.
const AGAIN: Micros = Micros::from_secs(2);
/// Growth in a step.
const GROW: u32 = 50;
/// The least time between two steps of growth.
const STEP: Micros = Micros::from_secs(1);
/// For how long everything must be well under its limit before it grows.
const CALM: Micros = Micros::from_secs(3);
/// Below this share of its limit a reading is well under it.
const WELL_UNDER: f64 = 0.8;

/// What a reading's figures are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Microseconds.
    Time,
    /// A share, 0 to 1.
    Share,
    /// A plain number.
    Count,
    /// Holds or does not: 1 or 0.
    State,
}

impl Unit {
    pub(super) fn text(self, x: f64) -> String {
        match self {
            Unit::Time => Micros(x.max(0.0) as u64).to_string(),
            Unit::Share => format!("{:.1} %", x * 100.0),
            Unit::Count | Unit::State => format!("{x:.0}"),
        }
    }
}

/// A signal as it is now, and how far it may go.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reading {
    /// `replication lag`, `legacy write p99`.
    pub name: String,
    /// `None` when it is stale or was not told.
    pub actual: Option<f64>,
    pub limit: f64,
    /// From here on work that can wait stops.
    pub stop: Option<f64>,
    /// Less is worse: the limit is the least that must be.
    pub least: bool,
    pub unit: Unit,
}

impl Reading {
    /// Over 1 is over the limit; `None` when it is not known.
    fn pressure(&self) -> Option<f64> {
        let actual = self.actual.filter(|x| x.is_finite())?;
        Some(match self.least {
            false if self.limit > 0.0 => actual.max(0.0) / self.limit,
            true if actual > 0.0 => self.limit / actual,
            // Nothing is left, or nothing is allowed.
            _ if (actual - self.limit).abs() < f64::EPSILON => 1.0,
            _ => f64::MAX,
        })
    }

    /// It is known and over its limit.
    pub(super) fn is_over(&self) -> bool {
        self.pressure().is_some_and(|p| p > 1.0)
    }

    fn stops(&self) -> bool {
        match (self.actual, self.stop) {
            (Some(actual), Some(stop)) if self.least => actual <= stop,
            (Some(actual), Some(stop)) => actual >= stop,
            _ => false,
        }
    }

    /// `replication lag 6.1s > 5.0s`.
    fn over(&self) -> String {
        let actual = self.actual.unwrap_or(f64::NAN);
        let relation = if self.least { '<' } else { '>' };
        match self.unit {
            Unit::State => self.name.clone(),
            unit => format!("{} {} {relation} {}", self.name, unit.text(actual), unit.text(self.limit)),
        }
    }

    /// `replication lag 4.2s (limit 5.0s)`.
    fn near(&self) -> String {
        match (self.unit, self.actual) {
            (Unit::State, _) => self.name.clone(),
            (_, None) => format!("{} is not known", self.name),
            (unit, Some(actual)) => format!("{} {} (limit {})", self.name, unit.text(actual), unit.text(self.limit)),
        }
    }
}

/// What holds the speed down.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cause {
    /// As it was last seen.
    pub reading: Reading,
    /// The speed is held down since.
    pub since: Micros,
}

/// The state of one throttle.
#[derive(Clone, Debug)]
pub(super) struct Controller {
    /// It never goes slower, unless it stops.
    floor: u32,
    /// It may stop.
    may_stop: bool,
    speed: u32,
    stopped: bool,
    lowered: Option<Micros>,
    grown: Option<Micros>,
    calm_since: Option<Micros>,
    low_since: Option<Micros>,
    cause: Option<Cause>,
    /// Why it does not grow, while nothing is over its limit.
    waits: Option<String>,
}

impl Controller {
    pub(super) fn new(floor: u32, may_stop: bool) -> Controller {
        Controller {
            floor: floor.clamp(1, FULL),
            may_stop,
            speed: FULL,
            stopped: false,
            lowered: None,
            grown: None,
            calm_since: None,
            low_since: None,
            cause: None,
            waits: None,
        }
    }

    /// In thousandths of the full speed; 0 when it stops.
    pub(super) fn speed(&self) -> u32 {
        if self.stopped { 0 } else { self.speed }
    }

    pub(super) fn is_full(&self) -> bool {
        self.speed() == FULL
    }

    pub(super) fn cause(&self) -> Option<&Cause> {
        self.cause.as_ref()
    }

    /// It goes at most twice as fast as at its slowest, or has stopped, since.
    pub(super) fn low_since(&self) -> Option<Micros> {
        self.low_since
    }

    /// Takes the readings of a moment.
    pub(super) fn step(&mut self, now: Micros, readings: &[Reading]) {
        let known = readings.iter().filter_map(|r| Some((r, r.pressure()?)));
        let worst = known.max_by(|a, b| a.1.total_cmp(&b.1));
        let unknown = readings.iter().find(|r| r.pressure().is_none());
        self.stopped = false;
        self.waits = None;
        match (worst, unknown) {
            (Some((r, pressure)), _) if pressure > 1.0 => self.lower(now, r, readings),
            (_, Some(r)) => self.wait(r),
            (Some((r, pressure)), None) if pressure > WELL_UNDER => self.wait(r),
            _ => self.grow(now),
        }
        let low = self.stopped || (self.speed <= 2 * self.floor && !self.is_full());
        self.low_since = low.then(|| self.low_since.unwrap_or(now));
        if self.is_full() {
            self.cause = None;
        }
    }

    fn lower(&mut self, now: Micros, worst: &Reading, all: &[Reading]) {
        self.calm_since = None;
        let stopping = all.iter().find(|r| self.may_stop && r.stops());
        self.stopped = stopping.is_some();
        if self.lowered.is_none_or(|at| now.since(at) >= AGAIN) {
            self.speed = (self.speed * KEEP / FULL).max(self.floor);
            self.lowered = Some(now);
        }
        let since = self.cause.as_ref().map_or(now, |c| c.since);
        self.cause = Some(Cause { reading: stopping.unwrap_or(worst).clone(), since });
    }

    /// Not over, but not a time to grow either.
    fn wait(&mut self, why: &Reading) {
        self.calm_since = None;
        if self.speed < FULL {
            self.waits = Some(why.near());
        }
    }

    fn grow(&mut self, now: Micros) {
        let calm = now.since(*self.calm_since.get_or_insert(now)) >= CALM;
        if calm && self.grown.is_none_or(|at| now.since(at) >= STEP) {
            self.speed = (self.speed + GROW).min(FULL);
            self.grown = Some(now);
        }
    }

    /// Why it is slower than it could be; `None` at full speed.
    pub(super) fn reason(&self) -> Option<String> {
        if self.is_full() {
            return None;
        }
        let percent = format!("{} % of full speed", (self.speed() + 5) / 10);
        let cause = &self.cause.as_ref()?.reading;
        Some(match (&self.waits, self.calm_since) {
            _ if self.stopped => {
                let stop = cause.stop.map_or(String::new(), |s| cause.unit.text(s));
                let until = if cause.least { "above" } else { "below" };
                format!("{}, stopped until it is {until} {stop}", cause.over())
            }
            (Some(waits), _) => format!("{waits}, {percent}"),
            (None, Some(_)) => format!("{percent} after {}, growing", cause.name),
            (None, None) => format!("{}, {percent}", cause.over()),
        })
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
