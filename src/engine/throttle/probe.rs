//! What a small majority write on legacy's cluster takes: the markers of the engine are written anyway, all the time. Unlike what servers
//! tell of latencies it holds the wait for the other members, which a copy within the cluster makes longer first.

use std::collections::VecDeque;

use super::control::{Reading, Unit};
use super::reference::{Pace, Reference};
use crate::runtime::Micros;

/// The window of a comparison.
const WINDOW: Micros = Micros::from_secs(5);
/// The window of a reference.
const LONG: Micros = Micros::from_secs(30);
/// The same as for applications, and sooner: the little that tidegate does then hardly shows in what nine of ten probes take, and nothing
/// that comes before that is counted.
const NOT_OURS: Micros = Micros::from_secs(15);
/// What takes longer is waiting, for a cluster that does not answer: it says nothing about one that does.
const SILENT: Micros = Micros::from_secs(2);
/// Fewer probes are no reference.
const SAMPLES: usize = 8;
/// A slow-down by less is nothing; there are too few probes for less.
const NOTICED: Micros = Micros::from_ms(8);

/// The last probes: when each came back, and after how long.
#[derive(Debug, Default)]
pub(in crate::engine) struct Probes(VecDeque<(Micros, Micros)>);

impl Probes {
    /// One came back at `now` after `took`.
    pub(in crate::engine) fn note(&mut self, now: Micros, took: Micros) {
        while self.0.front().is_some_and(|(at, _)| now.since(*at) > LONG) {
            self.0.pop_front();
        }
        if took <= SILENT {
            self.0.push_back((now, took));
        }
    }

    /// What the probes of the last `window` took, in order.
    fn within(&self, now: Micros, window: Micros) -> Vec<Micros> {
        let mut all: Vec<Micros> = self.0.iter().filter(|(at, _)| now.since(*at) <= window).map(|p| p.1).collect();
        all.sort_unstable();
        all
    }

    /// Looks at them.
    pub(super) fn look(&self, r: &mut Reference, now: Micros, ratio: f64, pace: Pace) {
        // Few probes come back where each takes long: so many as there are.
        r.now = p90(&self.within(now, WINDOW));
        r.settle(r.limit_above(ratio, NOTICED), pace, (NOT_OURS, NOTICED), || {
            let all = self.within(now, if pace.idle { LONG } else { LONG.min(pace.low_for) });
            p90(&all).filter(|_| all.len() >= SAMPLES)
        });
    }
}

/// What nine of ten took at most.
fn p90(sorted: &[Micros]) -> Option<Micros> {
    sorted.get((sorted.len() * 9).div_ceil(10).checked_sub(1)?).copied()
}

/// The reading; `None` while there is nothing to compare. Without any probe of late it is not known.
pub(super) fn reading(r: &Reference, ratio: f64) -> Option<Reading> {
    let limit = r.limit_above(ratio, NOTICED)?.0 as f64;
    let (name, actual) = ("probe write p90".to_owned(), r.now.map(|t| t.0 as f64));
    // It is never a reason to stop: what slows the cluster may be something else.
    Some(Reading { name, actual, limit, stop: None, least: false, unit: Unit::Time })
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Pace = Pace { idle: true, low_for: Micros::ZERO };
    const AT_WORK: Pace = Pace { idle: false, low_for: Micros::ZERO };

    fn at(n: u64) -> Micros {
        Micros::from_ms(500 * n)
    }

    /// Ten probes of about 10 ms while tidegate was idle.
    fn calm() -> (Probes, Reference) {
        let (mut probes, mut r) = (Probes::default(), Reference::default());
        (0..10).for_each(|n| probes.note(at(n), Micros::from_ms(10 + n % 2)));
        probes.look(&mut r, at(10), 1.5, IDLE);
        assert_eq!(r.before, Some(Micros::from_ms(11)));
        (probes, r)
    }

    #[test]
    fn a_probe_that_takes_longer_than_before_is_over_its_limit() {
        let (mut probes, mut r) = calm();
        assert!(!reading(&r, 1.5).unwrap().is_over());
        (10..20).for_each(|n| probes.note(at(n), Micros::from_ms(40)));
        probes.look(&mut r, at(20), 1.5, AT_WORK);
        let over = reading(&r, 1.5).unwrap();
        assert_eq!((over.limit, over.actual), (19_000.0, Some(40_000.0)));
        assert!(over.is_over());
        assert_eq!(reading(&Reference::default(), 1.5), None);
    }

    #[test]
    fn one_outlier_of_ten_is_none_and_probes_that_hardly_come_back_still_tell() {
        let (mut probes, mut r) = calm();
        (10..19).for_each(|n| probes.note(at(n), Micros::from_ms(10)));
        probes.note(at(19), Micros::from_ms(300));
        probes.look(&mut r, at(19), 1.5, AT_WORK);
        assert_eq!(r.now, Some(Micros::from_ms(11)), "eleven of them, of which one is the outlier");
        // From here on each takes longer than the window has room for eight of them.
        (20..24).for_each(|n| probes.note(at(2 * n), Micros::from_ms(990)));
        probes.look(&mut r, at(46), 1.5, AT_WORK);
        assert!(reading(&r, 1.5).unwrap().is_over());
        probes.look(&mut r, at(60), 1.5, AT_WORK);
        let unknown = reading(&r, 1.5).unwrap();
        assert_eq!(unknown.actual, None, "a cluster that does not answer is no slow one");
        probes.note(at(60), Micros::from_secs(7));
        probes.look(&mut r, at(60), 1.5, AT_WORK);
        assert_eq!(r.now, None);
    }

    /// Probes as `took` has them from the tenth on, of which the speed is low from the twentieth on.
    fn low(probes: &mut Probes, r: &mut Reference, until: u64, took: impl Fn(u64) -> u64) {
        for n in 10..until {
            probes.note(at(n), Micros::from_ms(took(n)));
            let low_for = at(n).since(at(20.min(n)));
            probes.look(r, at(n), 1.5, Pace { idle: false, low_for });
        }
    }

    #[test]
    fn a_lasting_change_that_is_not_ours_becomes_the_measure() {
        let (mut probes, mut r) = calm();
        low(&mut probes, &mut r, 48, |_| 40);
        assert_eq!(r.before, Some(Micros::from_ms(11)), "not yet");
        low(&mut probes, &mut r, 60, |_| 40);
        assert_eq!(r.before, Some(Micros::from_ms(40)));
        assert!(!reading(&r, 1.5).unwrap().is_over());
    }

    #[test]
    fn a_busy_machine_that_comes_and_goes_becomes_the_measure_too() {
        let (mut probes, mut r) = calm();
        // Every 4 s there are 4 s in which nothing is slow; never are all of a window over the limit for long.
        low(&mut probes, &mut r, 100, |n| if n / 8 % 2 == 0 { 40 } else { 10 });
        assert_eq!(r.before, Some(Micros::from_ms(40)));
    }

    #[test]
    fn what_was_slow_while_tidegate_worked_is_no_measure() {
        let (mut probes, mut r) = calm();
        low(&mut probes, &mut r, 120, |n| if n < 20 { 400 } else { 24 });
        assert_eq!(r.before, Some(Micros::from_ms(24)));
    }
}
