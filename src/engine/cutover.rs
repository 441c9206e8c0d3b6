//! Moving the writes of a range of buckets to next and back (DESIGN rule 8), and reads ahead of them (rule 9).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::ctx::{Ctx, Halt, lock};
use super::observe::is_silent;
use super::planted::Bug;
use super::proof;
use super::reconcile::{self, compare_again};
use super::routing::{Changed, await_acks, change, unfreeze};
use super::server_gate;
use super::strand::{self, Stand};
use super::switch;
use super::tasks::reconcile_until_clean;
use crate::cluster::{ClusterTime, Key};
use crate::plan::Mode;
use crate::route::{BUCKETS, Bucket, Frozen, Goes, Pilot, Route, Side, bucket_of};
use crate::runtime::Micros;

/// Apply lag above which a freeze is not begun: the drain would take too long.
const LAG_MAX: Micros = Micros::from_secs(2);
/// Touched keys that can be compared while writes are held.
const FEW: usize = 500;
/// Pause between attempts.
const AGAIN: Micros = Micros::from_secs(3);

/// Reports why a task waits; the runner journals it once per reason.
pub(super) type Held<'a> = &'a (dyn Fn(String) + Send + Sync);

/// Moves reads of the buckets below `below` to next. `None` when the engine is stopping.
pub(super) async fn move_reads(ctx: &Arc<Ctx>, below: Bucket, held: Held<'_>) -> Result<Option<Value>, Halt> {
    loop {
        let Some(route) = ready(ctx).await else { return Ok(None) };
        if route.reads_next_below >= below {
            if !switch::told(ctx, held).await? {
                return Ok(None);
            }
            return Ok(Some(
                json!({ "text": format!("reads below bucket {below} come from next"), "epoch": route.epoch }),
            ));
        }
        let lag = lock(&ctx.live).apply_lag(Side::Legacy, ctx.rt.now());
        match lag {
            Some(lag) if lag <= ctx.plan.max_staleness => {
                let to = Route { reads_next_below: below, ..route.clone() };
                change(ctx, &route, to, &format!("reads below bucket {below} from next")).await?;
            }
            Some(lag) => wait(ctx, held, format!("apply lag {lag} > max_staleness {}", ctx.plan.max_staleness)).await,
            None => wait(ctx, held, "apply lag is not known yet".into()).await,
        }
    }
}

/// Sets the percentage of shadowed reads, and waits until every process knows.
pub(super) async fn set_shadow(ctx: &Arc<Ctx>, percent: u8, held: Held<'_>) -> Result<Option<Value>, Halt> {
    loop {
        let Some(route) = ready(ctx).await else { return Ok(None) };
        if route.shadow != percent {
            change(ctx, &route, Route { shadow: percent, ..route.clone() }, &format!("shadow {percent}% of reads"))
                .await?;
            continue;
        }
        match await_acks(ctx, route.epoch, ctx.rt.now() + AGAIN).await? {
            Ok(()) => {
                return Ok(Some(json!({ "text": format!("{percent}% of reads are shadowed"), "epoch": route.epoch })));
            }
            Err(late) => held(late),
        }
    }
}

/// The route, once nothing is paused; `None` when the engine is stopping.
pub(super) async fn ready(ctx: &Arc<Ctx>) -> Option<Route> {
    loop {
        if ctx.is_leaving() {
            return None;
        }
        if let Some(route) = ctx.ownership.route().filter(|_| !ctx.is_paused()) {
            return Some(route);
        }
        ctx.sleep(Micros::from_ms(50)).await;
    }
}

pub(super) async fn wait(ctx: &Arc<Ctx>, held: Held<'_>, why: String) {
    held(why);
    ctx.sleep(Micros::from_ms(250)).await;
}

/// Writes of a range of buckets, or of the pilot cohort, or both, change hands, in either direction.
#[derive(Clone, Copy)]
pub(super) struct Shift {
    /// The side that owns them now.
    pub src: Side,
    /// The first bucket that takes no writes meanwhile.
    pub from: Bucket,
    /// One past the last.
    pub to: Bucket,
    /// Buckets below this belong to next afterwards.
    pub below: Bucket,
    /// Back only: reads of the buckets from here on go back in the same moment.
    pub reads_below: Bucket,
    /// Where reads and writes of the cohort go afterwards; `None` is as before.
    pub pilot: Option<(Goes, Goes)>,
    /// Back only: there is no time for a whole comparison before.
    pub hard: bool,
}

