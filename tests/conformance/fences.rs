//! Fenced transactions, slots and sessions.

use bson::{RawBson, Timestamp, rawdoc};

use super::*;

fn ins(ns: &Ns, docs: Vec<RawDocumentBuf>) -> TxnOp {
    TxnOp::Insert { ns: ns.clone(), docs }
}
fn put(ns: &Ns, doc: RawDocumentBuf) -> TxnOp {
    TxnOp::Put { ns: ns.clone(), doc }
}
fn del(ns: &Ns, keys: Vec<Key>) -> TxnOp {
    TxnOp::Delete { ns: ns.clone(), keys }
}

pub async fn a_transaction_moves_its_slot(env: Env) -> R {
    let ns = env.ns("data");
    let opened = env.open("w", 3).await?;
    ensure!(opened.epoch == 3, "opened at epoch 3, found {}", opened.epoch);
    ensure!(opened.done <= opened.seq, "{opened:?}");
    let mut slot = opened.clone();
    let done = text(env.txn("w", &mut slot, &[ins(&ns, vec![rawdoc! { "_id": 1 }, rawdoc! { "_id": 2 }])]).await)?;
    ensure!(env.all(&ns, 10, done.at).await?.len() == 2, "the transaction's documents are not there");
    let bumped = env.bump("w", 3).await?;
    ensure!(bumped.done == opened.seq + 1, "committed at {}, done is {}", opened.seq, bumped.done);
    ensure!(bumped.seq > bumped.done, "a bump moves seq and leaves done: {bumped:?}");
    slot = bumped;
    text(env.txn("w", &mut slot, &[del(&ns, vec![Key::from(1), Key::from(77)])]).await)?;
    let bumped = env.bump("w", 3).await?;
    ensure!(bumped.done == slot.seq, "done is {} after a commit that made {}", bumped.done, slot.seq);
    let again = env.open("w", 3).await?;
    ensure!(again.seq > bumped.seq && again.done == bumped.done, "{bumped:?}, opened again {again:?}");
    Ok(())
}

pub async fn a_transaction_goes_on_only_with_the_bytes_it_expects(env: Env) -> R {
    let ns = env.ns("data");
    let written = env.insert(&ns, rawdoc! { "_id": 1, "v": 1 }).await?;
    let stored = text(env.db.read(&ns, &[Key::from(1)], written.at).await)?.docs.remove(0);
    ensure!(stored.is_some(), "what was inserted is not there");
    let expect = |n: i64, doc| TxnOp::Expect { ns: ns.clone(), key: Key::from(n), doc };
    let other = Some(rawdoc! { "_id": 1, "v": 1i64 }.into());
    let write = |n: i32| put(&ns, rawdoc! { "_id": n, "v": 2 });
    // Nothing of a transaction stays whose expectation does not hold, whichever way.
    for ops in [[expect(1, other), write(1)], [expect(1, None), write(1)], [expect(2, stored.clone()), write(2)]] {
        let mut slot = env.open("w", 1).await?;
        let refused = env.txn("w", &mut slot, &ops).await;
        ensure!(matches!(refused, Err(Failed::NotDone(Reason::Conflict(_)))), "{refused:?}");
        let all = env.all(&ns, 10, written.at).await?;
        ensure!(all.len() == 1 && all[0].1 == rawdoc! { "_id": 1, "v": 1 }, "{all:?}");
    }
    let mut slot = env.open("w", 1).await?;
    let done = text(env.txn("w", &mut slot, &[expect(1, stored), write(1), expect(2, None), write(2)]).await)?;
    let all = env.all(&ns, 10, done.at).await?;
    ensure!(all.len() == 2 && all[0].1 == rawdoc! { "_id": 1, "v": 2 }, "{all:?}");
    let mut slot = env.bump("w", 1).await?;
    let gone = [expect(1, Some(rawdoc! { "_id": 1, "v": 2 }.into())), del(&ns, vec![Key::from(1)])];
    let done = text(env.txn("w", &mut slot, &gone).await)?;
    ensure!(env.all(&ns, 10, done.at).await?.len() == 1, "what was expected was not deleted");
    Ok(())
}

