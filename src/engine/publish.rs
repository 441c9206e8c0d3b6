//! Builds the snapshot: durable state and labelled live figures, nothing else.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::sync::Notify;

use super::Config;
use super::ctx::{Ctx, lock};
use super::live_view::{LiveView, Progress};
use super::repair::RepairReport;
use super::runner::End;
use crate::metrics::OpKind;
use crate::plan::{Advance, Opening, Plan};
use crate::rollout::{State, Status};
use crate::route::{BUCKETS, Goes, Route, Side};
use crate::runtime::Micros;
use crate::snapshot::{
    Activity, ApplicationView, BackView, CalendarView, GateView, LagView, Phase, PilotView, PlanView, ReconcileView,
    RestView, RouteView, Snapshot, StageStatus, StageView, TraceView, TrafficView, Verdict, WayBack,
};

/// At most twenty snapshots a second.
const EVERY: Micros = Micros::from_ms(50);

struct Inner {
    state: State,
    open: bool,
    end: Option<End>,
    repaired: Option<Arc<RepairReport>>,
    amended: Option<Arc<Plan>>,
    last: Option<(Micros, Arc<Snapshot>)>,
    trace: Option<Arc<TraceView>>,
}

/// What the outside may see of a running engine.
pub(super) struct Publisher {
    ctx: Arc<Ctx>,
    holder: String,
    drill: bool,
    inner: Mutex<Inner>,
    changed: Notify,
}

impl Publisher {
    pub(super) fn new(ctx: &Arc<Ctx>, config: &Config, state: State) -> Publisher {
        Publisher {
            ctx: ctx.clone(),
            holder: crate::scrub::short(&config.holder, 60),
            drill: config.drill,
            inner: Mutex::new(Inner {
                state,
                open: false,
                end: None,
                repaired: None,
                amended: None,
                last: None,
                trace: None,
            }),
            changed: Notify::new(),
        }
    }

    pub(super) fn state(&self) -> State {
        lock(&self.inner).state.clone()
    }

    /// A state change is published at once.
    pub(super) fn set_state(&self, state: State) {
        {
            let mut inner = lock(&self.inner);
            inner.state = state;
            inner.last = None;
        }
        self.changed.notify_one();
    }

