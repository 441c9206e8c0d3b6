//! Looking: application reports, cluster observations, lag markers, gates once a second.

use std::sync::Arc;

use super::ctx::{Ctx, Halt, lock};
use super::load;
use crate::cluster::{AdminDone, AdminOp, ClusterTime, Key, PageLimit};
use crate::route::client::acks_ns;
use crate::route::report::ReadReport;
use crate::route::{Route, Side};
use crate::runtime::Micros;

/// An application process's ack as read now.
#[derive(Clone, Debug)]
pub(super) struct Ack {
    pub process: String,
    pub epoch: i64,
    /// The epoch it follows: newer than what it has acked while a write of an older one has an unknown outcome.
    pub follows: i64,
    pub beat: i64,
    pub report: ReadReport,
}

/// Every process that follows the route now, read no earlier than everything seen.
pub(super) async fn acks(ctx: &Arc<Ctx>) -> Result<Vec<Ack>, Halt> {
    let prefix = format!("{}/", ctx.plan.id);
    let mut from = Key::from(prefix.as_str());
    let ns = acks_ns();
    let mut out = Vec::new();
    loop {
        let after = ctx.seen(Side::Legacy);
        let limit = PageLimit { docs: 1_000, bytes: 16 << 20 };
        let page = ctx.insist("reading acks", || ctx.db(Side::Legacy).scan(&ns, Some(&from), limit, after)).await?;
        for (key, doc) in &page.docs {
            let id = match key.value() {
                bson::RawBsonRef::String(s) if s.starts_with(&prefix) => s,
                _ => return Ok(out),
            };
            let process = crate::scrub::short(&id[prefix.len()..], 60);
            let beat = doc.get_i64("beat").unwrap_or(0);
            let taken = lock(&ctx.live).slices_taken(&process, beat);
            let epoch = doc.get_i64("epoch").unwrap_or(0);
            out.push(Ack {
                epoch,
                follows: doc.get_i64("follows").unwrap_or(epoch).max(epoch),
                beat,
                report: ReadReport::from_ack(doc, taken),
                process,
            });
        }
        match page.docs.last() {
            Some((key, _)) if !page.end => from = key.clone(),
            _ => return Ok(out),
        }
    }
}

/// Takes a reading of the acks into the live view.
pub(super) fn take_acks(ctx: &Ctx, acks: &[Ack]) {
    let now = ctx.rt.now();
    let mut live = lock(&ctx.live);
    for a in acks {
        live.take_report(&a.process, a.epoch, a.beat, &a.report, now);
    }
    let gone: Vec<String> =
        live.applications.keys().filter(|p| !acks.iter().any(|a| a.process == **p)).cloned().collect();
    for p in gone {
        live.withdrawn(&p);
    }
}

/// True when a process has not renewed its lease for longer than one lasts.
pub(super) fn is_silent(ctx: &Ctx, process: &str) -> bool {
    let limit = ctx.plan.lease + Micros::from_secs(2);
    let now = ctx.rt.now();
    lock(&ctx.live).applications.get(process).is_some_and(|a| now.since(a.last_change) > limit)
}

/// Reads the route document; `None` before there is one.
pub(super) async fn read_route(ctx: &Arc<Ctx>) -> Result<Option<Route>, Halt> {
    let keys = [Key::from(ctx.plan.id.as_str())];
    let ns = crate::route::client::routes_ns();
    let after = ctx.seen(Side::Legacy);
    let read = ctx.insist("reading the route", || ctx.db(Side::Legacy).read(&ns, &keys, after)).await?;
    match read.docs.into_iter().next().flatten() {
        None => Ok(None),
        Some(doc) => Route::from_raw(&doc).map(Some).map_err(|e| Halt::Broken(e.to_string())),
    }
}

/// About how many documents legacy holds; `None` when the cluster does not say.
pub(super) async fn estimated_count(ctx: &Arc<Ctx>) -> Option<u64> {
    let op = AdminOp::Count { ns: ctx.ns(Side::Legacy).clone() };
    match ctx.db(Side::Legacy).admin(&op).await {
        Ok(AdminDone::Count(n)) => Some(n),
        _ => None,
    }
}

