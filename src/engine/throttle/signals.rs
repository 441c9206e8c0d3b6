//! From what is measured to readings against the plan's limits.

use super::control::{Reading, Unit};
use super::probe;
use super::reference::{self, References, SERIES};
use crate::cluster::Observation;
use crate::cluster::load::Load;
use crate::engine::live_view::{LatencySource, LiveView};
use crate::engine::load::fresh;
use crate::metrics::OpKind;
use crate::plan::Throttle;
use crate::route::Side;
use crate::runtime::Micros;

/// As many tickets of a kind as a server has that does not choose by itself how many (MongoDB before 7).
const FIXED_TICKETS: u32 = 128;

/// What the readings are made of.
pub(super) struct Ground<'a> {
    pub plan: &'a Throttle,
    pub live: &'a LiveView,
    pub now: Micros,
    pub one_cluster: bool,
    /// Documents change where they are.
    pub in_place: bool,
    /// Whether changes of legacy, and of next, are followed.
    pub follows: [bool; 2],
}

impl Ground<'_> {
    /// How many times slower than without tidegate's work applications may become.
    pub(super) fn latency_ratio(&self) -> f64 {
        self.plan.max_latency_ratio.unwrap_or(Throttle::MAX_LATENCY_RATIO)
    }

    /// The sides whose clusters are looked at.
    fn sides(&self) -> &'static [Side] {
        if self.one_cluster { &[Side::Legacy] } else { &Side::BOTH }
    }

    /// The worst of what clusters tell.
    fn worst<T>(&self, of: impl Fn(Side) -> Option<T>, worse: impl Fn(&T, &T) -> bool) -> Worst<T> {
        let all: Vec<Option<T>> = self.sides().iter().map(|side| of(*side)).collect();
        let of_all = all.iter().all(Option::is_some);
        Worst { value: all.into_iter().flatten().reduce(|a, b| if worse(&b, &a) { b } else { a }), of_all }
    }

    fn worst_load<T>(&self, of: impl Fn(&Load) -> Option<T>, worse: impl Fn(&T, &T) -> bool) -> Worst<T> {
        self.worst(|side| of(fresh(&self.live.loads[side as usize], self.now)?), worse)
    }

    fn worst_seen<T>(&self, of: impl Fn(&Observation) -> Option<T>, worse: impl Fn(&T, &T) -> bool) -> Worst<T> {
        self.worst(|side| of(fresh(&self.live.observed[side as usize], self.now)?), worse)
    }
}

/// What the worst cluster tells.
struct Worst<T> {
    value: Option<T>,
    /// Every cluster tells it.
    of_all: bool,
}

impl<T> Worst<T> {
    fn map<U>(self, f: impl FnOnce(T) -> U) -> Worst<U> {
        Worst { value: self.value.map(f), of_all: self.of_all }
    }
}

/// Everything that is measured against a limit; and what a tail must not slow down for: its own lag, and an oplog that does not reach
/// back far, which would leave a slow tail behind.
pub(super) fn readings(g: &Ground<'_>, references: &References) -> (Vec<Reading>, Vec<Reading>) {
    let mut all = Vec::new();
    // Nothing that it would tell is known.
    let silent = |side: &&Side| {
        let seen = &g.live.observed[**side as usize];
        seen.is_some() && fresh(seen, g.now).is_none()
    };
    all.extend(g.sides().iter().filter(silent).map(|side| Reading {
        name: format!("the load of {}'s cluster", side.name()),
        actual: None,
        limit: 1.0,
        stop: None,
        least: false,
        unit: Unit::State,
    }));
    all.extend(lag(g));
    all.extend(tickets(g));
    all.extend(queue(g));
    all.extend(dirty(g));
    all.extend(flow_control(g));
    all.extend(latency(g, references));
    all.extend(probe::reading(&references.1, g.latency_ratio()));
    (all, applied(g).into_iter().chain(oplog(g)).collect())
}

/// A reading of what clusters tell. What the plan does not ask for and a server does not tell is left out; where the plan asks, it is not
/// known as long as one cluster does not tell, unless another is over the limit anyway.
fn told(worst: Worst<f64>, asked: bool, reading: impl FnOnce(Option<f64>) -> Reading) -> Option<Reading> {
    if worst.value.is_none() && !asked {
        return None;
    }
    let mut reading = reading(worst.value);
    if asked && !worst.of_all && !reading.is_over() {
        reading.actual = None;
    }
    Some(reading)
}

fn most(name: &str, actual: Option<f64>, limit: f64, stop: f64, unit: Unit) -> Reading {
    Reading { name: name.to_owned(), actual, limit, stop: Some(stop), least: false, unit }
}

fn least(name: &str, actual: Option<f64>, limit: f64, stop: f64, unit: Unit) -> Reading {
    Reading { name: name.to_owned(), actual, limit, stop: Some(stop), least: true, unit }
}

