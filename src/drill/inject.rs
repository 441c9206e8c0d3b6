//! What a scenario lets happen, and the task that lets it: it sets the embedded cluster's faults as virtual time passes.
//!
//! Participants see what follows from an inject and never the inject: nothing of it reaches the snapshot, the journal or the brief.

use crate::cluster::Ns;
use crate::cluster::embedded::{Faults, OpKind, Pressure, Rates};
use crate::engine::Engine;
use crate::metrics::{OpKind as Op, names};
use crate::route::Side;
use crate::runtime::{Group, Micros, Rt};
use crate::snapshot::{LatencyView, Phase, Snapshot, StageStatus};

/// How finely a ramp grows.
const RAMP_STEP: Micros = Micros::from_ms(250);
/// How often conditions are looked at: at each whole second of virtual time.
const LOOK: Micros = Micros::from_secs(1);

/// Something that happens in a drill.
#[derive(Clone, Debug, PartialEq)]
pub struct Inject {
    /// Its name, for other injects and the facilitator.
    pub id: String,
    /// When it begins.
    pub start: Start,
    /// How long it lasts; `None` is to the end of the drill.
    pub lasts: Option<Micros>,
    /// It grows linearly over this time; zero is all of it at once.
    pub ramp: Micros,
    /// What happens.
    pub action: Action,
}

/// When an inject begins.
#[derive(Clone, Debug, PartialEq)]
pub enum Start {
    /// At this virtual time since the drill began.
    At(Micros),
    /// So long after another one began.
    After {
        /// The index of the other one, which stands before this one.
        inject: usize,
        /// How long after.
        delay: Micros,
    },
    /// So long after a condition first held.
    When {
        /// The condition.
        condition: Condition,
        /// How long after.
        delay: Micros,
    },
}

/// A condition on what the screen shows; everything that is named must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Condition {
    /// The current stage.
    pub stage: Option<String>,
    /// What the rollout is doing.
    pub phase: Option<Phase>,
    /// A metric.
    pub measure: Option<Measure>,
}

/// A metric beyond a limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    /// Its name; one of [`READABLE`].
    pub metric: &'static str,
    /// Its side, where it has one.
    pub side: Option<Side>,
    /// Holds above the limit, rather than below it.
    pub above: bool,
    /// Microseconds for times, shares 0 to 1, counts and rates plain.
    pub limit: f64,
}

/// What an inject makes slow or faulty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// One side's collection.
    Side(Side),
    /// Everything.
    Cluster,
}

/// A member of the replica set, by what it is when the inject begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member {
    /// The primary.
    Primary,
    /// One secondary.
    Secondary,
}

/// What happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Operations take longer, in percent of what is normal.
    Latency {
        /// Where.
        target: Target,
        /// 100 is normal.
        percent: u64,
    },
    /// Secondaries fall behind.
    ReplicationLag {
        /// All of them, or one.
        all: bool,
        /// By how much.
        lag: Micros,
    },
    /// The primary steps down.
    StepDown,
    /// Operations fail, in parts per million.
    Errors {
        /// Where.
        target: Target,
        /// Reads and scans that fail.
        reads: u32,
        /// Writes, tidegate's transactions among them, that fail before anything was written.
        writes: u32,
        /// Writes whose outcome is not known.
        unknown: u32,
    },
    /// Change streams cannot resume where they stood.
    OplogLoss,
    /// A member is cut off from the others.
    Partition {
        /// Which.
        member: Member,
    },
    /// Others ask much of the primary, which says so.
    Pressure(Pressure),
}

/// The metrics that conditions can name: those the snapshot has.
pub const READABLE: [&str; 23] = [
    "latency.read.p50",
    "latency.read.p90",
    "latency.read.p99",
    "latency.read.p999",
    "latency.read.max",
    "latency.write.p50",
    "latency.write.p90",
    "latency.write.p99",
    "latency.write.p999",
    "latency.write.max",
    "errors.read.rate",
    "errors.write.rate",
    "throughput.read",
    "throughput.write",
    "shadow.mismatch_ratio",
    "lag.replication",
    "lag.apply",
    "lag.reverse",
    "reconcile.missing",
    "reconcile.extra",
    "reconcile.differing",
    "writes.stray",
    "writes.at_risk",
];

