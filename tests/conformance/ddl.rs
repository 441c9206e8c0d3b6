//! Collections, indexes, validators, renames and views.

use bson::{doc, rawdoc};
use tidegate::cluster::{CollKind, IndexSpec, Validation};

use super::*;

async fn kind(env: &Env, ns: &Ns) -> R<CollKind> {
    match env.admin(AdminOp::Kind { ns: ns.clone() }).await? {
        AdminDone::Kind(k) => Ok(k),
        other => Err(format!("{other:?}")),
    }
}

async fn indexes(env: &Env, ns: &Ns) -> R<Vec<IndexSpec>> {
    match env.admin(AdminOp::Indexes { ns: ns.clone() }).await? {
        AdminDone::Indexes(i) => Ok(i),
        other => Err(format!("{other:?}")),
    }
}

pub async fn create_is_idempotent(env: Env) -> R {
    let ns = env.ns("made");
    ensure!(kind(&env, &ns).await? == CollKind::Absent, "there before it was made");
    for _ in 0..2 {
        env.admin(AdminOp::Create { ns: ns.clone() }).await?;
        ensure!(kind(&env, &ns).await? == CollKind::Collection, "not made");
    }
    env.insert(&ns, rawdoc! { "_id": 1 }).await?;
    env.admin(AdminOp::Create { ns: ns.clone() }).await?;
    ensure!(env.all(&ns, 10, ClusterTime::ZERO).await?.len() == 1, "creating again lost a document");
    Ok(())
}

pub async fn indexes_are_listed_and_enforced(env: Env) -> R {
    let ns = env.ns("indexed");
    ensure!(indexes(&env, &ns).await?.is_empty(), "indexes of nothing");
    let by_u = IndexSpec { name: "by_u".into(), keys: doc! { "u": 1 }, unique: true, options: doc! {} };
    let by_ab = IndexSpec { name: "by_ab".into(), keys: doc! { "a": 1, "b": -1 }, unique: false, options: doc! {} };
    for index in [&by_u, &by_ab, &by_u] {
        env.admin(AdminOp::CreateIndex { ns: ns.clone(), index: index.clone() }).await?;
    }
    let listed = indexes(&env, &ns).await?;
    ensure!(listed.len() == 3 && listed.iter().any(|i| i.name == "_id_"), "{listed:?}");
    for want in [&by_u, &by_ab] {
        let found = listed.iter().find(|i| i.name == want.name);
        ensure!(found == Some(want), "made {want:?}, listed {found:?}");
    }
    let other = IndexSpec { name: "by_u".into(), keys: doc! { "x": 1 }, unique: false, options: doc! {} };
    let r = env.db.admin(&AdminOp::CreateIndex { ns: ns.clone(), index: other }).await;
    ensure!(is_refused(&r), "another definition under the same name: {r:?}");

    env.insert(&ns, rawdoc! { "_id": 1, "u": 5 }).await?;
    env.insert(&ns, rawdoc! { "_id": 2, "u": 6 }).await?;
    for u in [bson::RawBson::Int32(5), bson::RawBson::Double(5.0)] {
        let r = env.try_insert(&ns, rawdoc! { "_id": 3, "u": u }).await;
        ensure!(is_duplicate(&r), "{r:?}");
    }
    let replace = WriteOp::Replace {
        ns: ns.clone(),
        key: Key::from(2),
        only_if: None,
        doc: rawdoc! { "_id": 2, "u": 5 },
        upsert: false,
    };
    let r = env.db.write(&replace).await;
    ensure!(is_duplicate(&r), "{r:?}");
    let mut slot = env.open("w", 1).await?;
    let ops = [
        TxnOp::Put { ns: ns.clone(), doc: rawdoc! { "_id": 8, "u": 8 } },
        TxnOp::Put { ns: ns.clone(), doc: rawdoc! { "_id": 9, "u": 6 } },
    ];
    let r = env.txn("w", &mut slot, &ops).await;
    ensure!(is_duplicate(&r), "{r:?}");
    // What a transaction deletes first does not stand in the way.
    let ops = [
        TxnOp::Delete { ns: ns.clone(), keys: vec![Key::from(1), Key::from(2)] },
        TxnOp::Insert { ns: ns.clone(), docs: vec![rawdoc! { "_id": 1, "u": 6 }, rawdoc! { "_id": 2, "u": 5 }] },
    ];
    text(env.txn("w", &mut slot, &ops).await)?;
    // A missing field is null, and null is unique too.
    env.insert(&ns, rawdoc! { "_id": 10 }).await?;
    let r = env.try_insert(&ns, rawdoc! { "_id": 11 }).await;
    ensure!(is_duplicate(&r), "{r:?}");
    Ok(())
}