impl Shift {
    fn text(self) -> String {
        format!("{} to {}", self.what(), self.src.other().name())
    }

    /// What changes hands, in words.
    fn what(self) -> String {
        match self.pilot {
            None => format!("buckets {}..{}", self.from, self.to),
            Some(_) if self.src == Side::Next && self.below == 0 => "all writes".to_owned(),
            Some(_) => "writes of the pilot cohort".to_owned(),
        }
    }

    /// Which of the touched keys change hands: those that the one side owns now and the other afterwards.
    fn moving(self, dirty: Option<&BTreeSet<Key>>, before: &Route) -> Vec<Key> {
        let after = self.decided(before, ClusterTime::ZERO);
        let moves = |k: &&Key| {
            bucket_of(k).is_ok_and(|b| before.owner(&(*k, b)) == self.src && after.owner(&(*k, b)) != self.src)
        };
        dirty.map(|d| d.iter().filter(moves).cloned().collect()).unwrap_or_default()
    }

    /// The route that decides it.
    fn decided(self, frozen: &Route, marker: ClusterTime) -> Route {
        let mut route = Route { frozen: None, writes_next_below: self.below, ..frozen.clone() };
        if let Some((reads, writes)) = self.pilot {
            route.pilot = route.pilot.map(|p| Pilot { reads, writes, ..p });
        }
        match self.src {
            Side::Legacy => {
                route.applied_through = marker;
                // Where one switch moves both, reads have not gone ahead.
                route.reads_next_below = route.reads_next_below.max(self.below);
            }
            Side::Next => route.reads_next_below = route.reads_next_below.min(self.reads_below).max(self.below),
        }
        route
    }
}

/// Moves writes of the buckets `from..to` to next. `None` when the task is left.
pub(super) async fn move_writes(
    ctx: &Arc<Ctx>,
    from: Bucket,
    to: Bucket,
    held: Held<'_>,
) -> Result<Option<Value>, Halt> {
    let open = |route: &Route| {
        let from = from.max(route.writes_next_below);
        let shift = Shift { src: Side::Legacy, from, to, below: to, reads_below: to, pilot: None, hard: false };
        (route.writes_next_below < to).then_some(shift)
    };
    let text = format!("buckets {from}..{to} belong to next");
    shift(ctx, &open, &Done { text, confirm: true }, held).await
}

/// What a rollback leaves on next.
#[derive(Clone, Copy)]
pub(super) struct Home {
    /// Writes of the buckets below this.
    pub below: Bucket,
    /// Reads of the buckets below this.
    pub reads_below: Bucket,
    /// Reads and writes of the pilot cohort, at most; `None` is as before.
    pub pilot: Option<(Goes, Goes)>,
}

/// Moves writes of every bucket from `below` on, and of the cohort, back to legacy. `None` when the task is left.
pub(super) async fn return_writes(
    ctx: &Arc<Ctx>,
    home: Home,
    hard: bool,
    held: Held<'_>,
) -> Result<Option<Value>, Halt> {
    let Home { below, reads_below, pilot } = home;
    let open = |route: &Route| {
        let goes = route.pilot.as_ref().zip(pilot).map(|(now, most)| (now.writes, super::pilot::lowered(route, most)));
        // A cohort lies across all buckets.
        let apart = goes.filter(|(now, goes)| goes.1 != *now).map(|(_, goes)| goes);
        let range = if apart.is_some() { (0, BUCKETS) } else { (below, route.writes_next_below) };
        let below = below.min(route.writes_next_below);
        let shift = Shift { src: Side::Next, from: range.0, to: range.1, below, reads_below, pilot: apart, hard };
        (!shift.decided(route, ClusterTime::ZERO).owns_as(route)).then_some(shift)
    };
    let text = match below {
        0 => "every write belongs to legacy".to_owned(),
        _ => format!("writes from bucket {below} on belong to legacy"),
    };
    // Both sides are compared whole by a task that follows.
    shift(ctx, &open, &Done { text, confirm: false }, held).await
}

/// What is said when nothing is left to move.
pub(super) struct Done {
    pub text: String,
    /// An earlier runner may have been cut off between its flip and its confirmation.
    pub confirm: bool,
}

