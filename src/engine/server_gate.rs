//! The server gate (DESIGN rule 6): a validator on each side that refuses inserts and updates of buckets the side does not own, or
//! that are frozen. tidegate's own transactions bypass it. Deletes are not covered: a server validates what is stored.
//!
//! What stood there before is kept in `tidegate.validators`, holds beside the gate, and comes back at the end. A validator cannot
//! tell the time (`$$NOW` is not available to one; measured on 6.0), so the gate of a freeze ends when a runner says so.

use std::future::Future;
use std::sync::Arc;

use bson::{Bson, Document, RawDocumentBuf, doc};
use tokio::sync::{Mutex, MutexGuard};

use super::ctx::{Ctx, Halt};
use super::refusal::Refusal;
use super::{lease, observe, strand, tasks};
use crate::cluster::{AdminDone, AdminOp, CONTROL_DB, CollKind, Failed, Key, Ns, Reason, Validation, WriteOp};
use crate::route::{BUCKETS, Bucket, Route, Side};
use crate::runtime::{Either, Micros, race};

/// How often it is looked whether the gate still stands: a stale runner's last word may arrive late, and people have collMod too.
const LOOK_EVERY: Micros = Micros::from_secs(2);

/// What this process knows of the gate; locked while it changes.
#[derive(Default)]
pub(super) struct ServerGate(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// What stood there before, by side; `None` while the gate is not in force on it.
    before: [Option<Validation>; 2],
    /// What this process has set last.
    set: [Option<Validation>; 2],
    /// Next did not answer when the gate was taken up: it is looked at again once it does.
    next_unknown: bool,
}

/// What is asked of a side; `None` when next, on a cluster of its own, is left behind or stops answering. A rollback must never wait for
/// the gate of a side that is gone: legacy's is what keeps writes right then.
async fn ask<T>(ctx: &Ctx, side: Side, question: impl Future<Output = Result<T, Halt>>) -> Result<Option<T>, Halt> {
    if side == Side::Legacy || ctx.one_cluster {
        return question.await.map(Some);
    }
    if ctx.strand.sealed().is_some() || strand::silence(ctx).is_some() {
        return Ok(None);
    }
    match race(question, strand::fallen_silent(ctx)).await {
        Either::Left(Err(Halt::LetGo)) | Either::Right(()) => Ok(None),
        Either::Left(answer) => answer.map(Some),
    }
}

/// The namespace of what stood there before, `_id` = `<plan>/<side>`.
pub(super) fn validators_ns() -> Ns {
    Ns::new(CONTROL_DB, "validators")
}

fn key(ctx: &Ctx, side: Side) -> String {
    format!("{}/{}", ctx.plan.id, side.name())
}

/// Names the gate in a validator.
fn mark(plan: &str) -> String {
    format!("tidegate: {plan}")
}

/// The first hashed value of a bucket; `None` past the last bucket.
pub(super) fn first_hash(bucket: Bucket) -> Option<i64> {
    (bucket < BUCKETS).then(|| i64::MIN.wrapping_add(i64::from(bucket) << 54))
}

fn hash(op: &str, bound: i64) -> Bson {
    Bson::Document(doc! { op: [{ "$toHashedIndexKey": "$_id" }, bound] })
}

/// What a document's `_id` must satisfy for a plain write on `side`.
fn clause(side: Side, route: &Route) -> Document {
    let own = match (side, first_hash(route.writes_next_below)) {
        (Side::Legacy, Some(h)) => hash("$gte", h),
        (Side::Next, Some(h)) => hash("$lt", h),
        (Side::Legacy, None) => Bson::Boolean(false),
        (Side::Next, None) => Bson::Boolean(true),
    };
    let mut all = vec![own];
    if let Some(f) = route.frozen {
        let outside = [first_hash(f.from).map(|h| hash("$lt", h)), first_hash(f.to).map(|h| hash("$gte", h))];
        all.push(Bson::Document(doc! { "$or": outside.into_iter().flatten().collect::<Vec<_>>() }));
    }
    doc! { "$comment": mark(&route.plan), "$expr": { "$and": all } }
}