    /// Completes when the state has changed since the last time somebody waited.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) fn opened(&self) {
        lock(&self.inner).open = true;
    }

    pub(super) fn is_open(&self) -> bool {
        lock(&self.inner).open
    }

    pub(super) fn set_end(&self, end: End) {
        let mut inner = lock(&self.inner);
        inner.end = Some(end);
        inner.last = None;
    }

    pub(super) fn set_repaired(&self, report: RepairReport) {
        lock(&self.inner).repaired = Some(Arc::new(report));
    }

    pub(super) fn repaired(&self) -> Option<Arc<RepairReport>> {
        lock(&self.inner).repaired.clone()
    }

    /// Shown from the next snapshot on.
    pub(super) fn set_trace(&self, view: TraceView) {
        let mut inner = lock(&self.inner);
        inner.trace = Some(Arc::new(view));
        inner.last = None;
    }

    pub(super) fn set_amended(&self, plan: Arc<Plan>) {
        lock(&self.inner).amended = Some(plan);
    }

    pub(super) fn amended(&self) -> Option<Arc<Plan>> {
        lock(&self.inner).amended.clone()
    }

    pub(super) fn end(&self) -> Option<End> {
        lock(&self.inner).end.clone()
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        let now = self.ctx.rt.now();
        let (state, open, end, trace) = {
            let inner = lock(&self.inner);
            if let Some((at, last)) = inner.last.as_ref().filter(|(at, _)| now.since(*at) < EVERY)
                && *at <= now
            {
                return last.clone();
            }
            (inner.state.clone(), inner.open, inner.end.clone(), inner.trace.clone())
        };
        let built = Arc::new(Snapshot { trace, ..self.build(&state, open, end.as_ref(), now) });
        lock(&self.inner).last = Some((now, built.clone()));
        built
    }

    /// The picture of a runner that is about to end in this way.
    pub(super) fn last_snapshot(&self, end: &End) -> Snapshot {
        let (state, open) = {
            let inner = lock(&self.inner);
            (inner.state.clone(), inner.open)
        };
        self.build(&state, open, Some(end), self.ctx.rt.now())
    }

    /// What going back would cost now, for the journal.
    pub(super) fn forecast(&self, state: &State) -> Value {
        let live = lock(&self.ctx.live);
        let w = way_back(&self.ctx, state, &live, self.ctx.rt.now());
        let route = self.ctx.ownership.route();
        // Right after it was taken up: the shares are those of the journal, and what is at risk is not known.
        let known = route.is_some() || state.route_epoch == 0;
        let pilot = route.as_ref().map_or(state.pilot, |r| r.pilot.as_ref().map(|p| (p.reads, p.writes)));
        json!({
            "writes_at_risk": w.writes_at_risk.filter(|_| known),
            "ms_at_risk": w.seconds_at_risk.filter(|_| known).map(Micros::as_ms),
            "longest_freeze_ms": w.freeze.filter(|_| known).map(Micros::as_ms),
            "reads_next_below": route.as_ref().map_or(state.reads_next_below, |r| r.reads_next_below),
            "writes_next_below": route.as_ref().map_or(state.writes_next_below, |r| r.writes_next_below),
            "pilot": pilot.map(|(reads, writes)| json!({ "reads": reads, "writes": writes })),
        })
    }

    fn build(&self, state: &State, open: bool, end: Option<&End>, now: Micros) -> Snapshot {
        let ctx = &self.ctx;
        let live = lock(&ctx.live);
        let wall_ms = ctx.clock.now_ms();
        let phase = phase(ctx, state, &live, open, end, wall_ms);
        let view = |op, side| live.metrics.latency_view(op, side, now);
        Snapshot {
            at: now,
            wall_ms,
            plan: plan_view(ctx),
            epoch: ctx.epoch,
            holder: self.holder.clone(),
            drill: self.drill,
            phase,
            why: why(ctx, state, &live, phase, (end, wall_ms)),
            if_nothing: if_nothing(ctx, state, phase, wall_ms),
            throttle: ctx.throttle.view(now),
            load: super::load::view(&live, now),
            latency_source: live.latency_source,
            activity: live.progress.as_ref().map(|p| activity(p, live.throttled.clone(), now)),
            stages: stages(ctx, state, wall_ms),
            route: route_view(ctx, live.frozen_since),
            pilot: pilot_view(ctx),
            gates: live.gates.clone(),
            reads: Side::BOTH.map(|s| view(OpKind::Read, s)),
            writes: Side::BOTH.map(|s| view(OpKind::Write, s)),
            lag: lag_view(ctx, &live, now),
            reconcile: vec![reconcile_view(ctx, &live)],
            calendar: calendar_view(ctx, wall_ms),
            traffic: traffic(state, &live),
            way_back: way_back(ctx, state, &live, now),
            back: back_view(ctx, state),
            strand: super::strand::view(ctx, state, &live),
            rest: rest(ctx, state, &live),
            events: live.events.iter().cloned().collect(),
            applications: applications(&live, now),
            unpublished: lock(&ctx.published).problem(now),
            trace: None,
        }
    }
}

fn calendar_view(ctx: &Ctx, wall_ms: i64) -> Option<CalendarView> {
    let calendar = Some(&ctx.plan.calendar).filter(|c| !c.is_empty())?;
    Some(match calendar.look(wall_ms) {
        Opening::Open { until_ms } => CalendarView { closed: None, changes_ms: until_ms },
        Opening::Closed { why, opens_ms } => CalendarView { closed: Some(why), changes_ms: opens_ms },
    })
}

