//! Comparing what changed, again and again: the lag of the other tool, and counts that stay true after both sides were compared whole.

use std::sync::Arc;

use super::super::ctx::{Ctx, Halt, lock};
use super::super::publish::Publisher;
use super::super::reconcile::{self, compare_again};
use super::super::tasks::note_counts;
use super::super::throttle::Pacer;
use super::{Observing, grace, reached};
use crate::rollout::Status;
use crate::route::Side;
use crate::runtime::Micros;

/// The least pause between two rounds.
const PAUSE: Micros = Micros::from_ms(250);
/// A round is followed by a rest of so many times its length: an onlooker takes a small part of a server only.
const REST: u64 = 3;
/// And of at most so long, so that what is known is never called old.
const REST_MAX: Micros = Micros::from_secs(2);
/// Keys compared in one go.
const CHUNK: usize = 500;

/// Round after round, as long as the engine runs.
pub(super) async fn keep(ctx: Arc<Ctx>, publisher: Arc<Publisher>) {
    let Some(observing) = &ctx.observing else { return };
    loop {
        let began = ctx.rt.now();
        if publisher.is_open()
            && let Err(halt) = round(&ctx, observing, &publisher).await
        {
            ctx.report_halt(halt).await;
            ctx.sleep(Micros::from_secs(2)).await;
        }
        let took = ctx.rt.now().since(began);
        ctx.sleep(Micros(took.0.saturating_mul(REST)).min(REST_MAX).max(PAUSE)).await;
    }
}

async fn round(ctx: &Arc<Ctx>, observing: &Observing, publisher: &Publisher) -> Result<(), Halt> {
    let state = publisher.state();
    let waits = state.needs_operator.is_some() || !matches!(state.status, Status::Soaking { .. });
    if state.reconciled.is_some() && !observing.is_current() && !waits {
        // An earlier process had compared, or the thread was lost: the gates of this stage stand on it.
        reached::compare_whole(ctx, observing).await?;
    }
    let breaks = observing.breaks();
    let Some(through_ms) = reconcile::pass_markers(ctx).await? else { return Ok(()) };
    let mut pacer = Pacer::new(ctx);
    for keys in observing.open().chunks(CHUNK) {
        if !pacer.pace(0).await {
            return Ok(());
        }
        compare_again(ctx, keys).await?;
    }
    drop(pacer);
    // Who compares both sides whole shows its own progress.
    let Ok(_alone) = observing.comparing.try_lock() else { return Ok(()) };
    if observing.breaks() == breaks
        && let Some(out) = observing.outcome(ctx.rt.now(), grace(ctx), through_ms)
    {
        lock(&ctx.live).reconcile.finish(&out);
        note_counts(ctx, &out);
    }
    Ok(())
}

/// Turns what is not matched yet into lag and rates, ten times a second.
pub(super) async fn meter(ctx: Arc<Ctx>) {
    let Some(observing) = &ctx.observing else { return };
    let tail = &ctx.tails[Side::Legacy as usize];
    for n in 0u64.. {
        let now = ctx.rt.now();
        let unmatched = observing.unmatched_since();
        tail.others_applied(observing.take_carried());
        {
            let mut live = lock(&ctx.live);
            let meter = &mut live.lag[Side::Legacy as usize];
            meter.applied(now, |at| tail.has_applied(at));
            meter.unmatched_since(unmatched.flatten());
            // More keys than can be remembered: how far next is behind is not known.
            let lag = unmatched.and_then(|_| live.apply_lag(Side::Legacy, now)).filter(|_| tail.is_running());
            if let Some(lag) = lag {
                live.metrics.set("lag.apply", None, now, lag.0 as f64);
            }
            if n.is_multiple_of(10) {
                live.push_lag(lag);
                let (read, applied) = tail.counts();
                let (then, read0, applied0) = live.counted;
                let span = now.since(then).as_secs_f64().max(0.001);
                live.rates = (read.saturating_sub(read0) as f64 / span, applied.saturating_sub(applied0) as f64 / span);
                live.counted = (now, read, applied);
            }
        }
        ctx.sleep(Micros::from_ms(100)).await;
    }
}
