//! Telling applications that follow no route document which side is theirs (`[route] mode = "copy"` and `"flags"`, docs/adopting.md).
//!
//! The route document stays what is decided; here the application's own switch is made to agree with it, and asked whether it does.
//! What is told is where things are to be, never a change: it may be told twice. It is journalled when it is told first and when it is
//! confirmed; the lease is looked at before each turn. A call that is late all the same has a smaller epoch than what was told since.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::ctx::{Ctx, Halt, lock};
use super::cutover::Held;
use super::observe::read_route;
use super::planted::Bug;
use super::routing::unfreeze;
use super::server_gate::still_held;
use crate::hooks::{Attempt, Call, Keep};
use crate::plan::{Hook, Mode, Plan, Switch};
use crate::rollout::{Event, Switched};
use crate::route::{BUCKETS, Route};
use crate::runtime::{Micros, timeout};

/// The first pause between two questions whether everybody follows; it doubles with each.
const PAUSE: Micros = Micros::from_ms(250);
/// The longest.
const PAUSE_MAX: Micros = Micros::from_secs(4);
/// Whom it waits for longer than this is said.
const LONG: Micros = Micros::from_secs(3);
/// The version of what hooks are told.
const SCHEMA: u32 = 1;

/// What applications are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stance {
    /// Percent of reads that go to next.
    reads: u8,
    writes: Writes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    Legacy,
    /// None is made until more is told.
    Held,
    Next,
}

impl Writes {
    fn name(self) -> &'static str {
        match self {
            Writes::Legacy => "legacy",
            Writes::Held => "held",
            Writes::Next => "next",
        }
    }
}

impl Stance {
    /// What a route means to an application that knows no buckets.
    fn of(plan: &Plan, route: &Route) -> Stance {
        let owned = route.writes_next_below >= BUCKETS;
        let writes = match (route.frozen.is_some(), owned) {
            (true, _) => Writes::Held,
            (false, true) => Writes::Next,
            (false, false) => Writes::Legacy,
        };
        let reads = match plan.mode {
            // One switch moves both: reads follow the owner.
            Mode::Copy => u8::from(owned) * 100,
            // Buckets are rounded up from a whole percentage, so this is that percentage again; it is at most 100.
            _ => (u32::from(route.reads_next_below) * 100 / u32::from(BUCKETS)) as u8,
        };
        Stance { reads, writes }
    }

    fn text(self) -> String {
        format!("{}% of reads from next, writes {}", self.reads, self.writes.name())
    }
}

/// What was told, and how that went.
#[derive(Default)]
pub(super) struct Told {
    /// One telling at a time.
    one: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// What everybody is known to go by.
    confirmed: Option<Stance>,
    /// What was begun to be told, as it stands in the journal.
    called: Option<(i64, Stance)>,
    /// Since when.
    called_at: Micros,
    /// The shares of reads that some process may go by; empty while nothing was ever told.
    reads: BTreeSet<u8>,
    /// How it failed, as it stands in the journal.
    failed: Option<String>,
}

/// Tells applications what the route in force means, and waits until they follow it. The inner `Err` says why they do not by `deadline`.
/// Nothing is done where the mode tells nobody, or everybody is known to follow.
pub(super) async fn tell(ctx: &Arc<Ctx>, deadline: Micros) -> Result<Result<(), String>, Halt> {
    let Some(switch) = &ctx.plan.switch else { return Ok(Ok(())) };
    let _one = ctx.told.one.lock().await;
    let Some(route) = read_route(ctx).await? else { return Ok(Ok(())) };
    let stance = Stance::of(&ctx.plan, &route);
    let begun = {
        let mut known = lock(&ctx.told.known);
        if known.confirmed == Some(stance) {
            return Ok(Ok(()));
        }
        known.confirmed = None;
        known.reads.insert(stance.reads);
        known.called.replace((route.epoch, stance)) == Some((route.epoch, stance))
    };
    if !begun {
        {
            let mut known = lock(&ctx.told.known);
            (known.failed, known.called_at) = (None, ctx.rt.now());
        }
        let (epoch, reads, writes) = (route.epoch, stance.reads, stance.writes.name().to_owned());
        ctx.record(Event::SwitchCalled { epoch, reads, writes }).await;
    }
    let outcome = until_confirmed(ctx, switch, &route, stance, deadline).await?;
    if outcome.is_ok() {
        let mut known = lock(&ctx.told.known);
        known.confirmed = Some(stance);
        known.reads = BTreeSet::from([stance.reads]);
    }
    settled(ctx, &route, stance, &outcome).await;
    Ok(outcome.map(drop).map_err(|why| not_yet(stance, &why)))
}

