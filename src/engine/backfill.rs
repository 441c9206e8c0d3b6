//! Copies what exists, chunk by chunk in `_id` order, checkpointed in the worker's slot with each chunk.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bson::{RawBson, RawDocumentBuf};

use super::ctx::{Ctx, Halt, lock};
use super::live_view::Progress;
use super::planted::Bug;
use super::resync::{Absent, PUTS, differences, image, resync};
use super::writer::{NotCommitted, SlotWriter};
use crate::cluster::{ClusterTime, Key, Page, PageLimit, TxnOp};
use crate::route::{Side, bucket_of};
use crate::runtime::Micros;

/// Documents a chunk, which is also its transaction.
pub(super) const CHUNK_DOCS: usize = 1_000;
/// Bytes a chunk.
const CHUNK_BYTES: usize = 4 << 20;

/// Copies everything not yet copied. Returns how many documents this run copied, or `None` when the engine is stopping.
pub(super) async fn run(ctx: &Arc<Ctx>) -> Result<Option<u64>, Halt> {
    ctx.registry.begins();
    let copied = copy(ctx).await;
    ctx.registry.ends();
    copied
}

async fn copy(ctx: &Arc<Ctx>) -> Result<Option<u64>, Halt> {
    let mut writer = SlotWriter::open(ctx, Side::Next, "backfill").await?;
    let (mut from, mut copied) = resume_point(writer.checkpoint());
    let total = super::observe::estimated_count(ctx).await;
    let began = ctx.rt.now();
    let first = copied;
    let limit = PageLimit { docs: ctx.chunk_docs, bytes: CHUNK_BYTES };
    loop {
        if ctx.is_leaving() {
            return Ok(None);
        }
        if ctx.is_paused() {
            lock(&ctx.live).throttled = Some("paused".into());
            ctx.sleep(Micros::from_ms(100)).await;
            continue;
        }
        throttle(ctx, began, copied - first).await;
        let mark = ctx.registry.begin_read();
        let after =
            if ctx.planted.has(Bug::ChunkReadNotAfterTail) { ClusterTime::ZERO } else { ctx.seen(Side::Legacy) };
        let page = ctx
            .retry("scanning legacy", || ctx.db(Side::Legacy).scan(ctx.ns(Side::Legacy), from.as_ref(), limit, after))
            .await?;
        ctx.saw(Side::Legacy, page.at);
        let all: Vec<Key> = page.docs.iter().map(|(k, _)| k.clone()).collect();
        let keep = match ctx.planted.has(Bug::ChunkNotRegistered) {
            true => vec![true; all.len()],
            false => ctx.registry.register(mark, &all),
        };
        let held: Vec<Key> = all.iter().zip(&keep).filter(|(_, k)| **k).map(|(key, _)| key.clone()).collect();
        copied += all.len() as u64;
        let last = all.last().cloned().or(from);
        let outcome = write_chunk(ctx, &mut writer, &page, &keep, &held, checkpoint(last.as_ref(), copied)).await;
        if outcome == Err(Halt::LetGo) {
            settle_later(ctx, held);
            return Err(Halt::LetGo);
        }
        ctx.registry.release(held.into_iter());
        outcome?;
        from = last;
        lock(&ctx.live).progress =
            Some(Progress { name: "backfill", done: copied, total: total.map(|t| t.max(copied)), began, from: first });
        if page.end {
            return Ok(Some(copied));
        }
    }
}

/// The chunk's outcome may be unknown: its keys stay registered, so that nobody writes them, until it is settled.
fn settle_later(ctx: &Arc<Ctx>, held: Vec<Key>) {
    let later = ctx.clone();
    ctx.strand.unsettled.fetch_add(1, Ordering::SeqCst);
    ctx.spawn("settle a chunk", async move {
        match SlotWriter::settle_later(&later, Side::Next, "backfill").await {
            Ok(()) => {
                later.registry.release(held.into_iter());
                later.strand.unsettled.fetch_sub(1, Ordering::SeqCst);
            }
            Err(halt) => later.report_halt(halt).await,
        }
    });
}