pub async fn a_checkpoint_is_stored_with_its_transaction(env: Env) -> R {
    let ns = env.ns("data");
    let slot = env.open("w", 1).await?;
    ensure!(slot.checkpoint.is_none(), "a new slot has a checkpoint: {slot:?}");
    let one = rawdoc! { "upto": 7i64, "t": Timestamp { time: 5, increment: 1 } };
    let mut fence = env.fence("w", &slot);
    fence.checkpoint = Some(one.clone());
    text(env.db.transact(&fence, &[put(&ns, rawdoc! { "_id": 1 })]).await)?;
    // Refused as a duplicate: neither the document nor the checkpoint may stay.
    fence.seq += 1;
    fence.checkpoint = Some(rawdoc! { "upto": 8i64 });
    let dup = env.db.transact(&fence, &[ins(&ns, vec![rawdoc! { "_id": 2 }, rawdoc! { "_id": 1 }])]).await;
    ensure!(is_duplicate(&dup), "{dup:?}");
    let slot = env.bump("w", 1).await?;
    ensure!(slot.checkpoint == Some(one.clone()), "{:?}", slot.checkpoint);
    // Without one, the stored one stays; a transaction may have nothing but its checkpoint.
    let mut moved = slot;
    text(env.txn("w", &mut moved, &[put(&ns, rawdoc! { "_id": 1, "v": 2 })]).await)?;
    let slot = env.bump("w", 1).await?;
    ensure!(slot.checkpoint == Some(one), "{:?}", slot.checkpoint);
    let mut fence = env.fence("w", &slot);
    fence.checkpoint = Some(rawdoc! { "upto": 9i64 });
    text(env.db.transact(&fence, &[]).await)?;
    let slot = env.open("w", 2).await?;
    ensure!(slot.checkpoint == Some(rawdoc! { "upto": 9i64 }), "{:?}", slot.checkpoint);
    Ok(())
}

pub async fn a_bump_refuses_the_older_sequence(env: Env) -> R {
    let ns = env.ns("data");
    let old = env.open("w", 1).await?;
    let new = env.bump("w", 1).await?;
    ensure!(new.seq > old.seq && new.session == old.session, "{old:?} bumped to {new:?}");
    let late = env.db.transact(&env.fence("w", &old), &[ins(&ns, vec![rawdoc! { "_id": 1 }])]).await;
    ensure!(is_conflict(&late), "{late:?}");
    ensure!(env.all(&ns, 10, ClusterTime::ZERO).await?.is_empty(), "a refused transaction wrote");
    // The same sequence number twice.
    text(env.db.transact(&env.fence("w", &new), &[ins(&ns, vec![rawdoc! { "_id": 1 }])]).await)?;
    let twice = env.db.transact(&env.fence("w", &new), &[ins(&ns, vec![rawdoc! { "_id": 2 }])]).await;
    ensure!(is_conflict(&twice), "{twice:?}");
    Ok(())
}

pub async fn a_newer_epoch_fences_out(env: Env) -> R {
    let ns = env.ns("data");
    let old = env.open("w", 1).await?;
    let new = env.open("w", 4).await?;
    ensure!(new.seq > old.seq && new.epoch == 4, "{old:?} then {new:?}");
    let late = env.db.transact(&env.fence("w", &old), &[put(&ns, rawdoc! { "_id": 1 })]).await;
    ensure!(matches!(late, Err(Failed::Fenced { newer: 4 })), "{late:?}");
    // Even when the sequence number would fit.
    let mut fence = env.fence("w", &new);
    fence.epoch = 3;
    let late = env.db.transact(&fence, &[put(&ns, rawdoc! { "_id": 1 })]).await;
    ensure!(matches!(late, Err(Failed::Fenced { newer: 4 })), "{late:?}");
    for op in [AdminOp::OpenSlot { slot: env.slot("w"), epoch: 3 }, AdminOp::BumpSlot { slot: env.slot("w"), epoch: 3 }]
    {
        let r = env.db.admin(&op).await;
        ensure!(matches!(r, Err(Failed::Fenced { newer: 4 })), "{op:?}: {r:?}");
    }
    ensure!(env.all(&ns, 10, ClusterTime::ZERO).await?.is_empty(), "a fenced transaction wrote");
    text(env.db.transact(&env.fence("w", &new), &[put(&ns, rawdoc! { "_id": 1 })]).await)?;
    Ok(())
}

pub async fn a_transaction_without_a_slot_does_nothing(env: Env) -> R {
    let ns = env.ns("data");
    let mut fence = env.fence("other", &env.open("w", 1).await?);
    let r = env.db.transact(&fence, &[put(&ns, rawdoc! { "_id": 1 })]).await;
    ensure!(is_conflict(&r), "{r:?}");
    // An epoch that the slot has not reached is no better.
    fence = env.fence("w", &env.bump("w", 1).await?);
    fence.epoch = 2;
    let r = env.db.transact(&fence, &[put(&ns, rawdoc! { "_id": 1 })]).await;
    ensure!(is_conflict(&r), "{r:?}");
    ensure!(env.all(&ns, 10, ClusterTime::ZERO).await?.is_empty(), "something was written");
    Ok(())
}