pub async fn an_index_is_dropped_by_name(env: Env) -> R {
    let ns = env.ns("dropped_index");
    let drop = |name: &str| AdminOp::DropIndex { ns: ns.clone(), name: name.into() };
    env.admin(drop("by_u")).await?;
    let by_u = IndexSpec { name: "by_u".into(), keys: doc! { "u": 1 }, unique: true, options: doc! {} };
    let sparse = IndexSpec { options: doc! { "sparse": true }, ..by_u.clone() };
    env.admin(AdminOp::CreateIndex { ns: ns.clone(), index: sparse.clone() }).await?;
    let listed = indexes(&env, &ns).await?;
    ensure!(listed.contains(&sparse), "options are not listed: {listed:?}");
    env.insert(&ns, rawdoc! { "_id": 1, "u": 5 }).await?;
    for _ in 0..2 {
        env.admin(drop("by_u")).await?;
        ensure!(indexes(&env, &ns).await?.len() == 1, "still there");
    }
    env.insert(&ns, rawdoc! { "_id": 2, "u": 5 }).await?;
    let r = env.db.admin(&drop("_id_")).await;
    ensure!(is_refused(&r), "{r:?}");
    let r = env.db.admin(&AdminOp::CreateIndex { ns: ns.clone(), index: by_u }).await;
    ensure!(r.is_err(), "a unique index over duplicates: {r:?}");
    Ok(())
}

pub async fn a_unique_index_refuses_existing_duplicates(env: Env) -> R {
    let ns = env.ns("dups");
    env.insert(&ns, rawdoc! { "_id": 1, "u": 5 }).await?;
    env.insert(&ns, rawdoc! { "_id": 2, "u": 5 }).await?;
    let index = IndexSpec { name: "by_u".into(), keys: doc! { "u": 1 }, unique: true, options: doc! {} };
    let r = env.db.admin(&AdminOp::CreateIndex { ns: ns.clone(), index }).await;
    ensure!(is_duplicate(&r) || is_refused(&r), "{r:?}");
    ensure!(indexes(&env, &ns).await?.len() == 1, "the index was made all the same");
    Ok(())
}

pub async fn a_validator_refuses_plain_writes_only(env: Env) -> R {
    let ns = env.ns("guarded");
    let r = env.db.admin(&AdminOp::SetValidator { ns: ns.clone(), validator: Some(doc! { "ok": 1 }) }).await;
    ensure!(is_refused(&r), "a validator on nothing: {r:?}");
    env.insert(&ns, rawdoc! { "_id": 1, "state": "open" }).await?;
    let set = |v| AdminOp::SetValidator { ns: ns.clone(), validator: v };
    for v in
        [doc! { "state": "done" }, doc! { "_id": { "$exists": false } }, doc! { "$jsonSchema": { "required": ["x"] } }]
    {
        env.admin(set(Some(v.clone()))).await?;
        let r = env.try_insert(&ns, rawdoc! { "_id": 2, "state": "open" }).await;
        ensure!(is_refused(&r), "{v}: {r:?}");
        let replace = WriteOp::Replace {
            ns: ns.clone(),
            key: Key::from(1),
            only_if: None,
            doc: rawdoc! { "_id": 1, "state": "other" },
            upsert: false,
        };
        let r = env.db.write(&replace).await;
        ensure!(is_refused(&r), "{v}: {r:?}");
    }
    // tidegate's own transactions pass it, and deletes are not covered.
    let mut slot = env.open("w", 1).await?;
    let ops = [
        TxnOp::Insert { ns: ns.clone(), docs: vec![rawdoc! { "_id": 3 }] },
        TxnOp::Put { ns: ns.clone(), doc: rawdoc! { "_id": 4, "zero": bson::Timestamp { time: 0, increment: 0 } } },
        TxnOp::Put { ns: ns.clone(), doc: rawdoc! { "_id": 1, "state": "put" } },
    ];
    text(env.txn("w", &mut slot, &ops).await)?;
    ensure!(env.delete(&ns, Key::from(3), None).await?.matched == 1, "a delete was refused");
    env.admin(set(Some(doc! { "state": "done" }))).await?;
    env.insert(&ns, rawdoc! { "_id": 5, "state": "done" }).await?;
    for _ in 0..2 {
        env.admin(set(None)).await?;
    }
    env.insert(&ns, rawdoc! { "_id": 6 }).await?;
    Ok(())
}

