//! tidegate's own work slows down before the database or the application suffers from it.
//!
//! `signals` makes readings of what is measured, `control` makes a speed of them, and this file has the work keep to it: after so
//! much work comes so much rest. The tail never stops, and never rests while anybody waits for it; a hard rollback and a salvage never
//! rest at all.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use self::control::{Controller, FULL, Reading};
use self::episode::Episodes;
pub(super) use self::probe::Probes;
use self::reference::{Pace, References};
use self::signals::Ground;
use super::ctx::{Ctx, lock};
use crate::rollout::State;
use crate::route::Side;
use crate::runtime::Micros;
use crate::snapshot::{LatencySource, ThrottleView};

mod control;
mod episode;
mod probe;
mod reference;
mod signals;

/// Copying, comparing and mending go on at a twentieth at least, unless they stop.
const FLOOR: u32 = 50;
/// The tail goes on at a quarter at least: what it leaves undone is lag.
const TAIL_FLOOR: u32 = 250;
/// Documents copied together at least.
const PORTION_MIN: usize = 50;
/// The longest rest of a tail's worker at a time.
const TAIL_REST: Micros = Micros::from_ms(250);
/// What took longer was for the most part waiting, for a cluster that did not answer.
const PIECE: Micros = Micros::from_secs(2);
/// The longest rest after one piece of work.
const LONGEST: Micros = Micros::from_secs(10);
/// How often work at rest looks again.
const LOOK: Micros = Micros::from_ms(50);
/// How often readings are taken.
const EVERY: Micros = Micros::from_secs(1);
/// Latencies are those of an idle tidegate when it has been idle for the whole of their window.
const IDLE: Micros = Micros::from_secs(30);
/// What may come in a burst after a standstill.
const BURST: Micros = Micros::from_secs(1);

struct Inner {
    /// Copying, comparing, mending.
    bulk: Controller,
    tail: Controller,
    references: References,
    source: Option<LatencySource>,
    /// Of the route: another one is another share of the traffic.
    route_epoch: Option<i64>,
    episodes: Episodes,
}

/// The speed that work keeps to, shared by all who work.
pub(super) struct Throttle {
    inner: Mutex<Inner>,
    /// As the controllers have it, in thousandths.
    speeds: [AtomicU32; 2],
    /// A hard rollback or a salvage is under way.
    off: AtomicBool,
    /// So many wait for a tail.
    hurry: AtomicUsize,
    hurried: Notify,
    /// A tail is too far behind, or the oplog hardly reaches back to it.
    behind: AtomicBool,
    /// So many pieces of work that can wait are being done now.
    at_work: AtomicUsize,
    /// Rest so far, microseconds: of work that can wait, and of the tails.
    rested: [AtomicU64; 2],
    /// When work that can wait was last done, microseconds and one more; 0 is never.
    worked: AtomicU64,
}

impl Default for Throttle {
    fn default() -> Self {
        Throttle {
            inner: Mutex::new(Inner {
                bulk: Controller::new(FLOOR, true),
                tail: Controller::new(TAIL_FLOOR, false),
                references: References::default(),
                source: None,
                route_epoch: None,
                episodes: Episodes::default(),
            }),
            speeds: [AtomicU32::new(FULL), AtomicU32::new(FULL)],
            off: AtomicBool::new(false),
            hurry: AtomicUsize::new(0),
            hurried: Notify::new(),
            behind: AtomicBool::new(false),
            at_work: AtomicUsize::new(0),
            rested: Default::default(),
            worked: AtomicU64::new(0),
        }
    }
}

const BULK: usize = 0;
const TAIL: usize = 1;

/// While it lives no tail rests.
pub(super) struct Hurry<'a>(&'a Throttle);

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.hurry.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The rest that is due after work that took `took`, at a speed in thousandths; `None` is until the speed is another.
fn rest_after(took: Micros, speed: u32) -> Option<Micros> {
    match speed {
        0 => None,
        FULL.. => Some(Micros::ZERO),
        s => Some(Micros((took.0.saturating_mul(u64::from(FULL - s)) / u64::from(s)).min(LONGEST.0))),
    }
}

impl Throttle {
    /// Takes what the rollout is doing now.
    pub(super) fn follow(&self, state: &State) {
        let hard = state.back.as_ref().is_some_and(|b| b.hard);
        let salvage = state.sealed.is_some() && state.salvaged.is_none();
        self.off.store(hard || salvage, Ordering::SeqCst);
        if hard || salvage {
            self.hurried.notify_waiters();
        }
    }

    fn is_off(&self) -> bool {
        self.off.load(Ordering::SeqCst)
    }

    fn speed(&self, of: usize) -> u32 {
        if self.is_off() { FULL } else { self.speeds[of].load(Ordering::SeqCst) }
    }

    /// How many of `most` documents are copied together: fewer while it is held back, for a large piece is a jolt of its own.
    pub(super) fn portion(&self, most: usize) -> usize {
        (most * self.speed(BULK) as usize / FULL as usize).max(PORTION_MIN.min(most))
    }

