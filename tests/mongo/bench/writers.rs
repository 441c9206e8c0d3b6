//! Who writes on legacy meanwhile, and who looks for it on next.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bson::{Document, RawArrayBuf, RawBson, RawDocumentBuf, doc, rawdoc};
use mongodb::{Client, Collection, Database};
use tokio::task::{JoinHandle, JoinSet};

use super::super::replset::ReplSet;

/// Writes under way at the same time, at most.
const LANES: u64 = 100;
/// How often a copy is looked for.
const LOOK: Duration = Duration::from_millis(5);
/// How often one is chosen to be looked for.
const PROBE: Duration = Duration::from_millis(50);

/// What writes or copies took, from the moment each was due.
#[derive(Default)]
pub struct Latencies {
    all: Vec<Duration>,
    span: Duration,
}

impl Latencies {
    fn at(&self, q: f64) -> f64 {
        let i = ((self.all.len() as f64 * q).ceil() as usize).clamp(1, self.all.len().max(1)) - 1;
        self.all.get(i).map_or(f64::NAN, |t| t.as_secs_f64() * 1e3)
    }

    /// How many a second.
    pub fn rate(&self) -> f64 {
        self.all.len() as f64 / self.span.as_secs_f64()
    }

    /// The percentiles as text.
    pub fn told(&self) -> String {
        let (p50, p99, max) = (self.at(0.5), self.at(0.99), self.at(1.0));
        format!("p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms of {}", self.all.len())
    }
}

async fn client(set: &ReplSet) -> Result<Client, String> {
    Client::with_uri_str(set.uri()).await.map_err(|e| e.to_string())
}

/// The `_id`s of some of the orders, spread over all.
async fn some_ids(orders: &Collection<RawDocumentBuf>, n: u64) -> Result<Vec<RawBson>, String> {
    let failed = |e: mongodb::error::Error| e.to_string();
    let sample = [doc! { "$sample": { "size": n as i64 } }, doc! { "$project": { "_id": 1 } }];
    let mut found = orders.aggregate(sample).await.map_err(failed)?;
    let mut ids = Vec::new();
    while found.advance().await.map_err(failed)? {
        ids.push(RawBson::from(found.current().get("_id").ok().flatten().ok_or("no _id")?));
    }
    Ok(ids)
}

/// An application that updates so many documents a second, each when it is due, whatever became of the one before.
pub struct Steady {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<Latencies, String>>,
}

impl Steady {
    /// Starts one that writes one order at a time.
    pub fn start(set: &ReplSet, db: &str, a_second: u64) -> Steady {
        Steady::begin(set, db, a_second, 1)
    }

    /// Starts one that writes ten orders in a command.
    pub fn in_tens(set: &ReplSet, db: &str, a_second: u64) -> Steady {
        Steady::begin(set, db, a_second / 10, 10)
    }

    fn begin(set: &ReplSet, db: &str, a_second: u64, together: usize) -> Steady {
        let stop = Arc::new(AtomicBool::new(false));
        let (uri, db, stopped) = (set.uri(), db.to_owned(), stop.clone());
        let task = super::TOKIO.spawn(async move {
            let client = Client::with_uri_str(uri).await.map_err(|e| e.to_string())?;
            let db = client.database(&db);
            let ids = Arc::new(some_ids(&db.collection("orders"), 20_000).await?);
            let mut lanes = JoinSet::new();
            let began = Instant::now();
            for lane in 0..LANES {
                let (db, ids, stopped) = (db.clone(), ids.clone(), stopped.clone());
                lanes.spawn(write_on(db, ids, stopped, began, (lane, a_second, together)));
            }
            let mut all = Vec::new();
            while let Some(lane) = lanes.join_next().await {
                all.extend(lane.map_err(|e| e.to_string())??);
            }
            all.sort_unstable();
            Ok(Latencies { all, span: began.elapsed() })
        });
        Steady { stop, task }
    }

    /// Ends it, and answers what its writes took.
    pub async fn stop(self) -> Result<Latencies, String> {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.map_err(|e| e.to_string())?
    }
}