/// The gate beside what stood there before.
fn gated(before: &Validation, side: Side, route: &Route) -> Validation {
    let clause = clause(side, route);
    Validation::strict(Some(match &before.validator {
        Some(v) => doc! { "$and": [v.clone(), clause] },
        None => clause,
    }))
}

/// What stood there before, when `found` is the gate itself: a stale runner may have set it once more after it was taken away.
pub(super) fn without_gate(found: Validation, plan: &str) -> Validation {
    let is_gate = |d: &Document| d.get_str("$comment").is_ok_and(|c| c == mark(plan));
    let Some(v) = &found.validator else { return found };
    if is_gate(v) {
        return Validation::strict(None);
    }
    match v.get_array("$and").ok().map(Vec::as_slice) {
        Some([Bson::Document(before), Bson::Document(gate)]) if is_gate(gate) => {
            Validation::strict(Some(before.clone()))
        }
        _ => found,
    }
}

/// Puts the gate up on both sides, for the first time. Says plainly when it cannot be had, before anything has moved.
pub(super) async fn put_up(ctx: &Arc<Ctx>, route: &Route) -> Result<(), Halt> {
    if !ctx.plan.server_gate {
        return Ok(());
    }
    {
        let mut inner = ctx.server_gate.0.lock().await;
        for side in Side::BOTH {
            inner.before[side as usize] = Some(keep(ctx, side).await?);
        }
    }
    apply(ctx, route).await.map_err(|halt| match halt {
        Halt::Broken(why) => Halt::Broken(format!(
            "the server gate cannot be put up: {why}; it needs collMod on both collections and a server that knows \
             $toHashedIndexKey in a validator (6.0 does); `server_gate = false` does without it"
        )),
        other => other,
    })
}

/// What stands there now, written down once: whoever comes later finds what was written first.
async fn keep(ctx: &Arc<Ctx>, side: Side) -> Result<Validation, Halt> {
    if let Some(kept) = kept(ctx, side).await? {
        return Ok(kept);
    }
    let now = without_gate(validation_of(ctx, side).await?, &ctx.plan.id);
    if let Some(refusal) = Refusal::lenient(ctx.ns(side), &now) {
        return Err(refusal.into());
    }
    let d = doc! {
        "_id": key(ctx, side), "plan": &ctx.plan.id, "ns": ctx.ns(side).to_string(),
        "validator": now.validator.clone().map_or(Bson::Null, Bson::Document), "level": &now.level, "action": &now.action,
    };
    let d =
        RawDocumentBuf::try_from(&d).map_err(|e| Halt::Broken(format!("the validator of {}: {e}", ctx.ns(side))))?;
    let op = WriteOp::Insert { ns: validators_ns(), doc: d };
    let written = ctx.insist("keeping a validator", || async {
        match ctx.db(Side::Legacy).write(&op).await {
            // This runner's own earlier attempt, or another's: either way what is there is right.
            Err(Failed::NotDone(Reason::DuplicateKey { .. })) => Ok(None),
            other => other.map(Some),
        }
    });
    if let Some(w) = written.await? {
        ctx.saw(Side::Legacy, w.at);
    }
    Ok(kept(ctx, side).await?.unwrap_or(now))
}

/// What was written down, if anything.
pub(super) async fn kept(ctx: &Arc<Ctx>, side: Side) -> Result<Option<Validation>, Halt> {
    let (ns, keys) = (validators_ns(), [Key::from(key(ctx, side).as_str())]);
    let seen = ctx.insist("asking for the time", || ctx.db(Side::Legacy).observe()).await?;
    ctx.saw(Side::Legacy, seen.majority);
    let after = ctx.seen(Side::Legacy);
    let read = ctx.insist("reading a validator", || ctx.db(Side::Legacy).read(&ns, &keys, after)).await?;
    let Some(raw) = read.docs.into_iter().next().flatten() else { return Ok(None) };
    let broken = |e: &dyn std::fmt::Display| Halt::Broken(format!("the kept validator of {}: {e}", ctx.ns(side)));
    let d = Document::try_from(&*raw).map_err(|e| broken(&e))?;
    Ok(Some(Validation {
        validator: d.get_document("validator").ok().cloned(),
        level: d.get_str("level").map_err(|e| broken(&e))?.to_owned(),
        action: d.get_str("action").map_err(|e| broken(&e))?.to_owned(),
    }))
}

