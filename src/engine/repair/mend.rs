//! Writing copies afresh: what is replaced or removed is kept first, then the tail's worker of the key's bucket writes it, over the very
//! bytes that were kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bson::{RawBson, RawDocumentBuf, Timestamp};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use crate::cluster::{Doc, Key, TxnOp};
use crate::engine::ctx::{Ctx, Halt};
use crate::engine::lossy;
use crate::engine::quarantine::quarantine_ns;
use crate::engine::reconcile::{Finding, compare, owner_of, read};
use crate::engine::tail::{Asked, worker_of};
use crate::engine::throttle::Pacer;
use crate::engine::writer::{NotCommitted, SlotWriter};
use crate::plan::RepairKind;
use crate::route::{Bucket, Side, bucket_of};
use crate::runtime::{Either, Micros, race, sleep};

/// Keys that a worker writes in one go; no more than a transaction holds.
const PART: usize = 100;
/// Bytes a transaction, unless a single document has more.
const BYTES: usize = 4 << 20;
/// Rounds for keys that are written meanwhile.
const ROUNDS: usize = 5;
/// Attempts at one transaction of a single key.
const ATTEMPTS: usize = 5;
/// How long a worker has for its part, with its queue before it.
const PATIENCE: Micros = Micros::from_secs(60);

/// What became of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mended {
    /// Its copy is written.
    Done,
    /// It was equal already.
    Equal,
    /// It differs, but not in a way that this repair mends.
    Other,
    /// The copy is not the one that was kept: keep it again.
    Changed,
    /// It cannot be written, and why.
    Failed(String),
}

/// What a worker is asked for: these keys, each with the copy that was kept of it.
pub(in crate::engine) struct Job {
    kind: RepairKind,
    keys: Vec<(Key, Option<Doc>)>,
    answer: oneshot::Sender<Vec<(Key, Mended)>>,
}

/// Whether a repair mends keys that stand like this.
pub(super) fn mends(kind: RepairKind, finding: Finding) -> bool {
    match kind {
        RepairKind::RestoreMissing => finding == Finding::Missing,
        RepairKind::RemoveExtra => finding == Finding::Extra,
        RepairKind::Resync | RepairKind::CarryStray | RepairKind::Release => !finding.is_equal(),
        RepairKind::RebuildIndex => false,
    }
}

/// Writes the copies of `keys` afresh, as far as `kind` mends them. A key that is not answered for was not come to.
pub(super) async fn mend_keys(
    ctx: &Arc<Ctx>,
    keeper: &mut SlotWriter,
    kind: RepairKind,
    keys: &[Key],
) -> Result<Vec<(Key, Mended)>, Halt> {
    let mut done = Vec::with_capacity(keys.len());
    let mut open: BTreeSet<Key> = keys.iter().cloned().collect();
    let mut pacer = Pacer::new(ctx);
    for _ in 0..ROUNDS {
        for ((owner, bucket), keys) in by_worker(ctx, &std::mem::take(&mut open)) {
            for part in keys.chunks(PART) {
                if !pacer.pace(0).await {
                    return Ok(done);
                }
                let (kept, odd) = keep(ctx, keeper, kind, owner, part).await?;
                done.extend(odd);
                let asked: BTreeSet<Key> = kept.iter().map(|(key, _)| key.clone()).collect();
                let answers = ask(ctx, owner, bucket, kind, kept).await;
                let (again, told): (Vec<_>, Vec<_>) =
                    answers.into_iter().partition(|(_, mended)| *mended == Mended::Changed);
                open.extend(again.into_iter().map(|(key, _)| key));
                // A key that changes hands is not written by that worker: its new owner's one has its turn.
                open.extend(asked.into_iter().filter(|k| !told.iter().any(|(key, _)| key == k)));
                done.extend(told);
            }
        }
        if open.is_empty() {
            return Ok(done);
        }
    }
    let busy = || Mended::Failed("it is written all the time: repair it again in a moment".into());
    done.extend(open.into_iter().map(|key| (key, busy())));
    Ok(done)
}