async fn write_on(
    db: Database,
    ids: Arc<Vec<RawBson>>,
    stopped: Arc<AtomicBool>,
    began: Instant,
    (lane, a_second, together): (u64, u64, usize),
) -> Result<Vec<Duration>, String> {
    let mut took = Vec::new();
    for n in 0u64.. {
        let nth = lane + n * LANES;
        let due = began + Duration::from_micros(nth * 1_000_000 / a_second);
        tokio::time::sleep_until(due.into()).await;
        if stopped.load(Ordering::SeqCst) {
            break;
        }
        let mut updates = RawArrayBuf::new();
        for i in 0..together {
            let id = ids[(nth as usize * together + i) % ids.len()].clone();
            updates.push(rawdoc! { "q": { "_id": id }, "u": { "$set": { "bench_rev": nth as i64 } } });
        }
        let update = rawdoc! { "update": "orders", "updates": updates, "writeConcern": { "w": "majority" } };
        db.run_raw_command(update).await.map_err(|e| e.to_string())?;
        took.push(due.elapsed());
    }
    Ok(took)
}

/// From the acknowledgement of a write to its copy's being readable, of a write every so often, for so long.
pub async fn time_to_copy(set: &ReplSet, db: &str, next: &str, span: Duration) -> Result<Latencies, String> {
    let db = client(set).await?.database(db);
    let orders = db.collection::<RawDocumentBuf>("orders");
    let copies = db.collection::<RawDocumentBuf>(next);
    let ids = some_ids(&orders, 2_000).await?;
    let failed = |e: mongodb::error::Error| e.to_string();
    let began = Instant::now();
    let mut all = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        if began.elapsed() > span {
            break;
        }
        let q = doc! { "_id": bson::Bson::try_from(id.clone()).map_err(|e| e.to_string())? };
        orders.update_one(q.clone(), doc! { "$set": { "bench_probe": n as i64 } }).await.map_err(failed)?;
        let written = Instant::now();
        let mut wanted = q;
        wanted.insert("bench_probe", n as i64);
        while copies.find_one(wanted.clone()).await.map_err(failed)?.is_none() {
            tokio::time::sleep(LOOK).await;
            if written.elapsed() > Duration::from_secs(60) {
                return Err("a write was not copied within a minute".into());
            }
        }
        all.push(written.elapsed());
        tokio::time::sleep(PROBE).await;
    }
    all.sort_unstable();
    Ok(Latencies { all, span: began.elapsed() })
}

/// Some of a burst's orders: the first, and the last few.
pub struct Ends(RawBson, Vec<RawBson>);

/// Changes so many different orders, as fast as they are taken.
pub async fn burst(set: &ReplSet, db: &str, n: u64) -> Result<Ends, String> {
    let db = client(set).await?.database(db);
    let ids = some_ids(&db.collection("orders"), n).await?;
    for part in ids.chunks(1_000) {
        let mut updates = RawArrayBuf::new();
        for id in part {
            updates.push(rawdoc! { "q": { "_id": id.clone() }, "u": { "$set": { "bench_burst": 1 } } });
        }
        let update = rawdoc! {
            "update": "orders", "updates": updates, "ordered": false, "writeConcern": { "w": "majority" },
        };
        db.run_raw_command(update).await.map_err(|e| e.to_string())?;
    }
    let first = ids.first().cloned().ok_or("no orders")?;
    Ok(Ends(first, ids[ids.len().saturating_sub(200)..].to_vec()))
}

/// How long it takes from the first of the burst's changes on next to the last ones.
pub async fn applied(set: &ReplSet, db: &str, next: &str, ends: &Ends, within: Duration) -> Result<Duration, String> {
    let copies = client(set).await?.database(db).collection::<RawDocumentBuf>(next);
    let there = async |ids: &[RawBson]| {
        let mut all = RawArrayBuf::new();
        ids.iter().for_each(|id| all.push(id.clone()));
        let q = rawdoc! { "_id": { "$in": all }, "bench_burst": 1 };
        let q = Document::try_from(q).map_err(|e| e.to_string())?;
        copies.count_documents(q).await.map(|n| n as usize == ids.len()).map_err(|e| e.to_string())
    };
    let began = Instant::now();
    let mut first = None;
    while began.elapsed() < within {
        if first.is_none() && there(std::slice::from_ref(&ends.0)).await? {
            first = Some(Instant::now());
        }
        if let Some(first) = first
            && there(&ends.1).await?
        {
            return Ok(first.elapsed());
        }
        tokio::time::sleep(LOOK * 20).await;
    }
    Err(format!("not applied within {within:?}"))
}
