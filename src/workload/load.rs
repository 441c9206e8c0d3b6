//! Loading the application's orders into an empty collection, and telling them from anybody else's documents.

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Config, Ids, Shapes};
use crate::cluster::{AdminDone, AdminOp, ClusterTime, CollKind, Db, Failed, Key, Ns, PageLimit, Reason, WriteOp};
use crate::route::Side;
use crate::runtime::{Micros, Rt, sleep};

/// Inserts under way at a time.
const AT_ONCE: usize = 64;
/// How often a failure that passes by itself is tried again.
const TRIES: u64 = 60;

/// Why the application's orders are not there.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The cluster.
    #[error("{what}: {why}")]
    Cluster {
        /// What was being done.
        what: String,
        /// What the cluster said.
        why: Failed,
    },
    /// Somebody else's documents, or orders that were written to already.
    #[error("{ns} holds {found}, which is no untouched order of this application; give it an empty collection")]
    Foreign {
        /// The collection.
        ns: String,
        /// The document that was found.
        found: String,
    },
    /// Not a plain collection.
    #[error("{ns} is {what}; the simulated application needs a plain collection")]
    Kind {
        /// The namespace.
        ns: String,
        /// What stands there.
        what: &'static str,
    },
    /// Nothing is there and nothing is to be loaded.
    #[error("{ns} is empty: say how many orders to load into it")]
    Empty {
        /// The collection.
        ns: String,
    },
}

/// Sees to it that `ns` holds the application's first orders and nothing else, loading those that are missing: `documents`, or as
/// many as there are, with `_id`s of that kind. `progress` hears how many have been loaded. Returns how many orders there are.
///
/// # Errors
/// When other documents are there, or the cluster fails.
pub async fn prepare(
    rt: &Rt,
    db: &Db,
    ns: &Ns,
    shapes: Shapes,
    (documents, ids): (Option<u64>, Ids),
    progress: impl Fn(u64),
) -> Result<u64, LoadError> {
    let cluster = |what: &str| {
        let what = format!("{what} {ns}");
        move |why| LoadError::Cluster { what, why }
    };
    let kind = db.admin(&AdminOp::Kind { ns: ns.clone() }).await.map_err(cluster("looking at"))?;
    let refuse = |what| Err(LoadError::Kind { ns: ns.to_string(), what });
    match kind {
        AdminDone::Kind(CollKind::View) => return refuse("a view (its rollout may be finished)"),
        AdminDone::Kind(CollKind::Other) => return refuse("no plain collection"),
        _ => {}
    }
    let counted = db.admin(&AdminOp::Count { ns: ns.clone() }).await.map_err(cluster("counting"))?;
    let there = if let AdminDone::Count(n) = counted { n } else { 0 };
    let wanted = documents.unwrap_or(there);
    if wanted == 0 {
        return Err(LoadError::Empty { ns: ns.to_string() });
    }
    let mut missing: BTreeMap<Key, u64> = (0..wanted).map(|n| (ids.order(n).key(), n)).collect();
    take_present(db, ns, shapes, ids, &mut missing).await?;
    if !missing.is_empty() {
        db.admin(&AdminOp::Create { ns: ns.clone() }).await.map_err(cluster("creating"))?;
        let inserts = missing.into_values().map(|n| {
            let doc = shapes.document(Side::Legacy, &ids.order(n), Config::default().padding);
            insert(rt.clone(), db.clone(), WriteOp::Insert { ns: ns.clone(), doc })
        });
        let loaded = stream::iter(inserts).buffer_unordered(AT_ONCE).try_fold(0u64, |n, ()| {
            progress(n + 1);
            async move { Ok(n + 1) }
        });
        loaded.await.map_err(cluster("loading orders into"))?;
    }
    Ok(wanted)
}

