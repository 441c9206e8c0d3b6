//! Following one side's changes into the other: a dispatcher reads the stream, workers re-sync the keys it names.
//!
//! A bucket always goes to the same worker, so that one key has one writer. tidegate's own writes come back as events and are known
//! by their session; any other event on a key that its side does not own is a stray.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bson::{RawDocumentBuf, Timestamp};
use tokio::sync::{Notify, oneshot};

use super::ctx::{Ctx, Halt, lock};
use super::in_place::{Source, carry};
use super::planted::Bug;
use super::reconcile::Finding;
use super::repair;
use super::resync::resync;
use super::writer::{NotCommitted, SlotWriter};
use crate::cluster::{Change, ChangeBatch, ChangeKind, ClusterTime, Failed, Key, Reason, StreamPos};
use crate::route::{Bucket, Side, bucket_of};
use crate::runtime::{Micros, race};

/// Workers a tail. Constant: a restarted runner reads their checkpoints.
pub(super) const WORKERS: usize = 4;
/// Keys a transaction (DESIGN rule 3: at most 200 replaces).
const BATCH: usize = 200;
/// Keys waiting at the workers before the dispatcher stops reading.
const QUEUE_MAX: usize = 20_000;
/// How often idle workers store the stream's position.
const CHECKPOINT_EVERY: Micros = Micros::from_secs(5);

/// The keys of one stream batch that belong to one worker, and the position after the batch.
struct Unit {
    keys: Vec<Key>,
    first: Option<ClusterTime>,
    pos: StreamPos,
    /// Store the position even when nothing is written.
    flush: bool,
}

/// What a worker is asked for between two batches: nobody else writes the copies of its buckets.
pub(super) enum Asked {
    /// A key to be judged.
    Judge { key: Key, answer: oneshot::Sender<Finding> },
    /// Copies to be written afresh.
    Mend(repair::Job),
}

#[derive(Default)]
struct WorkerState {
    queue: VecDeque<Unit>,
    /// Answered between two batches.
    asked: VecDeque<Asked>,
    /// The first event of the units being applied.
    applying: Option<ClusterTime>,
    checkpointed: ClusterTime,
}

#[derive(Default)]
struct Inner {
    running: bool,
    read_through: ClusterTime,
    workers: Vec<WorkerState>,
    queued: usize,
    /// Store the position as soon as the stream has passed this.
    flush_at: Option<ClusterTime>,
    read: u64,
    applied: u64,
}

/// One tail as the rest of the engine sees it.
#[derive(Default)]
pub(super) struct TailState {
    inner: Mutex<Inner>,
    /// Something was read or applied, or the tail ends.
    moved: Notify,
    /// A worker has something to do, or the tail ends.
    work: [Notify; WORKERS],
    stop: AtomicBool,
    /// Its tasks end where they stand.
    cut: AtomicBool,
    cutting: Notify,
    /// Tasks that have not ended.
    alive: AtomicUsize,
}

impl TailState {
    /// True from its start to its stop.
    pub(super) fn is_running(&self) -> bool {
        lock(&self.inner).running
    }

    /// True when every event up to `at` has been applied.
    pub(super) fn has_applied(&self, at: ClusterTime) -> bool {
        let inner = lock(&self.inner);
        inner.read_through >= at && inner.workers.iter().all(|w| w.first_pending().is_none_or(|t| t > at))
    }

    /// True when the stream has been read up to `at`, applied or not.
    pub(super) fn has_read(&self, at: ClusterTime) -> bool {
        lock(&self.inner).read_through >= at
    }

    /// Events read and events applied since the tail started.
    pub(super) fn counts(&self) -> (u64, u64) {
        let inner = lock(&self.inner);
        (inner.read, inner.applied)
    }

    /// Waits until `done` holds, at most until `deadline`; false when time ran out.
    async fn until(&self, ctx: &Ctx, deadline: Micros, done: impl Fn(&TailState) -> bool) -> bool {
        // Whoever waits for the tail is not kept waiting by a rest.
        let _hurry = ctx.throttle.hurry();
        loop {
            let moved = self.moved.notified();
            if done(self) {
                return true;
            }
            if ctx.rt.now() >= deadline {
                return false;
            }
            ctx.wait(moved, Micros::from_ms(50)).await;
        }
    }

