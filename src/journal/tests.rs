use std::fs;
use std::path::{Path, PathBuf};

use bson::RawDocumentBuf;
use proptest::prelude::*;
use serde_json::json;

use super::chain::{Head, scan};
use super::*;
use crate::cluster::{
    AdminDone, AdminOp, Changes, Cluster, ClusterTime, Fence, Key, Ns, Observation, Page, PageLimit, Question, Read,
    Reason, Replies, StreamPos, TxnDone, TxnOp, WriteOp, Written,
};
use crate::runtime::sim::Sim;

fn body(v: Value) -> Map<String, Value> {
    v.as_object().cloned().unwrap_or_default()
}

/// Runs `f` on a simulation of its own.
fn on_sim<T: Send + 'static, F: Future<Output = T> + Send + 'static>(f: impl FnOnce(Rt) -> F) -> T {
    let sim = Sim::new(1);
    sim.block_on(f(sim.clone())).expect("the simulation finishes")
}

async fn write_some(journal: &mut Journal, n: usize) -> Vec<Record> {
    let mut out = Vec::new();
    for i in 0..n {
        let text = format!("stage {i} — p99 \u{202e}12.5 ms\u{7f}");
        let b = body(
            json!({ "text": text, "x": 0.1 + i as f64, "big": u64::MAX, "nested": { "ä\n\"": [null, -1, true] } }),
        );
        let by = [By::Engine, By::Trigger, By::Operator(Some("anna".into()))][i % 3].clone();
        out.push(journal.append(7, by, "stage_began", b).await.expect("appends"));
    }
    out
}

/// A file journal of `n` records in a fresh directory.
fn sample(n: usize) -> (tempfile::TempDir, PathBuf, Vec<Record>) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("orders.journal");
    let p = path.clone();
    let records = on_sim(move |rt| async move {
        let store = FileStore::create(p, rt.clone()).expect("creates");
        write_some(&mut Journal::new(Arc::new(store), rt, "orders".into()), n).await
    });
    (dir, path, records)
}

fn load(path: &Path) -> Result<(Vec<Record>, Vec<String>), JournalError> {
    let path = path.to_owned();
    on_sim(move |rt| async move {
        let store = FileStore::open(path, rt)?;
        let records = store.load().await?;
        Ok((records, store.warnings()))
    })
}

#[test]
fn a_record_comes_back_as_it_was_written_and_its_line_is_safe_to_print() {
    let (_dir, path, records) = sample(4);
    assert_eq!(load(&path).expect("loads"), (records.clone(), vec![]));
    let text = fs::read_to_string(&path).expect("reads");
    assert!(!text.contains(['\u{202e}', '\u{7f}']) && text.contains("\\u202e") && text.contains('—'));
    assert_eq!(records[0].prev, GENESIS);
    assert!(text.starts_with(
        "{\"seq\":1,\"at\":\"2026-01-05T09:00:00.000Z\",\"rollout\":\"orders\",\"epoch\":7,\"by\":\"engine\","
    ));
    assert!(!show(&records[0]).contains('\u{202e}') && show(&records[2]).contains("operator:anna"));
}

#[test]
fn the_hash_is_that_of_the_bytes_before_it() {
    // The recipe of docs/journal.md, by hand.
    let (_dir, path, _) = sample(2);
    let text = fs::read_to_string(&path).expect("reads");
    for line in text.lines() {
        let (before, hash) = line.rsplit_once(",\"hash\":\"").expect("a hash");
        assert_eq!(hash, format!("{}\"}}", record::sha256_hex(before.as_bytes())));
    }
}

#[test]
fn any_changed_byte_of_any_record_is_found_with_its_line() {
    let (_dir, path, records) = sample(3);
    let good = fs::read(&path).expect("reads");
    let head = Head { seq: 3, hash: records[2].hash.clone() };
    let mut line = 1;
    for i in 0..good.len() {
        for flip in [1, 2, 4, 8, 16, 32, 64, 128, 0xff, good[i] ^ b'\n', good[i] ^ b' '] {
            if flip == 0 {
                continue;
            }
            let mut bad = good.clone();
            bad[i] ^= flip;
            match scan(&bad, Some(&head)) {
                Err(JournalError::Damaged { line: at, .. }) => assert_eq!(at, line, "byte {i} ^ {flip}"),
                Err(e) => panic!("byte {i} ^ {flip}: {e}"),
                Ok(_) => panic!("byte {i} ^ {flip} was not found"),
            }
            // Without any head at all, too.
            assert!(scan(&bad, None).is_err(), "byte {i} ^ {flip} without a head");
        }
        let mut bad = good.clone();
        bad[i] ^= 0x04;
        fs::write(&path, &bad).expect("writes");
        assert!(matches!(verify_file(&path, None), Err(JournalError::Damaged { line: at, .. }) if at == line));
        line += u64::from(good[i] == b'\n');
    }
}