impl Condition {
    fn holds(&self, s: &Snapshot) -> bool {
        let current = s.stages.iter().find(|st| st.status == StageStatus::Current);
        let stage = self.stage.as_ref().is_none_or(|id| current.is_some_and(|st| st.id == *id));
        let phase = self.phase.is_none_or(|p| p == s.phase);
        stage && phase && self.measure.as_ref().is_none_or(|m| m.holds(s))
    }
}

impl Measure {
    /// What is not known never holds.
    fn holds(&self, s: &Snapshot) -> bool {
        let figure = figure(s, self.metric, self.side);
        figure.is_some_and(|v| if self.above { v > self.limit } else { v < self.limit })
    }
}

/// A metric as the snapshot has it, over the windows of the screen.
fn figure(s: &Snapshot, metric: &str, side: Option<Side>) -> Option<f64> {
    use names::Quantile;
    let of = |op: Op, side: Side| -> &LatencyView {
        let views = if op == Op::Read { &s.reads } else { &s.writes };
        &views[side as usize]
    };
    let time = |m: Option<Micros>| m.map(|m| m.0 as f64);
    let count = |n: Option<u64>| n.map(|n| n as f64);
    if let Some((op, quantile)) = names::latency(metric) {
        let v = of(op, side?);
        return match quantile {
            Quantile::P50 => time(v.p50),
            Quantile::P90 => time(v.p90),
            Quantile::P99 => time(v.p99),
            Quantile::P999 => time(v.p999),
            Quantile::Max => time(v.max),
            Quantile::Mean => None,
        };
    }
    if let Some(op) = names::error_rate(metric) {
        return of(op, side?).error_ratio;
    }
    if let Some(op) = names::throughput(metric) {
        return Some(of(op, side?).rate);
    }
    let reconcile = s.reconcile.first();
    match metric {
        "shadow.mismatch_ratio" => {
            let (different, compared) = s.traffic.shadow;
            (compared > 0).then(|| different as f64 / compared as f64)
        }
        "lag.replication" => time(s.lag.members.iter().filter_map(|(_, _, lag)| *lag).max()),
        "lag.apply" => time(s.lag.apply),
        "lag.reverse" => time(s.lag.reverse),
        "reconcile.missing" => count(reconcile?.missing),
        "reconcile.extra" => count(reconcile?.extra),
        "reconcile.differing" => count(reconcile?.differing),
        "writes.stray" => Some(s.traffic.stray as f64),
        "writes.at_risk" => count(s.way_back.writes_at_risk),
        _ => None,
    }
}

/// How far one inject is.
struct Running {
    inject: Inject,
    /// Its condition first held then.
    held: Option<Micros>,
    began: Option<Micros>,
    over: bool,
    /// The member it is about, settled when it begins.
    node: Option<usize>,
}

impl Running {
    fn is_on(&self) -> bool {
        self.began.is_some() && !self.over
    }

    /// How much of it there is: `full` once the ramp is over.
    fn grown(&self, full: i64, now: Micros) -> i64 {
        let Some(began) = self.began else { return 0 };
        let ramp = self.inject.ramp;
        if ramp == Micros::ZERO || now.since(began) >= ramp {
            return full;
        }
        // Bounded by the parser: a day in microseconds times a hundred thousand fits.
        full * now.since(began).0 as i64 / ramp.0 as i64
    }
}

/// All the faults that injects set, put together from those that are on.
#[derive(Clone, Debug, PartialEq)]
struct Weather {
    /// Percent, by target.
    latency: [u64; 3],
    /// By target.
    rates: [Errors; 3],
    /// By member.
    lag: Vec<Micros>,
    /// By member.
    cut: Vec<bool>,
    pressure: Pressure,
}

/// Parts per million.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Errors {
    reads: u32,
    writes: u32,
    unknown: u32,
}

fn index(target: Target) -> usize {
    match target {
        Target::Side(side) => side as usize,
        Target::Cluster => 2,
    }
}

impl Weather {
    fn fair(nodes: usize) -> Weather {
        Weather {
            latency: [100; 3],
            rates: [Errors::default(); 3],
            lag: vec![Micros::ZERO; nodes],
            cut: vec![false; nodes],
            pressure: Pressure::default(),
        }
    }