    /// Somebody waits for a tail: from now on none rests.
    pub(super) fn hurry(&self) -> Hurry<'_> {
        self.hurry.fetch_add(1, Ordering::SeqCst);
        self.hurried.notify_waiters();
        Hurry(self)
    }

    /// A tail's worker rests after work that began at `began`.
    pub(super) async fn rest_tail(&self, ctx: &Ctx, began: Micros) {
        if self.speed(TAIL) >= FULL || self.behind.load(Ordering::SeqCst) {
            return;
        }
        let hurried = self.hurried.notified();
        if self.hurry.load(Ordering::SeqCst) > 0 {
            return;
        }
        let now = ctx.rt.now();
        let rest = rest_after(now.since(began), self.speed(TAIL)).unwrap_or(TAIL_REST).min(TAIL_REST);
        if rest > Micros::ZERO {
            ctx.wait(hurried, rest).await;
            self.rested[TAIL].fetch_add(ctx.rt.now().since(now).0, Ordering::SeqCst);
        }
    }

    /// Time at rest so far.
    fn rested(&self) -> [Micros; 2] {
        [BULK, TAIL].map(|of| Micros(self.rested[of].load(Ordering::SeqCst)))
    }

    fn has_worked(&self, now: Micros) {
        self.worked.store(now.0 + 1, Ordering::SeqCst);
    }

    fn is_idle(&self, now: Micros) -> bool {
        if self.at_work.load(Ordering::SeqCst) > 0 {
            return false;
        }
        match self.worked.load(Ordering::SeqCst) {
            0 => true,
            at => now.since(Micros(at - 1)) > IDLE,
        }
    }

    /// What is held down, for the screen; `None` at full speed.
    pub(super) fn view(&self, now: Micros) -> Option<ThrottleView> {
        let inner = lock(&self.inner);
        if self.is_off() {
            return None;
        }
        let held = if inner.bulk.is_full() { &inner.tail } else { &inner.bulk };
        let cause = held.cause()?;
        let r = &cause.reading;
        Some(ThrottleView {
            signal: r.name.clone(),
            actual: r.actual.map(|x| r.unit.text(x)),
            limit: r.unit.text(r.limit),
            held: now.since(cause.since),
            speed: f64::from(inner.bulk.speed()) / f64::from(FULL),
            tail_speed: f64::from(inner.tail.speed()) / f64::from(FULL),
            text: held.reason()?,
        })
    }

    /// Why the tail rests; `None` when it does not.
    pub(super) fn tail_reason(&self) -> Option<String> {
        if self.is_off() { None } else { lock(&self.inner).tail.reason() }
    }

    fn bulk_reason(&self) -> Option<String> {
        if self.is_off() {
            return None;
        }
        lock(&self.inner).bulk.reason().map(|why| format!("throttled: {why}"))
    }
}

/// Takes readings once a second and journals when throttling begins and ends.
pub(super) async fn watch(ctx: Arc<Ctx>) {
    loop {
        ctx.sleep(EVERY).await;
        let told = {
            let live = lock(&ctx.live);
            look(&ctx, &live)
        };
        if let Some(event) = told {
            ctx.record(event).await;
        }
    }
}

fn look(ctx: &Ctx, live: &super::live_view::LiveView) -> Option<crate::rollout::Event> {
    let now = ctx.rt.now();
    let t = &ctx.throttle;
    // The lag of a tool that is only observed is none that a slower comparison would spare.
    let follows = Side::BOTH.map(|s| ctx.observing.is_none() && ctx.tails[s as usize].is_running());
    let in_place = ctx.in_place.is_some();
    let g = Ground { plan: &ctx.plan.throttle, live, now, one_cluster: ctx.one_cluster, in_place, follows };
    let mut inner = lock(&t.inner);
    let inner = &mut *inner;
    let route_epoch = ctx.ownership.route().map(|r| r.epoch);
    if (inner.source, inner.route_epoch) != (live.latency_source, route_epoch) {
        (inner.source, inner.route_epoch) = (live.latency_source, route_epoch);
        inner.references.forget();
    }
    let low_for = inner.bulk.low_since().map_or(Micros::ZERO, |since| now.since(since));
    inner.references.look(&g, Pace { idle: t.is_idle(now), low_for });
    let (mut readings, bulk_only) = signals::readings(&g, &inner.references);
    t.behind.store(bulk_only.iter().any(Reading::is_over), Ordering::SeqCst);
    inner.tail.step(now, &readings);
    readings.extend(bulk_only);
    inner.bulk.step(now, &readings);
    t.speeds[BULK].store(inner.bulk.speed(), Ordering::SeqCst);
    t.speeds[TAIL].store(inner.tail.speed(), Ordering::SeqCst);
    inner.episodes.look(now, [&inner.bulk, &inner.tail], t.rested())
}

/// Keeps work that consists of pieces to the speed. Who works side by side has one each, so that each rests after its own work.
pub(super) struct Pacer<'c> {
    ctx: &'c Ctx,
    /// It is paused with the rollout; a repair is not.
    pauses: bool,
    /// It keeps to the speed; one that only keeps to a rate does not.
    rests: bool,
    /// So many work side by side.
    among: u64,
    /// A piece is being done, since then.
    at_work: Option<Micros>,
    /// At most so many documents a second, and when the next ones are due.
    rate: Option<u32>,
    due: Micros,
}

