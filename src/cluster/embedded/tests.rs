//! What the model must show, so that a simulation on it can find what a real cluster would do.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::sync::Arc;

use bson::{RawDocumentBuf, rawdoc};
use futures_util::future::join;
use proptest::prelude::*;

use super::*;
use crate::cluster::{Reason, SlotState};
use crate::runtime::sim::Sim;
use crate::runtime::{Group, sleep};

fn with<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    seed: u64,
    config: Config,
    f: impl FnOnce(Rt, Arc<Embedded>) -> F,
) -> T {
    let sim = Sim::new(seed);
    let rt: Rt = sim.clone();
    let db = Embedded::new(rt.clone(), config);
    sim.block_on(f(rt, db)).unwrap()
}

fn data() -> Ns {
    Ns::new("shop", "orders")
}

fn doc(id: i64, v: i64) -> RawDocumentBuf {
    rawdoc! { "_id": id, "v": v }
}

fn put(id: i64, v: i64) -> Vec<TxnOp> {
    vec![TxnOp::Put { ns: data(), doc: doc(id, v) }]
}

fn upsert(id: i64, v: i64) -> WriteOp {
    WriteOp::Replace { ns: data(), key: Key::from(id), only_if: None, doc: doc(id, v), upsert: true }
}

async fn slot(db: &Embedded, op: AdminOp) -> SlotState {
    match db.admin(&op).await.unwrap() {
        AdminDone::Slot(s) => s,
        other => unreachable!("{other:?}"),
    }
}

async fn open(db: &Embedded) -> SlotState {
    slot(db, AdminOp::OpenSlot { slot: "r/w".into(), epoch: 1 }).await
}

async fn bump(db: &Embedded) -> SlotState {
    slot(db, AdminOp::BumpSlot { slot: "r/w".into(), epoch: 1 }).await
}

fn fence(rt: &Rt, s: &SlotState) -> Fence {
    Fence {
        slot: "r/w".into(),
        epoch: s.epoch,
        seq: s.seq,
        checkpoint: None,
        deadline: rt.now() + Micros::from_secs(20),
    }
}

/// Every write of this kind answers `Unknown` and lands later.
fn all_late(faults: &Faults, kind: OpKind) {
    faults.set_fates(Fates { landed: 0, never: 0, late: 1 });
    faults.set_rates(kind, Rates { not_done: 0, unknown: 1_000_000 });
}

#[test]
fn a_write_may_land_after_its_error_and_after_a_read_back_missed_it() {
    with(1, Config::default(), |rt, db| async move {
        all_late(&db.faults(), OpKind::Write);
        let r = db.write(&upsert(1, 1)).await;
        assert!(matches!(r, Err(Failed::Unknown(_))), "{r:?}");
        let now = db.observe().await.unwrap().majority;
        let read = db.read(&data(), &[Key::from(1)], now).await.unwrap();
        assert_eq!(read.docs, [None], "not yet");
        sleep(&rt, Micros::from_secs(3)).await;
        assert_eq!(db.count(&data()), 1);
        assert_eq!(db.counters().landed_late, 1);
    });
}

#[test]
fn a_late_transaction_lands_unless_its_slot_was_bumped() {
    for bumped in [false, true] {
        with(2, Config::default(), move |rt, db| async move {
            let s = open(&db).await;
            all_late(&db.faults(), OpKind::Transact);
            let r = db.transact(&fence(&rt, &s), &put(1, 1)).await;
            assert!(matches!(r, Err(Failed::Unknown(_))), "{r:?}");
            if bumped {
                let s2 = bump(&db).await;
                assert_ne!(s2.done, s.seq + 1, "it has not committed");
            }
            sleep(&rt, Micros::from_secs(3)).await;
            assert_eq!(db.count(&data()), usize::from(!bumped));
            assert_eq!(bump(&db).await.done == s.seq + 1, !bumped);
        });
    }
}

