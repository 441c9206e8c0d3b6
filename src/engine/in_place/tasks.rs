//! Carrying out the tasks of a migration in place. Each may have been begun before and begins again safely.

use std::sync::Arc;

use bson::{RawBson, RawBsonRef, RawDocumentBuf};
use serde_json::{Value, json};

use super::super::ctx::{Ctx, Halt, lock};
use super::super::cutover::Held;
use super::super::quarantine::quarantine_ns;
use super::super::refusal::Refusal;
use super::super::tasks::{indexes, kind, note_counts, start_tail};
use super::super::{back, reconcile, routing};
use super::judge::Way;
use super::{InPlace, pass, undo_ns};
use crate::cluster::{AdminOp, CollKind, Failed, Key, Reason, WriteOp};
use crate::rollout::{Event, State, Task};
use crate::route::Side;
use crate::runtime::Micros;

/// For so long an application must not have written the other shape, before nobody changes it any more.
const QUIET: Micros = Micros::from_secs(10);

/// Carries out one task. `None` when it is left.
pub(in crate::engine) async fn run(
    ctx: &Arc<Ctx>,
    place: &InPlace,
    state: &State,
    task: Task,
    held: Held<'_>,
) -> Result<Option<Value>, Halt> {
    let way = if state.back.is_some() { Way::Back } else { Way::There };
    // The tail turns with it. What was under way the other way has a known outcome after this.
    place.turn(ctx, way).await;
    match task {
        Task::Baseline => back::baseline(ctx).await,
        Task::Create => create(ctx).await.map(Some),
        Task::StartTail => start_tail(ctx, Side::Legacy).await.map(Some),
        Task::Backfill => backfill(ctx).await,
        Task::Indexes => indexes(ctx, held).await,
        Task::Undo { hard } => undo(ctx, hard).await,
        Task::Quiet => quiet(ctx, place, held).await,
        Task::Recover => back::recover(ctx, state.before.as_ref(), held).await,
        Task::Reconcile => reconcile_until_clean(ctx, place, held).await,
        other => Ok(Some(json!({ "text": format!("{}: nothing to do in place", other.name()) }))),
    }
}

async fn create(ctx: &Arc<Ctx>) -> Result<Value, Halt> {
    let ns = ctx.ns(Side::Legacy);
    if !ctx.one_cluster {
        return Err(Refusal::TwoClusters(ns.clone()).into());
    }
    if kind(ctx, Side::Legacy, ns).await? != CollKind::Collection {
        return Err(Refusal::NotPlain(ns.clone()).into());
    }
    // Before the first transaction: one that has to make a collection conflicts with others that do.
    ctx.admin(Side::Legacy, "creating the store of pre-images", AdminOp::Create { ns: undo_ns() }).await?;
    routing::create(ctx).await?;
    Ok(json!({ "text": format!("pre-images of {ns} are kept in {}", undo_ns()), "undo": undo_ns().to_string() }))
}

async fn backfill(ctx: &Arc<Ctx>) -> Result<Option<Value>, Halt> {
    let done = pass::run(ctx, Way::There, true).await?;
    Ok(done.map(|p| {
        let more =
            if p.mixed > 0 { format!(", {} of neither shape were left as they are", p.mixed) } else { String::new() };
        json!({
            "text": format!("{} of {} documents changed in place{more}", p.written, p.seen),
            "copied": p.written, "seen": p.seen, "mixed": p.mixed,
        })
    }))
}

async fn undo(ctx: &Arc<Ctx>, hard: bool) -> Result<Option<Value>, Halt> {
    let done = pass::run(ctx, Way::Back, !hard).await?;
    Ok(done.map(|p| {
        json!({
            "text": format!("{} of {} documents brought back to legacy's shape", p.written, p.seen),
            "restored": p.written, "seen": p.seen, "mixed": p.mixed,
        })
    }))
}

/// Waits until no application has written the other shape for a while.
async fn quiet(ctx: &Arc<Ctx>, place: &InPlace, held: Held<'_>) -> Result<Option<Value>, Halt> {
    let way = place.way();
    let (from, to) = (way.from(), way.shape());
    let began = ctx.rt.now();
    let mut named = None;
    loop {
        if ctx.is_leaving() {
            return Ok(None);
        }
        let since = place.last_other().map_or(began, |(at, _)| at.max(began));
        let now = ctx.rt.now();
        if now.since(since) >= QUIET && !ctx.is_paused() {
            // Whatever was written up to now has been looked at by then.
            let at = ctx.marker(Side::Legacy).await?;
            let tail = &ctx.tails[Side::Legacy as usize];
            let drained = !tail.is_running() || tail.drain(ctx, at, now + Micros::from_secs(10)).await;
            if drained && place.last_other().is_none_or(|(at, _)| at <= since) {
                return Ok(Some(json!({ "text": format!("nobody has written {from}'s shape for {QUIET}") })));
            }
        } else if let Some((_, key)) = place.last_other() {
            // One and the same document as long as it waits: each text goes into the journal.
            let key = named.get_or_insert(key);
            held(format!("{from}'s shape is still being written, {key} for one: the application must write {to}'s"));
        }
        ctx.sleep(Micros::from_ms(250)).await;
    }
}

