//! What the port says when answers are lost, majorities do not come and transactions are killed: failpoints make the server do it.

use std::sync::Arc;
use std::time::Duration;

use bson::rawdoc;
use libtest_mimic::Trial;
use mongodb::bson::{Document, doc};
use tidegate::cluster::mongo::Mongo;
use tidegate::cluster::{
    AdminDone, AdminOp, Cluster, ClusterTime, Failed, Fence, Key, Ns, PageLimit, Reason, SlotState, StreamPos, TxnOp,
    WriteOp,
};
use tidegate::runtime::Micros;
use tokio::sync::Mutex;

use super::conformance::ensure;
use super::replset::ReplSet;
use super::{R, TOKIO, connect, live, mongod, on_its_own, on_shared};

/// A server has one `failCommand` failpoint, so these tests take turns.
static FAILPOINT: Mutex<()> = Mutex::const_new(());

pub fn trials() -> Vec<Trial> {
    vec![
        on_shared("losses::a_write_whose_answer_is_lost_is_unknown", |s| async move { lost_write(&s).await }),
        on_shared("losses::a_write_without_its_majority_is_unknown", |s| async move { no_majority(&s).await }),
        on_shared("losses::a_statement_that_fails_leaves_nothing", |s| async move { failed_statement(&s).await }),
        on_shared("losses::a_commit_whose_answer_is_lost_once_commits", |s| async move { lost_commit(&s, 1).await }),
        on_shared("losses::a_commit_whose_answers_are_lost_is_settled_by_a_bump", |s| async move {
            lost_commit(&s, 9).await
        }),
        on_shared(
            "losses::a_transaction_past_its_deadline_leaves_its_slot_free",
            |s| async move { deadline(&s).await },
        ),
        on_shared("losses::a_dropped_transaction_leaves_its_slot_free", |s| async move { dropped(&s).await }),
        on_shared("losses::a_take_over_does_not_wait_for_an_open_transaction", |s| async move { take_over(&s).await }),
        on_shared("losses::a_stream_whose_history_is_lost_says_so", |s| async move { history_lost(&s).await }),
        on_shared("losses::pages_respect_bytes_and_the_server_s_batch_limit", |s| async move { large_pages(&s).await }),
        on_shared("losses::a_document_with_no_room_in_a_batch_beside_the_last_one_was_an_empty_page", |s| async move {
            beside_a_large_one(&s).await
        }),
        on_shared(
            "losses::odd_documents_are_inserted_as_given_and_only_once",
            |s| async move { odd_inserts(&s).await },
        ),
        on_its_own("losses::a_stepdown_loses_nothing_it_acknowledged", || TOKIO.block_on(step_down())),
    ]
}

struct World {
    db: Arc<Mongo>,
    ns: Ns,
    name: &'static str,
    client: mongodb::Client,
}

impl World {
    async fn new(set: &ReplSet, name: &'static str) -> Result<World, String> {
        let db = connect(set, name).await?;
        let client = set.direct(0).await?;
        let world = World { db, ns: Ns::new(name, "data"), name, client };
        world.admin(AdminOp::Create { ns: world.ns.clone() }).await?;
        Ok(world)
    }

    async fn admin(&self, op: AdminOp) -> Result<AdminDone, String> {
        self.db.admin(&op).await.map_err(|e| e.to_string())
    }

    async fn slot(&self, op: AdminOp) -> Result<SlotState, String> {
        match self.admin(op).await? {
            AdminDone::Slot(s) => Ok(s),
            other => Err(format!("{other:?}")),
        }
    }

    async fn open(&self) -> Result<SlotState, String> {
        self.slot(AdminOp::OpenSlot { slot: format!("{}/w", self.name), epoch: 1 }).await
    }

    async fn bump(&self) -> Result<SlotState, String> {
        self.slot(AdminOp::BumpSlot { slot: format!("{}/w", self.name), epoch: 1 }).await
    }

    fn fence(&self, slot: &SlotState, within_ms: u64) -> Fence {
        let deadline = self.db.runtime().now() + Micros::from_ms(within_ms);
        Fence { slot: format!("{}/w", self.name), epoch: slot.epoch, seq: slot.seq, checkpoint: None, deadline }
    }