#[cfg(feature = "planted-bugs")]
#[test]
fn a_fence_that_only_reads_lets_a_late_transaction_through() {
    with(2, Config::default(), |rt, db| async move {
        db.set_read_only_fence(true);
        let s = open(&db).await;
        all_late(&db.faults(), OpKind::Transact);
        db.transact(&fence(&rt, &s), &put(1, 1)).await.unwrap_err();
        db.admin(&AdminOp::BumpAll { rollout: "r".into(), epoch: 2 }).await.unwrap();
        assert_eq!(db.count(&data()), 0);
        sleep(&rt, Micros::from_secs(3)).await;
        assert_eq!(db.count(&data()), 1, "the write skew that the real fence prevents");
    });
}

#[test]
fn write_skew_is_possible_between_transactions_and_a_common_document_prevents_it() {
    for common in [false, true] {
        with(3, Config::default(), move |rt, db| async move {
            let a = open(&db).await;
            let b = slot(&db, AdminOp::OpenSlot { slot: "r/b".into(), epoch: 1 }).await;
            let (fa, mut fb) = (fence(&rt, &a), fence(&rt, &b));
            fb.slot = "r/b".into();
            let second = if common { put(1, 2) } else { put(2, 2) };
            let first = put(1, 1);
            let (ra, rb) = join(db.transact(&fa, &first), db.transact(&fb, &second)).await;
            assert_eq!(ra.is_ok() && rb.is_ok(), !common, "{ra:?} {rb:?}");
            let lost = [&ra, &rb].iter().filter(|r| matches!(r, Err(Failed::NotDone(Reason::Conflict(_))))).count();
            assert_eq!(lost, usize::from(common));
        });
    }
}

#[test]
fn after_a_step_down_reads_may_be_stale_but_never_older_than_asked() {
    with(4, Config::default(), |rt, db| async move {
        db.write(&upsert(1, 1)).await.unwrap();
        db.faults().step_down();
        sleep(&rt, Micros::from_secs(2)).await;
        let w = db.write(&upsert(1, 2)).await.unwrap();
        let mut stale = 0;
        for _ in 0..40 {
            let plain = db.read(&data(), &[Key::from(1)], ClusterTime::ZERO).await.unwrap();
            stale += u32::from(plain.docs[0] == Some(doc(1, 1).into()));
            let causal = db.read(&data(), &[Key::from(1)], w.at).await.unwrap();
            assert_eq!(causal.docs[0], Some(doc(1, 2).into()));
            assert!(causal.at >= w.at);
        }
        assert!(stale > 0, "no read was stale");
        sleep(&rt, Micros::from_secs(4)).await;
        let later = db.read(&data(), &[Key::from(1)], ClusterTime::ZERO).await.unwrap();
        assert_eq!(later.docs[0], Some(doc(1, 2).into()), "the old primary has noticed");
    });
}

/// Writes while no majority replicates; then the primary steps down.
fn interrupted(seed: u64) -> (bool, usize, usize) {
    with(seed, Config::default(), |rt, db| async move {
        db.write(&upsert(1, 1)).await.unwrap();
        let start = db.observe().await.unwrap().majority;
        let faults = db.faults();
        for node in [1, 2] {
            faults.set_lag(node, Micros::from_secs(30));
        }
        let done = Arc::new(Mutex::new(None));
        let (db2, done2) = (db.clone(), done.clone());
        let write = async move {
            let r = db2.write(&upsert(1, 2)).await;
            *done2.lock().unwrap() = Some(r);
        };
        rt.spawn(Group(1), "w", Box::pin(write));
        sleep(&rt, Micros::from_ms(500)).await;
        assert_eq!(db.dump(&data())[0].1, doc(1, 2), "applied on the primary");
        let read = db.read(&data(), &[Key::from(1)], ClusterTime::ZERO).await.unwrap();
        assert_eq!(read.docs[0], Some(doc(1, 1).into()), "but no majority has it");
        let lost = faults.step_down();
        faults.clear();
        sleep(&rt, Micros::from_secs(6)).await;
        let r = done.lock().unwrap().take().unwrap();
        assert!(matches!(r, Err(Failed::Unknown(Reason::NotPrimary(_)))), "{r:?}");
        let mut stream = db.changes(&data(), &StreamPos { token: None, at: start }).await.unwrap();
        let events = stream.next(Micros::from_ms(50)).await.unwrap().events.len();
        (db.dump(&data())[0].1 == doc(1, 2), lost, events)
    })
}

