//! Who runs a rollout: the lease, on the embedded cluster.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use tidegate::cluster::Db;
use tidegate::cluster::embedded::{Config, Embedded, Latency};
use tidegate::engine::lease::acquire;
use tidegate::runtime::sim::Sim;
use tidegate::runtime::{Group, Micros, Rt};

#[test]
fn two_who_take_the_lease_in_the_same_microsecond_do_not_both_have_it() {
    // So fast that they meet in most runs.
    let latency = Latency { read: Micros(2), write: Micros(2), ..Latency::default() };
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let rt: Rt = sim.clone();
        let db: Db = Embedded::new(rt.clone(), Config { latency: latency.clone(), nodes: 1, ..Config::default() });
        let epochs: Arc<Mutex<Vec<i64>>> = Arc::default();
        for n in 0..4 {
            let (rt2, db, epochs) = (rt.clone(), db.clone(), epochs.clone());
            let take = async move {
                let lease = acquire(&rt2, &db, "p", &format!("runner-{n}"), true).await.unwrap();
                epochs.lock().unwrap().push(lease.epoch);
            };
            rt.spawn(Group(n), "runner", Box::pin(take));
        }
        sim.run_until(Micros::from_secs(5));
        let epochs = epochs.lock().unwrap().clone();
        assert_eq!(epochs.len(), 4);
        assert_eq!(epochs.iter().collect::<BTreeSet<_>>().len(), 4, "seed {seed}: {epochs:?}");
    }
}
