//! What the journal is told: that throttling began, and that it is over. Not every change of speed.

use serde_json::{Value, json};

use super::control::{Controller, FULL};
use crate::rollout::Event;
use crate::runtime::Micros;

/// Full speed must hold for so long before an episode is over; twice as long with each one, so that what comes and goes all the time
/// does not fill the journal.
const QUIET: Micros = Micros::from_secs(10);
const QUIET_MOST: Micros = Micros::from_secs(600);

struct Episode {
    began: Micros,
    why: String,
    /// The lowest speeds of work that can wait, and of the tail.
    lowest: [u32; 2],
    /// Time at rest before.
    rested: [Micros; 2],
    full_since: Option<Micros>,
}

/// Throttling so far in this process.
#[derive(Default)]
pub(super) struct Episodes {
    count: u32,
    rested: [Micros; 2],
    now: Option<Episode>,
}

impl Episodes {
    /// Looks at the controllers, and at how long work has been at rest so far; answers what the journal is to be told.
    pub(super) fn look(&mut self, now: Micros, of: [&Controller; 2], rested: [Micros; 2]) -> Option<Event> {
        let before = std::mem::replace(&mut self.rested, rested);
        let speeds = of.map(Controller::speed);
        let Some(e) = &mut self.now else {
            // Nobody is held up by a throttle that nobody works under.
            if rested == before {
                return None;
            }
            let held = of.into_iter().find(|c| !c.is_full())?;
            let (why, cause) = (held.reason()?, held.cause()?);
            let r = &cause.reading;
            let evidence = json!({
                "signal": r.name, "actual": r.actual.map(|x| r.unit.text(x)), "limit": r.unit.text(r.limit),
                "speed": share(speeds[0]), "tail_speed": share(speeds[1]),
            });
            self.now = Some(Episode {
                began: cause.since,
                why: r.name.clone(),
                lowest: speeds,
                rested: before,
                full_since: None,
            });
            return Some(Event::ThrottleBegan { why, evidence });
        };
        for (lowest, speed) in e.lowest.iter_mut().zip(speeds) {
            *lowest = (*lowest).min(speed);
        }
        if of.iter().any(|c| !c.is_full()) {
            e.full_since = None;
            return None;
        }
        let since = *e.full_since.get_or_insert(now);
        let quiet = Micros(QUIET.0 << self.count.min(10)).min(QUIET_MOST);
        if now.since(since) < quiet {
            return None;
        }
        self.count = self.count.saturating_add(1);
        let e = self.now.take()?;
        let lasted = since.since(e.began);
        let [bulk, tail] = [0, 1].map(|i| rested[i].since(e.rested[i]).as_ms());
        let evidence = json!({
            "text": format!("full speed again after {lasted} ({})", e.why),
            "ms": lasted.as_ms(), "lowest_speed": share(e.lowest[0]), "lowest_tail_speed": share(e.lowest[1]),
            "rested_ms": bulk, "tail_rested_ms": tail,
        });
        Some(Event::ThrottleEnded { evidence })
    }
}

/// A speed as a share of the full one.
fn share(speed: u32) -> Value {
    json!(f64::from(speed) / f64::from(FULL))
}

#[cfg(test)]
mod tests {
    use super::super::control::{Reading, Unit};
    use super::*;

    /// Ten minutes of a signal that is over its limit in every `of`th minute; answers how often the journal was told.
    fn told(of: u64, works: bool) -> usize {
        let (mut bulk, tail, mut all) = (Controller::new(50, true), Controller::new(250, false), Episodes::default());
        let mut rested = Micros::ZERO;
        (0..36_000)
            .filter(|t| {
                let actual = Some(if t / 60 % of == 0 { 6e6 } else { 0.0 });
                let name = "replication lag".to_owned();
                let lag = Reading { name, actual, limit: 5e6, stop: None, least: false, unit: Unit::Time };
                bulk.step(Micros::from_secs(*t), &[lag]);
                if works && !bulk.is_full() {
                    rested += Micros::from_ms(500);
                }
                all.look(Micros::from_secs(*t), [&bulk, &tail], [rested, Micros::ZERO]).is_some()
            })
            .count()
    }

    #[test]
    fn the_journal_is_told_of_begin_and_end_and_never_often() {
        assert_eq!(told(1_000_000, true), 2);
        assert_eq!(told(2, false), 0, "nobody worked");
        let often = told(2, true);
        assert!((2..=30).contains(&often), "{often} records of 300 times");
    }
}
