//! From what is measured to readings against the plan's limits.

use super::control::{Reading, Unit};
use super::reference::{self, References, SERIES};
use crate::cluster::Observation;
use crate::engine::live_view::{LatencySource, LiveView};
use crate::metrics::OpKind;
use crate::plan::Throttle;
use crate::route::Side;
use crate::runtime::Micros;

/// What was seen of a cluster longer ago says nothing about now.
const FRESH: Micros = Micros::from_secs(5);

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
    /// Each cluster as it was last seen; `None` in place of one that was seen too long ago.
    fn clusters(&self) -> impl Iterator<Item = (Side, Option<&Observation>)> {
        let sides: &[Side] = if self.one_cluster { &[Side::Legacy] } else { &Side::BOTH };
        sides.iter().filter_map(|side| {
            let (at, seen) = self.live.observed[*side as usize].as_ref()?;
            Some((*side, (self.now.since(*at) <= FRESH).then_some(seen)))
        })
    }

    /// The worst of what fresh observations tell.
    fn worst<T: Copy>(&self, of: impl Fn(&Observation) -> Option<T>, worse: impl Fn(&T, &T) -> bool) -> Option<T> {
        let known = self.clusters().filter_map(|(_, seen)| of(seen?));
        known.reduce(|a, b| if worse(&b, &a) { b } else { a })
    }
}

/// Everything that is measured against a limit; and what a tail must not slow down for: its own lag, and an oplog that does not reach
/// back far, which would leave a slow tail behind.
pub(super) fn readings(g: &Ground<'_>, references: &References) -> (Vec<Reading>, Vec<Reading>) {
    let mut all = Vec::new();
    // Nothing that it would tell is known.
    all.extend(g.clusters().filter(|(_, seen)| seen.is_none()).map(|(side, _)| Reading {
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
    (all, applied(g).into_iter().chain(oplog(g)).collect())
}

/// What the plan does not ask for and a server does not tell is no reading; what the plan asks for is one that is not known.
fn told(actual: Option<f64>, asked: bool) -> bool {
    actual.is_some() || asked
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
    let actual = g.worst(Observation::replication_lag, |a, b| a > b).map(micros);
    Some(most("replication lag", actual, limit, 2.0 * limit, Unit::Time))
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
    let free = |o: &Observation| {
        let of = [("free read tickets", o.load.read_tickets), ("free write tickets", o.load.write_tickets)];
        of.into_iter().filter_map(|(name, t)| Some((t?.free()?, name))).min_by(|a, b| a.0.total_cmp(&b.0))
    };
    let worst = g.worst(free, |a, b| a.0 < b.0);
    let (actual, name) = (worst.map(|w| w.0), worst.map_or("free tickets", |w| w.1));
    let asked = limit > 0.0 && told(actual, g.plan.min_tickets.is_some());
    asked.then(|| least(name, actual, limit, limit / 4.0, Unit::Share))
}

fn queue(g: &Ground<'_>) -> Option<Reading> {
    let limit = f64::from(g.plan.max_queue.unwrap_or(Throttle::MAX_QUEUE));
    let actual = g.worst(|o| o.load.queued, |a, b| a > b).map(|n| n as f64);
    told(actual, g.plan.max_queue.is_some()).then(|| most("queued operations", actual, limit, 4.0 * limit, Unit::Count))
}

fn dirty(g: &Ground<'_>) -> Option<Reading> {
    let limit = g.plan.max_dirty_ratio.unwrap_or(Throttle::MAX_DIRTY_RATIO);
    let actual = g.worst(|o| o.load.cache_dirty, |a, b| a > b);
    told(actual, g.plan.max_dirty_ratio.is_some())
        .then(|| most("dirty cache", actual, limit, limit * 4.0 / 3.0, Unit::Share))
}

/// The server holds every write back by then, the application's too.
fn flow_control(g: &Ground<'_>) -> Option<Reading> {
    let lagged = |o: &Observation| o.load.flow_control.filter(|f| f.enabled).map(|f| f.lagged);
    let actual = if g.worst(lagged, |a, _| *a)? { 2.0 } else { 0.0 };
    let name = "flow control holds writes back".to_owned();
    Some(Reading { name, actual: Some(actual), limit: 1.0, stop: None, least: false, unit: Unit::State })
}

fn oplog(g: &Ground<'_>) -> Option<Reading> {
    let limit = micros(g.plan.min_oplog_window?);
    let actual = g.worst(|o| o.oplog_window, |a, b| a < b).map(micros);
    Some(least("oplog window", actual, limit, limit / 2.0, Unit::Time))
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
    let ratio = g.plan.max_latency_ratio.unwrap_or(Throttle::MAX_LATENCY_RATIO);
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