/// Looks at every document until each is in the shape it is to have. What is neither shape is listed in `quarantine`; on the way there
/// it holds the rollout up until somebody mends it, on the way back it is counted as a stray and left for a person.
async fn reconcile_until_clean(ctx: &Arc<Ctx>, place: &InPlace, held: Held<'_>) -> Result<Option<Value>, Halt> {
    loop {
        if ctx.is_paused() && !ctx.is_leaving() {
            ctx.sleep(Micros::from_ms(100)).await;
            continue;
        }
        let Some(mut out) = reconcile::pass(ctx).await? else { return Ok(None) };
        let way = place.way();
        for (key, why) in std::mem::take(&mut out.mixed) {
            put_aside(ctx, way, &key, &why).await?;
            if way == Way::Back {
                out.differing = out.differing.saturating_sub(1);
                out.aside += 1;
            }
        }
        if out.aside > 0 {
            out.text =
                out.text.map(|t| format!("{t}, {} of neither shape are listed in {}", out.aside, quarantine_ns()));
        }
        lock(&ctx.live).reconcile.finish(&out);
        note_counts(ctx, &out);
        if out.is_clean() {
            return Ok(Some(out.evidence()));
        }
        let shape = way.shape();
        held(format!(
            "{} not in {shape}'s shape, {} in flight: {}",
            out.differing,
            out.in_flight,
            out.examples.join("; ")
        ));
        ctx.sleep(Micros::from_secs(5)).await;
    }
}

/// Lists a document that is neither shape, once a way; a copy is kept, the document stays. On the way back the rollout is told.
async fn put_aside(ctx: &Arc<Ctx>, way: Way, key: &Key, why: &str) -> Result<(), Halt> {
    let ns = quarantine_ns();
    let mut id = RawDocumentBuf::new();
    id.append(bson::cstr!("rollout"), ctx.plan.id.as_str());
    id.append(bson::cstr!("to"), way.shape());
    id.append(bson::cstr!("key"), RawBson::from(key.value()));
    let known = Key::new(RawBsonRef::Document(&id)).map_err(|e| Halt::Broken(format!("the _id {key}: {e}")))?;
    let known = [known];
    let seen = ctx.retry("looking into the list", || ctx.db(Side::Legacy).read(&ns, &known, ctx.seen(Side::Legacy)));
    if seen.await?.docs.first().is_some_and(Option::is_some) {
        return Ok(());
    }
    if way == Way::Back {
        // Told before it is stored: cut off between the two, a restart tells it again rather than never.
        let event = Event::StrayFound {
            key: key.to_string(),
            side: "legacy".to_owned(),
            why: Some(crate::scrub::short(why, 300)),
            kept: known[0].to_string(),
        };
        ctx.record(event).await;
    }
    let keys = [key.clone()];
    let place = ctx.ns(Side::Legacy);
    let read = ctx.retry("reading a document", || ctx.db(Side::Legacy).read(place, &keys, ctx.seen(Side::Legacy)));
    let doc = read.await?.docs.into_iter().next().flatten();
    let mut d = RawDocumentBuf::new();
    d.append(bson::cstr!("_id"), id);
    d.append(bson::cstr!("plan"), ctx.plan.id.as_str());
    d.append(bson::cstr!("key"), RawBson::from(key.value()));
    d.append(bson::cstr!("event"), "mixed");
    d.append(bson::cstr!("why"), crate::scrub::short(why, 300));
    match doc {
        Some(doc) => d.append(bson::cstr!("document"), &*doc),
        None => d.append(bson::cstr!("document"), RawBson::Null),
    }
    let op = WriteOp::Insert { ns: ns.clone(), doc: d };
    ctx.retry("listing a document", || async {
        match ctx.db(Side::Legacy).write(&op).await {
            Err(Failed::NotDone(Reason::DuplicateKey { .. })) => Ok(()),
            other => other.map(drop),
        }
    })
    .await
}
