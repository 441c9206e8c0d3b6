//! Scans, reads and plain writes.

use bson::{Decimal128, RawBson, Timestamp, oid::ObjectId, rawbson, rawdoc};

use super::*;

fn dec(text: &str) -> R<RawBson> {
    text.parse::<Decimal128>().map(RawBson::Decimal128).map_err(|e| e.to_string())
}

/// One value of every type that can be an `_id`, in the server's order.
fn ids() -> R<Vec<RawBson>> {
    Ok(vec![
        RawBson::MinKey,
        RawBson::Null,
        rawbson!(f64::NAN),
        rawbson!(f64::NEG_INFINITY),
        rawbson!(i64::MIN),
        rawbson!(-7),
        dec("-6.5")?,
        rawbson!(-6i64),
        rawbson!(0),
        dec("0.1")?,
        rawbson!(0.1),
        rawbson!(1i64),
        rawbson!(1.5),
        dec("2")?,
        rawbson!(10),
        rawbson!(9_007_199_254_740_993i64),
        rawbson!(1e300),
        dec("9.9E+400")?,
        rawbson!(f64::INFINITY),
        rawbson!(""),
        rawbson!("A"),
        rawbson!("a"),
        rawbson!("a\0b"),
        rawbson!("ab"),
        rawbson!("ä"),
        rawbson!({}),
        rawbson!({"a": 1}),
        rawbson!({"a": 1, "b": 1}),
        rawbson!({"a": 2}),
        rawbson!({"b": 0}),
        rawbson!({"a": "x"}),
        RawBson::Binary(bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![9] }),
        RawBson::Binary(bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: vec![1; 16] }),
        RawBson::ObjectId(ObjectId::from_bytes([0; 12])),
        RawBson::ObjectId(ObjectId::from_bytes([200; 12])),
        rawbson!(false),
        rawbson!(true),
        RawBson::DateTime(bson::DateTime::from_millis(-5)),
        RawBson::DateTime(bson::DateTime::from_millis(5)),
        RawBson::Timestamp(Timestamp { time: 1, increment: 2 }),
        RawBson::Timestamp(Timestamp { time: 2, increment: 1 }),
        RawBson::JavaScriptCode("f()".into()),
        RawBson::MaxKey,
    ])
}

pub async fn a_scan_crosses_all_types_in_id_order(env: Env) -> R {
    let ns = env.ns("types");
    let ids = ids()?;
    let mut last = ClusterTime::ZERO;
    // Inserted in an order that is not the one expected back.
    for i in 0..ids.len() {
        let id = ids[(i * 17 + 5) % ids.len()].clone();
        last = env.insert(&ns, rawdoc! { "_id": id, "n": 1 }).await?.at;
    }
    for n in [1, 3, 1000] {
        let got = env.all(&ns, n, last).await?;
        ensure!(got.len() == ids.len(), "{} of {} documents in pages of {n}", got.len(), ids.len());
        for (have, want) in got.iter().zip(&ids) {
            let want = key(want.clone())?;
            ensure!(have.0 == want, "{} where {want} belongs, in pages of {n}", have.0);
            ensure!(Key::of(&have.1).as_ref() == Ok(&want), "the document under {want} is {:?}", have.1);
        }
    }
    Ok(())
}

pub async fn a_scan_resumes_after_a_key_that_is_gone(env: Env) -> R {
    let ns = env.ns("resume");
    let mut last = ClusterTime::ZERO;
    for n in 0..6 {
        last = env.insert(&ns, rawdoc! { "_id": n }).await?.at;
    }
    let first = env.page(&ns, None, docs(3), last).await?;
    ensure!(first.docs.len() == 3 && !first.end, "{first:?}");
    let boundary = first.docs[2].0.clone();
    last = env.delete(&ns, boundary.clone(), None).await?.at;
    let rest = env.page(&ns, Some(&boundary), docs(10), last).await?;
    let keys: Vec<String> = rest.docs.iter().map(|(k, _)| k.to_string()).collect();
    ensure!(keys == ["3", "4", "5"] && rest.end, "{keys:?}, end {}", rest.end);
    let none = env.page(&ns, Some(&key(5.0)?), docs(10), last).await?;
    ensure!(none.docs.is_empty() && none.end, "{none:?}");
    Ok(())
}

pub async fn a_scan_page_holds_at_least_one_document(env: Env) -> R {
    let ns = env.ns("big");
    let mut last = ClusterTime::ZERO;
    for n in 0..3 {
        last = env.insert(&ns, rawdoc! { "_id": n, "text": "x".repeat(4_000) }).await?.at;
    }
    let mut from = None;
    let mut seen = 0;
    loop {
        let page = env.page(&ns, from.as_ref(), PageLimit { docs: 100, bytes: 10 }, last).await?;
        seen += page.docs.len();
        if page.end {
            break;
        }
        from = page.docs.last().map(|(k, _)| k.clone());
    }
    ensure!(seen == 3, "{seen} of 3");
    Ok(())
}