#[test]
fn a_journal_cut_off_anywhere_is_an_exact_prefix_or_refused() {
    let (_dir, path, records) = sample(3);
    let good = fs::read(&path).expect("reads");
    let ends: Vec<usize> = good.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
    for acknowledged in 0..=3 {
        let hash = if acknowledged == 0 { GENESIS } else { &records[acknowledged - 1].hash };
        let head = Head { seq: acknowledged as u64, hash: hash.to_owned() };
        for len in 0..=good.len() {
            let whole = ends.iter().filter(|e| **e <= len).count();
            match scan(&good[..len], Some(&head)) {
                Ok(s) => {
                    assert!(whole >= acknowledged);
                    assert_eq!(s.records, records[..whole]);
                    assert_eq!(s.torn, len != 0 && !ends.contains(&len));
                }
                Err(JournalError::Damaged { line, .. }) => {
                    assert!(whole < acknowledged);
                    assert_eq!(line, whole as u64 + 1);
                }
                Err(e) => panic!("{e}"),
            }
        }
    }
}

#[test]
fn a_torn_tail_is_cut_off_with_a_warning_and_the_journal_goes_on() {
    let (_dir, path, records) = sample(2);
    let good = fs::read(&path).expect("reads");
    let mut torn = good.clone();
    torn.extend_from_slice(b"{\"seq\":3,\"at\":\"2026-0");
    fs::write(&path, &torn).expect("writes");
    let report = verify_file(&path, Some(&records[1].hash)).expect("verifies");
    assert!(report.torn_tail && report.records == 2 && !report.closed && report.warnings.len() == 1);
    assert_eq!(fs::read(&path).expect("reads"), torn, "verification changes nothing");
    let (loaded, warnings) = load(&path).expect("loads");
    assert_eq!((loaded.len(), warnings.len()), (2, 1));
    assert_eq!(fs::read(&path).expect("reads"), good);
    let p = path.clone();
    on_sim(move |rt| async move {
        let store = FileStore::open(p, rt.clone()).expect("opens");
        let mut journal = Journal::new(Arc::new(store), rt, "orders".into());
        journal.append(8, By::Engine, CLOSED, Map::new()).await.expect("appends");
        assert_eq!(journal.append(8, By::Engine, "more", Map::new()).await, Err(JournalError::Closed));
    });
    let report = verify_file(&path, Some(&records[1].hash)).expect("verifies");
    assert!(report.closed && report.head_seq == 3);
    assert_eq!(report.warnings, ["1 records follow the expected head"]);
}

#[test]
fn removed_reordered_and_repeated_lines_and_a_lost_head_are_refused() {
    let (_dir, path, records) = sample(4);
    let text = fs::read_to_string(&path).expect("reads");
    let lines: Vec<&str> = text.lines().collect();
    let try_lines = |order: &[usize], head: Option<&str>| {
        let text: String = order.iter().map(|i| format!("{}\n", lines[*i])).collect();
        fs::write(&path, text).expect("writes");
        verify_file(&path, head)
    };
    assert!(try_lines(&[0, 1, 2, 3], None).is_ok());
    for (order, line) in [
        (&[1, 2, 3][..], 1),
        (&[0, 2, 3], 2),
        (&[0, 1, 3], 3),
        (&[0, 1, 2], 4),
        (&[], 1),
        (&[0, 2, 1, 3], 2),
        (&[0, 1, 1, 2, 3], 3),
        (&[0, 1, 2, 3, 3], 5),
        (&[3, 2, 1, 0], 1),
    ] {
        let found = try_lines(order, None);
        assert!(matches!(found, Err(JournalError::Damaged { line: at, .. }) if at == line), "{order:?}: {found:?}");
        assert_eq!(load(&path).err(), found.err(), "resuming refuses what verification refuses");
    }
    fs::remove_file(file::head_path(&path)).expect("removes");
    let found = try_lines(&[0, 1, 2], Some(&records[3].hash));
    assert!(matches!(found, Err(JournalError::Damaged { line: 4, .. })), "an expected head does what the file would");
    assert!(matches!(load(&path), Err(JournalError::Head { .. })), "a rollout does not go on without its head");
    assert_eq!(verify_file(&path, None).expect("a copy can be verified alone").warnings.len(), 1);
    fs::write(file::head_path(&path), "{\"seq\":3}").expect("writes");
    assert!(matches!(verify_file(&path, None), Err(JournalError::Head { .. })));
    fs::write(file::head_path(&path), format!("{{\"seq\":2,\"hash\":\"{}\"}}", records[2].hash)).expect("writes");
    assert!(
        matches!(verify_file(&path, None), Err(JournalError::Damaged { line: 2, .. })),
        "a head that names another record"
    );
}

