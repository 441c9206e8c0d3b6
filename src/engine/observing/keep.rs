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
/// Between two looks whether everything must be compared again.
const LOOK: Micros = Micros::from_secs(2);
/// More keys differ than are remembered: nothing is gained by reading both sides whole again at once.
const TOO_MANY: Micros = Micros::from_secs(60);
/// Keys compared in one go.
const CHUNK: usize = 500;

/// Round after round, as long as the engine runs.
pub(super) async fn keep(ctx: Arc<Ctx>, publisher: Arc<Publisher>) {
    let Some(observing) = &ctx.observing else { return };
    loop {
        let mut compared = Micros::ZERO;
        if publisher.is_open()
            && let Err(halt) = round(&ctx, observing, &mut compared).await
        {
            ctx.report_halt(halt).await;
            ctx.sleep(Micros::from_secs(2)).await;
        }
        ctx.sleep(rest_after(compared)).await;
    }
}

/// The rest after a round that spent so long comparing.
fn rest_after(compared: Micros) -> Micros {
    Micros(compared.0.saturating_mul(REST)).max(PAUSE)
}

/// Compares everything again where an earlier process had compared, or the thread was lost: the gates of a stage that soaks stand on
/// it. Apart from the rounds: what changes meanwhile would look as if nobody carried it.
pub(super) async fn compare_afresh(ctx: Arc<Ctx>, publisher: Arc<Publisher>) {
    let Some(observing) = &ctx.observing else { return };
    loop {
        let state = publisher.state();
        let waits = state.needs_operator.is_some() || !matches!(state.status, Status::Soaking { .. });
        let due = publisher.is_open() && state.reconciled.is_some() && !observing.is_current() && !waits;
        if due && let Err(halt) = reached::compare_whole(&ctx, observing).await {
            ctx.report_halt(halt).await;
        }
        ctx.sleep(if due && observing.too_many() { TOO_MANY } else { LOOK }).await;
    }
}

async fn round(ctx: &Arc<Ctx>, observing: &Observing, compared: &mut Micros) -> Result<(), Halt> {
    let breaks = observing.breaks();
    let Some(through_ms) = reconcile::pass_markers(ctx).await? else { return Ok(()) };
    let mut pacer = Pacer::new(ctx);
    for keys in observing.open().chunks(CHUNK) {
        if !pacer.pace(0).await {
            return Ok(());
        }
        let began = ctx.rt.now();
        compare_again(ctx, keys).await?;
        *compared += ctx.rt.now().since(began);
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
            meter.unmatched_since(unmatched);
            let lag = live.apply_lag(Side::Legacy, now).filter(|_| tail.is_running());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_long_a_round_compares_it_takes_a_quarter_of_the_time() {
        let s = Micros::from_secs;
        assert_eq!([Micros::ZERO, s(1), s(60)].map(rest_after), [PAUSE, s(3), s(180)]);
    }
}