/// Attempts until `open` finds nothing left to move.
pub(super) async fn shift(
    ctx: &Arc<Ctx>,
    open: &(dyn Fn(&Route) -> Option<Shift> + Send + Sync),
    done: &Done,
    held: Held<'_>,
) -> Result<Option<Value>, Halt> {
    let mut attempts = 0;
    loop {
        if ctx.plan.mode.is_told() && ctx.ownership.route().is_some_and(|r| r.frozen.is_some()) {
            // Nobody else ends it: not even a pause may leave writes held.
            unfreeze(ctx).await?;
        }
        let Some(route) = ready(ctx).await else { return Ok(None) };
        if route.frozen.is_some() {
            unfreeze(ctx).await?;
            continue;
        }
        let Some(shift) = open(&route) else {
            if !switch::told(ctx, held).await? {
                return Ok(None);
            }
            return match done.confirm {
                true => confirm_all(ctx, &route, &done.text, held).await,
                false => Ok(Some(json!({ "text": done.text, "epoch": route.epoch, "attempts": attempts }))),
            };
        };
        if shift.src == Side::Next {
            match strand::stand(ctx, shift.hard, shift.from == 0).await {
                Stand::Answers => {}
                Stand::Waits(why) => {
                    wait(ctx, held, why).await;
                    continue;
                }
                Stand::Leave => match not_left_frozen(ctx, strand::leave(ctx, &route, held).await).await? {
                    Ok(evidence) if switch::told(ctx, held).await? => return Ok(Some(evidence)),
                    Ok(_) => return Ok(None),
                    Err(why) => {
                        if !gave_up(ctx, why, held).await? {
                            return Ok(None);
                        }
                        ctx.sleep(AGAIN).await;
                        continue;
                    }
                },
            }
        }
        if let Some(why) = not_ready(ctx, shift) {
            wait(ctx, held, why).await;
            continue;
        }
        match compared(ctx, &route, shift, held).await? {
            None => return Ok(None),
            Some(false) => continue,
            Some(true) => {}
        }
        if let Err(why) = switch::answers(ctx).await? {
            wait(ctx, held, why).await;
            continue;
        }
        attempts += 1;
        let attempted = match not_left_frozen(ctx, attempt(ctx, &route, shift, held).await).await {
            // Nothing is left frozen or undecided over it.
            Err(Halt::LetGo) => Err(strand::words(ctx)),
            other => other?,
        };
        match attempted {
            Ok(evidence) => {
                let mut evidence = evidence;
                evidence["attempts"] = json!(attempts);
                return Ok(Some(evidence));
            }
            Err(why) => {
                if !gave_up(ctx, why, held).await? {
                    return Ok(None);
                }
                if !shift.hard {
                    // What was touched meanwhile is compared outside a freeze: the next one must not be longer than this one.
                    *lock(&ctx.dirty) = None;
                }
                pause_after(ctx, shift.src, attempts).await;
            }
        }
    }
}

/// An attempt has come to nothing: nobody's writes stay held for a pause between attempts. False when the task is left.
async fn gave_up(ctx: &Arc<Ctx>, why: String, held: Held<'_>) -> Result<bool, Halt> {
    held(why);
    unfreeze(ctx).await?;
    switch::told(ctx, held).await
}

/// Between attempts. A switch of one's own holds writes for long: one that does not come about is tried less and less often, the way
/// back hardly so. Nobody who wants something else waits for it.
async fn pause_after(ctx: &Ctx, src: Side, attempts: u32) {
    if !ctx.plan.mode.is_told() {
        return ctx.sleep(AGAIN).await;
    }
    let most = if src == Side::Legacy { 5 } else { 2 };
    let until = ctx.rt.now() + Micros(AGAIN.0 << attempts.min(most));
    while ctx.rt.now() < until && !ctx.is_leaving() {
        ctx.sleep(Micros::from_ms(250)).await;
    }
}

/// Sees to it that only keys touched lately must be compared while writes are held. False when the caller should look again,
/// `None` when the task is left.
async fn compared(ctx: &Arc<Ctx>, route: &Route, shift: Shift, held: Held<'_>) -> Result<Option<bool>, Halt> {
    if lock(&ctx.dirty).is_some() {
        compare_ahead(ctx, route, shift).await?;
        return Ok(Some(true));
    }
    if shift.hard {
        // There is no time for a whole pass: the drain alone brings everything back, and the pass follows.
        *lock(&ctx.dirty) = Some(BTreeSet::new());
        return Ok(Some(true));
    }
    // A reconciliation of an earlier process says nothing about what was touched since.
    match reconcile::pass(ctx).await? {
        None => return Ok(None),
        Some(out) if !out.is_clean() => {
            wait(ctx, held, format!("both sides differ: {}", out.examples.join(", "))).await;
            *lock(&ctx.dirty) = None;
        }
        Some(_) => {}
    }
    Ok(Some(false))
}

