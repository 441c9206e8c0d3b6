//! Copies what exists, chunk by chunk in `_id` order, checkpointed in the worker's slot with each chunk.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bson::{RawBson, RawDocumentBuf};

use super::ctx::{Ctx, Halt, lock};
use super::live_view::Progress;
use super::planted::Bug;
use super::resync::{Absent, PUTS, differences, image, resync};
use super::throttle::Pacer;
use super::unfit::{self, Misfit};
use super::writer::{NotCommitted, SlotWriter};
use crate::cluster::{ClusterTime, Key, Page, PageLimit, TxnOp};
use crate::route::Side;

/// Documents a chunk, which is also its transaction.
pub(super) const CHUNK_DOCS: usize = 1_000;
/// Bytes a chunk.
pub(super) const CHUNK_BYTES: usize = 4 << 20;

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
    let (mut pacer, mut paced) = (Pacer::copying(ctx), copied);
    let mut looked_ahead = false;
    loop {
        if !pacer.pace(copied - std::mem::replace(&mut paced, copied)).await {
            return Ok(None);
        }
        let mark = ctx.registry.begin_read();
        let after =
            if ctx.planted.has(Bug::ChunkReadNotAfterTail) { ClusterTime::ZERO } else { ctx.seen(Side::Legacy) };
        let mut page = ctx
            .retry("scanning legacy", || ctx.db(Side::Legacy).scan(ctx.ns(Side::Legacy), from.as_ref(), limit, after))
            .await?;
        ctx.saw(Side::Legacy, page.at);
        let last = page.docs.last().map(|(k, _)| k.clone()).or(from);
        copied += page.docs.len() as u64;
        let unrouted = unfit::take_unrouted(&mut page);
        let all: Vec<Key> = page.docs.iter().map(|(k, _)| k.clone()).collect();
        let keep = match ctx.planted.has(Bug::ChunkNotRegistered) {
            true => vec![true; all.len()],
            false => ctx.registry.register(mark, &all),
        };
        let held: Vec<Key> = all.iter().zip(&keep).filter(|(_, k)| **k).map(|(key, _)| key.clone()).collect();
        let outcome = match unfit::list(ctx, &unrouted).await {
            Err(halt) => Err(halt),
            Ok(n) => {
                let position = checkpoint(last.as_ref(), copied);
                write_chunk(ctx, &mut writer, &page, &keep, &held, position).await.map(|more| n + more)
            }
        };
        if outcome == Err(Halt::LetGo) {
            settle_later(ctx, held);
            return Err(Halt::LetGo);
        }
        ctx.registry.release(held.into_iter());
        let listed = outcome?;
        from = last;
        lock(&ctx.live).progress =
            Some(Progress { name: "backfill", done: copied, total: total.map(|t| t.max(copied)), began, from: first });
        if page.end {
            return Ok(Some(copied));
        }
        if listed > 0 && !looked_ahead {
            looked_ahead = true;
            if !unfit::look_ahead(ctx, from.clone()).await? {
                return Ok(None);
            }
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
/// duplicate all the same aborts the whole batch, and then every key is read afresh. What cannot be carried is listed before the position
/// is stored; answers how many of that was new.
async fn write_chunk(
    ctx: &Arc<Ctx>,
    writer: &mut SlotWriter,
    page: &Page,
    keep: &[bool],
    held: &[Key],
    checkpoint: RawDocumentBuf,
) -> Result<usize, Halt> {
    let mut listed = 0;
    let there = ctx.registry.likely_there(held);
    // A chunk that was aborted is carried in parts, and so are the next ones until parts went well for a while.
    if writer.batch(held.len()) == held.len() && there.len() <= PUTS {
        let _together = ctx.together[Side::Legacy as usize].read().await;
        let (ops, misfits) = in_one(ctx, page, keep, &there).await?;
        listed = unfit::list(ctx, &misfits).await?;
        match writer.commit(&ops, Some(checkpoint.clone())).await {
            Ok(_) => return Ok(listed),
            Err(NotCommitted::Halt(h)) => return Err(h),
            Err(NotCommitted::Aborted(_) | NotCommitted::Refused(_)) => writer.halve(),
            Err(NotCommitted::Duplicate(_) | NotCommitted::Again) => {
                let ops = differences(ctx, Side::Legacy, held, Absent::Insert).await?.ops;
                if ops.len() <= PUTS {
                    match writer.commit(&ops, Some(checkpoint.clone())).await {
                        Ok(_) => return Ok(listed),
                        Err(NotCommitted::Halt(h)) => return Err(h),
                        Err(_) => {}
                    }
                }
            }
        }
    }
    resync(ctx, writer, Side::Legacy, held, Some(checkpoint)).await.map(|_| listed)
}

/// A whole chunk as one transaction: `there` is compared, everything else inserted, but for what cannot be carried.
async fn in_one(ctx: &Arc<Ctx>, page: &Page, keep: &[bool], there: &[Key]) -> Result<(Vec<TxnOp>, Vec<Misfit>), Halt> {
    let new = page.docs.iter().zip(keep).filter(|((key, _), keep)| **keep && there.binary_search(key).is_err());
    let (mut docs, mut misfits) = (Vec::new(), Vec::new());
    for ((key, doc), _) in new {
        match image(ctx, Side::Legacy, doc) {
            Ok(made) => docs.push(made),
            Err(why) => misfits.push((key.clone(), why)),
        }
    }
    let mut ops = Vec::new();
    if !docs.is_empty() {
        ops.push(TxnOp::Insert { ns: ctx.ns(Side::Next).clone(), docs });
    }
    if !there.is_empty() {
        ops.extend(differences(ctx, Side::Legacy, there, Absent::Insert).await?.ops);
    }
    Ok((ops, misfits))
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