pub async fn a_duplicate_key_aborts_everything(env: Env) -> R {
    let ns = env.ns("data");
    env.insert(&ns, rawdoc! { "_id": 5, "v": "app" }).await?;
    let mut slot = env.open("w", 1).await?;
    for clash in [rawdoc! { "_id": 5, "v": "x" }, rawdoc! { "_id": 5.0, "v": "x" }] {
        let ops = [put(&ns, rawdoc! { "_id": 8 }), ins(&ns, vec![rawdoc! { "_id": 4 }, clash, rawdoc! { "_id": 6 }])];
        let r = env.txn("w", &mut slot, &ops).await;
        ensure!(is_duplicate(&r), "{r:?}");
    }
    let twice = env.txn("w", &mut slot, &[ins(&ns, vec![rawdoc! { "_id": 9 }, rawdoc! { "_id": 9 }])]).await;
    ensure!(is_duplicate(&twice), "{twice:?}");
    let all = env.all(&ns, 10, ClusterTime::ZERO).await?;
    ensure!(all.len() == 1 && all[0].1 == rawdoc! { "_id": 5, "v": "app" }, "{all:?}");
    // The slot has not moved, so the same sequence number still commits.
    text(env.txn("w", &mut slot, &[ins(&ns, vec![rawdoc! { "_id": 6 }])]).await)?;
    Ok(())
}

pub async fn statements_of_a_transaction_see_each_other(env: Env) -> R {
    let ns = env.ns("data");
    env.insert(&ns, rawdoc! { "_id": 1, "v": "old" }).await?;
    let mut slot = env.open("w", 1).await?;
    let ops = [
        del(&ns, vec![Key::from(1)]),
        ins(&ns, vec![rawdoc! { "_id": 1.0, "v": "new" }, rawdoc! { "_id": 2 }]),
        put(&ns, rawdoc! { "_id": 2, "v": "put" }),
        ins(&ns, vec![rawdoc! { "_id": 3 }]),
        del(&ns, vec![Key::from(3)]),
    ];
    let done = text(env.txn("w", &mut slot, &ops).await)?;
    let all: Vec<RawDocumentBuf> = env.all(&ns, 10, done.at).await?.into_iter().map(|(_, d)| d).collect();
    ensure!(all == [rawdoc! { "_id": 1.0, "v": "new" }, rawdoc! { "_id": 2, "v": "put" }], "{all:?}");
    Ok(())
}

pub async fn a_put_is_byte_for_byte(env: Env) -> R {
    let ns = env.ns("data");
    let mut slot = env.open("w", 1).await?;
    let odd = |v: i32| {
        rawdoc! {
            "z": 1, "_id": { "b": 1, "a": 2i64 }, "zero": Timestamp { time: 0, increment: 0 }, "price": "$9.99", "v": v,
            "nested": { "$set": 1, "a.b": RawBson::Null, "": "" }, "list": ["$x", { "$y": 2.0 }],
        }
    };
    // A server moves `_id` to the front of what it stores; everything after it must be as given.
    for doc in [odd(1), odd(2), rawdoc! { "_id": 1, "zero": Timestamp { time: 0, increment: 0 }, "x": "$$ROOT" }] {
        let front = front_id(&doc)?;
        let done = text(env.txn("w", &mut slot, &[put(&ns, front.clone())]).await)?;
        let key = Key::of(&front).map_err(|e| e.to_string())?;
        let got = env.get(&ns, &key, done.at).await?;
        ensure!(got.as_ref().map(|d| d.as_bytes()) == Some(front.as_bytes()), "put {front:?}, read {got:?}");
    }
    Ok(())
}

/// Writes `doc` only over `was`.
fn swap(ns: &Ns, was: &RawDocumentBuf, doc: RawDocumentBuf) -> Vec<TxnOp> {
    let key = Key::of(was).unwrap();
    vec![TxnOp::Expect { ns: ns.clone(), key, doc: Some(was.clone().into()) }, put(ns, doc)]
}