impl<'c> Pacer<'c> {
    /// Comparing or mending.
    pub(super) fn new(ctx: &'c Ctx) -> Pacer<'c> {
        Pacer { ctx, pauses: false, rests: true, among: 1, at_work: None, rate: None, due: ctx.rt.now() }
    }

    /// Copying, which the plan may have given a rate.
    pub(super) fn copying(ctx: &'c Ctx) -> Pacer<'c> {
        let mut pacer = Pacer::pausing(ctx);
        pacer.rate = ctx.plan.throttle.max_docs_per_second;
        pacer
    }

    /// The rate that the plan may have given copying, for all who copy together.
    pub(super) fn rate_of_all(ctx: &'c Ctx) -> Option<Pacer<'c>> {
        ctx.plan.throttle.max_docs_per_second.map(|_| {
            let mut pacer = Pacer::copying(ctx);
            pacer.rests = false;
            pacer
        })
    }

    /// The same for one of so many who work side by side: their rest together is the rest of one.
    pub(super) fn one_of(mut self, among: usize) -> Pacer<'c> {
        self.among = among.max(1) as u64;
        self
    }

    /// It waits for a turn, which is no work.
    pub(super) fn waits(&mut self) {
        if self.at_work.take().is_some() {
            self.ctx.throttle.at_work.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Its turn has come, and the piece begins. False when meanwhile there is a reason not to begin one.
    pub(super) fn begins(&mut self) -> bool {
        let held = (self.pauses && self.ctx.is_paused()) || self.ctx.throttle.speed(BULK) == 0;
        if held || self.ctx.is_leaving() {
            return false;
        }
        self.ctx.throttle.at_work.fetch_add(1, Ordering::SeqCst);
        self.at_work = Some(self.ctx.rt.now());
        true
    }

    /// What stands still while the rollout is paused, without a rate.
    pub(super) fn pausing(ctx: &'c Ctx) -> Pacer<'c> {
        let mut pacer = Pacer::new(ctx);
        pacer.pauses = true;
        pacer
    }

    /// A piece ends; answers how long it took.
    fn end(&mut self) -> Micros {
        let now = self.ctx.rt.now();
        let Some(since) = self.at_work.take() else { return Micros::ZERO };
        self.ctx.throttle.at_work.fetch_sub(1, Ordering::SeqCst);
        self.ctx.throttle.has_worked(now);
        now.since(since)
    }

    /// Between two pieces of work, the last of which carried `docs` documents: rests as long as it must, and says why. False when the
    /// task is to be left.
    pub(super) async fn pace(&mut self, docs: u64) -> bool {
        let ctx = self.ctx;
        let began = ctx.rt.now();
        let took = self.end().min(PIECE);
        if let Some(rate) = self.rate {
            let per = Micros(docs.saturating_mul(1_000_000) / u64::from(rate.max(1)));
            self.due = self.due.max(began.since(took + BURST)) + per;
        }
        loop {
            let now = ctx.rt.now();
            let speed = if self.rests { ctx.throttle.speed(BULK) } else { FULL };
            let rest = rest_after(took, speed);
            let held = rest.is_none_or(|rest| now.since(began) < rest);
            let paused = self.pauses && ctx.is_paused();
            // The others rest by turns: what is held back is all of the work, also while this one goes on.
            let why = match ctx.throttle.bulk_reason() {
                _ if paused => Some("paused".to_owned()),
                Some(why) => Some(why),
                None => self.rate.filter(|_| now < self.due).map(|r| format!("held to max_docs_per_second {r}")),
            };
            lock(&ctx.live).throttled.clone_from(&why);
            if ctx.is_leaving() {
                return false;
            }
            if !paused && !held && now >= self.due {
                ctx.throttle.at_work.fetch_add(1, Ordering::SeqCst);
                self.at_work = Some(now);
                return true;
            }
            let wait = match rest {
                Some(rest) if held => rest.since(now.since(began)).min(LOOK),
                _ => LOOK,
            };
            ctx.sleep(wait).await;
            if held && !paused {
                ctx.throttle.rested[BULK].fetch_add(ctx.rt.now().since(now).0 / self.among, Ordering::SeqCst);
            }
        }
    }
}

impl Drop for Pacer<'_> {
    fn drop(&mut self) {
        self.end();
        lock(&self.ctx.live).throttled = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_much_rest_follows_so_much_work() {
        let took = Micros::from_ms(40);
        assert_eq!(rest_after(took, FULL), Some(Micros::ZERO));
        assert_eq!(rest_after(took, 500), Some(took));
        assert_eq!(rest_after(took, FLOOR), Some(Micros::from_ms(760)));
        assert_eq!(rest_after(Micros::from_secs(9), FLOOR), Some(LONGEST));
        assert_eq!(rest_after(took, 0), None);
    }
}