/// Writes down how it went; a failure once, as long as its words stay the same. The screen has them at any rate.
async fn settled(ctx: &Arc<Ctx>, route: &Route, stance: Stance, outcome: &Result<u32, String>) {
    let (ok, text) = match outcome {
        Ok(asked) => (true, format!("confirmed after {asked} question{}", if *asked == 1 { "" } else { "s" })),
        Err(why) => (false, why.clone()),
    };
    lock(&ctx.live).waiting = (!ok).then(|| not_yet(stance, &text));
    let (news, began) = {
        let mut known = lock(&ctx.told.known);
        let failed = (!ok).then(|| text.clone());
        let news = ok || known.failed != failed;
        known.failed = failed;
        (news, known.called_at)
    };
    if news {
        let (epoch, reads, writes) = (route.epoch, stance.reads, stance.writes.name().to_owned());
        let took_ms = ctx.rt.now().since(began).as_ms();
        ctx.record(Event::SwitchSettled { epoch, reads, writes, ok, took_ms, outcome: text }).await;
    }
}

fn not_yet(stance: Stance, why: &str) -> String {
    format!("applications do not follow yet ({}): {why}", stance.text())
}

/// As [`tell`], for as long as it takes. False when the task is left before.
pub(super) async fn told(ctx: &Arc<Ctx>, held: Held<'_>) -> Result<bool, Halt> {
    if ctx.plan.switch.is_none() || nothing_to_tell(ctx) {
        return Ok(true);
    }
    loop {
        match told_soon(ctx).await? {
            Ok(()) => return Ok(true),
            Err(_) if ctx.is_leaving() => return Ok(false),
            Err(why) => held(why),
        }
        ctx.sleep(PAUSE_MAX).await;
    }
}

/// Nothing was ever told, and what would be is what everybody does without a word: hooks that do not work keep nobody from ending it.
fn nothing_to_tell(ctx: &Ctx) -> bool {
    let stance = ctx.ownership.route().map(|r| Stance::of(&ctx.plan, &r));
    let legacy = Stance { reads: 0, writes: Writes::Legacy };
    lock(&ctx.told.known).reads.is_empty() && stance.is_none_or(|s| s == legacy)
}

/// Waits, writes being held, until every process reads where the route in force says: otherwise one would go on reading the copy while
/// others write on the owner's side again. Nothing is done where everybody is known to read there. False when it stops before.
pub(super) async fn is_even(ctx: &Arc<Ctx>, route: &Route) -> Result<bool, Halt> {
    if ctx.plan.switch.is_none() {
        return Ok(true);
    }
    let reads = BTreeSet::from([Stance::of(&ctx.plan, route).reads]);
    loop {
        if lock(&ctx.told.known).reads == reads || told_soon(ctx).await?.is_ok() {
            return Ok(true);
        }
        if ctx.is_stopping() {
            return Ok(false);
        }
        ctx.sleep(PAUSE_MAX).await;
    }
}

/// As [`tell`], with as much time as the hooks may take.
pub(super) async fn told_soon(ctx: &Arc<Ctx>) -> Result<Result<(), String>, Halt> {
    tell(ctx, ctx.rt.now() + patience(&ctx.plan)).await
}

/// Takes up what an earlier runner left, before any task of this one: a freeze is undone, and applications are told what holds.
pub(super) async fn take_up(ctx: &Arc<Ctx>, before: &Switched) -> Result<(), Halt> {
    if ctx.plan.switch.is_none() {
        return Ok(());
    }
    lock(&ctx.told.known).reads.clone_from(&before.reads);
    let frozen = |r: Option<Route>| r.filter(|r| r.frozen.is_some());
    let route = ctx.ownership.route();
    let same = route.as_ref().is_none_or(|r| before.reads == BTreeSet::from([Stance::of(&ctx.plan, r).reads]));
    if frozen(route).is_none() && !before.held && (before.reads.is_empty() || same) {
        // Nobody's writes are held, and everybody reads where the route says: whoever turns it next tells them.
        return Ok(());
    }
    let held = |why: String| lock(&ctx.live).waiting = Some(why);
    held("applications are told again which side is theirs".into());
    loop {
        unfreeze(ctx).await?;
        if !told(ctx, &held).await? {
            break;
        }
        // What the earlier runner had sent may have landed meanwhile.
        match frozen(read_route(ctx).await?) {
            Some(route) => ctx.ownership.set(route),
            None => break,
        }
    }
    lock(&ctx.live).waiting = None;
    Ok(())
}

