//! TTL indexes (DESIGN rule 11): while writes are on next, no server deletes a document by itself.
//!
//! A server deletes what has expired wherever the index is, whoever owns the key: on the side that follows, by a date that is out of
//! date, and as a write past the route. So every TTL index is suspended by its name, on next from its creation, on legacy before the
//! first write moves. What it was set to stands in the journal and in `tidegate.ttl` first. The side that stays gets it back.

use std::sync::Arc;

use bson::RawDocumentBuf;
use serde_json::{Value, json};

use super::ctx::{Ctx, Halt};
use super::planted::Bug;
use super::{cleanup, server_gate, tasks};
use crate::cluster::{AdminOp, CONTROL_DB, CollKind, Doc, IndexSpec, Key, Ns, WriteOp};
use crate::rollout::Event;
use crate::route::Side;
use crate::runtime::Micros;

/// What a suspended TTL index is set to, seconds: the most that every server takes, 68 years.
const NEVER: i64 = i32::MAX as i64;
/// A change whose answer was lost may arrive so much later; then it is looked again.
const LATE: Micros = Micros::from_secs(3);

/// The namespace of what TTL indexes were set to, `_id` = `<plan>/<side>/<index>`.
pub(super) fn ttl_ns() -> Ns {
    Ns::new(CONTROL_DB, "ttl")
}

/// A TTL index and what it was set to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kept {
    pub key: Key,
    pub side: Side,
    pub index: String,
    pub seconds: i64,
}

fn key_of(ctx: &Ctx, side: Side, index: &str) -> Key {
    Key::from(format!("{}/{}/{index}", ctx.plan.id, side.name()).as_str())
}

/// A record as it was read; `None` for one that is none.
pub(super) fn parse(key: &Key, d: &Doc) -> Option<Kept> {
    let side = Side::BOTH.into_iter().find(|s| d.get_str("side").is_ok_and(|n| n == s.name()))?;
    let (index, seconds) = (d.get_str("index").ok()?.to_owned(), d.get_i64("expire_after_seconds").ok()?);
    Some(Kept { key: key.clone(), side, index, seconds })
}

/// What is kept of a side.
pub(super) async fn kept(ctx: &Arc<Ctx>, side: Side) -> Result<Vec<Kept>, Halt> {
    let seen = ctx.insist("asking for the time", || ctx.db(Side::Legacy).observe()).await?;
    ctx.saw(Side::Legacy, seen.majority);
    let all = cleanup::of_plan(ctx, Side::Legacy, &ttl_ns()).await?;
    Ok(all.iter().filter_map(|(key, d)| parse(key, d)).filter(|k| k.side == side).collect())
}

/// Writes down what an index is set to, in the journal and in the control database, before it is changed.
async fn keep(ctx: &Arc<Ctx>, side: Side, index: &str, seconds: i64) -> Result<(), Halt> {
    let event = Event::TtlSuspended { side: side.name().to_owned(), index: crate::scrub::short(index, 120), seconds };
    ctx.record(event).await;
    let key = key_of(ctx, side, index);
    let mut doc = RawDocumentBuf::new();
    doc.append(bson::cstr!("_id"), bson::RawBson::from(key.value()));
    for (name, text) in [
        (bson::cstr!("plan"), ctx.plan.id.clone()),
        (bson::cstr!("side"), side.name().to_owned()),
        (bson::cstr!("ns"), ctx.ns(side).to_string()),
        (bson::cstr!("index"), index.to_owned()),
    ] {
        doc.append(name, text);
    }
    doc.append(bson::cstr!("expire_after_seconds"), seconds);
    let op = WriteOp::Replace { ns: ttl_ns(), key, only_if: None, doc, upsert: true };
    let written = ctx.insist("keeping what a TTL index is set to", || ctx.db(Side::Legacy).write(&op)).await?;
    ctx.saw(Side::Legacy, written.at);
    Ok(())
}

/// Indexes cannot be changed in a fenced transaction: right before, it is looked whether the lease is still this runner's.
async fn set(ctx: &Arc<Ctx>, side: Side, index: &str, seconds: i64) -> Result<(), Halt> {
    server_gate::still_held(ctx).await?;
    let op = AdminOp::SetExpiry { ns: ctx.ns(side).clone(), index: index.to_owned(), seconds };
    ctx.admin(side, "setting a TTL index", op).await.map(drop)
}

fn is_active(i: &&IndexSpec) -> bool {
    i.expire_after.is_some_and(|s| s < NEVER)
}

/// Suspends every TTL index of a side that lets documents expire. Answers their names.
async fn suspend_side(ctx: &Arc<Ctx>, side: Side) -> Result<Vec<String>, Halt> {
    let mut names = Vec::new();
    loop {
        let there = tasks::index_list(ctx, side).await?;
        let active: Vec<_> = there.iter().filter(is_active).collect();
        if active.is_empty() {
            return Ok(names);
        }
        for index in active {
            let seconds = index.expire_after.unwrap_or(NEVER);
            if !names.contains(&index.name) {
                keep(ctx, side, &index.name, seconds).await?;
                names.push(index.name.clone());
            }
            set(ctx, side, &index.name, NEVER).await?;
        }
        ctx.sleep(LATE).await;
    }
}