/// Application reports, four times a second.
pub(super) async fn follow_applications(ctx: Arc<Ctx>) {
    loop {
        match acks(&ctx).await {
            Ok(list) => take_acks(&ctx, &list),
            Err(halt) => ctx.report_halt(halt).await,
        }
        ctx.sleep(Micros::from_ms(500)).await;
    }
}

/// Lag markers twice a second on each cluster that a tail follows, and on legacy's in any case: what they take tells how the cluster fares.
pub(super) async fn measure_lag(ctx: Arc<Ctx>, side: Side) {
    let mut due = ctx.rt.now();
    loop {
        let followed = ctx.tails[side as usize].is_running();
        let probed = side == Side::Legacy && ctx.observing.is_none();
        if followed || probed {
            let began = ctx.rt.now();
            if followed {
                lock(&ctx.live).lag[side as usize].sending(began);
            }
            match ctx.marker(side).await {
                Ok(at) => note_marker(&ctx, side, at, began, (followed, probed)),
                Err(halt) => ctx.report_halt(halt).await,
            }
        }
        due = (due + Micros::from_ms(500)).max(ctx.rt.now());
        ctx.rt.sleep_until(due).await;
    }
}

fn note_marker(ctx: &Ctx, side: Side, at: ClusterTime, began: Micros, (followed, probed): (bool, bool)) {
    let (now, mut live) = (ctx.rt.now(), lock(&ctx.live));
    if followed {
        live.lag[side as usize].sent(at, began);
    }
    if probed {
        live.probes.note(now, now.since(began));
    }
}

/// Looks at a cluster once a second.
pub(super) async fn watch_cluster(ctx: Arc<Ctx>, side: Side) {
    loop {
        if let Ok(seen) = ctx.db(side).observe().await {
            ctx.saw(side, seen.majority);
            load::note(&mut lock(&ctx.live), side, ctx.rt.now(), seen);
            // Apart: it may take a while, and who looks at the set elsewhere has none.
            if let Ok(AdminDone::Load(told)) = ctx.db(side).admin(&AdminOp::Load).await {
                load::note_load(&mut lock(&ctx.live), side, ctx.rt.now(), told);
            }
        }
        ctx.sleep(Micros::from_secs(1)).await;
    }
}

/// Turns what the tails did into lag and rates, ten times a second.
pub(super) async fn meter_tails(ctx: Arc<Ctx>) {
    let mut n = 0u64;
    loop {
        let now = ctx.rt.now();
        let ahead = ctx.ownership.route().is_some_and(|r| r.reads_ahead());
        {
            let mut live = lock(&ctx.live);
            for side in Side::BOTH {
                let tail = &ctx.tails[side as usize];
                if tail.is_running() {
                    live.lag[side as usize].applied(now, |at| tail.has_applied(at));
                    if let Some(lag) = live.apply_lag(side, now) {
                        let name = if side == Side::Legacy { "lag.apply" } else { "lag.reverse" };
                        live.metrics.set(name, None, now, lag.0 as f64);
                        if side == Side::Legacy {
                            // Only what is read ahead of the writes can be older than its owner has it.
                            let age = if ahead { lag.0 } else { 0 };
                            live.metrics.set("reads.stale_age", None, now, age as f64);
                        }
                    }
                }
            }
            if n.is_multiple_of(10) {
                let lag = live.apply_lag(Side::Legacy, now);
                live.push_lag(lag);
                let (read, applied) = ctx.tails[Side::Legacy as usize].counts();
                let (then, read0, applied0) = live.counted;
                let span = now.since(then).as_secs_f64().max(0.001);
                live.rates = (read.saturating_sub(read0) as f64 / span, applied.saturating_sub(applied0) as f64 / span);
                live.counted = (now, read, applied);
            }
        }
        n += 1;
        ctx.sleep(Micros::from_ms(100)).await;
    }
}