/// Before writes are held: every process is known to answer, so that one that is dead costs no freeze. The inner `Err` says who does not.
pub(super) async fn answers(ctx: &Arc<Ctx>) -> Result<Result<(), String>, Halt> {
    let Some(switch) = &ctx.plan.switch else { return Ok(Ok(())) };
    let route = ctx.ownership.route();
    let Some(route) = route.filter(|r| lock(&ctx.told.known).confirmed == Some(Stance::of(&ctx.plan, r))) else {
        return told_soon(ctx).await;
    };
    let _one = ctx.told.one.lock().await;
    let Some((epoch, stance)) = lock(&ctx.told.known).called else { return Ok(Ok(())) };
    // What was told last, not the route in force: that may be newer and mean the same.
    let said = Route { epoch, ..route };
    let deadline = ctx.rt.now() + switch.confirm.timeout;
    let answer = call(ctx, &switch.confirm, &said, stance, deadline, 1).await;
    Ok(answer.map_err(|why| format!("before writes are held every process must answer: {why}")))
}

/// How long one telling may take.
pub(super) fn patience(plan: &Plan) -> Micros {
    plan.switch.iter().flat_map(Switch::hooks).fold(PAUSE_MAX, |t, h| t + h.timeout)
}

/// How often it was asked until everybody followed.
async fn until_confirmed(
    ctx: &Arc<Ctx>,
    switch: &Switch,
    route: &Route,
    stance: Stance,
    deadline: Micros,
) -> Result<Result<u32, String>, Halt> {
    let (mut asked, mut pause, mut turned) = (0, PAUSE, false);
    loop {
        let outcome = match turned {
            false => turn(ctx, switch, route, stance, deadline).await?,
            true => Ok(()),
        };
        turned = outcome.is_ok();
        if turned && ctx.planted.has(Bug::SwitchNotConfirmed) {
            return Ok(Ok(asked));
        }
        let outcome = match outcome {
            Ok(()) => {
                asked += 1;
                call(ctx, &switch.confirm, route, stance, deadline, asked).await
            }
            Err(why) => Err(why),
        };
        let Err(why) = outcome else { return Ok(Ok(asked)) };
        if gives_up(ctx, stance) || ctx.rt.now() + pause >= deadline {
            return Ok(Err(why));
        }
        if ctx.rt.now().since(lock(&ctx.told.known).called_at) >= LONG {
            // Writes may be held meanwhile: whom it waits for is said now, not when it is given up.
            settled(ctx, route, stance, &Err(why)).await;
        }
        ctx.sleep(pause).await;
        pause = Micros((pause.0 * 2).min(PAUSE_MAX.0));
    }
}

/// It stops; or a rollback waits for it, and nothing has been turned yet that would have to be turned back first.
fn gives_up(ctx: &Ctx, stance: Stance) -> bool {
    let only_held = stance.writes == Writes::Held && lock(&ctx.told.known).reads == BTreeSet::from([stance.reads]);
    ctx.is_stopping() || (ctx.is_leaving() && only_held)
}

/// Writes the flag file and calls the switch, as far as the plan names them.
async fn turn(
    ctx: &Arc<Ctx>,
    switch: &Switch,
    route: &Route,
    stance: Stance,
    deadline: Micros,
) -> Result<Result<(), String>, Halt> {
    // It cannot be fenced: right before, it is looked whether the lease is still this runner's.
    still_held(ctx).await?;
    if let Some(path) = &switch.flag_file {
        let text = flags(&ctx.plan, route, stance);
        let set = flag_set(&ctx.plan);
        let kept = ctx.hooks.0.keep(&ctx.rt, Keep { path, set: &set, epoch: route.epoch, text });
        match timeout(&ctx.rt, deadline.since(ctx.rt.now()), kept).await {
            Some(Ok(())) => {}
            Some(Err(why)) => return Ok(Err(format!("the flag file {path}: {why}"))),
            None => return Ok(Err(format!("the flag file {path} could not be written in time"))),
        }
    }
    Ok(match &switch.switch {
        Some(hook) => call(ctx, hook, route, stance, deadline, 0).await,
        None => Ok(()),
    })
}