/// Next's own TTL indexes, made by somebody before the rollout: from the beginning they must not delete what legacy still has.
pub(super) async fn quiet_next(ctx: &Arc<Ctx>) -> Result<(), Halt> {
    if ctx.planted.has(Bug::TtlNotSuspended) {
        return Ok(());
    }
    suspend_side(ctx, Side::Next).await.map(drop)
}

/// Before an index of the plan is built on next: a TTL index is built suspended.
pub(super) async fn as_built(ctx: &Arc<Ctx>, index: &IndexSpec) -> Result<IndexSpec, Halt> {
    match index.expire_after {
        Some(seconds) if !ctx.planted.has(Bug::TtlNotSuspended) => {
            keep(ctx, Side::Next, &index.name, seconds).await?;
            Ok(IndexSpec { expire_after: Some(NEVER), ..index.clone() })
        }
        _ => Ok(index.clone()),
    }
}

/// True for an index that is as the plan has it, be it suspended for the time of the rollout.
pub(super) fn is_as_planned(there: &IndexSpec, planned: &IndexSpec) -> bool {
    let suspended = planned.expire_after.is_some() && there.expire_after == Some(NEVER);
    let there =
        IndexSpec { expire_after: if suspended { planned.expire_after } else { there.expire_after }, ..there.clone() };
    there == *planned
}

/// The task: before the first write moves, nothing expires on either side any more.
pub(super) async fn suspend(ctx: &Arc<Ctx>) -> Result<Value, Halt> {
    if ctx.planted.has(Bug::TtlNotSuspended) {
        return Ok(json!({ "text": "the planted mistake: TTL indexes go on" }));
    }
    let mut all = Vec::new();
    for side in Side::BOTH {
        suspend_side(ctx, side).await?;
        all.push(kept(ctx, side).await?);
    }
    let [legacy, next] = &all[..] else { return Ok(Value::Null) };
    if legacy.is_empty() && next.is_empty() {
        return Ok(json!({ "text": "no TTL index on either side" }));
    }
    let list = |of: &[Kept]| of.iter().map(|k| format!("`{}`", crate::scrub::short(&k.index, 60))).collect::<Vec<_>>();
    let after = match (legacy.is_empty(), next.is_empty()) {
        (false, true) => "; no index of the plan does the same on next: after contract nothing expires there",
        _ => "",
    };
    let names = [list(legacy), list(next)].concat().join(", ");
    Ok(json!({
        "text": format!("nothing expires until contract or return: {names} suspended{after}"),
        "legacy": list(legacy), "next": list(next),
    }))
}

/// The task: the side that stays lets documents expire again as before. What is kept of the other one stays suspended, so that what is
/// put aside does not melt away.
pub(super) async fn restore(ctx: &Arc<Ctx>, side: Side) -> Result<Value, Halt> {
    let kept = kept(ctx, side).await?;
    let names: Vec<String> = kept.iter().map(|k| format!("`{}`", crate::scrub::short(&k.index, 60))).collect();
    for k in &kept {
        let event = Event::TtlRestored {
            side: side.name().to_owned(),
            index: crate::scrub::short(&k.index, 120),
            seconds: k.seconds,
        };
        ctx.record(event).await;
    }
    bring_back(ctx, side, &kept, true).await?;
    Ok(match names.is_empty() {
        true => json!({ "text": format!("no TTL index of {} was suspended", side.name()) }),
        false => json!({ "text": format!("documents of {} expire again: {}", ctx.ns(side), names.join(", ")) }),
    })
}

/// Sets what is there to what was kept of it, and forgets that.
pub(super) async fn bring_back(ctx: &Arc<Ctx>, side: Side, kept: &[Kept], fenced: bool) -> Result<(), Halt> {
    if !kept.is_empty() && tasks::kind(ctx, side, ctx.ns(side)).await? == CollKind::Collection {
        while set_back(ctx, side, kept, fenced).await? {
            ctx.sleep(LATE).await;
        }
    }
    for k in kept {
        cleanup::delete(ctx, Side::Legacy, &ttl_ns(), &k.key).await?;
    }
    Ok(())
}

/// Sets those that are still suspended. False when there was none: what somebody has set to something else since stays.
async fn set_back(ctx: &Arc<Ctx>, side: Side, kept: &[Kept], fenced: bool) -> Result<bool, Halt> {
    let there = tasks::index_list(ctx, side).await?;
    let suspended = |k: &&Kept| there.iter().any(|i| i.name == k.index && i.expire_after == Some(NEVER));
    let open: Vec<&Kept> = kept.iter().filter(|k| k.seconds < NEVER).filter(suspended).collect();
    for k in &open {
        if fenced {
            set(ctx, side, &k.index, k.seconds).await?;
        } else {
            let op = AdminOp::SetExpiry { ns: ctx.ns(side).clone(), index: k.index.clone(), seconds: k.seconds };
            ctx.admin(side, "setting a TTL index", op).await?;
        }
    }
    Ok(!open.is_empty())
}

/// The command that a person runs to bring an index back.
pub(super) fn command(coll: &str, k: &Kept) -> bson::Document {
    bson::doc! {
        "collMod": coll, "index": { "name": &k.index, "expireAfterSeconds": k.seconds }, "writeConcern": { "w": "majority" },
    }
}