/// The keys by the worker that writes their copies, each with a bucket of that worker.
fn by_worker(ctx: &Ctx, keys: &BTreeSet<Key>) -> Vec<((Side, Bucket), Vec<Key>)> {
    let mut groups: BTreeMap<(Side, usize), (Bucket, Vec<Key>)> = BTreeMap::new();
    for key in keys {
        // Keys without a bucket are in no copy.
        let Ok(bucket) = bucket_of(key) else { continue };
        let group = groups.entry((owner_of(ctx, key), worker_of(bucket))).or_insert_with(|| (bucket, Vec::new()));
        group.1.push(key.clone());
    }
    groups.into_iter().map(|((owner, _), (bucket, keys))| ((owner, bucket), keys)).collect()
}

/// The `_id` of what a repair keeps of a key. A later repair keeps it apart: its lease has another epoch.
fn record_id(ctx: &Ctx, key: &Key) -> String {
    format!("{}{}/{key}", kept_prefix(&ctx.plan.id), ctx.epoch)
}

/// What the `_id` of everything that repairs keep begins with.
pub(super) fn kept_prefix(plan: &str) -> String {
    format!("{plan}/repair/")
}

/// What tells a document from every other, in a record.
pub(super) fn mark(doc: Option<&Doc>) -> RawBson {
    use std::fmt::Write as _;
    match doc {
        None => RawBson::Null,
        Some(doc) => {
            let mut hex = String::with_capacity(64);
            for byte in Sha256::digest(doc.as_bytes()) {
                // Writing to a String cannot fail.
                let _ = write!(hex, "{byte:02x}");
            }
            RawBson::String(hex)
        }
    }
}

type Kept = Vec<(Key, Option<Doc>)>;

/// Keeps what is about to be replaced or removed. Answers each key with its copy, and those that cannot be kept.
async fn keep(
    ctx: &Arc<Ctx>,
    keeper: &mut SlotWriter,
    kind: RepairKind,
    owner: Side,
    part: &[Key],
) -> Result<(Kept, Vec<(Key, Mended)>), Halt> {
    let (own, copies) = (read(ctx, owner, part).await?, read(ctx, owner.other(), part).await?);
    let (mut kept, mut odd) = (Vec::new(), Vec::new());
    let (mut docs, mut bytes) = (Vec::new(), 0);
    for ((key, own), copy) in part.iter().zip(own).zip(copies) {
        if let (true, Some(copy)) = (mends(kind, found(ctx, owner, own.as_ref(), copy.as_ref())), &copy) {
            let doc = record(ctx, key, owner.other(), own.as_ref(), copy);
            if bytes + doc.as_bytes().len() > BYTES && !docs.is_empty() {
                store(keeper, std::mem::take(&mut docs), &mut odd).await?;
                bytes = 0;
            }
            bytes += doc.as_bytes().len();
            docs.push((key.clone(), doc));
        }
        kept.push((key.clone(), copy));
    }
    store(keeper, docs, &mut odd).await?;
    kept.retain(|(key, _)| !odd.iter().any(|(k, _)| k == key));
    Ok((kept, odd))
}

fn found(ctx: &Ctx, owner: Side, own: Option<&Doc>, copy: Option<&Doc>) -> Finding {
    let (legacy, next) = if owner == Side::Legacy { (own, copy) } else { (copy, own) };
    compare(ctx, owner, legacy.map(|d| &**d), next.map(|d| &**d))
}

