//! Latencies as the servers have them, for as long as no application reports its own.
//!
//! A server counts every operation on the collection, tidegate's among them: its scans are reads, its batches are writes. What
//! applications report is better, and is taken alone where there is any.

use std::sync::Arc;

use super::ctx::{Ctx, lock};
use crate::cluster::load::LatencyCounts;
use crate::cluster::{AdminDone, AdminOp};
use crate::metrics::OpKind;
use crate::route::Side;
use crate::runtime::Micros;
use crate::snapshot::LatencySource;

const EVERY: Micros = Micros::from_secs(1);
/// An application that runs has reported by then.
const FIRST: Micros = Micros::from_secs(5);

/// Reads a side's counters once a second.
pub(super) async fn follow(ctx: Arc<Ctx>, side: Side) {
    let began = ctx.rt.now();
    let mut before: Option<LatencyCounts> = None;
    loop {
        ctx.sleep(EVERY).await;
        if lock(&ctx.live).applications_report() {
            lock(&ctx.live).latency_source = Some(LatencySource::Applications);
            before = None;
            continue;
        }
        if ctx.rt.now().since(began) < FIRST {
            continue;
        }
        let op = AdminOp::Latency { ns: ctx.ns(side).clone() };
        let told = match ctx.db(side).admin(&op).await {
            Ok(AdminDone::Latency(told)) => told,
            _ => None,
        };
        if let (Some(then), Some(now)) = (&before, &told)
            && let Some(new) = now.since(then)
        {
            take(&ctx, side, &new);
        }
        before = told;
    }
}

fn take(ctx: &Ctx, side: Side, new: &LatencyCounts) {
    let now = ctx.rt.now();
    let mut live = lock(&ctx.live);
    if live.applications_report() {
        return;
    }
    live.latency_source = Some(LatencySource::Servers);
    for (op, classes) in [(OpKind::Read, &new.reads), (OpKind::Write, &new.writes)] {
        for (longest, n) in classes {
            live.metrics.record_served(op, side, now, *longest, *n);
        }
    }
}