pub async fn a_missing_collection_reads_as_empty(env: Env) -> R {
    let ns = env.ns("never");
    let page = env.page(&ns, None, docs(10), ClusterTime::ZERO).await?;
    ensure!(page.docs.is_empty() && page.end, "{page:?}");
    ensure!(env.get(&ns, &Key::from(1), ClusterTime::ZERO).await?.is_none(), "a document from nowhere");
    ensure!(env.delete(&ns, Key::from(1), None).await?.matched == 0, "deleted from nowhere");
    Ok(())
}

pub async fn a_read_after_a_write_sees_it(env: Env) -> R {
    let ns = env.ns("after");
    env.insert(&ns, rawdoc! { "_id": "k", "n": 0 }).await?;
    for n in 1..8 {
        let w = env.replace(&ns, rawdoc! { "_id": "k", "n": n }, None, false).await?;
        let got = env.get(&ns, &Key::from("k"), w.at).await?;
        ensure!(got == Some(rawdoc! { "_id": "k", "n": n }), "read {got:?} after writing {n}");
        let page = env.page(&ns, None, docs(10), w.at).await?;
        ensure!(page.docs[0].1 == rawdoc! { "_id": "k", "n": n }, "scanned {page:?} after writing {n}");
    }
    let w = env.delete(&ns, Key::from("k"), None).await?;
    ensure!(env.get(&ns, &Key::from("k"), w.at).await?.is_none(), "a deleted document was read");
    Ok(())
}

pub async fn a_key_of_another_numeric_type_is_the_same_key(env: Env) -> R {
    let ns = env.ns("numbers");
    let at = env.insert(&ns, rawdoc! { "_id": 5, "n": "int" }).await?.at;
    let keys = [key(5.0)?, key(7)?, key(5i64)?, key(dec("5.0")?)?, key("5")?];
    let read = text(env.db.read(&ns, &keys, at).await)?;
    let found: Vec<bool> = read.docs.iter().map(Option::is_some).collect();
    ensure!(found == [true, false, true, true, false], "{found:?}");
    let twice = env.try_insert(&ns, rawdoc! { "_id": 5.0 }).await;
    ensure!(is_duplicate(&twice), "5.0 beside 5: {twice:?}");
    let w = env.delete(&ns, key(5.0)?, None).await?;
    ensure!(w.matched == 1, "5.0 does not delete 5");
    ensure!(env.all(&ns, 10, w.at).await?.is_empty(), "something is left");
    Ok(())
}

pub async fn plain_writes_answer_what_they_matched(env: Env) -> R {
    let ns = env.ns("plain");
    let doc = rawdoc! { "_id": 1, "v": "a" };
    ensure!(env.replace(&ns, doc.clone(), None, false).await?.matched == 0, "replaced what is not there");
    ensure!(env.get(&ns, &Key::from(1), ClusterTime::ZERO).await?.is_none(), "a replace made a document");
    ensure!(env.replace(&ns, doc, None, true).await?.matched == 1, "an upsert that inserts is one document");
    let w = env.replace(&ns, rawdoc! { "_id": 1, "v": "b" }, None, true).await?;
    ensure!(w.matched == 1, "an upsert over a document matched {}", w.matched);
    ensure!(env.get(&ns, &Key::from(1), w.at).await? == Some(rawdoc! { "_id": 1, "v": "b" }), "not replaced");
    ensure!(env.delete(&ns, Key::from(2), None).await?.matched == 0, "deleted what is not there");
    ensure!(env.delete(&ns, Key::from(1), None).await?.matched == 1, "not deleted");
    ensure!(env.delete(&ns, Key::from(1), None).await?.matched == 0, "deleted twice");
    Ok(())
}

pub async fn compare_and_set_writes_only_what_it_expects(env: Env) -> R {
    let ns = env.ns("cas");
    env.insert(&ns, rawdoc! { "_id": "r", "epoch": 1i64 }).await?;
    let expect = |n: i64| Some(Expect { field: "epoch", value: bson::Bson::Int64(n) });
    let w = env.replace(&ns, rawdoc! { "_id": "r", "epoch": 9i64 }, expect(2), false).await?;
    ensure!(w.matched == 0, "wrote over another epoch");
    let w = env.replace(&ns, rawdoc! { "_id": "r", "epoch": 2i64 }, expect(1), false).await?;
    ensure!(w.matched == 1, "did not write over the expected epoch");
    ensure!(env.delete(&ns, Key::from("r"), expect(1)).await?.matched == 0, "deleted another epoch");
    let got = env.get(&ns, &Key::from("r"), w.at).await?;
    ensure!(got == Some(rawdoc! { "_id": "r", "epoch": 2i64 }), "{got:?}");
    // Numbers compare by value, whatever their type.
    let double = Some(Expect { field: "epoch", value: bson::Bson::Double(2.0) });
    ensure!(env.delete(&ns, Key::from("r"), double).await?.matched == 1, "did not delete the expected epoch");
    Ok(())
}