/// What documents of a side are held against now.
pub(super) async fn validation_of(ctx: &Arc<Ctx>, side: Side) -> Result<Validation, Halt> {
    match ctx.admin(side, "reading a validator", AdminOp::Validation { ns: ctx.ns(side).clone() }).await? {
        AdminDone::Validation(v) => Ok(v),
        _ => Err(Halt::Broken("the cluster answered Validation with something else".into())),
    }
}

/// Looks whether the lease is still this runner's, right before something that cannot be fenced.
pub(super) async fn still_held(ctx: &Ctx) -> Result<(), Halt> {
    match lease::read(&ctx.rt, ctx.db(Side::Legacy), &ctx.plan.id, ctx.seen(Side::Legacy)).await {
        Ok(Some(l)) if l.epoch > ctx.epoch => Err(Halt::Fenced(l.epoch)),
        Ok(_) => Ok(()),
        Err(e) => Err(Halt::Broken(e.to_string())),
    }
}

/// Validators cannot be fenced: right before, it is looked whether the lease is still this runner's.
pub(super) async fn set(ctx: &Arc<Ctx>, side: Side, validation: &Validation) -> Result<(), Halt> {
    still_held(ctx).await?;
    let op = AdminOp::SetValidation { ns: ctx.ns(side).clone(), validation: validation.clone() };
    ctx.admin(side, &format!("setting the validator of {}", side.name()), op).await.map(drop)
}

/// Brings the gate in line with a route. Nothing where it is not in force, or stands like that already.
pub(super) async fn apply(ctx: &Arc<Ctx>, route: &Route) -> Result<(), Halt> {
    if !ctx.plan.server_gate {
        return Ok(());
    }
    let mut inner = ctx.server_gate.0.lock().await;
    know_next(ctx, &mut inner).await?;
    for side in Side::BOTH {
        let Some(before) = &inner.before[side as usize] else { continue };
        let wanted = gated(before, side, route);
        if inner.set[side as usize].as_ref() != Some(&wanted) {
            // Until it is known to be set nothing is.
            inner.set[side as usize] = None;
            let done = ask(ctx, side, set(ctx, side, &wanted)).await?;
            inner.set[side as usize] = done.map(|()| wanted);
        }
    }
    Ok(())
}

/// Before a route that ends a freeze: the owner-to-be takes writes already, for nobody who follows the route makes any yet. The other
/// way round the first of them would be refused.
pub(super) async fn open_for(ctx: &Arc<Ctx>, from: &Route, to: &Route) -> Result<(), Halt> {
    if from.frozen.is_some() && to.frozen.is_none() { apply(ctx, to).await } else { Ok(()) }
}

/// Takes the gate up where an earlier runner has put it up; it is brought in line with the route by the next [`apply`].
pub(super) async fn take_up(ctx: &Arc<Ctx>) -> Result<(), Halt> {
    if !ctx.plan.server_gate {
        return Ok(());
    }
    let mut inner = ctx.server_gate.0.lock().await;
    for side in Side::BOTH {
        stands(ctx, side, &mut inner).await?;
    }
    Ok(())
}

/// Looks at next again where it did not answer before; not once it is left behind.
async fn know_next(ctx: &Arc<Ctx>, inner: &mut Inner) -> Result<(), Halt> {
    let again = inner.next_unknown && ctx.strand.sealed().is_none();
    if again { stands(ctx, Side::Next, inner).await } else { Ok(()) }
}

/// True when the gate of a side stands as it was set last, or none is asked for.
pub(super) async fn is_set(ctx: &Ctx, side: Side) -> bool {
    !ctx.plan.server_gate || ctx.server_gate.0.lock().await.set[side as usize].is_some()
}