/// Compares what was touched so far while writes go on. A key found equal is forgotten: an event after that names it again.
async fn compare_ahead(ctx: &Arc<Ctx>, route: &Route, shift: Shift) -> Result<(), Halt> {
    for _ in 0..3 {
        let touched = shift.moving(lock(&ctx.dirty).as_ref(), route);
        if touched.len() <= FEW {
            return Ok(());
        }
        if let Some(dirty) = lock(&ctx.dirty).as_mut() {
            dirty.retain(|k| touched.binary_search(k).is_err());
        }
        let open = differing(ctx, &touched).await?;
        ctx.touched(open.into_iter());
    }
    Ok(())
}

/// An attempt that needs a person must not leave writes held until that person comes.
async fn not_left_frozen<T>(ctx: &Arc<Ctx>, outcome: Result<T, Halt>) -> Result<T, Halt> {
    if matches!(outcome, Err(Halt::Broken(_))) {
        // Should this fail too, the freeze ends by its time; where nobody but tidegate ends it, it is tried again.
        let _ = unfreeze(ctx).await;
        let ctx2 = ctx.clone();
        if ctx.plan.mode.is_told() {
            ctx.spawn("tell applications", async move {
                while unfreeze(&ctx2).await.is_err() || !matches!(switch::told(&ctx2, &|_| {}).await, Ok(true)) {
                    ctx2.sleep(AGAIN).await;
                }
            });
        }
    }
    outcome
}

/// Rule 8 (a): what must hold before writes are held.
fn not_ready(ctx: &Ctx, shift: Shift) -> Option<String> {
    if ctx.planted.has(Bug::DrainSkipped) {
        return None;
    }
    // What a silent process may still write the server refuses.
    if !ctx.plan.server_gate
        && let Some(silent) = silent_process(ctx)
    {
        return Some(format!(
            "application process {silent} has not renewed its acknowledgement; if it is gone for good, delete its document in \
             tidegate.route_acks"
        ));
    }
    // The way back needs only the tail that brings next's writes to legacy.
    let needed: &[Side] = if shift.src == Side::Next { &[Side::Next] } else { &Side::BOTH };
    for side in needed {
        if !ctx.tails[*side as usize].is_running() {
            return Some(format!("the changes of {} are not followed yet", side.name()));
        }
        match lock(&ctx.live).apply_lag(*side, ctx.rt.now()) {
            None => return Some(format!("the lag of {}'s changes is not known yet", side.name())),
            Some(lag) if lag > LAG_MAX => return Some(format!("{}'s changes are {lag} behind", side.name())),
            Some(_) => {}
        }
    }
    None
}

/// A process whose lease has run out without a renewal: it would hold up a freeze for nothing.
pub(super) fn silent_process(ctx: &Ctx) -> Option<String> {
    let names: Vec<String> = lock(&ctx.live).applications.keys().cloned().collect();
    names.into_iter().find(|name| is_silent(ctx, name))
}

