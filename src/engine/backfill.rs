//! Copies what exists, chunk by chunk in `_id` order: one is read while others are written, each checkpointed in its writer's slot.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bson::{RawBson, RawDocumentBuf};
use futures_util::future::{join, join_all};

use super::crew::{Crew, joined};
use super::ctx::{Ctx, Halt, lock};
use super::keys::ReadMark;
use super::live_view::Progress;
use super::planted::Bug;
use super::resync::{Absent, PUTS, differences, image, resync, store};
use super::throttle::Pacer;
use super::unfit::{self, Misfit};
use super::writer::{NotCommitted, SlotWriter};
use crate::cluster::{ClusterTime, Key, Page, PageLimit, TxnOp};
use crate::route::Side;
use crate::runtime::Micros;

/// Documents a chunk, which is also its transaction.
pub(super) const CHUNK_DOCS: usize = 1_000;
/// Bytes a chunk.
pub(super) const CHUNK_BYTES: usize = 4 << 20;

/// Chunks on their way at the same time, each through a slot of its own. Two keep the servers busy while the third is read. Constant: whoever takes
/// up again reads all of their positions.
const WRITERS: usize = 3;

/// Copies everything not yet copied. Returns how many documents are copied, or `None` when the engine is stopping.
pub(super) async fn run(ctx: &Arc<Ctx>) -> Result<Option<u64>, Halt> {
    ctx.registry.begins();
    let copied = copy(ctx).await;
    ctx.registry.ends();
    copied
}

/// Whose turn it is to read the next chunk.
struct Turn<'c> {
    rate: Option<Pacer<'c>>,
    from: Option<Key>,
    /// Documents up to there.
    copied: u64,
    /// Of which the rate knows.
    paced: u64,
}

struct Copying<'c> {
    turn: tokio::sync::Mutex<Turn<'c>>,
    /// Over once legacy has been read to its end.
    crew: Crew,
    /// From where somebody is to look ahead.
    ahead: Mutex<Option<Option<Key>>>,
    /// Documents whose chunk is written.
    done: AtomicU64,
    total: Option<u64>,
    began: Micros,
    first: u64,
}

/// What is written together.
struct Chunk {
    page: Page,
    mark: ReadMark,
    /// Those of its keys that are likely to be on next.
    there: Vec<Key>,
    unrouted: Vec<Misfit>,
    /// Where the copy stands once it is written, and everything before it.
    position: RawDocumentBuf,
    last: Option<Key>,
}

async fn copy(ctx: &Arc<Ctx>) -> Result<Option<u64>, Halt> {
    let mut writers = Vec::with_capacity(WRITERS);
    for n in 0..WRITERS {
        writers.push(SlotWriter::open(ctx, Side::Next, &worker(n)).await?);
    }
    let (from, copied) = resume(ctx, &mut writers).await?;
    let total = super::observe::estimated_count(ctx).await;
    let turn = Turn { rate: Pacer::rate_of_all(ctx), from, copied, paced: copied };
    let copying = Copying {
        turn: tokio::sync::Mutex::new(turn),
        crew: Crew::default(),
        ahead: Mutex::default(),
        done: AtomicU64::new(copied),
        total,
        began: ctx.rt.now(),
        first: copied,
    };
    copying.progress(ctx, 0);
    let crew = &copying.crew;
    let ended = join_all(writers.into_iter().map(|w| crew.one(write_on(ctx, &copying, w))));
    let (ended, ahead) = join(ended, crew.one(look_ahead(ctx, &copying))).await;
    joined(ended.into_iter().chain([ahead]).collect())?;
    let left = crew.has_left();
    Ok(Some(copying.turn.into_inner().copied).filter(|_| !left))
}

/// The slot of one writer.
fn worker(n: usize) -> String {
    match n {
        0 => "backfill".to_owned(),
        n => format!("backfill-{}", n + 1),
    }
}