#[test]
fn a_step_down_may_roll_back_what_no_majority_had() {
    let all: Vec<_> = (0..12).map(interrupted).collect();
    for (survived, lost, events) in &all {
        assert_eq!((*lost, *events), if *survived { (0, 1) } else { (1, 0) }, "{all:?}");
    }
    assert!(all.iter().any(|a| a.0) && all.iter().any(|a| !a.0), "{all:?}");
}

#[test]
fn an_election_fails_operations_and_breaks_streams() {
    with(5, Config::default(), |rt, db| async move {
        let at = db.write(&upsert(1, 1)).await.unwrap().at;
        let pos = StreamPos { token: None, at };
        let mut stream = db.changes(&data(), &pos).await.unwrap();
        db.faults().step_down();
        let r = db.write(&upsert(1, 2)).await;
        assert!(matches!(r, Err(Failed::NotDone(Reason::NotPrimary(_)))), "{r:?}");
        let r = db.read(&data(), &[Key::from(1)], at).await;
        assert!(matches!(r, Err(Failed::NotDone(Reason::NotPrimary(_)))), "{r:?}");
        assert!(stream.next(Micros::from_ms(10)).await.is_err());
        assert!(db.observe().await.unwrap().members.iter().all(|m| m.state != "PRIMARY"));
        sleep(&rt, Micros::from_secs(2)).await;
        db.write(&upsert(1, 2)).await.unwrap();
        let mut stream = db.changes(&data(), &pos).await.unwrap();
        assert_eq!(stream.next(Micros::from_secs(1)).await.unwrap().events.len(), 1);
    });
}

#[test]
fn an_unreachable_cluster_fails_after_its_timeout_and_recovers() {
    with(6, Config::default(), |rt, db| async move {
        let at = db.write(&upsert(1, 1)).await.unwrap().at;
        db.faults().set_unreachable(true);
        let begun = rt.now();
        assert!(matches!(db.write(&upsert(2, 1)).await, Err(Failed::NotDone(Reason::Timeout(_)))));
        assert!(matches!(db.read(&data(), &[], at).await, Err(Failed::NotDone(Reason::Timeout(_)))));
        assert_eq!(rt.now().since(begun), Micros::from_secs(4));
        let (db2, rt2) = (db.clone(), rt.clone());
        rt.spawn(
            Group(1),
            "back",
            Box::pin(async move {
                sleep(&rt2, Micros::from_secs(1)).await;
                db2.faults().set_unreachable(false);
            }),
        );
        db.write(&upsert(3, 1)).await.unwrap();
        assert!(rt.now().since(begun) < Micros::from_ms(5_500));
    });
}

#[test]
fn acknowledged_means_majority_and_streams_show_nothing_earlier() {
    with(7, Config::default(), |rt, db| async move {
        let at = db.write(&upsert(1, 1)).await.unwrap().at;
        let mut stream = db.changes(&data(), &StreamPos { token: None, at }).await.unwrap();
        for node in [1, 2] {
            db.faults().set_lag(node, Micros::from_secs(1));
        }
        let begun = rt.now();
        let second = upsert(1, 2);
        let (w, batch) = join(db.write(&second), stream.next(Micros::from_secs(5))).await;
        let (w, batch) = (w.unwrap(), batch.unwrap());
        assert!(rt.now().since(begun) >= Micros::from_secs(1));
        assert_eq!((batch.events.len(), batch.events[0].at), (1, w.at));
        // One slow member alone holds nobody up.
        db.faults().set_lag(1, Micros::ZERO);
        let begun = rt.now();
        db.write(&upsert(1, 3)).await.unwrap();
        assert!(rt.now().since(begun) < Micros::from_ms(100));
        let worst = db.observe().await.unwrap().members.iter().filter_map(|m| m.lag).max();
        assert!(worst >= Some(Micros::from_secs(1)), "{worst:?}");
        // Without any, no write is acknowledged.
        db.faults().set_cut(1, true);
        db.faults().set_cut(2, true);
        assert!(matches!(db.write(&upsert(1, 4)).await, Err(Failed::Unknown(Reason::Timeout(_)))));
    });
}