pub async fn a_swap_writes_only_over_the_bytes_it_expects(env: Env) -> R {
    let (ns, other) = (env.ns("data"), env.ns("other"));
    let was = rawdoc! { "_id": 1, "a": 1, "b": 2, "zero": { "x": 1 } };
    env.insert(&ns, was.clone()).await?;
    env.insert(&ns, rawdoc! { "_id": 2, "a": 1 }).await?;
    let mut slot = env.open("w", 1).await?;
    let swap = |was: &RawDocumentBuf, doc| swap(&ns, was, doc);
    // Equal to a server's eye is not enough: another numeric type, another order of fields, nothing there at all.
    for wrong in [
        rawdoc! { "_id": 1, "a": 1.0, "b": 2, "zero": { "x": 1 } },
        rawdoc! { "_id": 1, "b": 2, "a": 1, "zero": { "x": 1 } },
        rawdoc! { "_id": 1, "a": 1, "b": 2 },
        rawdoc! { "_id": 3, "a": 1 },
    ] {
        let good = rawdoc! { "_id": 2, "a": 1 };
        let ops = [
            vec![ins(&other, vec![rawdoc! { "_id": 9 }])],
            swap(&good, rawdoc! { "_id": 2, "a": "swapped" }),
            swap(&wrong, rawdoc! { "_id": 1, "a": "swapped" }),
        ];
        let r = env.txn("w", &mut slot, &ops.concat()).await;
        ensure!(is_conflict(&r), "{wrong:?}: {r:?}");
        slot = env.bump("w", 1).await?;
    }
    let left = env.all(&ns, 10, ClusterTime::ZERO).await?;
    ensure!(left.len() == 2 && left[0].1 == was && left[1].1 == rawdoc! { "_id": 2, "a": 1 }, "{left:?}");
    ensure!(env.all(&other, 10, ClusterTime::ZERO).await?.is_empty(), "a refused transaction wrote");
    // One after the other in one transaction, each over what the one before has left; bytes as given.
    let second = rawdoc! { "_id": 1, "t": Timestamp { time: 0, increment: 0 }, "$odd": 1 };
    let third = rawdoc! { "_id": 1, "b": 1.0, "a": 2i64 };
    let ops = [swap(&was, second.clone()), swap(&second, third.clone()), vec![put(&other, rawdoc! { "_id": 9 })]];
    let done = text(env.txn("w", &mut slot, &ops.concat()).await)?;
    let got = env.get(&ns, &Key::from(1), done.at).await?;
    ensure!(got.as_ref().map(|d| d.as_bytes()) == Some(third.as_bytes()), "{got:?}");
    Ok(())
}

/// An application adds one by compare-and-set, tidegate adds a hundred by swaps, each as fast as it can.
pub async fn a_swap_and_plain_writes_lose_nothing_of_each_other(env: Env) -> R {
    const ROUNDS: i64 = 25;
    let ns = env.ns("data");
    env.insert(&ns, rawdoc! { "_id": 1, "n": 0i64 }).await?;
    let n_of = |d: &RawDocument| match field(d, "n") {
        Some(RawBson::Int64(n)) => Ok(n),
        other => Err(format!("{other:?}")),
    };
    let application = async {
        let mut done = 0;
        while done < ROUNDS {
            let Some(d) = env.get(&ns, &Key::from(1), ClusterTime::ZERO).await? else { return Err("gone".to_owned()) };
            let n = n_of(&d)?;
            let only_if = Some(Expect { field: "n", value: bson::Bson::Int64(n) });
            let op = WriteOp::Replace {
                ns: ns.clone(),
                key: Key::from(1),
                only_if,
                doc: rawdoc! { "_id": 1, "n": n + 1 },
                upsert: false,
            };
            match env.db.write(&op).await {
                Ok(w) => done += w.matched as i64,
                Err(Failed::NotDone(Reason::Conflict(_))) => {}
                Err(e) => return Err(e.to_string()),
            }
        }
        Ok(())
    };
    let tidegate = async {
        let mut slot = env.open("w", 1).await?;
        let mut done = 0;
        while done < ROUNDS {
            let Some(d) = env.get(&ns, &Key::from(1), ClusterTime::ZERO).await? else { return Err("gone".to_owned()) };
            let doc = rawdoc! { "_id": 1, "n": n_of(&d)? + 100 };
            let r = env.txn("w", &mut slot, &swap(&ns, &d, doc)).await;
            match r {
                Ok(_) => done += 1,
                Err(Failed::NotDone(Reason::Conflict(_))) => slot = env.bump("w", 1).await?,
                Err(e) => return Err(e.to_string()),
            }
        }
        Ok(())
    };
    let (a, b) = futures_util::future::join(application, tidegate).await;
    a.and(b)?;
    let all = env.all(&ns, 10, ClusterTime::ZERO).await?;
    ensure!(all.len() == 1 && n_of(&all[0].1)? == ROUNDS * 101, "{all:?}");
    Ok(())
}