/// Where the copy goes on: a writer's position says that its own chunks up to there are written, so everything is up to the lowest of them.
/// What others wrote beyond is compared when it comes again. Every slot starts from there: a higher position of before would
/// vouch for a chunk that this run gives to its writer.
async fn resume(ctx: &Arc<Ctx>, writers: &mut [SlotWriter]) -> Result<(Option<Key>, u64), Halt> {
    let points: Vec<_> = writers.iter().map(|w| resume_point(w.checkpoint())).collect();
    let lowest = points.iter().min().cloned().unwrap_or_default();
    for (writer, point) in writers.iter_mut().zip(points) {
        if point != lowest {
            store(ctx, writer, Side::Legacy, Some(checkpoint(lowest.0.as_ref(), lowest.1))).await?;
        }
    }
    Ok(lowest)
}

/// One writer: chunk after chunk, until there is none.
async fn write_on(ctx: &Arc<Ctx>, copying: &Copying<'_>, mut writer: SlotWriter) -> Result<(), Halt> {
    let mut pacer = Pacer::pausing(ctx).one_of(WRITERS);
    loop {
        if copying.crew.unless_over(pacer.pace(0)).await == Some(false) {
            copying.crew.leave();
        }
        pacer.waits();
        let mut turn = copying.turn.lock().await;
        if copying.crew.is_over() {
            return Ok(());
        }
        match copying.crew.unless_over(turn.await_rate()).await {
            Some(true) => {}
            Some(false) => copying.crew.leave(),
            None => return Ok(()),
        }
        if !pacer.begins() {
            continue;
        }
        let (chunk, end) = turn.read(ctx).await?;
        if end {
            copying.crew.end();
        }
        drop(turn);
        let listed = write(ctx, &mut writer, &chunk).await?;
        copying.progress(ctx, (chunk.page.docs.len() + chunk.unrouted.len()) as u64);
        if listed > 0 {
            copying.look_from(chunk.last);
        }
    }
}

/// Once the first document was met that cannot be carried: lists the others, beside the writers, which may be paused over it.
async fn look_ahead(ctx: &Arc<Ctx>, copying: &Copying<'_>) -> Result<(), Halt> {
    let asked = || match copying.crew.is_over() {
        true => Some(None),
        false => lock(&copying.ahead).take().map(Some),
    };
    let Some(from) = copying.crew.until(asked).await else { return Ok(()) };
    if !unfit::look_ahead(ctx, from, &copying.crew).await? {
        copying.crew.leave();
    }
    Ok(())
}

impl Copying<'_> {
    /// Asks for what follows to be looked through. It is once: who asks later is not heard any more.
    fn look_from(&self, from: Option<Key>) {
        lock(&self.ahead).get_or_insert(from);
        self.crew.tell();
    }

    /// So many documents more are written.
    fn progress(&self, ctx: &Ctx, n: u64) {
        let done = self.done.fetch_add(n, Ordering::SeqCst) + n;
        let total = self.total.map(|t| t.max(done));
        lock(&ctx.live).progress =
            Some(Progress { name: "backfill", done, total, began: self.began, from: self.first });
    }
}

impl Turn<'_> {
    /// Waits for as long as the plan's rate wants after what was read last. False when the task is to be left.
    async fn await_rate(&mut self) -> bool {
        let copied = self.copied - std::mem::replace(&mut self.paced, self.copied);
        let Some(rate) = &mut self.rate else { return true };
        let goes_on = rate.pace(copied).await;
        rate.waits();
        goes_on
    }

    /// Reads the next chunk, and whether it is the last.
    async fn read(&mut self, ctx: &Arc<Ctx>) -> Result<(Chunk, bool), Halt> {
        let limit = PageLimit { docs: ctx.throttle.portion(ctx.chunk_docs), bytes: CHUNK_BYTES };
        let mark = ctx.registry.begin_read();
        let after =
            if ctx.planted.has(Bug::ChunkReadNotAfterTail) { ClusterTime::ZERO } else { ctx.seen(Side::Legacy) };
        let scan = || ctx.db(Side::Legacy).scan(ctx.ns(Side::Legacy), self.from.as_ref(), limit, after);
        let mut page = match ctx.retry("scanning legacy", scan).await {
            Ok(page) => page,
            Err(halt) => {
                ctx.registry.register(mark, &[]);
                return Err(halt);
            }
        };
        ctx.saw(Side::Legacy, page.at);
        self.from = page.docs.last().map(|(k, _)| k.clone()).or(self.from.take());
        self.copied += page.docs.len() as u64;
        let unrouted = unfit::take_unrouted(&mut page);
        let there = ctx.registry.likely_there(page.docs.iter().map(|(k, _)| k));
        let position = checkpoint(self.from.as_ref(), self.copied);
        let end = page.end;
        Ok((Chunk { page, mark, there, unrouted, position, last: self.from.clone() }, end))
    }
}