#[test]
fn an_idle_stream_returns_after_its_wait_with_a_later_position() {
    with(8, Config::default(), |rt, db| async move {
        let at = db.write(&upsert(1, 1)).await.unwrap().at;
        let mut stream = db.changes(&data(), &StreamPos { token: None, at }).await.unwrap();
        let mut last = at;
        for _ in 0..5 {
            let begun = rt.now();
            let batch = stream.next(Micros::from_ms(300)).await.unwrap();
            assert_eq!(rt.now().since(begun), Micros::from_ms(300));
            assert!(batch.events.is_empty() && batch.pos.at > last, "{:?}", batch.pos);
            last = batch.pos.at;
        }
    });
}

#[test]
fn a_truncated_oplog_loses_the_streams_that_lag() {
    with(9, Config::default(), |_, db| async move {
        let at = db.write(&upsert(1, 1)).await.unwrap().at;
        let pos = StreamPos { token: None, at };
        let mut stream = db.changes(&data(), &pos).await.unwrap();
        db.write(&upsert(1, 2)).await.unwrap();
        db.faults().truncate_oplog();
        for r in [stream.next(Micros::ZERO).await.map(drop), db.changes(&data(), &pos).await.map(drop)] {
            assert!(matches!(r, Err(Failed::NotDone(Reason::HistoryLost(_)))), "{r:?}");
        }
        let now = StreamPos { token: None, at: db.observe().await.unwrap().majority };
        db.changes(&data(), &now).await.unwrap();
    });
}

#[test]
fn a_bump_wins_over_an_open_transaction() {
    with(10, Config::default(), |rt, db| async move {
        let s = open(&db).await;
        let many: Vec<_> = (0..2_000).map(|n| doc(n, 1)).collect();
        let ops = [TxnOp::Insert { ns: data(), docs: many }];
        let fence = fence(&rt, &s);
        // The transaction takes about 50 ms, so that the bump comes in between.
        let (r, _) = join(db.transact(&fence, &ops), async {
            sleep(&rt, Micros::from_ms(25)).await;
            bump(&db).await
        })
        .await;
        assert!(matches!(r, Err(Failed::NotDone(Reason::Conflict(_)))), "{r:?}");
        assert_eq!(db.count(&data()), 0);
    });
}

/// A caller that is killed `after` its transaction began: whether it landed (at all, and after a bump if there was one).
fn killed(seed: u64, after: Micros, bumped: bool) -> bool {
    with(seed, Config::default(), move |rt, db| async move {
        let s = open(&db).await;
        let fence = fence(&rt, &s);
        let db2 = db.clone();
        let work = async move {
            let _ = db2.transact(&fence, &put(1, 1)).await;
        };
        rt.spawn(Group(7), "runner", Box::pin(work));
        sleep(&rt, after).await;
        let committed = db.count(&data()) == 1;
        rt.kill(Group(7));
        if bumped && !committed {
            bump(&db).await;
        }
        sleep(&rt, Micros::from_secs(3)).await;
        assert!(db.0.with(|s, _| s.no_snapshots()), "the snapshot is still held");
        let landed = db.count(&data()) == 1;
        assert!(landed || !committed);
        landed && !committed
    })
}

