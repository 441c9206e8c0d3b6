//! Looks over everybody's shoulder after every event: what reached the data, and whether the journal knew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use tidegate::cluster::embedded::Embedded;
use tidegate::cluster::{CONTROL_DB, ClusterTime, Db, Ns, Reason, SessionId, StreamPos};
use tidegate::engine::OnRecord;
use tidegate::journal::{MemStore, Record};
use tidegate::plan::Plan;
use tidegate::route::Route;
use tidegate::route::client::{acks_ns, routes_ns};
use tidegate::runtime::{Group, Micros, Rt, sleep};

/// Commits of transactions on the data, as the change streams show them.
type Commits = Arc<Mutex<Vec<(ClusterTime, SessionId)>>>;
/// Records that a runner was told to be durable: number and hash.
type Told = Arc<Mutex<Vec<(u64, String)>>>;

pub struct Monitor {
    cluster: Arc<Embedded>,
    journal: MemStore,
    plan: Arc<Plan>,
    next: Ns,
    kept: Ns,
    isolated: Ns,
    /// The slots, the route and the acknowledgements.
    control: [Ns; 3],
    /// What was there when it was last looked at.
    seen: (u64, usize),
    newest: [Option<ClusterTime>; 3],
    /// Processes that were stopped.
    withdrawn: BTreeSet<String>,
    /// The latest epoch that each process has acknowledged.
    acked: BTreeMap<String, i64>,
    last: Option<Route>,
    /// Epoch and nonce of every route that was in force and in order: an election may bring one back.
    in_order: BTreeSet<(i64, i64)>,
    firm: Option<Route>,
    /// The one before the last change of hands.
    before: Option<Route>,
    /// Processes that had registered before a freeze, by its epoch.
    frozen_for: BTreeMap<i64, Vec<String>>,
    intended: BTreeMap<i64, Record>,
    tasks: BTreeSet<String>,
    read: usize,
    last_kind: String,
    /// The epoch of the newest record.
    epoch: i64,
    told: Told,
    told_read: usize,
    oplog_loss_told: bool,
    /// The soak under way: the epoch it began under, and when.
    soak: Option<(i64, Micros)>,
    sessions: BTreeMap<SessionId, i64>,
    commits: Commits,
    /// From this cluster time on nothing older than the epoch may commit.
    fenced: Vec<(ClusterTime, i64)>,
}

impl Monitor {
    pub fn new(rt: &Rt, cluster: Arc<Embedded>, journal: MemStore, plan: &Arc<Plan>) -> Monitor {
        let (legacy, next) = (&plan.collections[0].legacy, &plan.collections[0].next);
        let commits: Commits = Arc::default();
        for ns in [legacy, next] {
            let (rt2, db, ns, commits) = (rt.clone(), cluster.clone() as Db, ns.clone(), commits.clone());
            rt.spawn(Group(5), "monitor", Box::pin(async move { follow(rt2, db, ns, commits).await }));
        }
        Monitor {
            cluster,
            journal,
            isolated: Ns::new(&next.db, &format!("{}.isolated.{}", next.coll, plan.id)),
            next: next.clone(),
            kept: Ns::new(&legacy.db, &format!("{}.quarantine.{}", legacy.coll, plan.id)),
            control: [Ns::new(CONTROL_DB, "fences"), routes_ns(), acks_ns()],
            plan: plan.clone(),
            seen: (0, 0),
            newest: [None; 3],
            withdrawn: BTreeSet::new(),
            acked: BTreeMap::new(),
            last: None,
            in_order: BTreeSet::new(),
            firm: None,
            before: None,
            frozen_for: BTreeMap::new(),
            intended: BTreeMap::new(),
            tasks: BTreeSet::new(),
            read: 0,
            last_kind: String::new(),
            epoch: 0,
            told: Arc::default(),
            told_read: 0,
            oplog_loss_told: false,
            soak: None,
            sessions: BTreeMap::new(),
            commits,
            fenced: Vec::new(),
        }
    }

    /// A runner has taken over under `epoch`; everything up to `at` may still be the old one's.
    pub fn fenced(&mut self, at: ClusterTime, epoch: i64) {
        self.fenced.push((at, epoch));
    }

    /// Hears what a runner is told to be durable.
    pub fn on_record(&self) -> OnRecord {
        let told = self.told.clone();
        Arc::new(move |r| told.lock().unwrap().push((r.seq, r.hash.clone())))
    }

    /// A process is stopped and its document deleted: no freeze waits for it any more.
    pub fn withdrawn(&mut self, process: &str) {
        self.withdrawn.insert(process.to_owned());
    }

    pub fn last_kind(&self) -> &str {
        &self.last_kind
    }

    /// An operator was told that the oplog is lost.
    pub fn oplog_loss_told(&self) -> bool {
        self.oplog_loss_told
    }

    pub fn route_epoch(&self) -> i64 {
        self.firm.as_ref().map_or(0, |r| r.epoch)
    }