/// One freeze, from (b) to (e). The inner `Err` says why ownership stays what it was.
async fn attempt(ctx: &Arc<Ctx>, route: &Route, shift: Shift, held: Held<'_>) -> Result<Result<Value, String>, Halt> {
    let Shift { src, from, to, .. } = shift;
    let _hurry = ctx.throttle.hurry();
    let began = ctx.rt.now();
    let deadline = began + Micros(ctx.plan.freeze_max.0 * 9 / 10);
    let server = ctx.insist("asking for the time", || ctx.db(Side::Legacy).observe()).await?;
    let until_ms = server.server_ms + ctx.plan.freeze_max.as_ms() as i64;
    let frozen = Route { frozen: Some(Frozen { from, to, until_ms }), ..route.clone() };
    let frozen = match change(ctx, route, frozen, &format!("buckets {from}..{to} frozen")).await? {
        Changed::Won(r) => r,
        Changed::Lost(r) => return Ok(Err(format!("the route moved to epoch {} meanwhile", r.epoch))),
    };
    if !ctx.planted.has(Bug::FlipWithoutAcks)
        && let Err(late) = follow_by(ctx, frozen.epoch, deadline).await?
    {
        return Ok(Err(late));
    }
    // Not earlier: a process that has not heard of the freeze yet would be refused. Not later: what is written after the marker by one
    // that needed no waiting for would not be drained.
    server_gate::apply(ctx, &frozen).await?;
    if !server_gate::is_set(ctx, src).await {
        return Ok(Err(format!("the server gate of {} could not be set", src.name())));
    }
    let marker = ctx.marker(src).await?;
    if let Err(why) = drain(ctx, src, marker, deadline).await {
        return Ok(Err(why));
    }
    let touched = shift.moving(lock(&ctx.dirty).as_ref(), &frozen);
    let differing = differing(ctx, &touched).await?;
    if !differing.is_empty() && !ctx.planted.has(Bug::DrainSkipped) && !ctx.planted.has(Bug::FlipWithBatchInFlight) {
        return Ok(Err(format!("{} keys differ after the drain, {} first", differing.len(), differing[0])));
    }
    if let Err(why) = hold(ctx, &frozen, shift, &touched, deadline).await? {
        ctx.ownership.set(frozen);
        return Ok(Err(why));
    }
    if ctx.rt.now() >= deadline {
        ctx.ownership.set(frozen);
        return Ok(Err(format!("it took longer than freeze_max {}", ctx.plan.freeze_max)));
    }
    let decided = match decide(ctx, shift, &frozen, marker, deadline).await? {
        Ok(r) => r,
        Err(why) => return Ok(Err(why)),
    };
    if !switch::told(ctx, held).await? {
        return Ok(Err("it was left before every application followed".into()));
    }
    let took = ctx.rt.now().since(began);
    {
        let mut live = lock(&ctx.live);
        live.metrics.set("freeze.duration", None, ctx.rt.now(), took.0 as f64);
        live.longest_freeze = live.longest_freeze.max(Some(took));
    }
    confirm(ctx, src.other(), &touched).await?;
    Ok(Ok(json!({
        "text": format!("{} belong to {}, writes held for {}ms", shift.what(), src.other().name(), took.as_ms()),
        "epoch": decided.epoch,
        "freeze_us": took.0,
        "compared": touched.len(),
        "drained_through": marker.to_string(),
    })))
}

/// Every process goes by the route in force before `deadline`: those that follow it, and those that are told. The inner `Err` says who
/// does not.
async fn follow_by(ctx: &Arc<Ctx>, epoch: i64, deadline: Micros) -> Result<Result<(), String>, Halt> {
    match await_acks(ctx, epoch, deadline).await? {
        Ok(()) => switch::tell(ctx, deadline).await,
        late => Ok(late),
    }
}

/// Rule 8 (e). On the way forward reads are on next already, so that whoever still follows the older route reads from the new owner.
/// On the way back they are not, nor where one switch moves both: the range stays frozen under its new owner until every process knows
/// who that is.
async fn decide(
    ctx: &Arc<Ctx>,
    shift: Shift,
    frozen: &Route,
    marker: ClusterTime,
    deadline: Micros,
) -> Result<Result<Route, String>, Halt> {
    let decided = shift.decided(frozen, marker);
    let early = |r: &Route| format!("the freeze was undone by epoch {} first", r.epoch);
    let ahead = shift.src == Side::Legacy && ctx.plan.mode != Mode::Copy;
    if ahead || ctx.planted.has(Bug::ReadsLeftBehind) {
        return Ok(match change(ctx, frozen, decided, &shift.text()).await? {
            Changed::Won(r) => Ok(r),
            Changed::Lost(r) => Err(early(&r)),
        });
    }
    let still = Route { frozen: frozen.frozen, ..decided };
    let still = match change(ctx, frozen, still, &format!("{}, still frozen", shift.text())).await? {
        Changed::Won(r) => r,
        Changed::Lost(r) => return Ok(Err(early(&r))),
    };
    let late = follow_by(ctx, still.epoch, deadline).await?.err();
    let (then, text) = match &late {
        None => (Route { frozen: None, ..still.clone() }, "thawed".to_owned()),
        // Some may read from the other side already: nothing is written before they are back.
        Some(_) if ctx.plan.mode.is_told() => {
            (frozen.clone(), format!("given back to {}, still frozen", shift.src.name()))
        }
        // Nothing was written meanwhile: the owner of before still has everything.
        Some(_) => (Route { frozen: None, ..frozen.clone() }, format!("given back to {}", shift.src.name())),
    };
    let text = format!("{} {text}", shift.what());
    // Whoever was first, ownership is what the route in force says.
    let (Changed::Won(now) | Changed::Lost(now)) = change(ctx, &still, then, &text).await?;
    Ok(match late {
        Some(why) if now.owns_as(frozen) => Err(why),
        _ => Ok(now),
    })
}

