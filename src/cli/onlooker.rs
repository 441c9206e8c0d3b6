//! A rollout seen through the control database, in the background: what was read last, and what became of what was asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::live::World;
use crate::cluster::Db;
use crate::engine::watch::{Answer, Asked, Looker, Seen, Wish, answer, ask};
use crate::runtime::{Group, Micros, Rt, sleep};
use crate::snapshot::{Command, PlanView, Reply, Snapshot, TraceAsk};
use crate::tui::app::current_stage;
use crate::tui::run::Source;

/// The tasks of an onlooker.
const LOOKING: Group = Group(3);
/// How often it looks.
const LOOK_EVERY: Micros = Micros::from_ms(400);
/// How often it looks for an answer.
const ANSWER_EVERY: Micros = Micros::from_ms(250);
/// A command that cannot be written for so long is given up.
const ASK_WITHIN: Micros = Micros::from_secs(4);
/// After this long nobody looks for an answer any more.
const ANSWER_WITHIN: Micros = Micros::from_secs(150);
/// The cluster is said to be silent when it could not be read for so long.
const READ_WITHIN: Micros = Micros::from_secs(3);

/// What became of a command, with the id the dashboard has for it.
#[derive(Clone, Debug)]
pub(super) enum Fate {
    Reply(Reply),
    /// Nobody knows, for this reason.
    Unknown(String),
}

#[derive(Default)]
struct Shared {
    seen: Option<Seen>,
    /// When it was read, on the runtime's clock.
    read_at: Micros,
    /// Why it could not be read since.
    problem: Option<String>,
    fates: VecDeque<(u64, Fate)>,
}

/// Looks on, and asks.
#[derive(Clone)]
pub(super) struct Onlooker {
    rt: Rt,
    db: Db,
    plan: String,
    by: String,
    shared: Arc<Mutex<Shared>>,
}

impl Onlooker {
    /// Looks once, so that what is wrong is said at once; then goes on in the background.
    pub(super) fn start(world: &World, by: String) -> Result<Onlooker, String> {
        let (rt, db, plan) = (world.rt.clone(), world.clusters[0].clone(), world.plan.id.clone());
        let mut looker = Looker::new(&rt, &db, &plan);
        let seen = world.block_on(looker.look()).map_err(|e| e.to_string())?;
        let shared = Shared { seen: Some(seen), read_at: rt.now(), ..Shared::default() };
        let this = Onlooker { rt, db, plan, by, shared: Arc::new(Mutex::new(shared)) };
        let mine = this.clone();
        this.rt.spawn(LOOKING, "look", Box::pin(async move { mine.follow(looker).await }));
        Ok(this)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // What is behind the lock is whole after each statement.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn follow(self, mut looker: Looker) {
        loop {
            sleep(&self.rt, LOOK_EVERY).await;
            let found = looker.look().await;
            let mut shared = self.lock();
            match found {
                Ok(seen) => {
                    shared.seen = Some(seen);
                    shared.read_at = self.rt.now();
                    shared.problem = None;
                }
                Err(e) => shared.problem = Some(e.to_string()),
            }
        }
    }

    /// What was read last, as of now: the server's time goes on since.
    pub(super) fn seen(&self) -> Option<Seen> {
        let shared = self.lock();
        let mut seen = shared.seen.clone()?;
        seen.server_ms += self.rt.now().since(shared.read_at).as_ms() as i64;
        Some(seen)
    }

    /// Why nobody moves what is shown, or why that is not known.
    pub(super) fn absent(&self) -> Option<String> {
        let (unread, problem) = {
            let shared = self.lock();
            (self.rt.now().since(shared.read_at), shared.problem.clone())
        };
        if unread > READ_WITHIN {
            let why = problem.unwrap_or_else(|| "no answer".into());
            return Some(format!("legacy's cluster has told this terminal nothing for {unread}: {why}"));
        }
        self.seen().and_then(|s| s.absent())
    }

    /// Asks the holder of the lease; the fate comes from [`Onlooker::fates`]. `snapshot` is what the asker has on screen.
    pub(super) fn ask(&self, id: u64, wish: Wish, snapshot: &Snapshot) {
        let Some(seen) = self.seen() else { return };
        if seen.holder().is_none() {
            return self.tell(id, Fate::Reply(Reply::Refused("nobody runs it: no runner has the lease".into())));
        }
        let asked = Asked {
            id: format!("{:013}-{}", seen.server_ms, bson::oid::ObjectId::new().to_hex()),
            by: self.by.clone(),
            at_ms: seen.server_ms,
            plan_hash: snapshot.plan.hash.clone(),
            epoch: snapshot.epoch,
            stage: current_stage(snapshot),
            wish,
        };
        let this = self.clone();
        self.rt.spawn(LOOKING, "ask", Box::pin(async move { this.follow_up(id, asked).await }));
    }