    /// Adds what one inject does at `now`. Latencies multiply, lags and error rates add up.
    fn add(&mut self, r: &Running, now: Micros) {
        let share = |full: u32| r.grown(i64::from(full), now) as u32;
        match &r.inject.action {
            Action::Latency { target, percent } => {
                let percent = 100 + r.grown(*percent as i64 - 100, now);
                let all = &mut self.latency[index(*target)];
                *all = (*all).saturating_mul(percent.max(1).unsigned_abs()) / 100;
            }
            Action::ReplicationLag { lag, .. } => {
                let lag = Micros(r.grown(lag.0 as i64, now).unsigned_abs());
                for (node, of) in self.lag.iter_mut().enumerate() {
                    if r.node.is_none_or(|n| n == node) {
                        *of += lag;
                    }
                }
            }
            Action::Errors { target, reads, writes, unknown } => {
                let all = &mut self.rates[index(*target)];
                all.reads = all.reads.saturating_add(share(*reads));
                all.writes = all.writes.saturating_add(share(*writes));
                all.unknown = all.unknown.saturating_add(share(*unknown));
            }
            Action::Partition { .. } => {
                if let Some(cut) = r.node.and_then(|n| self.cut.get_mut(n)) {
                    *cut = true;
                }
            }
            Action::Pressure(p) => {
                self.pressure.tickets += share(p.tickets);
                self.pressure.queued += share(p.queued);
                self.pressure.dirty_percent += share(p.dirty_percent);
            }
            Action::StepDown | Action::OplogLoss => {}
        }
    }
}

/// Lets a scenario's injects happen.
pub(super) struct Conductor {
    /// The drill's runtime.
    pub(super) rt: Rt,
    /// The cluster's faults.
    pub(super) faults: Faults,
    /// Members of the replica set.
    pub(super) nodes: usize,
    /// Legacy's and next's collection.
    pub(super) sides: [Ns; 2],
    /// Where conditions are read from.
    pub(super) engine: Engine,
}

impl Conductor {
    /// Lets `injects` happen, in a group of their own.
    pub(super) fn start(self, group: Group, injects: &[Inject]) {
        let running =
            |inject: &Inject| Running { inject: inject.clone(), held: None, began: None, over: false, node: None };
        let mut all: Vec<Running> = injects.iter().map(running).collect();
        let rt = self.rt.clone();
        let conducted = async move {
            let mut weather = Weather::fair(self.nodes);
            loop {
                let now = self.rt.now();
                self.step(&mut all, now);
                self.set(&mut weather, &all, now);
                match next(&all, now) {
                    Some(at) => self.rt.sleep_until(at).await,
                    None => break,
                }
            }
        };
        rt.spawn(group, "injects", Box::pin(conducted));
    }

    /// Begins and ends what is due.
    fn step(&self, all: &mut [Running], now: Micros) {
        if now.0.is_multiple_of(LOOK.0) && all.iter().any(waits_for_condition) {
            let snapshot = self.engine.snapshot();
            for r in all.iter_mut().filter(|r| waits_for_condition(r)) {
                if let Start::When { condition, .. } = &r.inject.start
                    && condition.holds(&snapshot)
                {
                    r.held = Some(now);
                }
            }
        }
        for i in 0..all.len() {
            if all[i].began.is_none() && due(all, i).is_some_and(|at| at <= now) {
                all[i].began = Some(now);
                self.begin(&mut all[i]);
            }
            let r = &mut all[i];
            r.over |= matches!((r.began, r.inject.lasts), (Some(began), Some(lasts)) if now.since(began) >= lasts);
        }
    }

    /// What happens in one moment, and which member it is about.
    fn begin(&self, r: &mut Running) {
        let primary = self.faults.primary();
        let secondary = (0..self.nodes).find(|n| *n != primary);
        match &r.inject.action {
            Action::StepDown => {
                self.faults.step_down();
                r.over = true;
            }
            Action::OplogLoss => {
                self.faults.truncate_oplog();
                r.over = true;
            }
            Action::Partition { member: Member::Primary } => r.node = Some(primary),
            Action::Partition { member: Member::Secondary } | Action::ReplicationLag { all: false, .. } => {
                r.node = secondary;
            }
            Action::ReplicationLag { all: true, .. }
            | Action::Latency { .. }
            | Action::Errors { .. }
            | Action::Pressure(_) => {}
        }
    }