fn plan_view(ctx: &Ctx) -> PlanView {
    let p = &ctx.plan;
    PlanView {
        id: p.id.clone(),
        title: p.title.clone(),
        environment: p.cluster.environment.clone(),
        mode: if ctx.in_place.is_some() { "in place" } else { p.mode.name() }.into(),
        hash: p.hash.clone(),
        collections: p.collections.iter().map(|c| (c.legacy.to_string(), c.next.to_string())).collect(),
        max_staleness: p.max_staleness,
    }
}

fn soak_left_ms(ctx: &Ctx, state: &State, wall_ms: i64) -> Option<i64> {
    let Status::Soaking { since_ms } = state.status else { return None };
    let soak = ctx.plan.stages.get(state.stage).map_or(0, |s| s.soak.as_ms()) as i64;
    Some((soak - (wall_ms - since_ms)).max(0))
}

fn phase(ctx: &Ctx, state: &State, live: &LiveView, open: bool, end: Option<&End>, wall_ms: i64) -> Phase {
    match end {
        Some(End::Failed(_) | End::Fenced(_)) => return Phase::Failed,
        Some(End::Completed) => return Phase::Completed,
        Some(End::RolledBack) => return Phase::RolledBack,
        Some(End::Stopped | End::Amended) | None => {}
    }
    if state.needs_operator.is_some() {
        return Phase::NeedsOperator;
    }
    if state.paused.is_some() {
        return Phase::Paused;
    }
    // Neither is journalled as such: both pass by themselves when next answers.
    if end.is_none() && open && (super::strand::asks(ctx, state) || super::strand::is_outstanding(ctx, state)) {
        return Phase::NeedsOperator;
    }
    match state.status {
        Status::Completed => Phase::Completed,
        Status::RolledBack => Phase::RolledBack,
        _ if state.back.is_some() => Phase::RollingBack,
        Status::New => Phase::Starting,
        _ if !open => Phase::Starting,
        Status::Working => Phase::Working,
        Status::Soaking { .. } if soak_left_ms(ctx, state, wall_ms).is_some_and(|l| l > 0) => Phase::Soaking,
        Status::Soaking { .. } if live.gates.iter().any(|g| g.verdict != Verdict::Pass) => Phase::Blocked,
        Status::Soaking { .. } if ctx.plan.calendar.closed(wall_ms).is_some() => Phase::Blocked,
        Status::Soaking { .. } if state.advance_mode(&ctx.plan) == Advance::Auto => Phase::Soaking,
        Status::Soaking { .. } => Phase::AwaitingOperator,
    }
}

/// The reason a gate does not pass, with the numbers.
#[must_use]
pub fn gate_reason(g: &GateView) -> String {
    let number = |v: f64| if v.abs() >= 100.0 { format!("{v:.0}") } else { format!("{v:.2}") };
    let actual = g.actual.map_or_else(|| "no data".to_owned(), |v| format!("{}{}", number(v), g.unit));
    match g.verdict {
        Verdict::Fail => {
            format!("{} {actual}, must be {} {}{} (for {})", g.name, g.relation, number(g.limit), g.unit, g.held)
        }
        Verdict::Stale => format!("{}: the newest data is {} old", g.name, g.age.unwrap_or(Micros::MAX)),
        Verdict::Inconclusive if g.samples >= g.min_samples => format!("{}: nothing to judge by", g.name),
        Verdict::Inconclusive => format!("{}: {} of {} samples", g.name, g.samples, g.min_samples),
        Verdict::Holding => format!("{} holds for {} of {}", g.name, g.held, g.hold_for),
        Verdict::Pass => format!("{} passes", g.name),
    }
}

