//! Going through the whole collection once, in `_id` order, checkpointed with each transaction.

use std::sync::Arc;

use bson::{RawBson, RawDocumentBuf};

use super::super::ctx::{Ctx, Halt, lock};
use super::super::live_view::Progress;
use super::super::observe::estimated_count;
use super::super::throttle::Pacer;
use super::super::writer::SlotWriter;
use super::carry::{Carried, DOCS, Source, carry};
use super::judge::Way;
use crate::cluster::{Key, PageLimit};
use crate::route::Side;

/// Documents a page of the scan.
const PAGE_DOCS: usize = 500;
/// Bytes a page of the scan.
const PAGE_BYTES: usize = 4 << 20;

/// Brings every document into the shape of `way`, from where an earlier run of the same way stopped. `None` when the task is left.
pub(super) async fn run(ctx: &Arc<Ctx>, way: Way, throttled: bool) -> Result<Option<Point>, Halt> {
    let done = walk(ctx, way, throttled).await;
    lock(&ctx.live).progress = None;
    done
}

async fn walk(ctx: &Arc<Ctx>, way: Way, throttled: bool) -> Result<Option<Point>, Halt> {
    let mut writer = SlotWriter::open(ctx, Side::Legacy, "in-place").await?;
    let mut point = Point::stored(writer.checkpoint(), way);
    let total = estimated_count(ctx).await;
    let (began, first) = (ctx.rt.now(), point.seen);
    let limit = PageLimit { docs: PAGE_DOCS.min(ctx.chunk_docs.max(1)), bytes: PAGE_BYTES };
    // A hard rollback goes as fast as it can.
    let mut pacer = if throttled { Pacer::copying(ctx) } else { Pacer::pausing(ctx) };
    let mut carried = 0;
    let name = if way == Way::There { "backfill" } else { "undo" };
    loop {
        let after = ctx.seen(Side::Legacy);
        let ns = ctx.ns(Side::Legacy);
        let scan = || ctx.db(Side::Legacy).scan(ns, point.after.as_ref(), limit, after);
        let page = ctx.retry("scanning the collection", scan).await?;
        ctx.saw(Side::Legacy, page.at);
        for docs in page.docs.chunks(DOCS) {
            if !pacer.pace(carried).await {
                return Ok(None);
            }
            carried = docs.len() as u64;
            point.seen += carried;
            point.after = docs.last().map(|(k, _)| k.clone()).or(point.after);
            let Carried { written, mixed } =
                carry(ctx, &mut writer, Source::Page(docs), Some(point.to_doc(way))).await?;
            point.written += written as u64;
            point.mixed += mixed as u64;
            lock(&ctx.live).progress =
                Some(Progress { name, done: point.seen, total: total.map(|t| t.max(point.seen)), began, from: first });
        }
        if page.end {
            return Ok(Some(point));
        }
    }
}

/// How far it is. `written` and `mixed` lack the last transaction of a run that was cut off: they are told, nothing is decided by them.
#[derive(Clone, Debug, Default)]
pub(super) struct Point {
    after: Option<Key>,
    /// Documents looked at.
    pub seen: u64,
    /// Documents written.
    pub written: u64,
    /// Documents of neither shape.
    pub mixed: u64,
}

impl Point {
    fn to_doc(&self, way: Way) -> RawDocumentBuf {
        let mut d = RawDocumentBuf::new();
        d.append(bson::cstr!("to"), way.shape());
        if let Some(key) = &self.after {
            d.append(bson::cstr!("after"), RawBson::from(key.value()));
        }
        for (name, n) in [
            (bson::cstr!("seen"), self.seen),
            (bson::cstr!("written"), self.written),
            (bson::cstr!("mixed"), self.mixed),
        ] {
            d.append(name, n as i64);
        }
        d
    }

    /// The stored one, if it is of the same way.
    fn stored(d: Option<&RawDocumentBuf>, way: Way) -> Point {
        let Some(d) = d.filter(|d| d.get_str("to").is_ok_and(|to| to == way.shape())) else { return Point::default() };
        let n = |name| d.get_i64(name).unwrap_or(0).max(0) as u64;
        Point {
            after: d.get("after").ok().flatten().and_then(|v| Key::new(v).ok()),
            seen: n("seen"),
            written: n("written"),
            mixed: n("mixed"),
        }
    }
}
