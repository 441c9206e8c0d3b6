//! What a server says about its own load and its latencies. What it does not say, or does not let the user ask, is unknown.

use bson::{Bson, Document, RawArrayBuf, rawdoc};

use super::Mongo;
use super::errors::Phase;
use crate::cluster::Ns;
use crate::cluster::load::{FlowControl, LatencyClasses, LatencyCounts, Load, Tickets, class_end};
use crate::runtime::{Micros, timeout};

/// A server that takes longer than this to speak of itself is taken as saying nothing: whoever looks wants to know now.
const PATIENCE: Micros = Micros::from_secs(2);

impl Mongo {
    /// The primary's load.
    pub(super) async fn load(&self) -> Load {
        // Without the sections that are long or costly to put together.
        let ask = rawdoc! {
            "serverStatus": 1, "repl": 0, "tcmalloc": 0, "locks": 0, "network": 0, "connections": 0, "asserts": 0,
            "transactions": 0, "opLatencies": 0, "extra_info": 0, "indexBulkBuilder": 0, "sharding": 0, "mirroredReads": 0,
            "electionMetrics": 0, "logicalSessionRecordCache": 0, "twoPhaseCommitCoordinator": 0, "indexStats": 0,
        };
        match timeout(&self.rt, PATIENCE, self.run("admin", ask, Phase::Harmless)).await {
            Some(Ok(status)) => load_of(&status),
            Some(Err(_)) | None => Load::default(),
        }
    }

    /// How long operations of a collection took inside the primary; `None` when it does not tell.
    pub(super) async fn latency(&self, ns: &Ns) -> Option<LatencyCounts> {
        let mut pipeline = RawArrayBuf::new();
        pipeline.push(rawdoc! { "$collStats": { "latencyStats": { "histograms": true } } });
        let ask = rawdoc! { "aggregate": &*ns.coll, "pipeline": pipeline, "cursor": {} };
        let answer = timeout(&self.rt, PATIENCE, self.list(&ns.db, ask)).await?.ok()?;
        latency_of(answer.first()?)
    }
}

fn whole(d: &Document, field: &str) -> Option<u64> {
    match d.get(field)? {
        Bson::Int32(n) => u64::try_from(*n).ok(),
        Bson::Int64(n) => u64::try_from(*n).ok(),
        Bson::Double(x) if *x >= 0.0 => Some(*x as u64),
        _ => None,
    }
}

fn inside<'d>(d: &'d Document, path: &[&str]) -> Option<&'d Document> {
    path.iter().try_fold(d, |d, name| d.get_document(name).ok())
}

fn load_of(status: &Document) -> Load {
    let tickets = |kind: &str| {
        // Since MongoDB 8 under `queues`.
        let of = inside(status, &["queues", "execution", kind])
            .or_else(|| inside(status, &["wiredTiger", "concurrentTransactions", kind]))?;
        let available = u32::try_from(whole(of, "available")?).ok()?;
        let total = whole(of, "totalTickets").or_else(|| Some(u64::from(available) + whole(of, "out")?))?;
        Some(Tickets { available, total: u32::try_from(total).ok()? })
    };
    let cache = inside(status, &["wiredTiger", "cache"]);
    let share = |of: &str| {
        let (part, all) = (whole(cache?, of)?, whole(cache?, "maximum bytes configured")?);
        (all > 0).then(|| part as f64 / all as f64)
    };
    let flow = inside(status, &["flowControl"]);
    Load {
        read_tickets: tickets("read"),
        write_tickets: tickets("write"),
        queued: inside(status, &["globalLock", "currentQueue"]).and_then(|q| whole(q, "total")),
        cache_dirty: share("tracked dirty bytes in the cache"),
        cache_used: share("bytes currently in the cache"),
        flow_control: flow.and_then(|f| {
            Some(FlowControl { enabled: f.get_bool("enabled").ok()?, lagged: f.get_bool("isLagged").ok()? })
        }),
        conflicts: inside(status, &["metrics", "operation"]).and_then(|m| whole(m, "writeConflicts")),
    }
}

/// From the answer to `$collStats`; a view has none.
fn latency_of(stats: &Document) -> Option<LatencyCounts> {
    let classes = |kind: &str| -> Option<LatencyClasses> {
        let histogram = inside(stats, &["latencyStats", kind])?.get_array("histogram").ok()?;
        let class = |c: &Bson| {
            let c = c.as_document()?;
            Some((class_end(Micros(whole(c, "micros")?)), whole(c, "count")?))
        };
        histogram.iter().map(class).collect()
    };
    Some(LatencyCounts { reads: classes("reads")?, writes: classes("writes")? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;

    fn status() -> Document {
        doc! {
            "globalLock": { "currentQueue": { "total": 3, "readers": 1, "writers": 2 } },
            "flowControl": { "enabled": true, "isLagged": false },
            "metrics": { "operation": { "writeConflicts": 41_i64 } },
            "wiredTiger": {
                "cache": {
                    "maximum bytes configured": 1_000_i64, "tracked dirty bytes in the cache": 50_i64,
                    "bytes currently in the cache": 800.0,
                },
                "concurrentTransactions": {
                    "read": { "out": 1, "available": 127, "totalTickets": 128 },
                    "write": { "out": 8, "available": 120 },
                },
            },
        }
    }

    #[test]
    fn a_load_is_read_as_old_and_new_servers_say_it() {
        let load = load_of(&status());
        assert_eq!(load.read_tickets, Some(Tickets { available: 127, total: 128 }));
        assert_eq!(load.write_tickets, Some(Tickets { available: 120, total: 128 }));
        assert_eq!((load.queued, load.conflicts), (Some(3), Some(41)));
        assert_eq!((load.cache_dirty, load.cache_used), (Some(0.05), Some(0.8)));
        assert_eq!(load.flow_control, Some(FlowControl { enabled: true, lagged: false }));
        let mut newer = status();
        newer.insert("queues", doc! { "execution": { "read": { "out": 2, "available": 5, "totalTickets": 7 } } });
        assert_eq!(load_of(&newer).read_tickets, Some(Tickets { available: 5, total: 7 }));
    }

    #[test]
    fn what_is_not_said_is_not_known() {
        assert!(load_of(&doc! { "ok": 1 }).is_unknown());
        let mut odd = status();
        odd.insert(
            "wiredTiger",
            doc! { "cache": { "maximum bytes configured": 0_i64, "bytes currently in the cache": 0 } },
        );
        let load = load_of(&odd);
        assert_eq!((load.cache_used, load.read_tickets, load.queued), (None, None, Some(3)));
        assert_eq!(latency_of(&doc! { "ns": "a.view" }), None);
    }

    #[test]
    fn a_histogram_is_read_with_the_longest_time_of_each_class() {
        let some = |micros: i64, count: i64| doc! { "micros": micros, "count": count };
        let stats = doc! { "latencyStats": {
            "reads": { "histogram": [some(64, 7), some(3_072, 1)], "latency": 1_i64, "ops": 8_i64 },
            "writes": { "histogram": [], "latency": 0_i64, "ops": 0_i64 },
        } };
        let counts = latency_of(&stats).unwrap();
        assert_eq!(counts.reads, [(Micros(127), 7), (Micros(4_095), 1)]);
        assert!(counts.writes.is_empty());
    }
}