fn record(ctx: &Ctx, key: &Key, side: Side, own: Option<&Doc>, copy: &Doc) -> RawDocumentBuf {
    let mut d = RawDocumentBuf::new();
    d.append(bson::cstr!("_id"), record_id(ctx, key));
    d.append(bson::cstr!("plan"), ctx.plan.id.as_str());
    d.append(bson::cstr!("event"), "repair");
    d.append(bson::cstr!("side"), side.name());
    d.append(bson::cstr!("key"), RawBson::from(key.value()));
    d.append(bson::cstr!("at"), Timestamp::from(ctx.seen(Side::Legacy)));
    // Both documents together may be more than a document holds.
    d.append(bson::cstr!("owner"), mark(own));
    d.append(bson::cstr!("document"), &**copy);
    d
}

/// Stores records; where that is refused, one by one, and the keys that cannot be kept are told.
async fn store(
    keeper: &mut SlotWriter,
    docs: Vec<(Key, RawDocumentBuf)>,
    odd: &mut Vec<(Key, Mended)>,
) -> Result<(), Halt> {
    let op = |doc: &RawDocumentBuf| TxnOp::Put { ns: quarantine_ns(), doc: doc.clone() };
    let all: Vec<TxnOp> = docs.iter().map(|(_, doc)| op(doc)).collect();
    if put(keeper, &all).await?.is_ok() {
        return Ok(());
    }
    for (key, doc) in &docs {
        if let Err(why) = put(keeper, &[op(doc)]).await? {
            odd.push((key.clone(), Mended::Failed(format!("its copy cannot be kept in tidegate.quarantine: {why}"))));
        }
    }
    Ok(())
}

/// Commits what nobody else writes; the inner `Err` says why it is refused.
pub(super) async fn put(writer: &mut SlotWriter, ops: &[TxnOp]) -> Result<Result<(), String>, Halt> {
    while !ops.is_empty() {
        match writer.commit(ops, None).await {
            Ok(_) => break,
            Err(NotCommitted::Halt(h)) => return Err(h),
            Err(NotCommitted::Again | NotCommitted::Aborted(_)) => {}
            Err(NotCommitted::Refused(why) | NotCommitted::Duplicate(why)) => return Ok(Err(why)),
        }
    }
    Ok(Ok(()))
}

/// Has the worker of `bucket` write the keys.
async fn ask(ctx: &Arc<Ctx>, owner: Side, bucket: Bucket, kind: RepairKind, kept: Kept) -> Vec<(Key, Mended)> {
    let keys: Vec<Key> = kept.iter().map(|(key, _)| key.clone()).collect();
    let failed = |why: &str| keys.iter().map(|key| (key.clone(), Mended::Failed(why.to_owned()))).collect();
    let tail = &ctx.tails[owner as usize];
    if keys.is_empty() || !tail.is_running() {
        return failed("the changes of its owner are not followed");
    }
    let (tx, rx) = oneshot::channel();
    let _hurry = ctx.throttle.hurry();
    tail.ask(bucket, Asked::Mend(Job { kind, keys: kept, answer: tx }));
    match race(rx, sleep(&ctx.rt, PATIENCE)).await {
        Either::Left(Ok(answers)) => answers,
        Either::Left(Err(_)) => failed("the worker that writes its copy cannot go on"),
        Either::Right(()) => failed("the worker that writes its copy is held up by something that it cannot write"),
    }
}

/// The worker's part.
pub(in crate::engine) async fn answer(ctx: &Arc<Ctx>, writer: &mut SlotWriter, src: Side, job: Job) {
    let routed = job.keys.iter().filter_map(|(key, _)| Some((key.clone(), bucket_of(key).ok()?))).collect();
    let (held, _) = ctx.ownership.begin_write(src, routed).await;
    let keys: Vec<Key> = held.iter().map(|(key, _)| key.clone()).collect();
    if src == Side::Legacy {
        ctx.registry.begin_tail(&keys).await;
    }
    let mended = write(ctx, writer, src, &job, &keys).await;
    if src == Side::Legacy {
        ctx.registry.end_tail(&keys);
    }
    match mended {
        // Whoever asked may have given up.
        Ok(mended) => drop(job.answer.send(mended)),
        Err(halt) => ctx.report_halt(halt).await,
    }
    ctx.ownership.end_write(&held);
}