pub async fn a_duplicate_insert_is_not_done(env: Env) -> R {
    let ns = env.ns("dup");
    env.insert(&ns, rawdoc! { "_id": "k", "v": 1 }).await?;
    let again = env.try_insert(&ns, rawdoc! { "_id": "k", "v": 2 }).await;
    ensure!(is_duplicate(&again), "{again:?}");
    let all = env.all(&ns, 10, ClusterTime::ZERO).await?;
    ensure!(all.len() == 1 && all[0].1 == rawdoc! { "_id": "k", "v": 1 }, "{all:?}");
    Ok(())
}

pub async fn an_insert_creates_the_collection(env: Env) -> R {
    let (a, b) = (env.ns("by_write"), env.ns("by_txn"));
    env.insert(&a, rawdoc! { "_id": 1 }).await?;
    let mut slot = env.open("w", 1).await?;
    text(env.txn("w", &mut slot, &[TxnOp::Insert { ns: b.clone(), docs: vec![rawdoc! { "_id": 1 }] }]).await)?;
    for ns in [a, b] {
        let kind = env.admin(AdminOp::Kind { ns: ns.clone() }).await?;
        ensure!(matches!(kind, AdminDone::Kind(tidegate::cluster::CollKind::Collection)), "{ns} is {kind:?}");
    }
    Ok(())
}

pub async fn a_primary_tells_its_load(env: Env) -> R {
    let load = match env.admin(AdminOp::Load).await? {
        AdminDone::Load(load) => load,
        other => return Err(format!("{other:?}")),
    };
    for t in [load.read_tickets, load.write_tickets] {
        ensure!(t.is_some_and(|t| t.total > 0 && t.available <= t.total), "tickets {t:?}");
    }
    ensure!(load.queued.is_some(), "no queue");
    ensure!(load.cache_dirty.is_some_and(|x| (0.0..=1.0).contains(&x)), "dirty {:?}", load.cache_dirty);
    ensure!(load.cache_used.is_none_or(|x| (0.0..=1.5).contains(&x)), "used {:?}", load.cache_used);
    ensure!(load.flow_control.is_some_and(|f| !f.lagged), "flow control {:?}", load.flow_control);
    ensure!(load.conflicts.is_some(), "no count of conflicts");
    Ok(())
}

pub async fn latencies_are_counted_by_collection(env: Env) -> R {
    let (ns, other) = (env.ns("timed"), env.ns("other"));
    env.insert(&ns, rawdoc! { "_id": 0 }).await?;
    let told = async || match env.admin(AdminOp::Latency { ns: ns.clone() }).await? {
        AdminDone::Latency(Some(counts)) => Ok(counts),
        other => Err(format!("{other:?}")),
    };
    let before = told().await?;
    for n in 1..=20 {
        env.insert(&ns, rawdoc! { "_id": n }).await?;
        env.insert(&other, rawdoc! { "_id": n }).await?;
    }
    env.all(&ns, 10, ClusterTime::ZERO).await?;
    let now = told().await?;
    let new = now.since(&before).ok_or("the counters went back")?;
    let sum = |classes: &[(Micros, u64)]| classes.iter().map(|(_, n)| n).sum::<u64>();
    ensure!(sum(&new.writes) == 20, "20 writes, {:?}", new.writes);
    ensure!(sum(&new.reads) >= 2, "two pages and more, {:?}", new.reads);
    ensure!(new.writes.windows(2).all(|w| w[0].0 < w[1].0), "rising, {:?}", new.writes);
    ensure!(before.since(&now).is_none(), "earlier counts are no later ones");
    Ok(())
}

pub async fn observe_reaches_the_last_write(env: Env) -> R {
    let ns = env.ns("seen");
    for n in 0..3 {
        let w = env.insert(&ns, rawdoc! { "_id": n }).await?;
        let seen = text(env.db.observe().await)?;
        ensure!(seen.majority >= w.at, "majority at {} after a majority write at {}", seen.majority, w.at);
        ensure!(!seen.members.is_empty(), "no members");
        ensure!(seen.members.iter().any(|m| m.state == "PRIMARY"), "no primary among {:?}", seen.members);
        ensure!(seen.server_ms > 0, "no server clock");
    }
    Ok(())
}