    /// Sets the faults that differ from those set last.
    fn set(&self, was: &mut Weather, all: &[Running], now: Micros) {
        let mut weather = Weather::fair(self.nodes);
        all.iter().filter(|r| r.is_on()).for_each(|r| weather.add(r, now));
        for (i, ns) in [Some(&self.sides[0]), Some(&self.sides[1]), None].into_iter().enumerate() {
            if weather.latency[i] != was.latency[i] {
                match ns {
                    Some(ns) => self.faults.set_latency_of(ns, weather.latency[i]),
                    None => self.faults.set_latency(weather.latency[i]),
                }
            }
            if weather.rates[i] != was.rates[i] {
                self.set_errors(ns, weather.rates[i]);
            }
        }
        for node in 0..self.nodes {
            if weather.lag[node] != was.lag[node] {
                self.faults.set_lag(node, weather.lag[node]);
            }
            if weather.cut[node] != was.cut[node] {
                self.faults.set_cut(node, weather.cut[node]);
            }
        }
        if weather.pressure != was.pressure {
            self.faults.set_pressure(weather.pressure);
        }
        *was = weather;
    }

    fn set_errors(&self, ns: Option<&Ns>, e: Errors) {
        let reads = Rates { not_done: e.reads, unknown: 0 };
        let writes = Rates { not_done: e.writes, unknown: e.unknown };
        let kinds = [(OpKind::Read, reads), (OpKind::Scan, reads), (OpKind::Write, writes), (OpKind::Transact, writes)];
        for (kind, rates) in kinds {
            match ns {
                Some(ns) => self.faults.set_rates_of(ns, kind, rates),
                None => self.faults.set_rates(kind, rates),
            }
        }
    }
}

fn waits_for_condition(r: &Running) -> bool {
    r.held.is_none() && matches!(r.inject.start, Start::When { .. })
}

/// When the inject at `i` begins, as far as that is known.
fn due(all: &[Running], i: usize) -> Option<Micros> {
    let r = all.get(i)?;
    match &r.inject.start {
        Start::At(at) => Some(*at),
        Start::After { inject, delay } => all.get(*inject)?.began.map(|at| at + *delay),
        Start::When { delay, .. } => r.held.map(|at| at + *delay),
    }
}