async fn write(
    ctx: &Arc<Ctx>,
    writer: &mut SlotWriter,
    src: Side,
    job: &Job,
    keys: &[Key],
) -> Result<Vec<(Key, Mended)>, Halt> {
    let kept: BTreeMap<&Key, &Option<Doc>> = job.keys.iter().map(|(key, doc)| (key, doc)).collect();
    let mut told = Vec::with_capacity(keys.len());
    let (mut rest, mut attempts) = (keys, 0);
    while !rest.is_empty() {
        let (part, after) = rest.split_at(writer.batch(rest.len()));
        let _together = ctx.together[src as usize].read().await;
        let (own, copies) = (read(ctx, src, part).await?, read(ctx, src.other(), part).await?);
        let (mut ops, mut became, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut originals = Vec::new();
        for ((key, own), copy) in part.iter().zip(own).zip(copies) {
            let mended = decide(ctx, src, job.kind, kept.get(key).copied(), key, own.as_ref(), &copy, &mut ops);
            bytes += own.map_or(0, |d| d.size());
            if matches!(mended, Mended::Done) && lossy::applies(ctx, src) {
                originals.push((key.clone(), copy));
            }
            became.push((key.clone(), mended));
        }
        if part.len() > 1 && bytes > BYTES {
            writer.halve();
            continue;
        }
        ops.splice(0..0, lossy::keep(ctx, &originals).await?);
        let why = match if ops.is_empty() { None } else { Some(writer.commit(&ops, None).await) } {
            None | Some(Ok(_)) => {
                writer.went_well();
                told.extend(became);
                (rest, attempts) = (after, 0);
                continue;
            }
            Some(Err(NotCommitted::Halt(halt))) => return Err(halt),
            Some(Err(NotCommitted::Refused(why) | NotCommitted::Duplicate(why))) => {
                attempts = ATTEMPTS;
                why
            }
            Some(Err(NotCommitted::Aborted(why))) => why,
            Some(Err(NotCommitted::Again)) => "its outcome was not known".to_owned(),
        };
        if part.len() > 1 {
            writer.halve();
            attempts = 0;
            continue;
        }
        attempts += 1;
        if attempts > ATTEMPTS {
            told.push((part[0].clone(), Mended::Failed(format!("it cannot be written: {why}"))));
            (rest, attempts) = (after, 0);
        } else {
            ctx.sleep(Micros::from_ms(50)).await;
        }
    }
    Ok(told)
}

/// What is to become of one key, and the statements for it.
#[allow(clippy::too_many_arguments)] // Each is one thing that was looked at.
fn decide(
    ctx: &Ctx,
    src: Side,
    kind: RepairKind,
    kept: Option<&Option<Doc>>,
    key: &Key,
    own: Option<&Doc>,
    copy: &Option<Doc>,
    ops: &mut Vec<TxnOp>,
) -> Mended {
    let finding = found(ctx, src, own, copy.as_ref());
    if finding.is_equal() {
        return Mended::Equal;
    }
    if !mends(kind, finding) {
        return Mended::Other;
    }
    if kept != Some(copy) {
        return Mended::Changed;
    }
    let ns = ctx.ns(src.other());
    let op = match own.map(|doc| lossy::image_over(ctx, src, doc, copy.as_deref())).transpose() {
        Err(why) => return Mended::Failed(why),
        Ok(Some(doc)) => TxnOp::Put { ns: ns.clone(), doc },
        Ok(None) => TxnOp::Delete { ns: ns.clone(), keys: vec![key.clone()] },
    };
    ops.push(TxnOp::Expect { ns: ns.clone(), key: key.clone(), doc: copy.clone() });
    ops.push(op);
    Mended::Done
}