/// The document with its `_id` first.
fn front_id(doc: &RawDocumentBuf) -> R<RawDocumentBuf> {
    let mut out = RawDocumentBuf::new();
    let id = field(doc, "_id").ok_or("no _id")?;
    out.append(bson::cstr!("_id"), id);
    for item in doc {
        let (name, v) = item.map_err(|e| e.to_string())?;
        if name.as_str() != "_id" {
            out.append(name, v);
        }
    }
    Ok(out)
}

pub async fn a_deadline_that_has_passed_is_refused(env: Env) -> R {
    let ns = env.ns("data");
    let slot = env.open("w", 1).await?;
    tidegate::runtime::sleep(&env.rt, Micros::from_ms(2)).await;
    let mut fence = env.fence("w", &slot);
    fence.deadline = Micros(env.rt.now().0 - 1);
    let r = env.db.transact(&fence, &[put(&ns, rawdoc! { "_id": 1 })]).await;
    ensure!(matches!(r, Err(Failed::NotDone(Reason::Timeout(_)))), "{r:?}");
    ensure!(env.all(&ns, 10, ClusterTime::ZERO).await?.is_empty(), "it was written all the same");
    Ok(())
}

pub async fn bump_all_moves_every_slot_of_the_rollout(env: Env) -> R {
    let ns = env.ns("data");
    let (a, b) = (env.open("a", 1).await?, env.open("b", 1).await?);
    // A rollout whose name starts with this one's is another rollout.
    let other = format!("{}2/a", env.name);
    let stranger = env.slot_op(AdminOp::OpenSlot { slot: other.clone(), epoch: 1 }).await?;
    env.admin(AdminOp::BumpAll { rollout: env.name.clone(), epoch: 2 }).await?;
    for (w, slot) in [("a", &a), ("b", &b)] {
        let r = env.db.transact(&env.fence(w, slot), &[put(&ns, rawdoc! { "_id": w })]).await;
        ensure!(matches!(r, Err(Failed::Fenced { newer: 2 })), "{w}: {r:?}");
        let now = env.open(w, 2).await?;
        ensure!(now.seq > slot.seq + 1 && now.done == slot.done, "{slot:?} then {now:?}");
    }
    let mut fence = env.fence("a", &stranger);
    fence.slot = other;
    text(env.db.transact(&fence, &[put(&ns, rawdoc! { "_id": "stranger" })]).await)?;
    // Again is fine; an older epoch is not.
    env.admin(AdminOp::BumpAll { rollout: env.name.clone(), epoch: 2 }).await?;
    let r = env.db.admin(&AdminOp::BumpAll { rollout: env.name.clone(), epoch: 1 }).await;
    ensure!(matches!(r, Err(Failed::Fenced { newer: 2 })), "{r:?}");
    Ok(())
}

/// A slot that was not there yet could not be bumped; it must not be opened under the older epoch either.
pub async fn an_older_runner_opens_no_slot_after_a_take_over(env: Env) -> R {
    let ns = env.ns("data");
    env.admin(AdminOp::BumpAll { rollout: env.name.clone(), epoch: 2 }).await?;
    let r = env.db.admin(&AdminOp::OpenSlot { slot: env.slot("late"), epoch: 1 }).await;
    ensure!(matches!(r, Err(Failed::Fenced { newer: 2 })), "{r:?}");
    let mut slot = env.open("late", 2).await?;
    text(env.txn("late", &mut slot, &[put(&ns, rawdoc! { "_id": 1 })]).await)?;
    Ok(())
}

pub async fn sessions_are_listed(env: Env) -> R {
    let sessions = |done| match done {
        AdminDone::Sessions(s) => Ok(s),
        other => Err(format!("{other:?}")),
    };
    let none = sessions(env.admin(AdminOp::Sessions { rollout: env.name.clone() }).await?)?;
    ensure!(none.is_empty(), "{none:?}");
    let (a, b) = (env.open("a", 1).await?, env.open("b", 1).await?);
    ensure!(a.session != b.session, "two workers share a session");
    env.admin(AdminOp::BumpAll { rollout: env.name.clone(), epoch: 2 }).await?;
    let a2 = env.open("a", 2).await?;
    let all = sessions(env.admin(AdminOp::Sessions { rollout: env.name.clone() }).await?)?;
    for s in [a.session, b.session, a2.session] {
        ensure!(all.contains(&s), "{s:?} is not among {all:?}");
    }
    let other = sessions(env.admin(AdminOp::Sessions { rollout: format!("{}2", env.name) }).await?)?;
    ensure!(other.is_empty(), "{other:?}");
    Ok(())
}