async fn validation(env: &Env, ns: &Ns) -> R<Validation> {
    match env.admin(AdminOp::Validation { ns: ns.clone() }).await? {
        AdminDone::Validation(v) => Ok(v),
        other => Err(format!("{other:?}")),
    }
}

pub async fn validation_is_read_back_as_it_was_set(env: Env) -> R {
    let ns = env.ns("read_back");
    let r = env.db.admin(&AdminOp::Validation { ns: ns.clone() }).await;
    ensure!(is_refused(&r), "the validation of nothing: {r:?}");
    env.admin(AdminOp::Create { ns: ns.clone() }).await?;
    ensure!(validation(&env, &ns).await? == Validation::strict(None), "of a new collection");
    let rules =
        doc! { "$jsonSchema": { "required": ["b", "a"], "bsonType": "object" }, "n": { "$in": [1, 2_i64, 3.0] } };
    for (level, action) in [("moderate", "error"), ("strict", "warn"), ("off", "error"), ("strict", "error")] {
        let set = Validation { validator: Some(rules.clone()), level: level.into(), action: action.into() };
        for _ in 0..2 {
            env.admin(AdminOp::SetValidation { ns: ns.clone(), validation: set.clone() }).await?;
        }
        let found = validation(&env, &ns).await?;
        ensure!(found == set && format!("{found:?}") == format!("{set:?}"), "set {set:?}, found {found:?}");
        let r = env.try_insert(&ns, rawdoc! { "_id": format!("{level}/{action}") }).await;
        ensure!(is_refused(&r) == (level != "off" && action == "error"), "{set:?}: {r:?}");
    }
    // A document that was not valid before may be changed under `moderate` only.
    for (level, may) in [("moderate", true), ("strict", false)] {
        let set = Validation { validator: Some(rules.clone()), level: level.into(), action: "error".into() };
        env.admin(AdminOp::SetValidation { ns: ns.clone(), validation: set }).await?;
        let doc = rawdoc! { "_id": "off/error", "changed": level };
        let op = WriteOp::Replace { ns: ns.clone(), key: Key::from("off/error"), only_if: None, doc, upsert: false };
        let r = env.db.write(&op).await;
        ensure!(r.is_ok() == may, "{level}: {r:?}");
    }
    env.admin(AdminOp::SetValidator { ns: ns.clone(), validator: None }).await?;
    ensure!(validation(&env, &ns).await? == Validation::strict(None), "after it was taken away");
    Ok(())
}

pub async fn a_validator_of_buckets_refuses_by_the_hash_of_the_id(env: Env) -> R {
    let ns = env.ns("buckets");
    env.admin(AdminOp::Create { ns: ns.clone() }).await?;
    let hash = doc! { "$toHashedIndexKey": "$_id" };
    let at = |b: i64| i64::MIN.wrapping_add(b << 54);
    let outside = doc! { "$or": [{ "$lt": [hash.clone(), at(300)] }, { "$gte": [hash.clone(), at(700)] }] };
    let validator = doc! { "$and": [{ "kept": true }, { "$comment": "c", "$expr": { "$and": [true, outside] } }] };
    env.admin(AdminOp::SetValidator { ns: ns.clone(), validator: Some(validator) }).await?;
    // Their buckets stand in docs/routing.md.
    for (id, bucket) in
        [(RawBson::Int32(5), 760), (RawBson::Int32(-7), 46), ("a".into(), 666), ("customer 7".into(), 357)]
    {
        for kept in [false, true] {
            let r = env.try_insert(&ns, rawdoc! { "_id": id.clone(), "kept": kept }).await;
            let wanted = kept && !(300..700).contains(&bucket);
            ensure!(r.is_ok() == wanted && is_refused(&r) != wanted, "{id:?} in bucket {bucket}, {kept}: {r:?}");
        }
    }
    Ok(())
}

