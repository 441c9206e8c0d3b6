//! What a small majority write on legacy's cluster takes: the markers of the engine are written anyway, all the time. Unlike what servers
//! tell of latencies it holds the wait for the other members, which is what a copy makes longer first.

use std::collections::VecDeque;

use super::control::{Reading, Unit};
use super::reference::Reference;
use crate::runtime::Micros;

/// The window of a comparison.
const WINDOW: Micros = Micros::from_secs(5);
/// The window of a reference.
const LONG: Micros = Micros::from_secs(30);
/// With fewer probes nothing is said.
const SAMPLES: usize = 8;
/// A slow-down by less is nothing; there are too few probes for less.
const NOTICED: Micros = Micros::from_ms(20);

/// The last probes.
#[derive(Debug, Default)]
pub(in crate::engine) struct Probes(VecDeque<(Micros, Micros)>);

impl Probes {
    /// One came back at `now` after `took`.
    pub(in crate::engine) fn note(&mut self, now: Micros, took: Micros) {
        while self.0.front().is_some_and(|(at, _)| now.since(*at) > LONG) {
            self.0.pop_front();
        }
        self.0.push_back((now, took));
    }

    /// The nine-tenths value of the last `window`.
    fn p90(&self, now: Micros, window: Micros) -> Option<Micros> {
        let mut all: Vec<Micros> = self.0.iter().filter(|(at, _)| now.since(*at) <= window).map(|p| p.1).collect();
        if all.len() < SAMPLES {
            return None;
        }
        all.sort_unstable();
        all.get(all.len() * 9 / 10).copied()
    }

    /// Looks at them. While tidegate is idle they are the reference.
    pub(super) fn look(&self, r: &mut Reference, now: Micros, idle: bool) {
        r.now = self.p90(now, WINDOW);
        if idle {
            r.before = self.p90(now, LONG).or(r.before);
        }
    }
}

/// The reading; `None` while there is nothing to compare.
pub(super) fn reading(r: &Reference, ratio: f64) -> Option<Reading> {
    let before = r.before?;
    let limit = Micros((before.0 as f64 * ratio) as u64).max(before + NOTICED).0 as f64;
    // Never a reason to stop, and none to wait for either: probes that do not come back are the cluster's silence, which is read apart.
    let actual = r.now?.0 as f64;
    let name = "probe write p90".to_owned();
    Some(Reading { name, actual: Some(actual), limit, stop: None, least: false, unit: Unit::Time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_takes_longer_than_before_is_over_its_limit() {
        let (mut probes, mut r) = (Probes::default(), Reference::default());
        let at = |n: u64| Micros::from_ms(500 * n);
        (0..10).for_each(|n| probes.note(at(n), Micros::from_ms(10 + n % 2)));
        probes.look(&mut r, at(10), true);
        assert_eq!(r.before, Some(Micros::from_ms(11)));
        assert!(!reading(&r, 1.5).unwrap().is_over());
        (10..20).for_each(|n| probes.note(at(n), Micros::from_ms(40)));
        probes.look(&mut r, at(20), false);
        let over = reading(&r, 1.5).unwrap();
        assert_eq!((over.limit, over.actual), (31_000.0, Some(40_000.0)));
        assert!(over.is_over());
        assert_eq!(reading(&Reference::default(), 1.5), None);
    }
}