#[test]
fn a_second_writer_and_an_existing_file_are_refused() {
    let (_dir, path, _) = sample(1);
    let p = path.clone();
    on_sim(move |rt| async move {
        assert!(matches!(FileStore::create(&p, rt.clone()), Err(JournalError::Exists { .. })));
        let open = || FileStore::open(&p, rt.clone()).map(|s| Journal::new(Arc::new(s), rt.clone(), "orders".into()));
        let (mut a, mut b) = (open().expect("opens"), open().expect("opens"));
        b.open().await.expect("loads");
        a.append(7, By::Engine, "one", Map::new()).await.expect("appends");
        assert_eq!(b.append(7, By::Engine, "two", Map::new()).await, Err(JournalError::Stale { seq: 2 }));
        let mut other = Journal::new(Arc::new(FileStore::open(&p, rt.clone()).expect("opens")), rt.clone(), "x".into());
        assert!(matches!(other.open().await, Err(JournalError::OtherRollout { .. })));
    });
    #[cfg(unix)]
    for f in [path.clone(), file::head_path(&path)] {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(f).expect("is there").permissions().mode() & 0o777, 0o600);
    }
    fs::write(&path, "").expect("writes");
    let refused = on_sim(move |rt| async move { FileStore::create(path, rt).err() });
    assert!(matches!(refused, Some(JournalError::Exists { .. })), "an emptied journal is not a new one");
}

#[cfg(unix)]
#[test]
fn the_head_of_a_journal_that_another_has_just_begun_is_not_written_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("orders.journal");
    on_sim(move |rt| async move {
        let first = FileStore::create(&path, rt.clone()).expect("creates");
        let second = FileStore::create(&path, rt.clone()).err();
        assert!(matches!(second, Some(JournalError::InUse { .. })), "{second:?}");
        write_some(&mut Journal::new(Arc::new(first), rt.clone(), "orders".into()), 1).await;
        let late = FileStore::create(&path, rt).err();
        assert!(matches!(late, Some(JournalError::Exists { .. })), "{late:?}");
    });
}

#[test]
fn the_file_store_works_off_the_executor_of_a_real_rollout() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("live.journal");
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    let rt: Rt = crate::runtime::live::Live::new(tokio.handle().clone());
    tokio.block_on(async {
        let store = FileStore::open_or_create(&path, rt.clone()).expect("creates");
        write_some(&mut Journal::new(Arc::new(store), rt.clone(), "r".into()), 3).await;
        let store = FileStore::open_or_create(&path, rt.clone()).expect("opens");
        let mut again = Journal::new(Arc::new(store), rt, "r".into());
        assert_eq!(again.open().await.expect("loads").len(), 3);
        write_some(&mut again, 1).await;
    });
    assert_eq!(verify_file(&path, None).expect("verifies").records, 4);
}

#[test]
fn after_a_failed_append_nothing_more_is_written() {
    for (fault, stored) in [(Fault::FailBefore, 1), (Fault::FailAfter, 2)] {
        let store = MemStore::new();
        let s = store.clone();
        on_sim(move |rt| async move {
            let mut journal = Journal::new(Arc::new(s.clone()), rt.clone(), "r".into());
            write_some(&mut journal, 1).await;
            s.fail_next(fault);
            assert!(matches!(journal.append(7, By::Engine, "a", Map::new()).await, Err(JournalError::Io(_))));
            assert_eq!(journal.append(7, By::Engine, "b", Map::new()).await, Err(JournalError::Broken));
            assert_eq!(journal.open().await, Err(JournalError::Broken));
            let mut next = Journal::new(Arc::new(s), rt, "r".into());
            next.open().await.expect("opens");
            next.append(8, By::Engine, "c", Map::new()).await.expect("a new process goes on");
        });
        assert_eq!(store.records().len(), stored + 1);
    }
}

#[test]
fn an_append_that_was_cut_off_counts_as_failed() {
    let store = MemStore::new();
    let s = store.clone();
    on_sim(move |rt| async move {
        let mut journal = Journal::new(Arc::new(s.clone()), rt.clone(), "r".into());
        s.fail_at(2, Fault::HangAfter);
        write_some(&mut journal, 1).await;
        let cut =
            crate::runtime::timeout(&rt, crate::runtime::Micros(5), journal.append(7, By::Engine, "a", Map::new()));
        assert!(cut.await.is_none() && s.hung());
        assert_eq!(journal.append(7, By::Engine, "b", Map::new()).await, Err(JournalError::Broken));
    });
    assert_eq!(store.records().len(), 2);
}