/// Rule 8 (b): from here on no batch of the range is written until ownership is decided, and none is under way. What was touched
/// after the drain, by a process that does not follow the route, is compared too.
async fn hold(
    ctx: &Arc<Ctx>,
    frozen: &Route,
    shift: Shift,
    compared: &[Key],
    deadline: Micros,
) -> Result<Result<(), String>, Halt> {
    if ctx.planted.has(Bug::FlipWithBatchInFlight) || ctx.planted.has(Bug::DrainSkipped) {
        return Ok(Ok(()));
    }
    let Shift { src, from, to, .. } = shift;
    ctx.ownership.undecided(from, to);
    while ctx.ownership.is_writing(from, to) {
        if ctx.rt.now() >= deadline {
            return Ok(Err("a batch of the range was still under way at the end of freeze_max".into()));
        }
        ctx.sleep(Micros::from_ms(2)).await;
    }
    let mut late = shift.moving(lock(&ctx.dirty).as_ref(), frozen);
    late.retain(|k| !compared.contains(k));
    let differing = differing(ctx, &late).await?;
    Ok(match differing.first() {
        Some(key) => Err(format!("{key} was written on {} while the range was frozen", src.name())),
        None => Ok(()),
    })
}

/// Rule 8 (c): nothing written on the owner's side before the marker is still on its way, and no restart will see it again.
async fn drain(ctx: &Arc<Ctx>, src: Side, marker: ClusterTime, deadline: Micros) -> Result<(), String> {
    if ctx.planted.has(Bug::DrainSkipped) {
        return Ok(());
    }
    let tail = &ctx.tails[src as usize];
    tail.store_after(marker);
    let drained = if ctx.planted.has(Bug::FlipWithBatchInFlight) {
        return if tail.read_past(ctx, marker, deadline).await { Ok(()) } else { Err("not read".into()) };
    } else {
        tail.drain(ctx, marker, deadline).await
    };
    if !drained {
        return Err(format!("{}'s changes were not applied within freeze_max", src.name()));
    }
    if !tail.checkpoint(ctx, marker, deadline).await {
        return Err("the tail's position was not stored within freeze_max".into());
    }
    Ok(())
}

async fn differing(ctx: &Arc<Ctx>, keys: &[Key]) -> Result<Vec<Key>, Halt> {
    let found = compare_again(ctx, keys).await?;
    let back = ctx.returning.load(Ordering::SeqCst);
    let left = |key: &Key| back && ctx.aside.has(Side::Next, key);
    Ok(found.into_iter().filter(|(k, f)| !f.is_equal() && !left(k)).map(|(k, _)| k).collect())
}

/// The flip was made by an attempt that did not come to its end: which keys it would have confirmed is not known any more, so both
/// sides are compared whole.
async fn confirm_all(ctx: &Arc<Ctx>, route: &Route, done: &str, held: Held<'_>) -> Result<Option<Value>, Halt> {
    let Some(mut evidence) = reconcile_until_clean(ctx, held).await? else { return Ok(None) };
    evidence["text"] = json!(format!("{done}; {} documents match", evidence["matched"]));
    evidence["epoch"] = json!(route.epoch);
    Ok(Some(evidence))
}

/// After a grace period: the same keys once more, now that `owner` owns them and the other side follows.
async fn confirm(ctx: &Arc<Ctx>, owner: Side, keys: &[Key]) -> Result<(), Halt> {
    let mut open = keys.to_vec();
    for round in 0u64..30 {
        ctx.sleep(Micros::from_ms(500 + 200 * round)).await;
        let at = ctx.marker(owner).await?;
        ctx.tails[owner as usize].drain(ctx, at, ctx.rt.now() + Micros::from_secs(10)).await;
        open = differing(ctx, &open).await?;
        if round >= reconcile::BUSY_ROUND as u64 {
            let judged = proof::judge_moving(ctx, &open).await;
            open.retain(|key| !judged.iter().any(|(k, finding)| k == key && finding.is_equal()));
        }
        if open.is_empty() || ctx.is_leaving() {
            return Ok(());
        }
    }
    Err(Halt::Broken(format!(
        "after the cutover {} keys still differ between both sides, {} first",
        open.len(),
        open[0]
    )))
}