    /// Asks the worker of `bucket`.
    pub(super) fn ask(&self, bucket: Bucket, asked: Asked) {
        if let Some(worker) = lock(&self.inner).workers.get_mut(worker_of(bucket)) {
            worker.asked.push_back(asked);
        }
        self.work[worker_of(bucket)].notify_waiters();
    }

    /// Waits until everything up to `at` has been applied.
    pub(super) async fn drain(&self, ctx: &Ctx, at: ClusterTime, deadline: Micros) -> bool {
        self.until(ctx, deadline, |t| t.has_applied(at)).await
    }

    /// Waits until everything up to `at` has been read.
    pub(super) async fn read_past(&self, ctx: &Ctx, at: ClusterTime, deadline: Micros) -> bool {
        self.until(ctx, deadline, |t| t.has_read(at)).await
    }

    /// Asks for the position to be stored as soon as the stream has passed `at`.
    pub(super) fn store_after(&self, at: ClusterTime) {
        let mut inner = lock(&self.inner);
        if inner.workers.iter().any(|w| w.checkpointed < at) {
            inner.flush_at = Some(at);
        }
    }

    /// Makes every worker store a position not before `at`: a restart then sees none of those events again.
    pub(super) async fn checkpoint(&self, ctx: &Ctx, at: ClusterTime, deadline: Micros) -> bool {
        self.store_after(at);
        self.until(ctx, deadline, |t| lock(&t.inner).workers.iter().all(|w| w.checkpointed >= at)).await
    }

    /// The dispatcher is done: whoever waits may look.
    fn ended(&self) {
        lock(&self.inner).running = false;
        self.moved.notify_waiters();
        self.work.iter().for_each(Notify::notify_waiters);
    }

    /// Ends the tail once its queues are empty.
    ///
    /// # Errors
    /// [`Halt::LetGo`] when next does not answer, and so they never will be; it still ends when they are.
    pub(super) async fn stop(&self, ctx: &Ctx) -> Result<(), Halt> {
        self.stop.store(true, Ordering::SeqCst);
        self.moved.notify_waiters();
        let _hurry = ctx.throttle.hurry();
        while self.is_running() {
            if ctx.lets_go() {
                return Err(Halt::LetGo);
            }
            ctx.sleep(Micros::from_ms(20)).await;
        }
        Ok(())
    }

    /// Ends the tail where it stands, for a next that does not answer. What it had under way has an unknown outcome until its slots are
    /// bumped. It is not started again: the keys it was at are left as if somebody wrote them.
    pub(super) async fn cut(&self, ctx: &Ctx) {
        self.cut.store(true, Ordering::SeqCst);
        self.cutting.notify_waiters();
        while self.alive.load(Ordering::SeqCst) > 0 {
            ctx.sleep(Micros::from_ms(5)).await;
        }
        self.ended();
    }

    /// Everything up to this time has been applied, as far as this process knows; zero when it never ran here.
    pub(super) fn through(&self) -> ClusterTime {
        let inner = lock(&self.inner);
        match inner.workers.iter().filter_map(WorkerState::first_pending).min() {
            Some(pending) => before(pending).min(inner.read_through),
            None => inner.read_through,
        }
    }

    /// Begins as a tail that only looks: it has no workers, and nothing waits to be applied.
    pub(super) fn looks_from(&self, at: ClusterTime) {
        *lock(&self.inner) = Inner { running: true, read_through: at, ..Inner::default() };
    }

    /// A tail that only looks has come to `at`, past so many events.
    pub(super) fn has_looked(&self, at: ClusterTime, events: u64) {
        {
            let mut inner = lock(&self.inner);
            inner.read += events;
            inner.read_through = inner.read_through.max(at);
        }
        self.moved.notify_waiters();
    }

    /// Of the events that a tail only looked at, so many more have been carried by others.
    pub(super) fn others_applied(&self, events: u64) {
        lock(&self.inner).applied += events;
    }