#[test]
fn no_password_reaches_a_record() {
    on_sim(|rt| async move {
        let mut journal = Journal::new(Arc::new(MemStore::new()), rt, "r".into());
        let b = body(
            json!({ "why": ["cannot reach mongodb://anna:canary-pw@h/?tlsCertificateKeyFilePassword=canary-pw"] }),
        );
        let r = journal.append(1, By::Operator(Some(" \u{202e}eve ".into())), "failed", b).await.expect("appends");
        assert!(!r.line().contains("canary-pw") && !r.line().contains("202e"), "{}", r.line());
    });
}

#[test]
fn the_local_file_follows_the_database() {
    on_sim(|rt| async move {
        let (first, second) = (MemStore::new(), MemStore::new());
        let tee = |a: &MemStore, b: &MemStore| {
            let tee = TeeStore::new(Arc::new(a.clone()), Arc::new(b.clone()));
            Journal::new(Arc::new(tee), rt.clone(), "r".into())
        };
        let mut journal = tee(&first, &second);
        write_some(&mut journal, 2).await;
        second.fail_next(Fault::FailBefore);
        assert!(journal.append(7, By::Engine, "a", Map::new()).await.is_err());
        assert_eq!((first.records().len(), second.records().len()), (3, 2));
        let mut journal = tee(&first, &second);
        assert_eq!(journal.open().await.expect("opens").len(), 3);
        assert_eq!(first.records(), second.records(), "opening brings the follower up");
        let fresh = MemStore::new();
        tee(&first, &fresh).open().await.expect("a new machine starts with an empty file");
        write_some(&mut tee(&fresh, &MemStore::new()), 1).await;
        assert_eq!(tee(&first, &fresh).open().await, Err(JournalError::Diverged { seq: 4 }));
    });
}

/// A cluster that knows one collection and fails inserts as told.
#[derive(Default)]
struct Scripted {
    docs: Mutex<Vec<(Key, RawDocumentBuf)>>,
    script: Mutex<Vec<(Failed, bool)>>,
    tries: Mutex<u32>,
}

impl Cluster for Scripted {
    fn read<'a>(&'a self, _: &'a Ns, keys: &'a [Key], _: ClusterTime) -> Fut<'a, Result<Read, Failed>> {
        let docs = lock(&self.docs);
        let found = keys.iter().map(|k| docs.iter().find(|(i, _)| i == k).map(|(_, d)| d.clone().into())).collect();
        Box::pin(async move { Ok(Read { docs: found, at: ClusterTime::ZERO }) })
    }
    fn write<'a>(&'a self, op: &'a WriteOp) -> Fut<'a, Result<Written, Failed>> {
        *lock(&self.tries) += 1;
        let WriteOp::Insert { doc, .. } = op else { panic!("only inserts") };
        let key = Key::of(doc).expect("a key");
        let fault = lock(&self.script).pop();
        let mut docs = lock(&self.docs);
        let there = docs.iter().any(|(k, _)| *k == key);
        let answer = match fault {
            Some((e, lands)) => {
                if lands && !there {
                    docs.push((key, doc.clone()));
                }
                Err(e)
            }
            None if there => Err(Failed::NotDone(Reason::DuplicateKey { key: None, message: "E11000".into() })),
            None => {
                docs.push((key, doc.clone()));
                Ok(Written { matched: 1, at: ClusterTime::ZERO })
            }
        };
        Box::pin(async move { answer })
    }
    fn scan<'a>(
        &'a self,
        _: &'a Ns,
        _: Option<&'a Key>,
        _: PageLimit,
        _: ClusterTime,
    ) -> Fut<'a, Result<Page, Failed>> {
        unimplemented!()
    }
    fn ask<'a>(
        &'a self,
        _: &'a Ns,
        _: &'a [Key],
        _: &'a [Question],
        _: ClusterTime,
    ) -> Fut<'a, Result<Replies, Failed>> {
        unimplemented!()
    }
    fn draw<'a>(&'a self, _: &'a Ns, _: Option<&'a Question>, _: usize) -> Fut<'a, Result<Vec<Key>, Failed>> {
        unimplemented!()
    }
    fn transact<'a>(&'a self, _: &'a Fence, _: &'a [TxnOp]) -> Fut<'a, Result<TxnDone, Failed>> {
        unimplemented!()
    }
    fn changes<'a>(&'a self, _: &'a Ns, _: &'a StreamPos) -> Fut<'a, Result<Box<dyn Changes>, Failed>> {
        unimplemented!()
    }
    fn admin<'a>(&'a self, _: &'a AdminOp) -> Fut<'a, Result<AdminDone, Failed>> {
        unimplemented!()
    }
    fn observe(&self) -> Fut<'_, Result<Observation, Failed>> {
        unimplemented!()
    }
}