fn why(ctx: &Ctx, state: &State, live: &LiveView, phase: Phase, (end, wall_ms): (Option<&End>, i64)) -> String {
    let closed = || ctx.plan.calendar.closed(wall_ms);
    let failing = || live.gates.iter().find(|g| g.verdict != Verdict::Pass).map(gate_reason);
    match (phase, end) {
        (_, Some(End::Failed(m) | End::Fenced(m))) => m.clone(),
        (Phase::Starting, _) if state.status == Status::New && closed().is_some() => {
            live.waiting.clone().or_else(closed).unwrap_or_default()
        }
        (Phase::Starting, _) => live.waiting.clone().unwrap_or_else(|| "taking up the rollout".into()),
        (Phase::NeedsOperator, _) => match (&state.needs_operator, &live.waiting) {
            (Some(why), _) => why.clone(),
            (None, Some(waiting)) => waiting.clone(),
            (None, None) => "next does not answer".into(),
        },
        (Phase::Paused, _) => state.paused.clone().unwrap_or_default(),
        (Phase::Working, _) if state.back.is_none() && state.awaits.first().is_some() => {
            state.awaits.why().unwrap_or_default()
        }
        (Phase::Working | Phase::RollingBack, _) => {
            let task = state.current_task(&ctx.plan).map_or("between tasks", crate::rollout::Task::name);
            match (&live.waiting, &live.throttled) {
                (Some(w), _) => format!("{task}: {w}"),
                (None, Some(t)) => format!("{task} is {t}"),
                (None, None) => format!("{task} is under way"),
            }
        }
        (Phase::Soaking, _) => {
            let said = failing().unwrap_or_else(|| "every gate passes".into());
            match ctx.throttle.tail_reason() {
                Some(why) => format!("{said}; tail throttled: {why}"),
                None => said,
            }
        }
        (Phase::Blocked, _) => failing().or_else(closed).unwrap_or_default(),
        (Phase::AwaitingOperator, _) => "soaked and every gate passes: advance when ready".into(),
        (Phase::Completed, _) => "every stage passed".into(),
        (Phase::RolledBack, _) => "everything is back on legacy".into(),
        (Phase::Failed, _) => String::new(),
    }
}

fn if_nothing(ctx: &Ctx, state: &State, phase: Phase, wall_ms: i64) -> String {
    let auto = state.advance_mode(&ctx.plan) == Advance::Auto || state.stage + 1 == ctx.plan.stages.len();
    let left = soak_left_ms(ctx, state, wall_ms).map(|ms| Micros::from_ms(ms as u64));
    let kept = match (&ctx.in_place, &ctx.observing) {
        (Some(_), _) => "the tail brings what is written into shape",
        (None, Some(_)) => "the other tool does as it does",
        (None, None) => "both sides are kept in step",
    };
    let opens = if ctx.plan.calendar.closed(wall_ms).is_some() { ", and the change window is open" } else { "" };
    match phase {
        Phase::Starting if state.status == Status::New && !opens.is_empty() => {
            "begins by itself when the change window opens".into()
        }
        Phase::Working if state.held.is_some() => format!("tries again until that is mended; {kept}"),
        Phase::Starting | Phase::Working => "the stage's work goes on, then it soaks".into(),
        Phase::Soaking if auto => match left.filter(|l| *l > Micros::ZERO) {
            Some(l) => format!("advances by itself in {l} if the gates hold{opens}"),
            None => format!("advances by itself once the gates hold{opens}"),
        },
        Phase::Soaking => format!("soaks for {}, then waits for an operator", left.unwrap_or_default()),
        Phase::Blocked if auto => format!("stays; advances by itself once the gates hold{opens}"),
        Phase::Blocked | Phase::AwaitingOperator => format!("stays as it is; {kept}"),
        Phase::Paused => format!("stays paused; {kept}"),
        Phase::NeedsOperator if state.needs_operator.is_none() => match state.sealed.is_some() {
            true => "salvages by itself once next answers".into(),
            false => "goes back by itself, losing nothing, once next answers".into(),
        },
        Phase::NeedsOperator => "stays stopped until somebody acts".into(),
        Phase::RollingBack if state.back.as_ref().is_some_and(|b| b.cohort) => {
            "the pilot cohort goes back to legacy, then it waits".into()
        }
        Phase::RollingBack => match state.back.as_ref().and_then(|b| ctx.plan.stages.get(b.to?)) {
            Some(s) => format!("goes back to stage {}, then waits", s.id),
            None => "goes back until everything is on legacy, compared and recovered".into(),
        },
        Phase::Completed | Phase::RolledBack | Phase::Failed => "nothing more happens".into(),
    }
}