#[test]
fn a_commit_sent_by_a_caller_that_died_may_land_and_a_bump_stops_it() {
    let soon = |seed| killed(seed, Micros(500), false);
    assert!(!(0..50).any(soon), "no commit was sent yet");
    let landed = |bumped| (0..200).filter(|seed| killed(*seed, Micros(2_800), bumped)).count();
    assert!(landed(false) > 2, "{}", landed(false));
    assert_eq!(landed(true), 0);
}

#[test]
fn old_versions_are_forgotten() {
    with(12, Config::default(), |rt, db| async move {
        for n in 0..200 {
            db.write(&upsert(n % 3, n)).await.unwrap();
        }
        db.write(&WriteOp::Delete { ns: data(), key: Key::from(0), only_if: None }).await.unwrap();
        sleep(&rt, Micros::from_ms(500)).await;
        assert_eq!(db.0.with(|s, _| s.versions(&data())), 2);
    });
}

#[test]
fn one_slow_namespace_leaves_the_others_alone() {
    with(13, Config::default(), |rt, db| async move {
        db.faults().set_latency_of(&data(), 2_000);
        let mut spent = [Micros::ZERO; 2];
        for (i, ns) in [data(), Ns::new("shop", "other")].iter().enumerate() {
            let begun = rt.now();
            for _ in 0..50 {
                db.read(ns, &[Key::from(1)], ClusterTime::ZERO).await.unwrap();
            }
            spent[i] = rt.now().since(begun);
        }
        assert!(spent[0].0 > 10 * spent[1].0, "{spent:?}");
        assert!((50 * 1_400..50 * 3_500).contains(&spent[1].0), "{spent:?}");
    });
}

/// A busy, faulty minute; everything that callers and observers were told.
fn busy(seed: u64) -> Vec<String> {
    with(seed, Config::default(), |rt, db| async move {
        let told = Arc::new(Mutex::new(Vec::new()));
        let faults = db.faults();
        for kind in [OpKind::Write, OpKind::Transact, OpKind::Changes] {
            faults.set_rates(kind, Rates { not_done: 30_000, unknown: 60_000 });
        }
        for w in 0..4i64 {
            let (rt2, db2, told2) = (rt.clone(), db.clone(), told.clone());
            let work = async move {
                for n in 0..300 {
                    let r = db2.write(&upsert((n * 7 + w) % 20, n)).await;
                    told2.lock().unwrap().push(format!("{} {w} {r:?}", rt2.now()));
                }
            };
            rt.spawn(Group(1), "app", Box::pin(work));
        }
        sleep(&rt, Micros::from_secs(1)).await;
        faults.step_down();
        sleep(&rt, Micros::from_secs(20)).await;
        let mut told = told.lock().unwrap().clone();
        told.extend(db.dump(&data()).iter().map(|d| format!("{d:?}")));
        told.push(format!("{:?}", db.counters()));
        told
    })
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(busy(1), busy(1));
    assert_ne!(busy(1), busy(2));
}