    fn insert(&self, id: i32) -> WriteOp {
        WriteOp::Insert { ns: self.ns.clone(), doc: rawdoc! { "_id": id } }
    }

    fn put(&self, id: i32) -> [TxnOp; 1] {
        [TxnOp::Put { ns: self.ns.clone(), doc: rawdoc! { "_id": id } }]
    }

    async fn has(&self, id: i32) -> Result<bool, String> {
        let read = self.db.read(&self.ns, &[Key::from(i64::from(id))], ClusterTime::ZERO).await;
        Ok(read.map_err(|e| e.to_string())?.docs[0].is_some())
    }

    /// Makes these commands of this test's own connections fail.
    async fn fail(&self, times: i32, commands: &[&str], mut data: Document) -> R {
        data.extend(doc! { "failCommands": commands, "appName": self.name });
        let set = doc! { "configureFailPoint": "failCommand", "mode": { "times": times }, "data": data };
        self.client.database("admin").run_command(set).await.map(drop).map_err(|e| e.to_string())
    }

    async fn heal(&self) -> R {
        let off = doc! { "configureFailPoint": "failCommand", "mode": "off" };
        self.client.database("admin").run_command(off).await.map(drop).map_err(|e| e.to_string())
    }
}

async fn lost_write(set: &ReplSet) -> R {
    let _turn = FAILPOINT.lock().await;
    let w = World::new(set, "lost_write").await?;
    w.fail(1, &["insert"], doc! { "closeConnection": true }).await?;
    let r = w.db.write(&w.insert(1)).await;
    ensure!(matches!(r, Err(Failed::Unknown(Reason::Network(_)))), "{r:?}");
    // What a server refuses before doing anything is known; what it was interrupted in is not.
    w.fail(1, &["insert"], doc! { "errorCode": 10107 }).await?;
    let r = w.db.write(&w.insert(2)).await;
    ensure!(matches!(r, Err(Failed::NotDone(Reason::NotPrimary(_)))), "{r:?}");
    w.fail(1, &["insert"], doc! { "errorCode": 11602 }).await?;
    let r = w.db.write(&w.insert(3)).await;
    ensure!(matches!(r, Err(Failed::Unknown(Reason::NotPrimary(_)))), "{r:?}");
    w.heal().await?;
    w.db.write(&w.insert(4)).await.map_err(|e| e.to_string())?;
    Ok(())
}