fn activity(p: &Progress, throttled: Option<String>, now: Micros) -> Activity {
    let span = now.since(p.began).as_secs_f64();
    let rate = (span > 0.5).then(|| p.done.saturating_sub(p.from) as f64 / span);
    let left = p.total.map(|t| t.saturating_sub(p.done));
    let eta = match (left, rate) {
        (Some(left), Some(rate)) if rate > 0.0 => Some(Micros((left as f64 / rate * 1e6) as u64)),
        _ => None,
    };
    Activity { name: p.name.into(), done: p.done, total: p.total, rate, eta, throttled }
}

fn stages(ctx: &Ctx, state: &State, wall_ms: i64) -> Vec<StageView> {
    let view = |(i, s): (usize, &crate::plan::Stage)| {
        let times = state.stage_times.get(i);
        let status = match times {
            Some((_, Some(_))) => StageStatus::Passed,
            Some((_, None)) => StageStatus::Current,
            None => StageStatus::Pending,
        };
        let elapsed = times.map_or(0, |(from, to)| to.unwrap_or(wall_ms) - from);
        let soaked = match (status, state.status) {
            (StageStatus::Passed, _) => s.soak,
            (StageStatus::Current, Status::Soaking { since_ms }) => Micros::from_ms((wall_ms - since_ms).max(0) as u64),
            _ => Micros::ZERO,
        };
        StageView {
            id: s.id.clone(),
            status,
            reads: s.reads,
            writes: s.writes,
            shadow: s.shadow,
            pilot: s.pilot.goes(),
            elapsed: Micros::from_ms(elapsed.max(0) as u64),
            soak: s.soak,
            soaked: Micros(soaked.0.min(s.soak.0)),
            irreversible: s.irreversible,
            operator: state.advance.unwrap_or(s.advance) == Advance::Operator,
            runbook: s.runbook.clone(),
        }
    };
    ctx.plan.stages.iter().enumerate().map(view).collect()
}

fn route_view(ctx: &Ctx, frozen_since: Option<Micros>) -> RouteView {
    let Some(r) = ctx.ownership.route() else { return RouteView::default() };
    RouteView {
        epoch: r.epoch,
        shadow: r.shadow,
        reads_next_below: r.reads_next_below,
        writes_next_below: r.writes_next_below,
        frozen: r.frozen.map(|f| (f.from, f.to, frozen_since.unwrap_or_default())),
    }
}

/// Before there is a route the cohort goes as everybody else.
fn pilot_view(ctx: &Ctx) -> Option<PilotView> {
    let cohort = ctx.plan.pilot.as_ref()?.to_string();
    let route = ctx.ownership.route();
    let pilot = route.as_ref().and_then(|r| r.pilot.as_ref());
    Some(PilotView {
        cohort,
        reads: pilot.map_or(Goes::Buckets, |p| p.reads),
        writes: pilot.map_or(Goes::Buckets, |p| p.writes),
    })
}

fn lag_view(ctx: &Ctx, live: &LiveView, now: Micros) -> LagView {
    // What an onlooker reads of next's stream is nobody's lag.
    let measured = |s: Side| s == Side::Legacy || ctx.observing.is_none();
    let running = |s: Side| measured(s) && ctx.tails[s as usize].is_running();
    let lag = |s: Side| running(s).then(|| live.apply_lag(s, now)).flatten();
    LagView {
        members: live
            .observed
            .iter()
            .flatten()
            .flat_map(|(_, o)| o.members.iter().map(|m| (m.name.clone(), m.state.clone(), m.lag)))
            .collect(),
        apply: lag(Side::Legacy),
        reverse: lag(Side::Next),
        apply_history: live.lag_history.iter().copied().collect(),
        limit: ctx.plan.throttle.max_lag,
        source_rate: live.rates.0,
        apply_rate: live.rates.1,
        oplog_window: live.oplog_window(),
    }
}

