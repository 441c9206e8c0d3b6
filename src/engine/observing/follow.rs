//! Following a side's changes to know which keys changed: nothing is applied, nothing is stored.

use std::sync::Arc;

use super::super::ctx::{Ctx, Halt};
use crate::cluster::{ChangeBatch, ChangeKind, Failed, Reason, StreamPos};
use crate::route::Side;
use crate::runtime::Micros;

/// Begins to follow a side, from now on.
pub(super) async fn start(ctx: &Arc<Ctx>, side: Side) -> Result<(), Halt> {
    let tail = &ctx.tails[side as usize];
    if tail.is_running() {
        return Ok(());
    }
    let from = now(ctx, side).await?;
    tail.looks_from(from.at);
    let ctx2 = ctx.clone();
    ctx.spawn("onlooker", async move { follow(&ctx2, side, from).await });
    Ok(())
}

async fn now(ctx: &Arc<Ctx>, side: Side) -> Result<StreamPos, Halt> {
    Ok(StreamPos { token: None, at: ctx.marker(side).await? })
}

async fn follow(ctx: &Arc<Ctx>, side: Side, mut pos: StreamPos) {
    loop {
        match ctx.db(side).changes(ctx.ns(side), &pos).await {
            Err(f) => failed(ctx, side, &mut pos, &f).await,
            Ok(mut stream) => loop {
                let batch = match stream.next(Micros::from_ms(100)).await {
                    Ok(batch) => batch,
                    Err(f) => {
                        failed(ctx, side, &mut pos, &f).await;
                        break;
                    }
                };
                pos = batch.pos.clone();
                if !take(ctx, side, &batch) {
                    gone(ctx, side).await;
                    begin_anew(ctx, side, &mut pos).await;
                    break;
                }
            },
        }
    }
}

/// Notes which keys changed. False when the collection is gone.
fn take(ctx: &Arc<Ctx>, side: Side, batch: &ChangeBatch) -> bool {
    let now = ctx.rt.now();
    for event in &batch.events {
        ctx.saw(side, event.at);
        if event.kind == ChangeKind::Gone {
            return false;
        }
    }
    // First where a comparison under way looks: what is not remembered here any more is found there.
    ctx.touched(batch.events.iter().filter_map(|e| e.key.clone()));
    for event in &batch.events {
        if let (Some(observing), Some(key)) = (&ctx.observing, &event.key) {
            observing.heard(side, key, now);
        }
    }
    ctx.saw(side, batch.pos.at);
    ctx.tails[side as usize].has_looked(batch.pos.at, batch.events.len() as u64);
    true
}

/// A copy that is begun anew before anything was compared is the other tool's affair. Everything else a person should know.
async fn gone(ctx: &Arc<Ctx>, side: Side) {
    let compared = ctx.observing.as_ref().is_some_and(super::Observing::compared_once);
    if side == Side::Legacy || compared {
        let what = format!("{} was dropped or renamed while it was observed", ctx.ns(side));
        ctx.report_halt(Halt::Broken(format!("{what}; after `continue` both sides are compared again"))).await;
    }
}

async fn failed(ctx: &Arc<Ctx>, side: Side, pos: &mut StreamPos, f: &Failed) {
    if f.is_transient() {
        return ctx.sleep(Micros::from_ms(200)).await;
    }
    if matches!(f.reason(), Some(Reason::HistoryLost(_))) {
        tracing::warn!(side = side.name(), error = %f, "the oplog has moved past the stream: everything is compared again");
        return begin_anew(ctx, side, pos).await;
    }
    ctx.report_halt(Halt::Broken(format!("the changes of {} cannot be followed: {f}", ctx.ns(side)))).await;
    ctx.sleep(Micros::from_secs(5)).await;
}

/// Follows from now on; what happened in between nobody has seen.
async fn begin_anew(ctx: &Arc<Ctx>, side: Side, pos: &mut StreamPos) {
    ctx.sleep(Micros::from_secs(1)).await;
    loop {
        match now(ctx, side).await {
            Ok(from) => {
                *pos = from;
                break;
            }
            Err(halt) => ctx.report_halt(halt).await,
        }
        ctx.sleep(Micros::from_secs(2)).await;
    }
    // After the new beginning is fixed: a comparison that begins later sees everything since.
    if let Some(observing) = &ctx.observing {
        observing.lose();
    }
}