fn unknown() -> Failed {
    Failed::Unknown(Reason::Network("reset".into()))
}

#[test]
fn an_unknown_insert_is_settled_by_inserting_again() {
    for lands in [true, false] {
        let db = Arc::new(Scripted::default());
        let d = db.clone();
        on_sim(move |rt| async move {
            let mut journal =
                Journal::new(Arc::new(ClusterStore::new(d.clone(), rt.clone(), "r")), rt.clone(), "r".into());
            d.script.lock().expect("unpoisoned").extend([(unknown(), false), (unknown(), lands)]);
            journal.append(1, By::Engine, "a", Map::new()).await.expect("settled");
            write_some(&mut journal, 230).await;
            let mut again = Journal::new(Arc::new(ClusterStore::new(d, rt.clone(), "r")), rt, "r".into());
            assert_eq!(again.open().await.expect("opens").len(), 231);
            assert_eq!(again.head(), journal.head());
        });
        assert_eq!(*lock(&db.tries), 233);
    }
}

#[test]
fn a_stale_runner_is_told_so_and_a_gap_is_refused() {
    let db = Arc::new(Scripted::default());
    on_sim(move |rt| async move {
        let open = || Journal::new(Arc::new(ClusterStore::new(db.clone(), rt.clone(), "r")), rt.clone(), "r".into());
        let (mut a, mut b) = (open(), open());
        b.open().await.expect("opens");
        write_some(&mut a, 3).await;
        assert_eq!(b.append(7, By::Engine, "b", Map::new()).await, Err(JournalError::Stale { seq: 1 }));
        lock(&db.script).push((Failed::NotDone(Reason::Refused("unauthorised".into())), false));
        assert!(matches!(a.append(7, By::Engine, "c", Map::new()).await, Err(JournalError::Cluster(_))));
        lock(&db.docs).remove(1);
        assert!(matches!(open().open().await, Err(JournalError::Damaged { line: 2, .. })));
    });
}

/// Both had taken the lease over; the older one read the journal only when the newer one had begun, and pushed that one out.
#[test]
fn an_older_epoch_cannot_go_on_where_a_newer_one_has_written() {
    on_sim(move |rt| async move {
        let store = Arc::new(MemStore::new());
        let open = || Journal::new(store.clone(), rt.clone(), "r".into());
        let (mut newer, mut older) = (open(), open());
        newer.append(2, By::Engine, "resumed", Map::new()).await.expect("appends");
        older.open().await.expect("opens");
        assert_eq!(older.append(1, By::Engine, "resumed", Map::new()).await, Err(JournalError::Stale { seq: 1 }));
        newer.append(2, By::Engine, "goes_on", Map::new()).await.expect("appends");
        let mut next = open();
        next.open().await.expect("opens");
        next.append(3, By::Engine, "resumed", Map::new()).await.expect("appends");
    });
}

#[test]
fn patience_with_a_silent_database_ends() {
    let db = Arc::new(Scripted::default());
    lock(&db.script).extend((0..100).map(|_| (unknown(), false)));
    on_sim(move |rt| async move {
        let store = ClusterStore::new(db, rt.clone(), "r");
        let mut journal = Journal::new(Arc::new(store), rt.clone(), "r".into());
        assert_eq!(journal.append(1, By::Engine, "a", Map::new()).await, Err(JournalError::Cluster(unknown())));
        assert!(rt.now() >= crate::runtime::Micros::from_secs(30));
    });
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn every_body_comes_back_from_its_line(
        at_ms in any::<i64>(), epoch in any::<i64>(), rollout in any::<String>(), kind in any::<String>(),
        body in prop::collection::btree_map(any::<String>(), any_json(), 0..4),
    ) {
        let body = body.into_iter().collect();
        let (by, prev, hash) = (By::Engine, GENESIS.to_owned(), String::new());
        let record = Record { seq: 1, at_ms, rollout, epoch, by, kind, body, prev, hash }.sealed();
        let line = record.line();
        prop_assert_eq!(crate::scrub::line(&line), line.as_str());
        prop_assert_eq!(Record::parse(line.as_bytes()), Ok(record));
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = scan(&bytes, None);
        prop_assert!(Record::parse(&bytes).is_err());
    }
}