fn reconcile_view(ctx: &Ctx, live: &LiveView) -> ReconcileView {
    let c = &live.reconcile;
    let collection = ctx.ns(Side::Legacy).coll.to_string();
    match (&c.current, &c.last) {
        // While a pass scans, what does not match yet is in flight: it is judged at the end.
        (Some((out, open, ratio)), last) => ReconcileView {
            collection,
            matched: Some(out.matched),
            in_flight: Some(*open),
            checked: *ratio,
            verified_through_ms: last.as_ref().map(|o| o.through_ms),
            running: true,
            ..ReconcileView::default()
        },
        (None, Some(o)) => ReconcileView {
            collection,
            matched: Some(o.matched),
            missing: Some(o.missing),
            extra: Some(o.extra),
            differing: Some(o.differing),
            in_flight: Some(o.in_flight),
            checked: Some(1.0),
            verified_through_ms: Some(o.through_ms),
            running: c.running,
        },
        (None, None) => ReconcileView { collection, running: c.running, ..ReconcileView::default() },
    }
}

fn traffic(state: &State, live: &LiveView) -> TrafficView {
    let (t, oracle) = live.totals();
    let n = |v: i64| v.max(0) as u64;
    TrafficView {
        acknowledged: n(t.acknowledged),
        lost: oracle.then_some(n(t.lost)),
        stale_owner: n(t.stale_owner),
        stale_copy: n(t.stale_copy),
        stray: state.strays_open(),
        shadow: (n(t.shadow_different), n(t.shadow_compared)),
    }
}

pub(super) fn way_back(ctx: &Ctx, state: &State, live: &LiveView, now: Micros) -> WayBack {
    if ctx.in_place.is_some() {
        return super::in_place::way_back(ctx, state);
    }
    if ctx.observing.is_some() {
        return super::observing::way_back();
    }
    let until_stage = ctx.plan.stages.iter().find(|s| s.irreversible).map(|s| s.id.clone());
    let route = ctx.ownership.route();
    let freeze = live.longest_freeze;
    if state.status == Status::RolledBack {
        let text = "everything is back on legacy".into();
        return WayBack { open: false, writes_at_risk: Some(0), text, ..WayBack::default() };
    }
    if state.reverse_stopped && state.back.is_none() {
        return WayBack { until_stage, text: "legacy no longer follows".into(), ..WayBack::default() };
    }
    if let Some(sealed) = state.sealed.as_ref().filter(|_| state.salvaged.is_none()) {
        let n = |name: &str| sealed.evidence.get(name).and_then(Value::as_u64);
        return WayBack {
            open: true,
            writes_at_risk: n("writes_estimate"),
            seconds_at_risk: n("ms_at_risk").map(Micros::from_ms),
            text: "legacy owns every write; what was left behind on next is not salvaged yet".into(),
            ..WayBack::default()
        };
    }
    let Some(route) = route.filter(Route::writes_to_next) else {
        let text = "legacy owns every write".into();
        let none = Some(Micros::ZERO);
        return WayBack { open: true, writes_at_risk: Some(0), seconds_at_risk: none, until_stage, freeze: none, text };
    };
    let share = share_on_next(&route);
    let tail = &ctx.tails[Side::Next as usize];
    // Beyond this the count of what was read says little about what was not.
    let current = live.apply_lag(Side::Next, now).is_some_and(|lag| lag <= Micros::from_secs(10));
    let waiting = (tail.is_running() && current).then(|| {
        let (read, applied) = tail.counts();
        read.saturating_sub(applied)
    });
    let aside = ctx.aside.count(Side::Next) as u64;
    let waiting = waiting.map(|n| n + aside);
    let text = match (tail.is_running(), live.apply_lag(Side::Next, now)) {
        _ if aside > 0 => {
            format!("NOT LOSSLESS: {aside} documents of next have no right copy on legacy, they are in quarantine")
        }
        (true, Some(lag)) => format!("{share} are on next, legacy follows {lag} behind"),
        (true, None) => format!("{share} are on next, lag not known yet"),
        (false, _) => format!("{share} are on next and legacy does not follow"),
    };
    let seconds_at_risk = tail.is_running().then(|| live.apply_lag(Side::Next, now)).flatten();
    WayBack { open: tail.is_running(), writes_at_risk: waiting, seconds_at_risk, until_stage, freeze, text }
}