/// Takes the orders that are there from `missing`; anything else that is there is refused.
async fn take_present(
    db: &Db,
    ns: &Ns,
    shapes: Shapes,
    ids: Ids,
    missing: &mut BTreeMap<Key, u64>,
) -> Result<(), LoadError> {
    let limit = PageLimit { docs: 2_000, bytes: 4 << 20 };
    let mut from = None::<Key>;
    loop {
        let page = db.scan(ns, from.as_ref(), limit, ClusterTime::ZERO).await;
        let page = page.map_err(|why| LoadError::Cluster { what: format!("reading {ns}"), why })?;
        for (key, doc) in &page.docs {
            let known = missing
                .remove(key)
                .is_some_and(|n| shapes.matches(Side::Legacy, &ids.order(n), Config::default().padding, doc));
            if !known {
                let found = crate::scrub::short(&format!("a document with _id {key}"), 120);
                return Err(LoadError::Foreign { ns: ns.to_string(), found });
            }
        }
        match page.docs.into_iter().next_back() {
            Some((last, _)) if !page.end => from = Some(last),
            _ => return Ok(()),
        }
    }
}

/// One insert, again until it is done: the same order twice is the same order.
async fn insert(rt: Rt, db: Db, op: WriteOp) -> Result<(), Failed> {
    for attempt in 0u64.. {
        match db.write(&op).await {
            Ok(_) | Err(Failed::NotDone(Reason::DuplicateKey { .. })) => break,
            Err(f) if f.is_transient() && attempt < TRIES => sleep(&rt, Micros::from_ms(100 + 20 * attempt)).await,
            Err(f) => return Err(f),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::cluster::embedded::{self, Embedded};
    use crate::runtime::sim::Sim;

    fn prepared(before: u64, foreign: bool, documents: Option<u64>) -> Result<u64, LoadError> {
        let sim = Sim::new(3);
        let rt: Rt = sim.clone();
        let cluster = Embedded::new(rt.clone(), embedded::Config::default());
        let ns = Ns::new("shop", "orders");
        let shapes = Shapes::default();
        let config = Config { documents: before, ..Config::default() };
        cluster.load(&ns, super::super::initial_orders(&config, shapes).collect()).unwrap();
        let db: Db = cluster;
        sim.block_on(async move {
            if foreign {
                let doc = bson::RawDocumentBuf::try_from(&bson::doc! { "_id": "mine" }).unwrap();
                db.write(&WriteOp::Insert { ns: ns.clone(), doc }).await.unwrap();
            }
            let loaded = Arc::new(std::sync::atomic::AtomicU64::new(0));
            let n = prepare(&rt, &db, &ns, shapes, (documents, Ids::Mixed), |n| {
                loaded.store(n, std::sync::atomic::Ordering::SeqCst);
            })
            .await?;
            assert_eq!(loaded.load(std::sync::atomic::Ordering::SeqCst), n - before);
            let mut missing: BTreeMap<Key, u64> = (0..n).map(|n| (Ids::Mixed.order(n).key(), n)).collect();
            take_present(&db, &ns, shapes, Ids::Mixed, &mut missing).await?;
            assert!(missing.is_empty());
            Ok(n)
        })
        .unwrap()
    }

    #[test]
    fn an_empty_collection_is_filled_and_an_interrupted_load_is_finished() {
        assert_eq!(prepared(0, false, Some(300)).unwrap(), 300);
        assert_eq!(prepared(120, false, Some(300)).unwrap(), 300);
        assert_eq!(prepared(120, false, None).unwrap(), 120);
        assert!(matches!(prepared(0, false, None), Err(LoadError::Empty { .. })));
    }

    #[test]
    fn documents_of_somebody_else_are_refused() {
        for (before, documents) in [(0, Some(10)), (10, Some(10)), (10, None), (20, Some(10))] {
            let foreign = before != 20;
            let e = prepared(before, foreign, documents).unwrap_err();
            assert!(matches!(e, LoadError::Foreign { .. }), "{before} {documents:?}: {e}");
        }
    }
}