    /// Runs one of its tasks, until it is cut off.
    async fn until_cut(&self, task: impl Future<Output = ()>) {
        let cut = async {
            loop {
                let cutting = self.cutting.notified();
                if self.cut.load(Ordering::SeqCst) {
                    return;
                }
                cutting.await;
            }
        };
        race(cut, task).await;
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The last time before `t`.
fn before(t: ClusterTime) -> ClusterTime {
    match t.inc.checked_sub(1) {
        Some(inc) => ClusterTime { inc, ..t },
        None => ClusterTime { secs: t.secs.saturating_sub(1), inc: u32::MAX },
    }
}

impl WorkerState {
    fn first_pending(&self) -> Option<ClusterTime> {
        self.applying.or_else(|| self.queue.iter().find_map(|u| u.first))
    }
}

/// Starts following `src` from the workers' checkpoints, or from `from` where there is none.
pub(super) async fn start(ctx: &Arc<Ctx>, src: Side, from: ClusterTime) -> Result<(), Halt> {
    let state = &ctx.tails[src as usize];
    if state.is_running() {
        return Ok(());
    }
    super::unique::remember(ctx, src).await?;
    let mut start = None::<StreamPos>;
    let mut writers = Vec::new();
    for i in 0..WORKERS {
        let mut writer = SlotWriter::open(ctx, src.other(), &worker_name(src, i)).await?;
        if src == Side::Legacy && writer.checkpoint().is_none() {
            // Before anything is carried: whoever is cut off and starts again begins here too. What this tail copies and is then
            // deleted, a later beginning would never see. Only of legacy: no application has written on next yet when that is first followed.
            store_first(&mut writer, &StreamPos { token: None, at: from }).await?;
        }
        let pos = writer.checkpoint().and_then(position).unwrap_or(StreamPos { token: None, at: from });
        if start.as_ref().is_none_or(|s| pos.at < s.at) {
            start = Some(pos);
        }
        writers.push(writer);
    }
    let start = start.unwrap_or(StreamPos { token: None, at: from });
    if state.cut.load(Ordering::SeqCst) {
        // Next was left behind while its slots were being opened.
        return Ok(());
    }
    {
        let mut inner = lock(&state.inner);
        // A position is stored only with everything before it.
        *inner = Inner { running: true, read_through: start.at, ..Inner::default() };
        inner.workers = (0..WORKERS).map(|_| WorkerState::default()).collect();
    }
    state.stop.store(false, Ordering::SeqCst);
    state.alive.store(writers.len() + 1, Ordering::SeqCst);
    for (i, writer) in writers.into_iter().enumerate() {
        let ctx2 = ctx.clone();
        ctx.spawn("tail worker", async move {
            ctx2.tails[src as usize].until_cut(work(ctx2.clone(), src, i, writer)).await;
        });
    }
    let ctx2 = ctx.clone();
    ctx.spawn("tail dispatcher", async move {
        ctx2.tails[src as usize].until_cut(dispatch(ctx2.clone(), src, start)).await;
    });
    Ok(())
}

/// The name of a worker, and of its slot.
pub(super) fn worker_name(src: Side, index: usize) -> String {
    format!("{}-{index}", if src == Side::Legacy { "tail" } else { "reverse" })
}

async fn store_first(writer: &mut SlotWriter, pos: &StreamPos) -> Result<(), Halt> {
    loop {
        match writer.commit(&[], Some(to_checkpoint(pos))).await {
            Ok(_) => return Ok(()),
            Err(NotCommitted::Halt(halt)) => return Err(halt),
            Err(NotCommitted::Refused(why) | NotCommitted::Duplicate(why)) => {
                return Err(Halt::Broken(format!("the position of a tail cannot be stored: {why}")));
            }
            Err(NotCommitted::Again | NotCommitted::Aborted(_)) => {}
        }
    }
}

/// A stream position as a slot's checkpoint.
fn to_checkpoint(pos: &StreamPos) -> RawDocumentBuf {
    let mut d = RawDocumentBuf::new();
    d.append(bson::cstr!("at"), Timestamp::from(pos.at));
    if let Some(token) = &pos.token {
        d.append(bson::cstr!("token"), token.clone());
    }
    d
}

/// The position in a slot's checkpoint.
pub(super) fn position(d: &RawDocumentBuf) -> Option<StreamPos> {
    let at = d.get_timestamp("at").ok()?.into();
    let token = d.get_document("token").ok().map(|t| t.to_owned());
    Some(StreamPos { token, at })
}

async fn dispatch(ctx: Arc<Ctx>, src: Side, mut pos: StreamPos) {
    let state = &ctx.tails[src as usize];
    let mut flushed_at = ctx.rt.now();
    loop {
        // A stream that cannot be opened any more must not keep the tail from ending.
        if state.stop.load(Ordering::SeqCst) {
            return empty_and_end(&ctx, state).await;
        }
        let mut stream = match ctx.db(src).changes(ctx.ns(src), &pos).await {
            Ok(s) => s,
            Err(f) => {
                stream_failed(&ctx, src, &f).await;
                continue;
            }
        };
        loop {
            if state.stop.load(Ordering::SeqCst) {
                return empty_and_end(&ctx, state).await;
            }
            let batch = match stream.next(Micros::from_ms(100)).await {
                Ok(b) => b,
                Err(f) => {
                    stream_failed(&ctx, src, &f).await;
                    break;
                }
            };
            let due = ctx.rt.now().since(flushed_at) >= CHECKPOINT_EVERY;
            let asked = {
                let mut inner = lock(&state.inner);
                inner.flush_at.take_if(|at| batch.pos.at >= *at).is_some()
            };
            let flush = asked || due;
            if flush {
                flushed_at = ctx.rt.now();
            }
            pos = batch.pos.clone();
            if !deliver(&ctx, src, batch, flush).await {
                state.ended();
                return;
            }
            while lock(&state.inner).queued > QUEUE_MAX {
                ctx.wait(state.moved.notified(), Micros::from_ms(100)).await;
            }
        }
    }
}

/// Nothing more is read: under steady traffic the queues would hardly ever be empty otherwise.
async fn empty_and_end(ctx: &Ctx, state: &TailState) {
    while lock(&state.inner).queued > 0 {
        ctx.wait(state.moved.notified(), Micros::from_ms(100)).await;
    }
    state.ended();
}

async fn stream_failed(ctx: &Ctx, src: Side, f: &Failed) {
    let transient = f.is_transient();
    if !transient {
        let what = match f.reason() {
            Some(Reason::HistoryLost(m)) => format!(
                "the changes of {} can no longer be followed, the oplog has moved past them ({m}): copy the collection again",
                ctx.ns(src)
            ),
            _ => format!("the changes of {} cannot be followed: {f}", ctx.ns(src)),
        };
        ctx.report_halt(Halt::Broken(what)).await;
    }
    ctx.sleep(if transient { Micros::from_ms(200) } else { Micros::from_secs(5) }).await;
}

/// Hands a batch to the workers. False when the collection is gone and the tail ends.
async fn deliver(ctx: &Arc<Ctx>, src: Side, batch: ChangeBatch, flush: bool) -> bool {
    let state = &ctx.tails[src as usize];
    let mut parts: [(Vec<Key>, Option<ClusterTime>); WORKERS] = Default::default();
    let mut read = 0;
    for event in &batch.events {
        ctx.saw(src, event.at);
        if event.kind == ChangeKind::Gone {
            let expected = state.stop.load(Ordering::SeqCst) || super::tasks::is_quarantined(ctx).await == Ok(true);
            if expected {
                return false;
            }
            let why = format!("{} was dropped or renamed under the rollout", ctx.ns(src));
            ctx.report_halt(Halt::Broken(why)).await;
            return false;
        }
        if ctx.is_own(event.session) && !ctx.planted.has(Bug::EchoFilterOff) {
            continue;
        }
        read += 1;
        let Some((key, worker)) = route_event(ctx, src, event).await else { continue };
        if src == Side::Legacy {
            ctx.registry.heard(&key, event.kind != ChangeKind::Delete);
        }
        let (keys, first) = &mut parts[worker];
        first.get_or_insert(event.at);
        keys.push(key);
    }
    ctx.touched(parts.iter().flat_map(|(keys, _)| keys.iter().cloned()));
    {
        let mut inner = lock(&state.inner);
        inner.read += read;
        for (worker, (keys, first)) in parts.into_iter().enumerate() {
            if flush || !keys.is_empty() {
                inner.queued += keys.len();
                let unit = Unit { keys, first, pos: batch.pos.clone(), flush };
                inner.workers[worker].queue.push_back(unit);
                state.work[worker].notify_waiters();
            }
        }
        inner.read_through = inner.read_through.max(batch.pos.at);
    }
    ctx.saw(src, batch.pos.at);
    state.moved.notify_waiters();
    true
}

/// The key and its worker; `None` for a stray, which is put aside.
async fn route_event(ctx: &Arc<Ctx>, src: Side, event: &Change) -> Option<(Key, usize)> {
    let key = event.key.clone()?;
    let bucket = match bucket_of(&key) {
        Ok(b) => b,
        Err(e) => {
            let deleted = event.kind == ChangeKind::Delete;
            if let Err(halt) = super::unfit::heard(ctx, src, &key, &e, deleted).await {
                ctx.report_halt(halt).await;
            }
            return None;
        }
    };
    if ctx.ownership.owner(&key, bucket).await != src {
        super::quarantine::put_aside(ctx, src, &key, event.kind, event.at).await;
        return None;
    }
    if ctx.planted.has(Bug::KeyAcrossWorkers) {
        return Some((key, event.at.inc as usize % WORKERS));
    }
    Some((key, worker_of(bucket)))
}

/// A bucket always goes to the same worker: one key, one writer.
pub(super) fn worker_of(bucket: Bucket) -> usize {
    usize::from(bucket) % WORKERS
}

async fn work(ctx: Arc<Ctx>, src: Side, index: usize, mut writer: SlotWriter) {
    let state = &ctx.tails[src as usize];
    loop {
        let work = state.work[index].notified();
        let asked = lock(&state.inner).workers[index].asked.pop_front();
        let was_asked = asked.is_some();
        match asked {
            Some(Asked::Judge { key, answer }) => super::proof::answer(&ctx, &mut writer, src, key, answer).await,
            Some(Asked::Mend(job)) => repair::answer(&ctx, &mut writer, src, job).await,
            None => {}
        }
        let Some(units) = take(state, index) else {
            if was_asked {
                continue;
            }
            if !state.is_running() {
                return;
            }
            if try_again(&ctx, src, index) {
                continue;
            }
            ctx.wait(work, Micros::from_ms(500)).await;
            continue;
        };
        let began = ctx.rt.now();
        let events: usize = units.iter().map(|u| u.keys.len()).sum();
        let mut keys: Vec<Key> = units.iter().flat_map(|u| u.keys.iter().cloned()).collect();
        keys.sort_unstable();
        keys.dedup();
        let last = &units[units.len() - 1];
        let at = last.pos.at;
        if ctx.planted.has(Bug::PositionBeforeWork) {
            // The planted mistake: cut off from here on, these events are never seen again. What became of it shows soon enough.
            let _ = writer.commit(&[], Some(to_checkpoint(&last.pos))).await;
        }
        let flush = units.iter().any(|u| u.flush);
        // Routed when they were read; a range may have changed hands since, and then they are strays after all.
        let routed = keys.into_iter().filter_map(|k| bucket_of(&k).ok().map(|b| (k, b))).collect();
        let (held, strays) = ctx.ownership.begin_write(src, routed).await;
        for key in strays {
            // One that is only tried again is none.
            if units.iter().any(|u| u.first.is_some() && u.keys.contains(&key)) {
                super::quarantine::put_aside(&ctx, src, &key, ChangeKind::Update, at).await;
            }
        }
        let keys: Vec<Key> = held.iter().map(|(k, _)| k.clone()).collect();
        let stored = match src {
            Side::Next => apply(&ctx, &mut writer, src, &keys, &last.pos, flush).await,
            Side::Legacy => apply_beside_chunks(&ctx, &mut writer, keys, &last.pos, flush).await,
        };
        ctx.ownership.end_write(&held);
        {
            let mut inner = lock(&state.inner);
            inner.queued -= events;
            inner.applied += events as u64;
            inner.workers[index].applying = None;
            if stored {
                inner.workers[index].checkpointed = at;
            }
        }
        state.moved.notify_waiters();
        ctx.throttle.rest_tail(&ctx, began).await;
    }
}

/// Queues the worker's keys that a unique index had refused, when they are due. True when there are any.
fn try_again(ctx: &Ctx, src: Side, index: usize) -> bool {
    // Whoever owns it by now, nobody has written anything: it is no stray.
    let owned = |key: &Key, b: Bucket| ctx.ownership.owner_now(key, b) == src;
    let mine = |key: &Key| bucket_of(key).is_ok_and(|b| worker_of(b) == index && owned(key, b));
    let keys = ctx.aside.due(src, ctx.rt.now(), mine);
    let mut inner = lock(&ctx.tails[src as usize].inner);
    let due = !keys.is_empty() && inner.workers[index].queue.is_empty();
    if due {
        inner.queued += keys.len();
        // Nothing was read with it: its position is stored only when a later unit's is.
        let pos = StreamPos { token: None, at: inner.read_through };
        inner.workers[index].queue.push_back(Unit { keys, first: None, pos, flush: false });
    }
    due
}

/// Takes whole units up to a transaction's worth of keys.
fn take(state: &TailState, index: usize) -> Option<Vec<Unit>> {
    let mut inner = lock(&state.inner);
    let worker = &mut inner.workers[index];
    let mut units = Vec::new();
    let mut keys = 0;
    while let Some(next) = worker.queue.front() {
        if !units.is_empty() && keys + next.keys.len() > BATCH {
            break;
        }
        keys += next.keys.len();
        // Just looked at: the queue is not empty.
        units.extend(worker.queue.pop_front());
    }
    worker.applying = units.iter().find_map(|u: &Unit| u.first);
    (!units.is_empty()).then_some(units)
}

/// As [`apply`], while chunks are copied: what no chunk is about to write goes first. The position goes with the last.
async fn apply_beside_chunks(
    ctx: &Arc<Ctx>,
    writer: &mut SlotWriter,
    mut keys: Vec<Key>,
    pos: &StreamPos,
    flush: bool,
) -> bool {
    loop {
        let (free, held) = ctx.registry.begin_some(&keys).await;
        let stored = apply(ctx, writer, Side::Legacy, &free, pos, flush && held.is_empty()).await;
        ctx.registry.end_tail(&free);
        if held.is_empty() {
            return stored;
        }
        keys = held;
    }
}

/// Re-syncs the keys, a transaction's worth at a time; the position goes with the last. True when it was stored.
async fn apply(ctx: &Arc<Ctx>, writer: &mut SlotWriter, src: Side, keys: &[Key], pos: &StreamPos, flush: bool) -> bool {
    let mut chunks: Vec<&[Key]> = keys.chunks(BATCH).collect();
    let last = chunks.pop().unwrap_or(&[]);
    for chunk in chunks {
        apply_one(ctx, writer, src, chunk, None).await;
    }
    // Without a flush the position would cost a write of its own whenever nothing differs: it waits for the next flush.
    apply_one(ctx, writer, src, last, flush.then(|| to_checkpoint(pos))).await;
    flush
}

/// Re-syncs one transaction's worth, again and again until it is done: a document that the copy refuses, other than for a
/// value that must be unique, holds the tail up. One that cannot be made is listed and left out.
async fn apply_one(
    ctx: &Arc<Ctx>,
    writer: &mut SlotWriter,
    src: Side,
    keys: &[Key],
    checkpoint: Option<RawDocumentBuf>,
) -> usize {
    loop {
        let done = match &ctx.in_place {
            Some(_) => carry(ctx, writer, Source::Events(keys), checkpoint.clone()).await.map(|c| c.written),
            None => resync(ctx, writer, src, keys, checkpoint.clone()).await,
        };
        match done {
            Ok(n) => return n,
            Err(halt) => {
                ctx.report_halt(halt).await;
                ctx.sleep(Micros::from_secs(2)).await;
            }
        }
    }
}