/// Inserts, because on a first copy hardly anything is there; what the tail has carried already is read on both sides and compared. A
/// duplicate all the same aborts the whole batch, and then every key is read afresh.
async fn write_chunk(
    ctx: &Arc<Ctx>,
    writer: &mut SlotWriter,
    page: &Page,
    keep: &[bool],
    held: &[Key],
    checkpoint: RawDocumentBuf,
) -> Result<(), Halt> {
    for key in held {
        bucket_of(key)
            .map_err(|e| Halt::Broken(format!("the _id {key} in {} cannot be routed: {e}", ctx.ns(Side::Legacy))))?;
    }
    let there = ctx.registry.likely_there(held);
    // A chunk that was aborted is carried in parts, and so are the next ones until parts went well for a while.
    if writer.batch(held.len()) == held.len() && there.len() <= PUTS {
        let _together = ctx.together[Side::Legacy as usize].read().await;
        let ops = in_one(ctx, page, keep, &there).await?;
        match writer.commit(&ops, Some(checkpoint.clone())).await {
            Ok(_) => return Ok(()),
            Err(NotCommitted::Halt(h)) => return Err(h),
            Err(NotCommitted::Aborted(_) | NotCommitted::Refused(_)) => writer.halve(),
            Err(NotCommitted::Duplicate(_) | NotCommitted::Again) => {
                let ops = differences(ctx, Side::Legacy, held, Absent::Insert).await?.ops;
                if ops.len() <= PUTS {
                    match writer.commit(&ops, Some(checkpoint.clone())).await {
                        Ok(_) => return Ok(()),
                        Err(NotCommitted::Halt(h)) => return Err(h),
                        Err(_) => {}
                    }
                }
            }
        }
    }
    resync(ctx, writer, Side::Legacy, held, Some(checkpoint)).await.map(drop)
}

/// A whole chunk as one transaction: `there` is compared, everything else inserted.
async fn in_one(ctx: &Arc<Ctx>, page: &Page, keep: &[bool], there: &[Key]) -> Result<Vec<TxnOp>, Halt> {
    let new = page.docs.iter().zip(keep).filter(|((key, _), keep)| **keep && there.binary_search(key).is_err());
    let docs = new.map(|((_, doc), _)| image(ctx, Side::Legacy, doc)).collect::<Result<Vec<_>, Halt>>()?;
    let mut ops = Vec::new();
    if !docs.is_empty() {
        ops.push(TxnOp::Insert { ns: ctx.ns(Side::Next).clone(), docs });
    }
    if !there.is_empty() {
        ops.extend(differences(ctx, Side::Legacy, there, Absent::Insert).await?.ops);
    }
    Ok(ops)
}

fn checkpoint(last: Option<&Key>, copied: u64) -> RawDocumentBuf {
    let mut d = RawDocumentBuf::new();
    if let Some(key) = last {
        d.append(bson::cstr!("after"), RawBson::from(key.value()));
    }
    d.append(bson::cstr!("copied"), copied as i64);
    d
}

fn resume_point(stored: Option<&RawDocumentBuf>) -> (Option<Key>, u64) {
    let Some(d) = stored else { return (None, 0) };
    let key = d.get("after").ok().flatten().and_then(|v| Key::new(v).ok());
    (key, d.get_i64("copied").unwrap_or(0).max(0) as u64)
}

/// Waits while copying would go too fast or the tail is too far behind, and says so.
pub(super) async fn throttle(ctx: &Ctx, began: Micros, copied: u64) {
    loop {
        let why = throttle_reason(ctx, began, copied);
        lock(&ctx.live).throttled.clone_from(&why);
        if why.is_none() || ctx.is_leaving() || ctx.is_paused() {
            return;
        }
        ctx.sleep(Micros::from_ms(50)).await;
    }
}

fn throttle_reason(ctx: &Ctx, began: Micros, copied: u64) -> Option<String> {
    if let Some(rate) = ctx.plan.throttle.max_rate {
        let due = Micros(copied.saturating_mul(1_000_000) / u64::from(rate.max(1)));
        if ctx.rt.now().since(began) < due {
            return Some(format!("max_rate {rate}/s"));
        }
    }
    if let Some(limit) = ctx.plan.throttle.max_lag {
        let live = lock(&ctx.live);
        if let Some(lag) = live.apply_lag(Side::Legacy, ctx.rt.now()).filter(|l| *l > limit) {
            return Some(format!("apply lag {lag} > {limit}"));
        }
        if let Some(lag) = live.replication_lag().filter(|l| *l > limit) {
            return Some(format!("replication lag {lag} > {limit}"));
        }
    }
    None
}