async fn no_majority(set: &ReplSet) -> R {
    let _turn = FAILPOINT.lock().await;
    let w = World::new(set, "no_majority").await?;
    let error = doc! { "code": 64, "codeName": "WriteConcernFailed", "errmsg": "waiting for replication timed out" };
    w.fail(1, &["insert"], doc! { "writeConcernError": error }).await?;
    let r = w.db.write(&w.insert(1)).await;
    ensure!(matches!(r, Err(Failed::Unknown(Reason::Timeout(_)))), "{r:?}");
    w.heal().await?;
    // It was written, only the majority was not awaited: a read-back may come too early, which is what makes it unknown.
    for _ in 0..100 {
        if w.has(1).await? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err("it never landed".into())
}

async fn failed_statement(set: &ReplSet) -> R {
    let _turn = FAILPOINT.lock().await;
    let w = World::new(set, "failed_statement").await?;
    let mut slot = w.open().await?;
    for (n, data) in
        [doc! { "closeConnection": true }, doc! { "errorCode": 112 }, doc! { "errorCode": 91 }].into_iter().enumerate()
    {
        // The fence's update, then the insert.
        w.fail(1, &["insert"], data).await?;
        let ops = [TxnOp::Insert { ns: w.ns.clone(), docs: vec![rawdoc! { "_id": n as i32 }] }];
        let r = w.db.transact(&w.fence(&slot, 10_000), &ops).await;
        ensure!(matches!(&r, Err(Failed::NotDone(reason)) if reason.is_transient()), "{n}: {r:?}");
        w.heal().await?;
        // The same sequence number commits: the slot has not moved and is not locked.
        let ops = w.put(10 + n as i32);
        w.db.transact(&w.fence(&slot, 10_000), &ops).await.map_err(|e| format!("{n}: {e}"))?;
        ensure!(!w.has(n as i32).await? && w.has(10 + n as i32).await?, "{n}: wrote the wrong thing");
        slot.seq += 1;
    }
    Ok(())
}

async fn lost_commit(set: &ReplSet, times: i32) -> R {
    let _turn = FAILPOINT.lock().await;
    let name = if times == 1 { "lost_commit_once" } else { "lost_commit" };
    let w = World::new(set, name).await?;
    let slot = w.open().await?;
    w.fail(times, &["commitTransaction"], doc! { "closeConnection": true }).await?;
    let ops = w.put(1);
    let r = w.db.transact(&w.fence(&slot, 10_000), &ops).await;
    w.heal().await?;
    if times == 1 {
        ensure!(r.is_ok(), "the driver asks again: {r:?}");
        ensure!(w.has(1).await?, "acknowledged and not there");
        return Ok(());
    }
    ensure!(matches!(r, Err(Failed::Unknown(Reason::Network(_)))), "{r:?}");
    let began = std::time::Instant::now();
    let bumped = w.bump().await?;
    ensure!(began.elapsed() < Duration::from_secs(3), "the bump waited {:?}", began.elapsed());
    ensure!((bumped.done == slot.seq + 1) == w.has(1).await?, "`done` does not tell the outcome: {bumped:?}");
    // The session is as good as new.
    let ops = w.put(2);
    w.db.transact(&w.fence(&bumped, 10_000), &ops).await.map_err(|e| e.to_string())?;
    ensure!(w.has(2).await?, "acknowledged and not there");
    Ok(())
}

async fn deadline(set: &ReplSet) -> R {
    let _turn = FAILPOINT.lock().await;
    let w = World::new(set, "deadline").await?;
    let slot = w.open().await?;
    let slow = doc! { "blockConnection": true, "blockTimeMS": 1_500 };
    w.fail(1, &["insert"], slow.clone()).await?;
    let ops = [TxnOp::Insert { ns: w.ns.clone(), docs: vec![rawdoc! { "_id": 1 }] }];
    let r = w.db.transact(&w.fence(&slot, 300), &ops).await;
    ensure!(matches!(r, Err(Failed::NotDone(Reason::Timeout(_)))), "{r:?}");
    let began = std::time::Instant::now();
    let slot = w.bump().await?;
    ensure!(began.elapsed() < Duration::from_secs(3), "the bump waited {:?}", began.elapsed());
    // In the commit a deadline leaves the outcome open, and the bump settles it.
    w.fail(1, &["commitTransaction"], slow).await?;
    let ops = w.put(2);
    let r = w.db.transact(&w.fence(&slot, 300), &ops).await;
    ensure!(matches!(r, Err(Failed::Unknown(Reason::Timeout(_)))), "{r:?}");
    let bumped = w.bump().await?;
    let there = w.has(2).await?;
    ensure!((bumped.done == slot.seq + 1) == there, "{bumped:?}, there {there}");
    tokio::time::sleep(Duration::from_millis(2_000)).await;
    ensure!(w.has(2).await? == there, "it landed after the bump");
    w.heal().await?;
    ensure!(!w.has(1).await?, "a transaction past its deadline was written");
    Ok(())
}

async fn dropped(set: &ReplSet) -> R {
    let _turn = FAILPOINT.lock().await;
    let w = World::new(set, "dropped").await?;
    let slot = w.open().await?;
    for (n, command) in ["update", "insert", "commitTransaction"].into_iter().enumerate() {
        let slot = if n == 0 { slot.clone() } else { w.bump().await? };
        w.fail(1, &[command], doc! { "blockConnection": true, "blockTimeMS": 1_000 }).await?;
        let ops = [TxnOp::Insert { ns: w.ns.clone(), docs: vec![rawdoc! { "_id": n as i32 }] }];
        let fence = w.fence(&slot, 10_000);
        let cut = tokio::time::timeout(Duration::from_millis(250), w.db.transact(&fence, &ops)).await;
        ensure!(cut.is_err(), "{command}: {cut:?}");
        w.heal().await?;
        let began = std::time::Instant::now();
        let bumped = w.bump().await?;
        ensure!(began.elapsed() < Duration::from_secs(3), "{command}: the bump waited {:?}", began.elapsed());
        let there = w.has(n as i32).await?;
        ensure!((bumped.done == slot.seq + 1) == there, "{command}: {bumped:?}, there {there}");
        let ops = w.put(10 + n as i32);
        w.db.transact(&w.fence(&bumped, 10_000), &ops).await.map_err(|e| format!("{command}: {e}"))?;
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        ensure!(w.has(n as i32).await? == there, "{command}: it landed after the bump");
    }
    Ok(())
}

async fn take_over(set: &ReplSet) -> R {
    let _turn = FAILPOINT.lock().await;
    let w = World::new(set, "take_over").await?;
    let slot = w.open().await?;
    // The old runner hangs in the middle of a transaction.
    w.fail(1, &["insert"], doc! { "blockConnection": true, "blockTimeMS": 4_000 }).await?;
    let ops = [TxnOp::Insert { ns: w.ns.clone(), docs: vec![rawdoc! { "_id": 1 }] }];
    let (old, fence) = (w.db.clone(), w.fence(&slot, 20_000));
    let hanging = tokio::spawn(async move { old.transact(&fence, &ops).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let new = Mongo::connect(&set.uri(), live()).await.map_err(|e| e.to_string())?;
    let began = std::time::Instant::now();
    let done = new.admin(&AdminOp::BumpAll { rollout: w.name.into(), epoch: 2 }).await;
    done.map_err(|e| e.to_string())?;
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(2), "the take-over waited {took:?}");
    let r = hanging.await.map_err(|e| e.to_string())?;
    // Its session is killed a moment before the slot is bumped.
    ensure!(matches!(r, Err(Failed::Fenced { newer: 2 } | Failed::NotDone(Reason::Conflict(_)))), "{r:?}");
    let again = w.db.transact(&w.fence(&slot, 5_000), &w.put(1)).await;
    ensure!(matches!(again, Err(Failed::Fenced { newer: 2 })), "{again:?}");
    w.heal().await?;
    ensure!(!w.has(1).await?, "a fenced runner wrote");
    Ok(())
}

async fn history_lost(set: &ReplSet) -> R {
    let _turn = FAILPOINT.lock().await;
    let w = World::new(set, "history_lost").await?;
    let at = w.db.write(&w.insert(1)).await.map_err(|e| e.to_string())?.at;
    let from = StreamPos { token: None, at };
    w.fail(1, &["aggregate"], doc! { "errorCode": 286 }).await?;
    let lost = w.db.changes(&w.ns, &from).await.map(drop);
    ensure!(matches!(lost, Err(Failed::NotDone(Reason::HistoryLost(_)))), "{lost:?}");
    let mut stream = w.db.changes(&w.ns, &from).await.map_err(|e| e.to_string())?;
    let first = stream.next(Micros::from_secs(1)).await;
    ensure!(first.is_ok(), "{first:?}");
    w.fail(1, &["getMore"], doc! { "errorCode": 280 }).await?;
    let mut tries = 0;
    let lost = loop {
        tries += 1;
        match stream.next(Micros::from_secs(1)).await {
            Ok(_) if tries < 20 => {}
            other => break other,
        }
    };
    ensure!(matches!(lost, Err(Failed::NotDone(Reason::HistoryLost(_)))), "{lost:?}");
    // An error ends the stream; another one goes on where it stood.
    ensure!(stream.next(Micros::from_ms(10)).await.is_err(), "it went on");
    w.heal().await?;
    w.db.write(&w.insert(2)).await.map_err(|e| e.to_string())?;
    let mut again = w.db.changes(&w.ns, &from).await.map_err(|e| e.to_string())?;
    for _ in 0..50 {
        let batch = again.next(Micros::from_ms(200)).await.map_err(|e| e.to_string())?;
        if let Some(first) = batch.events.first() {
            ensure!(first.key == Some(Key::from(2)), "{batch:?}");
            return Ok(());
        }
    }
    Err("no event".into())
}

async fn large_pages(set: &ReplSet) -> R {
    let w = World::new(set, "large_pages").await?;
    let mut slot = w.open().await?;
    let big = "x".repeat(1 << 20);
    for from in (0..40).step_by(10) {
        let docs = (from..from + 10).map(|n| rawdoc! { "_id": n, "x": &*big }).collect();
        let ops = [TxnOp::Insert { ns: w.ns.clone(), docs }];
        w.db.transact(&w.fence(&slot, 20_000), &ops).await.map_err(|e| e.to_string())?;
        slot.seq += 1;
    }
    for bytes in [1, 3 << 20, 64 << 20] {
        let (mut seen, mut pages, mut from) = (0i64, 0, None);
        loop {
            let limit = PageLimit { docs: 1_000, bytes };
            let page = w.db.scan(&w.ns, from.as_ref(), limit, ClusterTime::ZERO).await.map_err(|e| e.to_string())?;
            for (key, _) in &page.docs {
                ensure!(*key == Key::from(seen), "{key} where {seen} belongs, {bytes} bytes a page");
                seen += 1;
            }
            let size: usize = page.docs.iter().map(|(_, d)| d.as_bytes().len()).sum();
            ensure!(size <= bytes || page.docs.len() == 1, "a page of {size} bytes for {bytes}");
            pages += 1;
            if page.end {
                break;
            }
            from = page.docs.last().map(|(k, _)| k.clone());
        }
        ensure!(seen == 40, "{seen} of 40 in {pages} pages of {bytes} bytes");
    }
    // A read by key goes past the server's 16 MB a batch too.
    let keys: Vec<Key> = (0..50).rev().map(Key::from).collect();
    let read = w.db.read(&w.ns, &keys, ClusterTime::ZERO).await.map_err(|e| e.to_string())?;
    let found: Vec<bool> = read.docs.iter().map(Option::is_some).collect();
    ensure!(found == (0..50).rev().map(|n| n < 40).collect::<Vec<_>>(), "{found:?}");
    Ok(())
}

async fn beside_a_large_one(set: &ReplSet) -> R {
    let w = World::new(set, "beside").await?;
    for (id, bytes) in [(0, 1 << 20), (1, (16 << 20) - 64), (2, 1)] {
        let doc = rawdoc! { "_id": id, "x": "x".repeat(bytes) };
        w.db.write(&WriteOp::Insert { ns: w.ns.clone(), doc }).await.map_err(|e| e.to_string())?;
    }
    let limit = PageLimit { docs: 1_000, bytes: 4 << 20 };
    for (from, end) in [(0, false), (1, true)] {
        let page = w.db.scan(&w.ns, Some(&Key::from(from)), limit, ClusterTime::ZERO).await;
        let page = page.map_err(|e| format!("after {from}: {e}"))?;
        let keys: Vec<&Key> = page.docs.iter().map(|(k, _)| k).collect();
        ensure!(keys == [&Key::from(from + 1)] && page.end == end, "after {from}: {keys:?}, end {}", page.end);
    }
    Ok(())
}

async fn odd_inserts(set: &ReplSet) -> R {
    let w = World::new(set, "odd_inserts").await?;
    let mut slot = w.open().await?;
    let odd = |id: i64| rawdoc! { "_id": id, "zero": bson::Timestamp { time: 0, increment: 0 }, "v": "$x" };
    let write = WriteOp::Insert { ns: w.ns.clone(), doc: odd(1) };
    let in_txn = [TxnOp::Insert { ns: w.ns.clone(), docs: vec![rawdoc! { "_id": 2i64 }, odd(3)] }];
    w.db.write(&write).await.map_err(|e| e.to_string())?;
    w.db.transact(&w.fence(&slot, 10_000), &in_txn).await.map_err(|e| e.to_string())?;
    slot.seq += 1;
    let read = w.db.read(&w.ns, &[Key::from(1), Key::from(3)], ClusterTime::ZERO).await.map_err(|e| e.to_string())?;
    ensure!(read.docs == [Some(odd(1).into()), Some(odd(3).into())], "{read:?}");
    let twice = w.db.write(&write).await;
    let named = |r: &Failed, n: i64| matches!(r, Failed::NotDone(Reason::DuplicateKey { key: Some(k), .. }) if *k == Key::from(n));
    ensure!(twice.as_ref().is_err_and(|e| named(e, 1)), "{twice:?}");
    let ops = [TxnOp::Insert { ns: w.ns.clone(), docs: vec![rawdoc! { "_id": 4i64 }, odd(3), odd(5)] }];
    let twice = w.db.transact(&w.fence(&slot, 10_000), &ops).await;
    ensure!(twice.as_ref().is_err_and(|e| named(e, 3)), "{twice:?}");
    ensure!(!w.has(4).await? && !w.has(5).await?, "an aborted transaction wrote");
    Ok(())
}

/// Transactions go on while the primary of three steps down, then while it is frozen: what was acknowledged must be there, and
/// what was said not to be done must not.
async fn step_down() -> R {
    let set = ReplSet::start(&mongod::find()?, 3).await?;
    let db = connect(&set, "stepdown").await?;
    let ns = Ns::new("stepdown", "data");
    let open = AdminOp::OpenSlot { slot: "stepdown/w".into(), epoch: 1 };
    let Ok(AdminDone::Slot(mut slot)) = db.admin(&open).await else { return Err("no slot".into()) };
    let (mut acked, mut refused) = (Vec::new(), Vec::new());
    let began = std::time::Instant::now();
    let (mut stepped, mut frozen, mut trouble, mut n) = (false, None, 0, 0i64);
    while began.elapsed() < Duration::from_secs(20) {
        n += 1;
        if !stepped && began.elapsed() > Duration::from_secs(2) {
            stepped = true;
            set.step_down(10).await?;
        }
        if frozen.is_none() && began.elapsed() > Duration::from_secs(8) {
            let i = set.wait_for_primary(Duration::from_secs(5)).await?;
            set.freeze(i)?;
            frozen = Some(i);
        }
        let deadline = db.runtime().now() + Micros::from_secs(3);
        let fence = Fence { slot: "stepdown/w".into(), epoch: 1, seq: slot.seq, checkpoint: None, deadline };
        let ops = [TxnOp::Insert { ns: ns.clone(), docs: vec![rawdoc! { "_id": n }] }];
        let r = db.transact(&fence, &ops).await;
        match &r {
            Ok(_) => {
                slot.seq += 1;
                acked.push(Key::from(n));
            }
            Err(_) => {
                trouble += 1;
                let bump = AdminOp::BumpSlot { slot: "stepdown/w".into(), epoch: 1 };
                let bumped = loop {
                    match db.admin(&bump).await {
                        Ok(AdminDone::Slot(s)) => break s,
                        Err(Failed::Fenced { .. }) => return Err("fenced by nobody".into()),
                        _ => tokio::time::sleep(Duration::from_millis(50)).await,
                    }
                };
                let committed = bumped.done == slot.seq + 1;
                ensure!(!committed || matches!(r, Err(Failed::Unknown(_))), "{n}: not done, and yet committed: {r:?}");
                if committed {
                    acked.push(Key::from(n))
                } else {
                    refused.push(Key::from(n))
                }
                slot = bumped;
            }
        }
    }
    if let Some(i) = frozen {
        set.thaw(i)?;
    }
    ensure!(trouble > 0 && acked.len() > 50, "{trouble} failures, {} acknowledged", acked.len());
    let read = |keys: Vec<Key>| {
        let (db, ns) = (db.clone(), ns.clone());
        async move {
            loop {
                match db.read(&ns, &keys, ClusterTime::ZERO).await {
                    Ok(r) => return r.docs.iter().filter(|d| d.is_some()).count(),
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        }
    };
    let (there, phantoms) = (read(acked.clone()).await, read(refused.clone()).await);
    ensure!(there == acked.len(), "{there} of {} acknowledged are there", acked.len());
    ensure!(phantoms == 0, "{phantoms} of {} refused are there", refused.len());
    Ok(())
}