pub async fn a_rename_is_idempotent(env: Env) -> R {
    let (from, to) = (env.ns("old"), env.ns("new"));
    let rename = AdminOp::Rename { from: from.clone(), to: to.clone() };
    let r = env.db.admin(&rename).await;
    ensure!(is_refused(&r), "renamed nothing: {r:?}");
    let index = IndexSpec { name: "by_u".into(), keys: doc! { "u": 1 }, unique: true, options: doc! {} };
    env.admin(AdminOp::CreateIndex { ns: from.clone(), index }).await?;
    env.insert(&from, rawdoc! { "_id": 1, "u": 1 }).await?;
    for _ in 0..2 {
        env.admin(rename.clone()).await?;
        ensure!(kind(&env, &from).await? == CollKind::Absent, "the old name is still there");
        ensure!(env.all(&to, 10, ClusterTime::ZERO).await?.len() == 1, "the documents did not move");
    }
    ensure!(indexes(&env, &to).await?.len() == 2, "the indexes did not move");
    let r = env.try_insert(&to, rawdoc! { "_id": 2, "u": 1 }).await;
    ensure!(is_duplicate(&r), "{r:?}");
    // A late insert under the old name makes a new collection, which then stands in the way.
    env.insert(&from, rawdoc! { "_id": 9 }).await?;
    let r = env.db.admin(&rename).await;
    ensure!(is_refused(&r), "renamed over a collection: {r:?}");
    let r = env.db.admin(&AdminOp::Rename { from, to: Ns::new(&format!("{}x", env.name), "new") }).await;
    ensure!(is_refused(&r), "renamed into another database: {r:?}");
    Ok(())
}

pub async fn an_empty_view_refuses_writes(env: Env) -> R {
    let (view, on) = (env.ns("orders"), env.ns("orders_old"));
    env.insert(&on, rawdoc! { "_id": 1 }).await?;
    for _ in 0..2 {
        env.admin(AdminOp::CreateEmptyView { ns: view.clone(), on: on.clone() }).await?;
        ensure!(kind(&env, &view).await? == CollKind::View, "no view");
    }
    let r = env.try_insert(&view, rawdoc! { "_id": 2 }).await;
    ensure!(is_refused(&r), "{r:?}");
    let doc = rawdoc! { "_id": 1, "v": 1 };
    for op in [
        WriteOp::Replace { ns: view.clone(), key: Key::from(1), only_if: None, doc, upsert: true },
        WriteOp::Delete { ns: view.clone(), key: Key::from(1), only_if: None },
    ] {
        let r = env.db.write(&op).await;
        ensure!(is_refused(&r), "{op:?}: {r:?}");
    }
    let mut slot = env.open("w", 1).await?;
    let r = env.txn("w", &mut slot, &[TxnOp::Insert { ns: view.clone(), docs: vec![rawdoc! { "_id": 3 }] }]).await;
    ensure!(is_refused(&r), "{r:?}");
    ensure!(env.all(&on, 10, ClusterTime::ZERO).await?.len() == 1, "something came through the view");
    let r = env.db.admin(&AdminOp::CreateEmptyView { ns: on.clone(), on: view.clone() }).await;
    ensure!(is_refused(&r), "a view over a collection's name: {r:?}");
    env.admin(AdminOp::Drop { ns: view.clone() }).await?;
    env.insert(&view, rawdoc! { "_id": 2 }).await?;
    Ok(())
}

pub async fn a_drop_is_idempotent(env: Env) -> R {
    let ns = env.ns("dropped");
    env.insert(&ns, rawdoc! { "_id": 1, "u": 1 }).await?;
    for _ in 0..2 {
        env.admin(AdminOp::Drop { ns: ns.clone() }).await?;
        ensure!(kind(&env, &ns).await? == CollKind::Absent, "still there");
        ensure!(env.all(&ns, 10, ClusterTime::ZERO).await?.is_empty(), "documents of nothing");
    }
    env.insert(&ns, rawdoc! { "_id": 1, "u": 1 }).await?;
    ensure!(indexes(&env, &ns).await?.len() == 1, "a new collection has old indexes");
    Ok(())
}