fn micros(t: Micros) -> f64 {
    t.0 as f64
}

fn lag(g: &Ground<'_>) -> Option<Reading> {
    let limit = micros(g.plan.max_lag?);
    let worst = g.worst_seen(Observation::replication_lag, |a, b| a > b).map(micros);
    told(worst, true, |actual| most("replication lag", actual, limit, 2.0 * limit, Unit::Time))
}

fn applied(g: &Ground<'_>) -> Option<Reading> {
    let limit = micros(g.plan.max_lag?);
    let running = Side::BOTH.into_iter().filter(|s| g.follows[*s as usize]);
    // One that has just begun to follow has no lag yet.
    let lag = running.filter_map(|s| Some((g.live.apply_lag(s, g.now)?, s))).max_by_key(|(lag, _)| *lag)?;
    let name = if lag.1 == Side::Legacy { "apply lag" } else { "reverse lag" };
    Some(most(name, Some(micros(lag.0)), limit, 2.0 * limit, Unit::Time))
}

fn tickets(g: &Ground<'_>) -> Option<Reading> {
    let limit = g.plan.min_tickets.unwrap_or(Throttle::MIN_TICKETS);
    if limit <= 0.0 {
        return None;
    }
    let free = |load: &Load| {
        let of = [("free read tickets", load.read_tickets), ("free write tickets", load.write_tickets)];
        let free = of.into_iter().filter_map(|(name, t)| Some((t?.free()?, name, t?.total)));
        free.min_by(|a, b| a.0.total_cmp(&b.0))
    };
    let worst = g.worst_load(free, |a, b| a.0 < b.0);
    let (name, total) = worst.value.map_or(("free tickets", 0), |w| (w.1, w.2));
    told(worst.map(|w| w.0), g.plan.min_tickets.is_some(), |actual| {
        let reading = least(name, actual, limit, limit / 4.0, Unit::Share);
        // A server that chooses how many there are gives few: that all are taken then says little.
        Reading { stop: reading.stop.filter(|_| total >= FIXED_TICKETS), ..reading }
    })
}

fn queue(g: &Ground<'_>) -> Option<Reading> {
    let limit = f64::from(g.plan.max_queue.unwrap_or(Throttle::MAX_QUEUE));
    let worst = g.worst_load(|load| load.queued, |a, b| a > b).map(|n| n as f64);
    told(worst, g.plan.max_queue.is_some(), |n| most("queued operations", n, limit, 4.0 * limit, Unit::Count))
}

fn dirty(g: &Ground<'_>) -> Option<Reading> {
    let limit = g.plan.max_dirty_ratio.unwrap_or(Throttle::MAX_DIRTY_RATIO);
    let worst = g.worst_load(|load| load.cache_dirty, |a, b| a > b);
    told(worst, g.plan.max_dirty_ratio.is_some(), |actual| {
        most("dirty cache", actual, limit, limit * 4.0 / 3.0, Unit::Share)
    })
}

/// The server holds every write back by then, the application's too.
fn flow_control(g: &Ground<'_>) -> Option<Reading> {
    let lagged = |load: &Load| load.flow_control.filter(|f| f.enabled).map(|f| f.lagged);
    let actual = if g.worst_load(lagged, |a, _| *a).value? { 2.0 } else { 0.0 };
    let name = "flow control holds writes back".to_owned();
    Some(Reading { name, actual: Some(actual), limit: 1.0, stop: None, least: false, unit: Unit::State })
}

fn oplog(g: &Ground<'_>) -> Option<Reading> {
    let limit = micros(g.plan.min_oplog_window?);
    let worst = g.worst_seen(|o| o.oplog_window, |a, b| a < b).map(micros);
    told(worst, true, |actual| least("oplog window", actual, limit, limit / 2.0, Unit::Time))
}

/// Which latencies say how the application fares. What servers tell holds tidegate's own operations too: only where it makes none of
/// that kind are they the application's.
pub(super) fn is_of_application(g: &Ground<'_>, op: OpKind, side: Side) -> bool {
    match g.live.latency_source {
        None => false,
        Some(LatencySource::Applications) => true,
        Some(LatencySource::Servers) => {
            let written = g.in_place || g.follows[Side::Next as usize];
            op == OpKind::Write && side == Side::Legacy && !written
        }
    }
}

fn latency(g: &Ground<'_>, references: &References) -> Vec<Reading> {
    let ratio = g.latency_ratio();
    let of = |(op, side): (OpKind, Side)| {
        let limit = references.of(op, side).limit(ratio)?;
        if !is_of_application(g, op, side) {
            return None;
        }
        let name = reference::name(op, side);
        let actual = references.of(op, side).now.map(micros);
        let limit = micros(limit);
        // It is never a reason to stop: what slows the application may be something else.
        Some(Reading { stop: None, ..most(&name, actual, limit, limit, Unit::Time) })
    };
    SERIES.into_iter().filter_map(of).collect()
}