/// Registers a chunk's keys and writes it; answers how many documents were listed that nobody had been told of.
async fn write(ctx: &Arc<Ctx>, writer: &mut SlotWriter, chunk: &Chunk) -> Result<usize, Halt> {
    let all: Vec<Key> = chunk.page.docs.iter().map(|(k, _)| k.clone()).collect();
    let keep = match ctx.planted.has(Bug::ChunkNotRegistered) {
        true => vec![true; all.len()],
        false => ctx.registry.register(chunk.mark, &all),
    };
    let held: Vec<Key> = all.into_iter().zip(&keep).filter(|(_, k)| **k).map(|(key, _)| key).collect();
    let outcome = match unfit::list(ctx, &chunk.unrouted).await {
        Err(halt) => Err(halt),
        Ok(n) => write_chunk(ctx, writer, chunk, &keep, &held).await.map(|more| n + more),
    };
    if outcome == Err(Halt::LetGo) {
        settle_later(ctx, writer.worker(), held);
        return Err(Halt::LetGo);
    }
    ctx.registry.release(held.into_iter());
    outcome
}

/// The chunk's outcome may be unknown: its keys stay registered, so that nobody writes them, until it is settled.
fn settle_later(ctx: &Arc<Ctx>, worker: String, held: Vec<Key>) {
    let later = ctx.clone();
    ctx.strand.unsettled.fetch_add(1, Ordering::SeqCst);
    ctx.spawn("settle a chunk", async move {
        match SlotWriter::settle_later(&later, Side::Next, &worker).await {
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
    chunk: &Chunk,
    keep: &[bool],
    held: &[Key],
) -> Result<usize, Halt> {
    let mut listed = 0;
    let point = || Some(chunk.position.clone());
    let there: Vec<Key> = chunk.there.iter().filter(|k| held.binary_search(k).is_ok()).cloned().collect();
    // A chunk that was aborted is carried in parts, and so are the next ones until parts went well for a while.
    if writer.batch(held.len()) == held.len() && there.len() <= PUTS {
        let _together = ctx.together[Side::Legacy as usize].read().await;
        let (ops, misfits) = in_one(ctx, &chunk.page, keep, &there).await?;
        listed = unfit::list(ctx, &misfits).await?;
        match writer.commit(&ops, point()).await {
            Ok(_) => return Ok(listed),
            Err(NotCommitted::Halt(h)) => return Err(h),
            Err(NotCommitted::Aborted(_) | NotCommitted::Refused(_)) => writer.halve(),
            Err(NotCommitted::Duplicate(_) | NotCommitted::Again) => {
                let ops = differences(ctx, Side::Legacy, held, Absent::Insert).await?.ops;
                match writer.commit(&ops, point()).await {
                    Ok(_) => return Ok(listed),
                    Err(NotCommitted::Halt(h)) => return Err(h),
                    Err(NotCommitted::Aborted(_)) => writer.halve(),
                    Err(_) => {}
                }
            }
        }
    }
    resync(ctx, writer, Side::Legacy, held, point()).await.map(|_| listed)
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