    /// Looks when anything has changed since it last did.
    pub fn look_if_changed(&mut self, now: Micros) -> Result<(), String> {
        let there = (self.cluster.version(), self.journal.len());
        if there == self.seen {
            return Ok(());
        }
        self.seen = there;
        self.look(now)
    }

    /// Looks once. `Err` names the invariant that does not hold.
    pub fn look(&mut self, now: Micros) -> Result<(), String> {
        self.read_journal(now)?;
        self.look_at_slots();
        self.look_at_acks();
        self.look_at_route()?;
        self.look_at_firm_route()?;
        self.look_at_collections()
    }

    fn read_journal(&mut self, now: Micros) -> Result<(), String> {
        let told = std::mem::take(&mut *self.told.lock().unwrap());
        self.told_read += told.len();
        for (seq, hash) in told {
            self.durable(seq, &hash)?;
        }
        if self.journal.len() < self.read {
            return Err(format!("I10: {} records were durable, {} are there", self.read, self.journal.len()));
        }
        for r in self.journal.since(self.read) {
            self.read += 1;
            self.last_kind.clone_from(&r.kind);
            self.epoch_of(&r)?;
            match r.kind.as_str() {
                "route_intended" => {
                    self.intended.insert(r.body["epoch"].as_i64().unwrap(), r.clone());
                }
                "task_intended" => {
                    self.tasks.insert(r.body["task"].as_str().unwrap().to_owned());
                }
                "soak_began" => self.soak = Some((r.epoch, now)),
                "stage_entered" | "rollback_began" | "returned" => self.soak = None,
                "stage_passed" => self.stage_passed(&r, now)?,
                "needs_operator" => {
                    self.oplog_loss_told |=
                        r.body["why"].as_str().is_some_and(|w| w.contains("the oplog has moved past"));
                }
                "stray_found" => {
                    return Err(format!(
                        "rule 5: every process follows the route, and yet epoch {} found a stray: {:?}",
                        r.epoch, r.body
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// I5 for the journal: every runner has an epoch of its own, and none goes on where a newer one has written.
    fn epoch_of(&mut self, r: &Record) -> Result<(), String> {
        let begins = matches!(r.kind.as_str(), "started" | "resumed");
        if r.epoch < self.epoch || (begins && r.epoch == self.epoch) {
            return Err(format!(
                "I5: record {}, {}, is of epoch {} and follows one of {}",
                r.seq, r.kind, r.epoch, self.epoch
            ));
        }
        self.epoch = r.epoch;
        Ok(())
    }

    /// I10: what a runner was told to be durable is there.
    fn durable(&self, seq: u64, hash: &str) -> Result<(), String> {
        match self.journal.since(seq as usize - 1).first() {
            Some(r) if r.hash == hash => Ok(()),
            _ => Err(format!("I10: record {seq} was acknowledged and is not there")),
        }
    }

    /// I6: a stage passes on gates that had data and held, after a soak that was as long as the plan says.
    fn stage_passed(&mut self, r: &Record, now: Micros) -> Result<(), String> {
        let stage = &self.plan.stages[r.body["stage"].as_u64().unwrap() as usize];
        let gates = r.body["evidence"]["gates"].as_array().cloned().unwrap_or_default();
        if gates.len() != stage.gates.len() {
            return Err(format!("I6: stage {} passed on {} of {} gates", stage.id, gates.len(), stage.gates.len()));
        }
        for g in gates {
            let at_least = |a: &str, b: &str| g[a].as_u64().is_some_and(|a| a >= g[b].as_u64().unwrap());
            let fresh = g["age_ms"].as_u64().is_some_and(|age| age <= g["window_ms"].as_u64().unwrap());
            let within = g["actual"].as_f64().is_some_and(|a| a <= g["limit"].as_f64().unwrap());
            if !(fresh && within && at_least("samples", "min_samples") && at_least("held_ms", "hold_for_ms")) {
                return Err(format!("I6: stage {} passed on a gate that did not hold: {g}", stage.id));
            }
        }
        // Of a soak that began under another runner nobody here knows how long that one's clock said it was.
        if let Some((epoch, began)) = self.soak.take()
            && epoch == r.epoch
            && now.since(began) + Micros::from_ms(2) < stage.soak
        {
            return Err(format!("I6: stage {} soaked for {} of {}", stage.id, now.since(began), stage.soak));
        }
        Ok(())
    }

    /// True when something has happened to a namespace since this was last asked.
    fn moved(&mut self, which: usize) -> bool {
        let newest = self.cluster.newest_event(&self.control[which]);
        std::mem::replace(&mut self.newest[which], newest) != newest
    }

    /// Which session belongs to which epoch.
    fn look_at_slots(&mut self) {
        if !self.moved(0) {
            return;
        }
        for (_, doc) in self.cluster.dump(&self.control[0]) {
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
        if !self.moved(1) {
            return Ok(());
        }
        let routes = self.cluster.dump(&self.control[1]);
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
        let brought_back = !self.in_order.insert((route.epoch, route.nonce));
        if !unfreeze && !intended && !brought_back {
            return Err(format!("I4: route {} is in force and the journal does not know it: {route:?}", route.epoch));
        }
        if route.frozen.is_some() {
            self.frozen_for.insert(route.epoch, self.acks().into_keys().collect());
        }
        self.last = Some(route);
        Ok(())
    }

    /// Rule 7, on what will never be rolled back: epochs go on one by one, each is one route, and writes change hands only when every
    /// process that had registered has acknowledged the freeze.
    fn look_at_firm_route(&mut self) -> Result<(), String> {
        if self.firm.as_ref().map(|r| (r.epoch, r.nonce)) == self.last.as_ref().map(|r| (r.epoch, r.nonce)) {
            return Ok(());
        }
        let routes = self.cluster.dump_majority(&self.control[1]);
        let Some((_, doc)) = routes.first() else { return Ok(()) };
        let now = Route::from_raw(doc).map_err(|e| e.to_string())?;
        let Some(was) = self.firm.replace(now.clone()) else { return Ok(()) };
        if (now.epoch, now.nonce) == (was.epoch, was.nonce) {
            return Ok(());
        }
        if now.epoch <= was.epoch {
            return Err(format!("rule 7: route {} was replaced by another one of epoch {}", was.epoch, now.epoch));
        }
        if now.writes_next_below == was.writes_next_below || now.epoch != was.epoch + 1 {
            return Ok(());
        }
        // Taken back before it was let go of: nobody has written meanwhile, so nobody need have acknowledged.
        let before = self.before.replace(was.clone());
        if was.frozen.is_some()
            && before.is_some_and(|b| b.epoch + 1 == was.epoch && b.writes_next_below == now.writes_next_below)
        {
            return Ok(());
        }
        if was.frozen.is_none() {
            return Err(format!("rule 8: writes changed hands at epoch {} without a freeze", now.epoch));
        }
        // What a silent process may still write the servers refuse: it need not acknowledge.
        if self.plan.server_gate {
            return Ok(());
        }
        // The latest ever seen: an older document may land late over a newer one.
        let acks = &self.acked;
        let mut frozen_for = self.frozen_for.get(&was.epoch).into_iter().flatten();
        match frozen_for.find(|p| !self.withdrawn.contains(*p) && acks.get(*p).is_some_and(|epoch| *epoch < was.epoch))
        {
            Some(late) => Err(format!(
                "rule 7: writes changed hands at epoch {} without {late}, which had acknowledged {:?}: {was:?}, then {now:?}",
                now.epoch,
                acks.get(late)
            )),
            None => Ok(()),
        }
    }

    fn look_at_acks(&mut self) {
        if self.moved(2) {
            for (process, epoch) in self.acks() {
                let latest = self.acked.entry(process).or_default();
                *latest = epoch.max(*latest);
            }
        }
    }

    /// The epoch in each process's document now.
    fn acks(&self) -> BTreeMap<String, i64> {
        let docs = self.cluster.dump(&self.control[2]).into_iter();
        docs.map(|(k, d)| (k.to_string(), d.get_i64("epoch").unwrap())).collect()
    }

    /// I4: collections come and go only after the journal said so.
    fn look_at_collections(&self) -> Result<(), String> {
        if !self.tasks.contains("create") && self.cluster.count(&self.next) > 0 {
            return Err(format!("I4: {} was written before `create` was intended", self.next));
        }
        if !self.tasks.contains("isolate") && self.cluster.count(&self.isolated) > 0 {
            return Err(format!("I4: {} is there and `isolate` was never intended", self.isolated));
        }
        if !self.tasks.contains("quarantine") && self.cluster.count(&self.kept) > 0 {
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
        if records.iter().any(|r| r.rollout != self.plan.id) {
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

/// Every change is asked for, and what happened beside it.
pub fn events_are_shown() -> bool {
    std::env::var_os("TIDEGATE_SIM_EVENTS").is_some()
}

async fn follow(rt: Rt, db: Db, ns: Ns, commits: Commits) {
    let now = async || loop {
        if let Ok(seen) = db.observe().await {
            break StreamPos { token: None, at: seen.majority };
        }
        sleep(&rt, Micros::from_ms(10)).await;
    };
    let mut pos = now().await;
    let shown = events_are_shown();
    loop {
        match db.changes(&ns, &pos).await {
            Ok(mut stream) => {
                while let Ok(batch) = stream.next(Micros::from_secs(1)).await {
                    if shown {
                        batch.events.iter().for_each(|e| {
                            println!("{} {ns} {:?} {:?} {} {:?}", rt.now(), e.kind, e.key, e.at, e.session)
                        });
                    }
                    let mut list = commits.lock().unwrap();
                    list.extend(batch.events.iter().filter_map(|e| Some((e.at, e.session?))));
                    pos = batch.pos;
                }
            }
            // What was lost with the oplog nobody can look at any more.
            Err(f) if matches!(f.reason(), Some(Reason::HistoryLost(_))) => pos = now().await,
            Err(_) => {}
        }
        sleep(&rt, Micros::from_ms(100)).await;
    }
}