/// Looks whether an earlier runner has put the gate up on a side.
async fn stands(ctx: &Arc<Ctx>, side: Side, inner: &mut Inner) -> Result<(), Halt> {
    let before = kept(ctx, side).await?;
    let kind = match before {
        Some(_) => ask(ctx, side, tasks::kind(ctx, side, ctx.ns(side))).await?,
        None => Some(CollKind::Absent),
    };
    inner.next_unknown = kind.is_none();
    inner.before[side as usize] = before.filter(|_| kind == Some(CollKind::Collection));
    Ok(())
}

/// Takes the gate down on both sides: `owner` has what stood there before again, the other side is about to be put away and is only
/// left alone. May be done again.
pub(super) async fn take_down(ctx: &Arc<Ctx>, owner: Side) -> Result<(), Halt> {
    let mut inner = ctx.server_gate.0.lock().await;
    *inner = Inner::default();
    if let Some(before) = kept(ctx, owner).await?
        && tasks::kind(ctx, owner, ctx.ns(owner)).await? == CollKind::Collection
    {
        set(ctx, owner, &before).await?;
    }
    for side in Side::BOTH {
        let op = WriteOp::Delete { ns: validators_ns(), key: Key::from(key(ctx, side).as_str()), only_if: None };
        let written = ctx.insist("forgetting a validator", || ctx.db(Side::Legacy).write(&op)).await?;
        ctx.saw(Side::Legacy, written.at);
    }
    Ok(())
}

/// Sees to it that the gate stands as it was set.
pub(super) async fn watch(ctx: Arc<Ctx>) {
    loop {
        ctx.sleep(LOOK_EVERY).await;
        if let Err(halt) = look(&ctx, ctx.server_gate.0.lock().await).await {
            ctx.report_halt(halt).await;
        }
    }
}

async fn look(ctx: &Arc<Ctx>, mut inner: MutexGuard<'_, Inner>) -> Result<(), Halt> {
    know_next(ctx, &mut inner).await?;
    for side in Side::BOTH {
        let Some(wanted) = &inner.set[side as usize] else {
            // It did not answer when this was to be set.
            if let (Some(before), Some(route)) = (&inner.before[side as usize], ctx.ownership.route()) {
                let wanted = gated(before, side, &route);
                let done = ask(ctx, side, set(ctx, side, &wanted)).await?;
                inner.set[side as usize] = done.map(|()| wanted);
            }
            continue;
        };
        let found = ask(ctx, side, validation_of(ctx, side)).await?;
        if found.is_some_and(|v| v != *wanted) {
            tracing::warn!(side = side.name(), "the server gate was changed by somebody else and is set again");
            ask(ctx, side, set(ctx, side, wanted)).await?;
        }
    }
    Ok(())
}

/// With the gate in force: a process whose lease has run out, so that what it may still write is refused.
pub(super) fn need_not_ack(ctx: &Ctx, process: &str) -> bool {
    ctx.plan.server_gate && observe::is_silent(ctx, process)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Frozen;

    fn route(below: Bucket, frozen: Option<(Bucket, Bucket)>) -> Route {
        Route {
            plan: "p".into(),
            epoch: 1,
            lease_ms: 1,
            shadow: 0,
            reads_next_below: below,
            writes_next_below: below,
            frozen: frozen.map(|(from, to)| Frozen { from, to, until_ms: 0 }),
            pilot: None,
            applied_through: Default::default(),
            stranded_below: 0,
            legacy: Ns::new("a", "b"),
            next: Ns::new("a", "c"),
            nonce: 0,
        }
    }

    #[test]
    fn what_stood_there_before_is_found_again_beside_the_gate() {
        for before in [None, Some(doc! { "x": 1 }), Some(doc! { "$and": [{ "x": 1 }, { "y": 2 }] })] {
            let before = Validation::strict(before);
            let gate = gated(&before, Side::Next, &route(7, Some((7, 9))));
            assert_ne!(gate, before);
            assert_eq!(without_gate(gate, "p"), before);
            assert_eq!(without_gate(before.clone(), "p"), before);
        }
        let other = gated(&Validation::strict(None), Side::Next, &route(7, None));
        assert_eq!(without_gate(other.clone(), "another"), other);
    }
}