/// When something has to be done next; `None` when nothing is left to do.
fn next(all: &[Running], now: Micros) -> Option<Micros> {
    let second = Micros(now.0 - now.0 % LOOK.0) + LOOK;
    let of = |(i, r): (usize, &Running)| match r.began {
        None if waits_for_condition(r) => Some(second),
        None => due(all, i),
        Some(_) if r.over => None,
        Some(began) => {
            let end = r.inject.lasts.map(|lasts| began + lasts);
            let ramp = began + r.inject.ramp;
            let grows = (ramp > now).then(|| (now + RAMP_STEP).min(ramp));
            [end, grows].into_iter().flatten().min()
        }
    };
    all.iter().enumerate().filter_map(of).filter(|at| *at > now).min()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::snapshot::StageView;

    fn s(secs: u64) -> Micros {
        Micros::from_secs(secs)
    }

    fn running(start: Start, lasts: Option<Micros>, ramp: Micros, action: Action, began: Option<Micros>) -> Running {
        let inject = Inject { id: "x".into(), start, lasts, ramp, action };
        Running { inject, held: None, began, over: false, node: None }
    }

    fn slow(percent: u64) -> Action {
        Action::Latency { target: Target::Side(Side::Next), percent }
    }

    #[test]
    fn a_ramp_grows_by_equal_steps_and_stays() {
        let r = running(Start::At(s(10)), None, s(20), slow(500), Some(s(10)));
        let at = |now: Micros| {
            let mut w = Weather::fair(3);
            w.add(&r, now);
            w.latency
        };
        assert_eq!([s(10), s(15), s(30), s(99)].map(at).map(|l| l[1]), [100, 200, 500, 500]);
        assert_eq!(at(s(99)), [100, 500, 100], "only next is slow");
        let faster = running(Start::At(s(10)), None, s(20), slow(50), Some(s(10)));
        let mut w = Weather::fair(3);
        w.add(&faster, s(20));
        assert_eq!(w.latency[1], 75);
    }

    #[test]
    fn what_overlaps_adds_up() {
        let mut w = Weather::fair(3);
        let lag = |all, lag| Action::ReplicationLag { all, lag };
        let errors = |writes| Action::Errors { target: Target::Cluster, reads: 0, writes, unknown: 0 };
        let one = Running { node: Some(2), ..running(Start::At(s(0)), None, s(0), lag(false, s(3)), Some(s(0))) };
        for r in [
            running(Start::At(s(0)), None, s(0), slow(300), Some(s(0))),
            running(Start::At(s(0)), None, s(0), slow(200), Some(s(0))),
            running(Start::At(s(0)), None, s(0), lag(true, s(1)), Some(s(0))),
            one,
            running(Start::At(s(0)), None, s(0), errors(1_000), Some(s(0))),
            running(Start::At(s(0)), None, s(10), errors(1_000), Some(s(0))),
        ] {
            w.add(&r, s(5));
        }
        assert_eq!(w.latency[1], 600);
        assert_eq!(w.lag, [s(1), s(1), s(4)]);
        assert_eq!(w.rates[2].writes, 1_500);
    }

    #[test]
    fn the_conductor_sleeps_until_something_is_due() {
        let when = Start::When { condition: Condition::default(), delay: s(3) };
        let mut all = vec![
            running(Start::At(s(10)), Some(s(5)), s(2), slow(200), None),
            running(Start::After { inject: 0, delay: s(7) }, None, Micros::ZERO, Action::StepDown, None),
            running(when, None, Micros::ZERO, Action::OplogLoss, None),
        ];
        assert_eq!(next(&all, Micros::from_ms(1_250)), Some(s(2)), "a condition is looked at each whole second");
        all[2].held = Some(s(2));
        assert_eq!(next(&all, s(2)), Some(s(5)));
        (all[2].began, all[2].over) = (Some(s(5)), true);
        assert_eq!(next(&all, s(5)), Some(s(10)));
        all[0].began = Some(s(10));
        assert_eq!(next(&all, s(10)), Some(Micros::from_ms(10_250)), "the ramp");
        assert_eq!(next(&all, s(12)), Some(s(15)), "its end");
        all[0].over = true;
        assert_eq!(next(&all, s(15)), Some(s(17)));
        (all[1].began, all[1].over) = (Some(s(17)), true);
        assert_eq!(next(&all, s(17)), None);
    }

    #[test]
    fn a_condition_holds_only_on_what_is_known() {
        let slow = Measure { metric: "latency.read.p99", side: Some(Side::Next), above: true, limit: 50_000.0 };
        let c = Condition { stage: Some("canary".into()), phase: Some(Phase::Soaking), measure: Some(slow) };
        let mut s = Snapshot { phase: Phase::Soaking, ..Snapshot::default() };
        assert!(!c.holds(&s), "no stage");
        s.stages.push(StageView { id: "canary".into(), status: StageStatus::Current, ..StageView::default() });
        assert!(!c.holds(&s), "no figure");
        s.reads[1].p99 = Some(Micros(50_000));
        assert!(!c.holds(&s), "at the limit");
        s.reads[1].p99 = Some(Micros(50_001));
        assert!(c.holds(&s));
        s.phase = Phase::Paused;
        assert!(!c.holds(&s));
    }

    #[test]
    fn every_metric_that_a_condition_can_name_is_in_the_snapshot() {
        let mut s = Snapshot::default();
        let time = Some(Micros(1));
        for v in s.reads.iter_mut().chain(&mut s.writes) {
            (v.p50, v.p90, v.p99, v.p999, v.max, v.error_ratio) = (time, time, time, time, time, Some(0.0));
        }
        s.lag.members.push(("a".into(), "SECONDARY".into(), time));
        (s.lag.apply, s.lag.reverse, s.way_back.writes_at_risk) = (time, time, Some(0));
        s.traffic.shadow = (0, 1);
        s.reconcile = vec![crate::snapshot::ReconcileView {
            missing: Some(0),
            extra: Some(0),
            differing: Some(0),
            ..Default::default()
        }];
        for metric in READABLE {
            assert!(crate::plan::metric(metric).is_some(), "{metric} is no metric");
            assert!(figure(&s, metric, Some(Side::Next)).is_some(), "{metric}");
        }
    }
}
