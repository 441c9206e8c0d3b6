//! Looks over everybody's shoulder: what reached the data, and whether the journal knew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use tidegate::cluster::embedded::Embedded;
use tidegate::cluster::{CONTROL_DB, ClusterTime, Db, Ns, SessionId, StreamPos};
use tidegate::journal::{MemStore, Record};
use tidegate::route::Route;
use tidegate::runtime::{Group, Micros, Rt, sleep};

/// Commits of transactions on the data, as the change streams show them.
type Commits = Arc<Mutex<Vec<(ClusterTime, SessionId)>>>;

pub struct Monitor {
    cluster: Arc<Embedded>,
    journal: MemStore,
    next: Ns,
    kept: Ns,
    isolated: Ns,
    plan: String,
    last: Option<Route>,
    intended: BTreeMap<i64, Record>,
    tasks: BTreeSet<String>,
    read: usize,
    sessions: BTreeMap<SessionId, i64>,
    commits: Commits,
    /// From this cluster time on nothing older than the epoch may commit.
    fenced: Vec<(ClusterTime, i64)>,
}

impl Monitor {
    pub fn new(rt: &Rt, cluster: Arc<Embedded>, journal: MemStore, plan: &str, legacy: &Ns, next: &Ns) -> Monitor {
        let commits: Commits = Arc::default();
        for ns in [legacy, next] {
            let (rt2, db, ns, commits) = (rt.clone(), cluster.clone() as Db, ns.clone(), commits.clone());
            rt.spawn(Group(5), "monitor", Box::pin(async move { follow(rt2, db, ns, commits).await }));
        }
        let kept = Ns::new(&legacy.db, &format!("{}.quarantine.{plan}", legacy.coll));
        Monitor {
            cluster,
            journal,
            isolated: Ns::new(&next.db, &format!("{}.isolated.{plan}", next.coll)),
            next: next.clone(),
            kept,
            plan: plan.to_owned(),
            last: None,
            intended: BTreeMap::new(),
            tasks: BTreeSet::new(),
            read: 0,
            sessions: BTreeMap::new(),
            commits,
            fenced: Vec::new(),
        }
    }

    /// A runner has taken over under `epoch`; everything up to `at` may still be the old one's.
    pub fn fenced(&mut self, at: ClusterTime, epoch: i64) {
        self.fenced.push((at, epoch));
    }

    /// Looks once. `Err` names the invariant that does not hold.
    pub fn look(&mut self) -> Result<(), String> {
        self.read_journal();
        self.look_at_slots();
        self.look_at_route()?;
        self.look_at_collections()
    }

    fn read_journal(&mut self) {
        let records = self.journal.records();
        for r in &records[self.read..] {
            if r.kind == "route_intended" {
                self.intended.insert(r.body["epoch"].as_i64().unwrap(), r.clone());
            }
            if r.kind == "task_intended" {
                self.tasks.insert(r.body["task"].as_str().unwrap().to_owned());
            }
        }
        self.read = records.len();
    }

    /// Which session belongs to which epoch.
    fn look_at_slots(&mut self) {
        for (_, doc) in self.cluster.dump(&Ns::new(CONTROL_DB, "fences")) {
            let epoch = doc.get_i64("epoch").unwrap();
            if let Ok(Some(v)) = doc.get("session")
                && let Some(b) = v.as_binary()
            {
                self.sessions.entry(SessionId(b.bytes.try_into().unwrap())).or_insert(epoch);
            }
        }
    }

