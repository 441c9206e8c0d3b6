//! Judging a key that is written faster than its two documents can be read one after the other.
//!
//! Whoever reads the owner and then the copy of such a key never finds them equal: each lags behind the other read. The one who can
//! know is the worker that writes the copy, for nobody else does while it is at it. So the worker re-syncs the key on its ordinary
//! path and reads the copy back before it goes on: what was read of the owner at one moment is then what the copy holds, or it is
//! not. That moment lies after the markers of the comparison that asks, which is all that a comparison claims of any key; later
//! events keep the key among the touched ones. Only keys with an event since those markers are asked for, so that nothing is mended
//! here that the tail would not have written by itself.

use std::sync::Arc;

use bson::RawDocument;
use tokio::sync::oneshot;

use super::ctx::{Ctx, Halt, lock};
use super::reconcile::Finding;
use super::resync::{Absent, Differences, changes, differences};
use super::tail::Asked;
use super::writer::{NotCommitted, SlotWriter};
use crate::cluster::{Key, TxnOp};
use crate::route::{Side, bucket_of};
use crate::runtime::{Either, Micros, race, sleep};

/// Keys judged in one go; the others have their turn in the next round.
const KEYS_MAX: usize = 200;
/// How long a worker has for one of them, with its queue before it.
const PATIENCE: Micros = Micros::from_secs(10);
/// Attempts of the worker at one key, between its own batches.
const ATTEMPTS: usize = 5;

/// Judges those of `keys` that had an event since the markers, through the workers that write their copies. A key that is not
/// answered for stays unjudged: unresolved is not agreement.
pub(super) async fn judge_moving(ctx: &Arc<Ctx>, keys: &[Key]) -> Vec<(Key, Finding)> {
    let mut found = Vec::new();
    let _hurry = ctx.throttle.hurry();
    let moving = |k: &&Key| lock(&ctx.dirty).as_ref().is_some_and(|d| d.contains(*k));
    for key in keys.iter().filter(moving).take(KEYS_MAX) {
        let Ok(bucket) = bucket_of(key) else { continue };
        let tail = &ctx.tails[ctx.ownership.owner(key, bucket).await as usize];
        if !tail.is_running() {
            continue;
        }
        let (tx, rx) = oneshot::channel();
        tail.ask(bucket, Asked::Judge { key: key.clone(), answer: tx });
        if let Either::Left(Ok(finding)) = race(rx, sleep(&ctx.rt, PATIENCE)).await {
            found.push((key.clone(), finding));
        }
    }
    found
}

/// The worker's part: re-syncs the key and compares the copy with what was read of the owner for it.
pub(super) async fn answer(
    ctx: &Arc<Ctx>,
    writer: &mut SlotWriter,
    src: Side,
    key: Key,
    answer: oneshot::Sender<Finding>,
) {
    let Ok(bucket) = bucket_of(&key) else { return };
    let (held, _) = ctx.ownership.begin_write(src, vec![(key.clone(), bucket)]).await;
    // Empty when the bucket has changed hands since it was asked.
    if !held.is_empty() {
        let keys = [key];
        if src == Side::Legacy {
            ctx.registry.begin_tail(&keys).await;
        }
        let finding = prove(ctx, writer, src, &keys).await;
        if src == Side::Legacy {
            ctx.registry.end_tail(&keys);
        }
        match finding {
            // Whoever asked may have given up.
            Ok(Some(finding)) => drop(answer.send(finding)),
            Ok(None) => {}
            Err(halt) => ctx.report_halt(halt).await,
        }
    }
    ctx.ownership.end_write(&held);
}

/// `None` when it could not be written for now.
async fn prove(ctx: &Arc<Ctx>, writer: &mut SlotWriter, src: Side, key: &[Key; 1]) -> Result<Option<Finding>, Halt> {
    if ctx.in_place.is_some() {
        return super::in_place::prove(ctx, writer, key).await;
    }
    let dst = src.other();
    for _ in 0..ATTEMPTS {
        let _together = ctx.together[src as usize].read().await;
        let Differences { ops, unclear, .. } = differences(ctx, src, key, Absent::Put).await?;
        if !unclear.is_empty() {
            return Ok(Some(Finding::Differing));
        }
        if !ops.is_empty() {
            match writer.commit(&ops, None).await {
                Ok(_) => {}
                Err(NotCommitted::Halt(halt)) => return Err(halt),
                Err(_) => continue,
            }
        }
        let after = ctx.seen(dst);
        let read = ctx.retry("reading a copy back", || ctx.db(dst).read(ctx.ns(dst), key, after)).await?;
        let copy = read.docs.first().and_then(Option::as_deref);
        return Ok(Some(match (changes(ctx, src, &ops).next(), copy) {
            (Some(TxnOp::Put { doc, .. }), Some(copy)) if !is_same(doc, copy) => Finding::Differing,
            (Some(TxnOp::Put { .. }), None) => Finding::Missing,
            (Some(TxnOp::Delete { .. }), Some(_)) => Finding::Extra,
            // Without an operation both were equal when they were read, and nobody has written the copy since.
            (_, Some(_)) => Finding::Matched,
            (_, None) => Finding::Absent,
        }));
    }
    Ok(None)
}

fn is_same(a: &RawDocument, b: &RawDocument) -> bool {
    a.as_bytes() == b.as_bytes()
}