/// `5% of writes`, with what is said of the cohort.
fn share_on_next(route: &Route) -> String {
    let share = f64::from(route.writes_next_below) * 100.0 / f64::from(BUCKETS);
    match route.pilot.as_ref().map(|p| p.writes) {
        Some(Goes::Next) if route.writes_next_below == 0 => "writes of the pilot cohort".to_owned(),
        Some(Goes::Next) if route.writes_next_below < BUCKETS => {
            format!("{share:.0}% of writes and those of the pilot cohort")
        }
        Some(Goes::Legacy) => format!("{share:.0}% of writes but for the pilot cohort"),
        _ => format!("{share:.0}% of writes"),
    }
}

fn back_view(ctx: &Ctx, state: &State) -> Option<BackView> {
    let back = state.back.as_ref()?;
    let tasks = state.tasks(&ctx.plan);
    Some(BackView {
        hard: back.hard,
        why: back.why.clone(),
        to: back.to.and_then(|t| ctx.plan.stages.get(t)).map(|s| s.id.clone()),
        step: tasks.get(state.tasks_done).map_or("", |t| t.name()).to_owned(),
        steps: (state.tasks_done.min(tasks.len()), tasks.len()),
        cohort: back.cohort,
    })
}

fn rest(ctx: &Ctx, state: &State, live: &LiveView) -> Option<RestView> {
    if ctx.in_place.is_some() {
        return super::in_place::rest(ctx, state, live);
    }
    if ctx.observing.is_some() {
        return super::observing::rest(ctx, state, live);
    }
    let (legacy, next) = (ctx.ns(Side::Legacy), ctx.ns(Side::Next));
    let proof = match live.reconcile.last.as_ref().filter(|r| r.is_clean()) {
        Some(r) => format!("{} documents compared and equal on both sides before they parted", r.matched),
        None => "next was never a whole copy: legacy was not touched".to_owned(),
    };
    let plan = &ctx.plan.id;
    match state.status {
        Status::Completed => Some(RestView {
            applications: format!("applications read and write {next}"),
            collections: vec![
                format!("{next} is the collection in use"),
                format!("{} is legacy, kept; {legacy} is an empty view", super::tasks::quarantine_ns(legacy, plan)),
            ],
            proof,
        }),
        Status::RolledBack => Some(RestView {
            applications: format!("applications read and write {legacy}"),
            collections: vec![
                format!("{legacy} is the collection in use"),
                match state.back.as_ref().is_some_and(|b| b.copied) {
                    true => format!("{} is next, sealed and kept", super::back::isolated_ns(next, plan)),
                    false => format!("{} is what had been copied, if anything", super::back::isolated_ns(next, plan)),
                },
            ],
            proof,
        }),
        _ => None,
    }
}

fn applications(live: &LiveView, now: Micros) -> Vec<ApplicationView> {
    let view = |(name, a): (&String, &super::live_view::AppSeen)| ApplicationView {
        name: name.clone(),
        epoch: a.epoch,
        age: now.since(a.last_change),
    };
    live.applications.iter().map(view).collect()
}