    /// I4: whatever stands in the route document was intended in the journal before, or is an application's unfreeze.
    fn look_at_route(&mut self) -> Result<(), String> {
        let routes = self.cluster.dump(&Ns::new(CONTROL_DB, "routes"));
        let Some((_, doc)) = routes.first() else { return Ok(()) };
        let route = Route::from_raw(doc).map_err(|e| e.to_string())?;
        if self.last.as_ref().is_some_and(|l| l.epoch == route.epoch && l.nonce == route.nonce) {
            return Ok(());
        }
        // What the primary shows may be rolled back by an election before anybody was told of it.
        if self.last.as_ref().is_some_and(|l| route.epoch < l.epoch) {
            self.last = None;
        }
        let unfreeze = self.last.as_ref().is_some_and(|l| {
            route.frozen.is_none()
                && (route.writes_next_below, route.reads_next_below, route.shadow)
                    == (l.writes_next_below, l.reads_next_below, l.shadow)
        });
        let intended = self.intended.get(&route.epoch).is_some_and(|r| {
            let c = &r.body["change"];
            c["writes_next_below"] == route.writes_next_below
                && c["reads_next_below"] == route.reads_next_below
                && c["shadow"] == route.shadow
                && c["frozen"].is_null() == route.frozen.is_none()
        });
        if !unfreeze && !intended {
            return Err(format!("I4: route {} is in force and the journal does not know it: {route:?}", route.epoch));
        }
        self.last = Some(route);
        Ok(())
    }

    /// I4: collections come and go only after the journal said so.
    fn look_at_collections(&self) -> Result<(), String> {
        if self.cluster.count(&self.next) > 0 && !self.tasks.contains("create") {
            return Err(format!("I4: {} was written before `create` was intended", self.next));
        }
        if self.cluster.count(&self.isolated) > 0 && !self.tasks.contains("isolate") {
            return Err(format!("I4: {} is there and `isolate` was never intended", self.isolated));
        }
        if self.cluster.count(&self.kept) > 0 && !self.tasks.contains("quarantine") {
            return Err(format!("I4: {} is there and `quarantine` was never intended", self.kept));
        }
        Ok(())
    }

    /// I5 for the data: no transaction of an older epoch commits after a take-over.
    pub fn check_commits(&self) -> Result<usize, String> {
        let commits = self.commits.lock().unwrap();
        for (at, session) in commits.iter() {
            let Some(epoch) = self.sessions.get(session) else { continue };
            if let Some((from, newer)) = self.fenced.iter().find(|(from, newer)| at > from && newer > epoch) {
                return Err(format!(
                    "I5: a transaction of epoch {epoch} committed at {at}, after epoch {newer} took over at {from}"
                ));
            }
        }
        Ok(commits.len())
    }

    /// I4, at the end: no intent without an outcome, and the journal belongs to this plan.
    pub fn check_journal(&self) -> Result<(), String> {
        let records = self.journal.records();
        if records.iter().any(|r| r.rollout != self.plan) {
            return Err("a record of another rollout".into());
        }
        let mut paused = false;
        let mut open = None;
        for r in &records {
            match r.kind.as_str() {
                "task_intended" if open.is_some() => {
                    return Err(format!("I4: {} intended while {open:?} has no outcome", r.body["task"]));
                }
                "task_intended" => open = Some(r.body["task"].clone()),
                "task_done" => open = None,
                // A rollback takes the place of the task under way.
                "rollback_began" => (open, paused) = (None, false),
                "returned" => paused = true,
                "paused" if paused => return Err("I9: paused twice without going on between".into()),
                "paused" => paused = true,
                "continued" => paused = false,
                _ => {}
            }
        }
        match open {
            Some(task) => Err(format!("I4: {task} was intended and has no outcome")),
            None => Ok(()),
        }
    }
}

async fn follow(rt: Rt, db: Db, ns: Ns, commits: Commits) {
    let seen = loop {
        if let Ok(seen) = db.observe().await {
            break seen.majority;
        }
        sleep(&rt, Micros::from_ms(10)).await;
    };
    let mut pos = StreamPos { token: None, at: seen };
    loop {
        if let Ok(mut stream) = db.changes(&ns, &pos).await {
            while let Ok(batch) = stream.next(Micros::from_secs(1)).await {
                if std::env::var_os("TIDEGATE_SIM_EVENTS").is_some() {
                    batch.events.iter().for_each(|e| println!("{} {ns} {:?} {:?} {}", rt.now(), e.kind, e.key, e.at));
                }
                let mut list = commits.lock().unwrap();
                list.extend(batch.events.iter().filter_map(|e| Some((e.at, e.session?))));
                pos = batch.pos;
            }
        }
        sleep(&rt, Micros::from_ms(100)).await;
    }
}