/// `asked` tells a question from the ones before: they are no repetitions of one another.
async fn call(
    ctx: &Arc<Ctx>,
    hook: &Hook,
    route: &Route,
    stance: Stance,
    deadline: Micros,
    asked: u32,
) -> Result<(), String> {
    let plan = &ctx.plan;
    let nth = if asked > 0 { format!(".{}.{asked}", ctx.rt.now().0) } else { String::new() };
    let event_id = format!("{}.{}.{}.{}{nth}", plan.id, route.epoch, stance.writes.name(), hook.id);
    let body = json!({
        "schema": SCHEMA,
        "event_id": event_id,
        "event": hook.id,
        "rollout": plan.id,
        "plan": { "id": plan.id, "version": plan.version, "hash": plan.hash, "environment": plan.cluster.environment },
        "epoch": route.epoch,
        "legacy": route.legacy.to_string(),
        "next": route.next.to_string(),
        "reads": stance.reads,
        "writes": stance.writes.name(),
    });
    let env = vec![
        ("TIDEGATE_EPOCH", route.epoch.to_string()),
        ("TIDEGATE_READS", stance.reads.to_string()),
        ("TIDEGATE_WRITES", stance.writes.name().to_owned()),
    ];
    let call = Call { hook: hook.clone(), on: hook.id.clone(), event_id, body: body.to_string(), env };
    let left = deadline.since(ctx.rt.now());
    let Attempt { ok, outcome, output, .. } = match timeout(&ctx.rt, left, ctx.hooks.0.call(&ctx.rt, &call)).await {
        Some(attempt) => attempt,
        None => return Err(format!("the hook `{}` had not ended when there was no more time", hook.id)),
    };
    match (ok, output.is_empty()) {
        (true, _) => Ok(()),
        (false, true) => Err(format!("the hook `{}`: {outcome}", hook.id)),
        (false, false) => Err(format!("the hook `{}`: {outcome}: {}", hook.id, crate::scrub::short(&output, 200))),
    }
}

fn flag_set(plan: &Plan) -> String {
    format!("tidegate/{}", plan.id)
}

/// The flag file, in the format of flagd (<https://flagd.dev/reference/flag-definitions/>): `<plan>-reads` by percentage of the targeting
/// key, so that whoever reads from next at a percentage still does at a higher one, and `<plan>-writes`.
fn flags(plan: &Plan, route: &Route, stance: Stance) -> String {
    let reads = match stance.reads {
        0 | 100 => json!({}),
        percent => json!({ "fractional": [
            { "cat": [{ "var": "$flagd.flagKey" }, { "var": "targetingKey" }] },
            ["next", percent], ["legacy", 100 - percent],
        ] }),
    };
    let side = |next: bool| if next { "next" } else { "legacy" };
    let flag = |variants: &[&str], default: &str, targeting: Value| {
        let variants: serde_json::Map<String, Value> =
            variants.iter().map(|v| ((*v).to_owned(), Value::String((*v).to_owned()))).collect();
        json!({ "state": "ENABLED", "variants": variants, "defaultVariant": default, "targeting": targeting })
    };
    let file = json!({
        "$schema": "https://flagd.dev/schema/v0/flags.json",
        "metadata": { "flagSetId": flag_set(plan), "version": route.epoch.to_string(), "epoch": route.epoch },
        "flags": {
            format!("{}-reads", plan.id): flag(&["legacy", "next"], side(stance.reads == 100), reads),
            format!("{}-writes", plan.id): flag(&["legacy", "held", "next"], stance.writes.name(), json!({})),
        },
    });
    // A tree of texts and numbers has no way to fail.
    let mut text = serde_json::to_string_pretty(&file).unwrap_or_default();
    text.push('\n');
    text
}