    async fn follow_up(self, id: u64, asked: Asked) {
        match ask(&self.rt, &self.db, &self.plan, &asked, ASK_WITHIN).await {
            Answer::Waiting => {}
            Answer::Reply(reply) => return self.tell(id, Fate::Reply(reply)),
            Answer::Unknown(why) => return self.tell(id, Fate::Unknown(why)),
        }
        let until = self.rt.now() + ANSWER_WITHIN;
        let mut told = Answer::Waiting;
        while self.rt.now() < until {
            sleep(&self.rt, ANSWER_EVERY).await;
            let Ok(found) = answer(&self.db, &self.plan, &asked.id).await else { continue };
            let Some(now) = found else {
                return self.tell(id, Fate::Unknown("the command is gone without an answer".into()));
            };
            if now != told {
                told = now.clone();
                match &now {
                    Answer::Reply(reply) => self.tell(id, Fate::Reply(reply.clone())),
                    Answer::Unknown(why) => self.tell(id, Fate::Unknown(why.clone())),
                    Answer::Waiting => {}
                }
            }
            if now.is_final() {
                return;
            }
            // Nobody answers a stop that is done: the runner has ended.
            if asked.wish == Wish::Command(Command::Stop) && self.has_ended(asked.epoch) {
                return self.tell(id, Fate::Reply(Reply::Applied));
            }
        }
        self.tell(id, Fate::Unknown(format!("no answer for {ANSWER_WITHIN}")));
    }

    fn has_ended(&self, epoch: i64) -> bool {
        let view = self.seen().and_then(|s| s.view);
        view.is_some_and(|v| v.epoch == epoch && v.ended.is_some())
    }

    fn tell(&self, id: u64, fate: Fate) {
        self.lock().fates.push_back((id, fate));
    }

    /// Waits for what becomes of the one command that was asked; an acceptance is what it is when nothing follows.
    pub(super) fn fate(&self, world: &World, within: Micros) -> Option<Fate> {
        let until = self.rt.now() + within;
        let mut last = None;
        while self.rt.now() < until {
            world.pause(50);
            for (_, fate) in self.fates() {
                if !matches!(fate, Fate::Reply(Reply::Accepted)) {
                    return Some(fate);
                }
                last = Some(fate);
            }
        }
        last
    }

    /// What became of commands since the last call.
    pub(super) fn fates(&self) -> Vec<(u64, Fate)> {
        self.lock().fates.drain(..).collect()
    }
}

/// What an onlooker sees as the dashboard's source.
pub(super) struct WatchSource {
    onlooker: Onlooker,
    shown: Arc<Snapshot>,
    problems: Vec<String>,
    replies: Vec<(u64, Reply)>,
}

impl WatchSource {
    pub(super) fn new(onlooker: Onlooker, world: &World) -> WatchSource {
        // Before anything is published there is only the plan's name.
        let plan = PlanView { id: world.plan.id.clone(), title: world.plan.title.clone(), ..PlanView::default() };
        let shown = Arc::new(Snapshot { plan, ..Snapshot::default() });
        WatchSource { onlooker, shown, problems: Vec::new(), replies: Vec::new() }
    }

    fn collect(&mut self) {
        for (id, fate) in self.onlooker.fates() {
            match fate {
                Fate::Reply(reply) => self.replies.push((id, reply)),
                // The dashboard says UNKNOWN by itself.
                Fate::Unknown(why) => self.problems.push(why),
            }
        }
    }
}

impl Source for WatchSource {
    fn frame(&mut self, _elapsed: Duration) -> Arc<Snapshot> {
        if let Some(view) = self.onlooker.lock().seen.as_ref().and_then(|s| s.view.as_ref()) {
            self.shown = view.snapshot.clone();
        }
        self.shown.clone()
    }

    fn send(&mut self, id: u64, cmd: Command) {
        self.onlooker.ask(id, Wish::Command(cmd), &self.shown);
    }

    fn trace(&mut self, _ask: TraceAsk) -> Result<(), String> {
        // Documents do not travel through the control database.
        Err("a document is traced where the rollout runs, or with `tidegate trace PLAN KEY`".to_owned())
    }

    fn replies(&mut self) -> Vec<(u64, Reply)> {
        self.collect();
        std::mem::take(&mut self.replies)
    }

    fn problems(&mut self) -> Vec<String> {
        self.collect();
        std::mem::take(&mut self.problems)
    }

    fn finished(&self) -> bool {
        false
    }

    fn age(&self) -> Option<Duration> {
        let age = self.onlooker.seen()?.age_ms()?;
        Some(Duration::from_millis(age.unsigned_abs()))
    }

    fn absent(&self) -> Option<String> {
        self.onlooker.absent()
    }
}