/// What stands under a key once nothing can change it any more: late writes have landed, and an acknowledged marker says that what
/// came before it is either safe or gone.
async fn settled(rt: &Rt, db: &Embedded, key: i64) -> i64 {
    sleep(rt, Micros::from_secs(3)).await;
    loop {
        if let Ok(marker) = db.write(&upsert(1_000 + key, 1)).await
            && let Ok(read) = db.read(&data(), &[Key::from(key)], marker.at).await
        {
            return read.docs[0].as_ref().map_or(0, |d| d.get_i64("v").unwrap());
        }
        sleep(rt, Micros::from_ms(100)).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever goes wrong, an acknowledged write is never lost, what surely was not done is not there, and an unknown outcome is
    /// one of the two it can be. Each client has a key of its own and writes rising numbers.
    #[test]
    fn acknowledged_writes_survive_anything(
        seed in 0u64..1_000_000,
        faults in prop::collection::vec((0u64..1_500, 0u8..8), 0..16),
    ) {
        with(seed, Config::default(), |rt, db| async move {
            let f = db.faults();
            f.set_rates(OpKind::Write, Rates { not_done: 20_000, unknown: 10_000 });
            let ended = Arc::new(Mutex::new(0));
            for w in 0..3i64 {
                let (rt2, db2, ended) = (rt.clone(), db.clone(), ended.clone());
                rt.spawn(Group(1), "client", Box::pin(async move {
                    let mut have = 0;
                    for n in 1..=600 {
                        let r = db2.write(&upsert(w, n)).await;
                        let may_be = match r {
                            Ok(_) => [n, n],
                            Err(Failed::NotDone(_)) => [have, have],
                            Err(_) => [have, n],
                        };
                        if n % 40 == 0 || may_be[0] != may_be[1] {
                            have = settled(&rt2, &db2, w).await;
                            assert!(may_be.contains(&have), "client {w}: {have} after {r:?} of {n}, not in {may_be:?}");
                        }
                        have = if may_be[0] == may_be[1] { may_be[0] } else { have };
                        sleep(&rt2, Micros::from_ms(10)).await;
                    }
                    *ended.lock().unwrap() += 1;
                }));
            }
            for (wait, what) in faults {
                sleep(&rt, Micros::from_ms(wait)).await;
                match what {
                    0 | 1 => drop(f.step_down()),
                    2 | 3 => f.set_lag(1, Micros::from_ms(wait)),
                    4 | 5 => f.set_lag(2, Micros::from_ms(wait)),
                    6 => f.set_cut(1, wait % 2 == 0),
                    _ => f.set_unreachable(wait % 2 == 0),
                }
            }
            f.clear();
            sleep(&rt, Micros::from_secs(400)).await;
            assert_eq!(*ended.lock().unwrap(), 3);
        });
    }
}

/// Not a benchmark: it counts, so that it says the same on a slow machine. `cargo test --release` prints the time.
#[test]
fn a_virtual_minute_of_traffic_is_cheap() {
    let sim = Sim::new(1);
    let rt: Rt = sim.clone();
    let db = Embedded::new(rt.clone(), Config::default());
    db.load(&data(), (0..50_000).map(|n| doc(n, 0)).collect()).unwrap();
    assert_eq!(db.count(&data()), 50_000);
    let ops = 400 * 60;
    for n in 0..ops {
        let (rt2, db2) = (rt.clone(), db.clone());
        let work = async move {
            rt2.sleep_until(Micros(n * 2_500)).await;
            if n % 4 == 0 {
                db2.write(&upsert((n % 50_000) as i64, 1)).await.unwrap();
            } else {
                db2.read(&data(), &[Key::from((n * 31 % 50_000) as i64)], ClusterTime::ZERO).await.unwrap();
            }
        };
        rt.spawn(Group(1), "op", Box::pin(work));
    }
    let (db2, seen) = (db.clone(), Arc::new(Mutex::new(0)));
    let seen2 = seen.clone();
    let at = db.0.with(|s, _| state::to_time(s.newest()));
    let tail = async move {
        let mut stream = db2.changes(&data(), &StreamPos { token: None, at }).await.unwrap();
        loop {
            let batch = stream.next(Micros::from_ms(500)).await.unwrap();
            *seen2.lock().unwrap() += batch.events.len();
        }
    };
    rt.spawn(Group(2), "tail", Box::pin(tail));
    sim.run_until(Micros::from_secs(61));
    assert_eq!(*seen.lock().unwrap(), 6_000);
    // A task is polled about once a sleep: four a write, three a read, and a few for each batch of the tail.
    assert!(sim.polls() < ops * 6, "{} polls for {ops} operations", sim.polls());
}

#[test]
fn the_oplog_window_of_a_young_cluster_is_its_age() {
    let sim = Sim::new(1);
    let rt: Rt = sim.clone();
    let cluster = Embedded::new(rt.clone(), Config::default());
    sim.run_until(Micros::from_secs(90));
    let seen = sim.block_on(async move { cluster.observe().await }).unwrap().unwrap();
    let window = seen.oplog_window.unwrap();
    assert!(window >= Micros::from_secs(89) && window <= Micros::from_secs(92), "{window}");
}
