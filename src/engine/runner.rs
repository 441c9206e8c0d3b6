//! The runner: the one place where state changes. Input in, events into the journal, effects out, one task at a time.

mod asked;
mod traced;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::ctx::{Ctx, Halt, Message, as_task, lock};
use super::hooks::{self, Calls};
use super::lease::{self, Lease};
use super::planted::Bug;
use super::publish::Publisher;
use super::repair::{self, Repair, RepairReport};
use super::trace::History;
use super::watch;
use super::{OnRecord, Request};
use super::{strand, tasks};
use crate::gate::{Baseline, GateState, TriggerState, Tripped};
use crate::journal::{By, Journal, JournalError, Record};
use crate::plan::{Action, RollbackMode};
use crate::rollout::{Event, GateSummary, Input, State, Status, Task, decide};
use crate::route::Side;
use crate::runtime::{Either, Micros, race};
use crate::snapshot::{Command, GateView, Reply, Verdict};

/// How often gates and triggers are looked at.
const TICK: Micros = Micros::from_ms(250);

/// How a run of the engine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Every stage passed.
    Completed,
    /// Everything is back on legacy, compared and recovered.
    RolledBack,
    /// Stopped at a safe point; the rollout can be resumed.
    Stopped,
    /// Came to a safe point to be taken up again with an amended plan ([`super::Engine::amended`]).
    Amended,
    /// Another runner took over.
    Fenced(String),
    /// The journal failed: nothing more may be decided.
    Failed(String),
}

impl End {
    /// One word for it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            End::Completed => "completed",
            End::RolledBack => "rolled_back",
            End::Stopped => "stopped",
            End::Amended => "amended",
            End::Fenced(_) => "taken_over",
            End::Failed(_) => "failed",
        }
    }

    /// The word for it in summaries. A rollout that passed every stage is not completed while writes were made on a side that did
    /// not own their keys: somebody has to say what becomes of them. `None` is one that goes on.
    #[must_use]
    pub fn outcome(end: Option<&End>, strays: u64) -> &'static str {
        match end {
            Some(End::Completed) if strays == 0 => "completed",
            Some(End::RolledBack) if strays == 0 => "rolled_back",
            Some(End::Failed(_) | End::Fenced(_)) => "failed",
            Some(End::Completed | End::RolledBack | End::Stopped | End::Amended) | None => "needs_operator",
        }
    }
}

type Requests = mpsc::Receiver<Request>;

pub(super) struct Runner {
    ctx: Arc<Ctx>,
    journal: Journal,
    state: State,
    on_record: OnRecord,
    publisher: Arc<Publisher>,
    /// `None` where nothing is written.
    lease: Option<Lease>,
    renew_at: Micros,
    gates: Vec<GateState>,
    gates_of: Option<usize>,
    /// Plan-wide ones, then those of the current stage.
    triggers: Vec<TriggerState>,
    /// What metrics were before the first stage, for the gates that are compared with it.
    baseline: Option<Arc<Baseline>>,
    began: Micros,
    task_running: bool,
    calls: Calls,
    /// What the journal says of keys and buckets.
    history: Arc<History>,
    /// No stage is worked on: this is carried out, and then the runner stops.
    repair: Option<Arc<Repair>>,
    /// Other terminals watch.
    shared: bool,
    /// It stops to be taken up again with another plan.
    amended: bool,
}

/// The run is over.
struct Over(End);

impl From<JournalError> for Over {
    fn from(e: JournalError) -> Over {
        match e {
            JournalError::Stale { .. } => Over(End::Fenced(e.to_string())),
            _ => Over(End::Failed(e.to_string())),
        }
    }
}

impl Runner {
    pub(super) fn new(
        ctx: Arc<Ctx>,
        journal: Journal,
        state: State,
        on_record: OnRecord,
        publisher: Arc<Publisher>,
        lease: Option<Lease>,
    ) -> Runner {
        let triggers = ctx.plan.triggers.iter().cloned().map(TriggerState::new).collect();
        let began = ctx.rt.now();
        let renew_at = began + Micros(lease::LEASE.0 / 3);
        lock(&ctx.live).metrics.set_slo(ctx.plan.slo);
        ctx.strand.follow(&state);
        ctx.throttle.follow(&state);
        ctx.returning.store(state.back.is_some(), Ordering::SeqCst);
        ctx.clock.not_before(state.latest_ms());
        let baseline = state.baseline.as_ref().and_then(|b| serde_json::from_value(b.clone()).ok()).map(Arc::new);
        Runner {
            ctx,
            journal,
            state,
            on_record,
            publisher,
            lease,
            renew_at,
            gates: Vec::new(),
            gates_of: None,
            triggers,
            baseline,
            began,
            task_running: false,
            calls: Calls::default(),
            history: Arc::default(),
            repair: None,
            shared: false,
            amended: false,
        }
    }

    /// Other terminals see how it ends.
    pub(super) fn share(&mut self, shared: bool) {
        self.shared = shared;
    }

    /// Has it carry out a repair instead of the rollout's tasks.
    pub(super) fn only_repairs(&mut self, repair: Option<Arc<Repair>>) {
        self.repair = repair;
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Puts a record into the screen's event log, and notes which hooks are called for it and what it says of keys.
    pub(super) fn note(&mut self, record: &Record) {
        let mut line = record.event_line();
        if let Ok(event) = Event::from_parts(&record.kind, &record.body) {
            line.text = crate::scrub::line(&event.text());
            self.calls.note(&self.ctx.plan, record, &event);
            Arc::make_mut(&mut self.history).note(record, &event);
        }
        lock(&self.ctx.live).push_event(line);
    }

    /// Appends an event, then folds it into the state.
    pub(super) async fn journal_now(&mut self, event: Event) -> Result<(), JournalError> {
        self.journal_by(By::Engine, event).await
    }

    async fn journal_by(&mut self, by: By, event: Event) -> Result<(), JournalError> {
        let (kind, body) = event.to_parts();
        let record = self.journal.append(self.ctx.epoch, by, &kind, body).await?;
        self.state.apply(&event, &self.ctx.plan);
        if matches!(event, Event::RollbackBegan { .. }) && self.task_running {
            self.ctx.abandoned.store(true, Ordering::SeqCst);
        }
        self.ctx.paused.store(self.state.paused.is_some(), Ordering::SeqCst);
        self.ctx.strand.follow(&self.state);
        self.ctx.throttle.follow(&self.state);
        self.ctx.returning.store(self.state.back.is_some(), Ordering::SeqCst);
        self.publisher.set_state(self.state.clone());
        self.note(&record);
        (self.on_record)(&record);
        Ok(())
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Message>, mut requests: Requests) {
        let over = loop {
            if let Err(over) = self.turn(&mut inbox, &mut requests).await {
                break over;
            }
        };
        if self.shared && !matches!(over.0, End::Fenced(_)) {
            watch::publish_end(&self.ctx, &self.publisher, &over.0).await;
        }
        if let Some(held) = self.lease.as_ref().filter(|_| !matches!(over.0, End::Fenced(_))) {
            lease::release(self.ctx.db(Side::Legacy), &self.ctx.plan.id, held).await;
        }
        self.publisher.set_end(over.0);
        self.ctx.rt.kill(self.ctx.group);
    }

    async fn turn(
        &mut self,
        inbox: &mut mpsc::UnboundedReceiver<Message>,
        requests: &mut Requests,
    ) -> Result<(), Over> {
        let tick = self.ctx.rt.sleep_until(self.ctx.rt.now() + TICK);
        match race(race(inbox.recv(), requests.recv()), tick).await {
            Either::Left(Either::Left(Some(message))) => self.message(message).await?,
            Either::Left(Either::Right(Some(Request::Command(command, reply)))) => self.command(command, reply).await?,
            Either::Left(Either::Right(Some(Request::Trace(ask)))) => self.traced(ask).await?,
            Either::Left(Either::Right(None)) => {
                // Nobody can ask for anything any more; the rollout goes on.
                self.ctx.sleep(TICK).await;
            }
            Either::Left(Either::Left(None)) | Either::Right(()) => {}
        }
        self.renew().await?;
        self.advance().await?;
        self.call_hooks().await
    }

    /// Begins the calls that are due. Nobody waits for them here.
    async fn call_hooks(&mut self) -> Result<(), Over> {
        if self.repair.is_some() {
            return Ok(());
        }
        while let Some(step) = self.calls.next(&self.ctx.plan) {
            self.journal_by(By::Engine, step.event).await?;
            if let Some(delivery) = step.call {
                self.ctx.spawn("hook", hooks::deliver(self.ctx.clone(), delivery));
            }
        }
        Ok(())
    }

    async fn message(&mut self, message: Message) -> Result<(), Over> {
        match message {
            Message::Fenced(newer) => Err(Over(End::Fenced(format!("epoch {newer} has taken over")))),
            Message::Asked(order) => self.asked(*order).await,
            Message::Repaired(report) => {
                self.task_running = false;
                self.publisher.set_repaired(report);
                self.ctx.stopping.store(true, Ordering::SeqCst);
                Ok(())
            }
            Message::Record(event, done) => {
                let stray = matches!(event, Event::StrayFound { .. }).then(|| event.text());
                self.journal_now(event).await?;
                // Whoever waited may have been cut off; the record stands.
                let _ = done.send(());
                if let Some(why) = stray {
                    self.input(By::Trigger, Input::Tripped { why, rollback: None, evidence: Value::Null }).await?;
                }
                Ok(())
            }
            Message::Input(input) => {
                let of_task = matches!(
                    input,
                    Input::TaskDone { .. } | Input::TaskHeld { .. } | Input::TaskFailed { .. } | Input::TaskStopped
                );
                let abandoned = of_task && self.ctx.abandoned.load(Ordering::SeqCst);
                if matches!(input, Input::TaskDone { .. } | Input::TaskFailed { .. } | Input::TaskStopped) {
                    self.task_running = false;
                    self.ctx.abandoned.store(false, Ordering::SeqCst);
                }
                if self.repair.is_some() && matches!(input, Input::Broken { .. }) {
                    // What holds a tail up holds the repair up, too.
                    self.ctx.stopping.store(true, Ordering::SeqCst);
                }
                // What an abandoned task still says is not about the task that follows it.
                if abandoned { Ok(()) } else { self.input(By::Engine, input).await }
            }
        }
    }

    async fn input(&mut self, by: By, input: Input) -> Result<(), Over> {
        // Only commands are refused, and they do not come this way.
        for event in decide(&self.state, &self.ctx.plan, &input).unwrap_or_default() {
            self.journal_by(by.clone(), event).await?;
        }
        Ok(())
    }

    async fn command(&mut self, command: Command, reply: oneshot::Sender<Reply>) -> Result<(), Over> {
        let answer = self.carry_out(command, By::Operator(None)).await?;
        // A sender that has gone away does not need the answer.
        let _ = reply.send(answer);
        Ok(())
    }

    async fn carry_out(&mut self, command: Command, by: By) -> Result<Reply, Over> {
        if command == Command::Stop {
            self.amended = false;
            self.ctx.stopping.store(true, Ordering::SeqCst);
            return Ok(Reply::Accepted);
        }
        // Evidence belongs to the figures as they are now.
        if self.state.status != Status::New {
            self.look();
        }
        let gates = self.summary(true);
        let mut forecast = self.publisher.forecast(&self.state);
        if command == Command::LeaveBehind {
            if self.ctx.one_cluster {
                return Ok(Reply::Refused("both sides are one cluster: nothing can be left behind".into()));
            }
            forecast["reason"] = json!(self.ctx.strand.reason);
        }
        let input = Input::Command { command, at_ms: self.ctx.clock.now_ms(), gates, forecast };
        Ok(match decide(&self.state, &self.ctx.plan, &input) {
            Err(refusal) => Reply::Refused(refusal.0),
            Ok(events) => {
                for event in events {
                    self.journal_by(by.clone(), event).await?;
                }
                if matches!(command, Command::Continue | Command::CohortForward) {
                    let now = self.ctx.rt.now();
                    self.triggers.iter_mut().for_each(|t| t.reset(now));
                }
                Reply::Applied
            }
        })
    }

    async fn renew(&mut self) -> Result<(), Over> {
        let now = self.ctx.rt.now();
        if now < self.renew_at {
            return Ok(());
        }
        let Some(held) = &mut self.lease else { return Ok(()) };
        match lease::renew(self.ctx.db(Side::Legacy), &self.ctx.plan.id, held).await {
            Ok(None) => self.renew_at = self.ctx.rt.now() + Micros(lease::LEASE.0 / 3),
            Ok(Some(newer)) => return Err(Over(End::Fenced(format!("epoch {newer} has taken over")))),
            // The fences keep the data safe meanwhile.
            Err(_) => self.renew_at = self.ctx.rt.now() + Micros::from_ms(500),
        }
        Ok(())
    }

    /// True while an engine that stops has somebody to tell something.
    fn waits_for_hooks(&mut self) -> bool {
        self.repair.is_none() && self.calls.hold_stop(self.ctx.rt.now())
    }

    /// Looks at gates and triggers and lets the core go on as far as it can.
    async fn advance(&mut self) -> Result<(), Over> {
        if self.amended && !self.task_running && !self.waits_for_hooks() {
            return Err(Over(End::Amended));
        }
        if self.ctx.is_stopping() && !self.task_running && !self.waits_for_hooks() {
            self.journal_by(By::Operator(None), Event::Stopped {}).await?;
            return Err(Over(End::Stopped));
        }
        if self.amended {
            // Nothing new begins; what must turn it back still does.
            self.look();
            return self.trip().await;
        }
        if !self.publisher.is_open() || self.ctx.is_stopping() {
            return Ok(());
        }
        if let Some(repair) = self.repair.clone() {
            self.start_repair(repair);
            return Ok(());
        }
        if !self.baseline_taken().await? {
            return Ok(());
        }
        self.look();
        self.trip().await?;
        if self.ctx.abandoned.load(Ordering::SeqCst) {
            return Ok(());
        }
        loop {
            let at_ms = self.ctx.clock.now_ms();
            let calling = self.calls.are_open();
            let tick = |evidence| Input::Tick { at_ms, gates: self.summary(evidence), totals: self.totals(), calling };
            let mut events = decide(&self.state, &self.ctx.plan, &tick(false)).unwrap_or_default();
            if events.iter().any(|e| matches!(e, Event::StagePassed { .. })) {
                events = decide(&self.state, &self.ctx.plan, &tick(true)).unwrap_or_default();
            }
            if events.is_empty() {
                break;
            }
            for event in events {
                self.journal_by(By::Engine, event).await?;
            }
            self.look();
        }
        if self.state.closed {
            let back = self.state.status == Status::RolledBack;
            return Err(Over(if back { End::RolledBack } else { End::Completed }));
        }
        self.start_task();
        Ok(())
    }

    /// Measures what gates are compared with, before the first stage begins. False while something is still missing.
    async fn baseline_taken(&mut self) -> Result<bool, Over> {
        let wanted = Baseline::wanted(&self.ctx.plan);
        if wanted.is_empty() || self.baseline.is_some() || self.state.status != Status::New {
            return Ok(true);
        }
        let now = self.ctx.rt.now();
        let taken = {
            let mut live = lock(&self.ctx.live);
            let taken = Baseline::take(&wanted, &live.metrics, now.since(self.began), now);
            live.waiting = taken.as_ref().err().map(|missing| format!("before the first stage: {missing}"));
            taken
        };
        let Ok(baseline) = taken else { return Ok(false) };
        // Plain maps of numbers always serialise.
        let figures = serde_json::to_value(&baseline).unwrap_or_default();
        self.journal_by(By::Engine, Event::BaselineTaken { baseline: figures }).await?;
        self.baseline = Some(Arc::new(baseline));
        Ok(true)
    }

    /// Carries out the intended task, unless it runs already or waits for a person.
    fn start_task(&mut self) {
        if self.task_running || self.state.needs_operator.is_some() {
            return;
        }
        let Some(task) = self.state.current_task(&self.ctx.plan) else { return };
        self.task_running = true;
        let (ctx, state) = (self.ctx.clone(), self.state.clone());
        self.ctx.spawn("task", async move { carry_out(ctx, &state, task).await });
    }

    /// No trigger acts meanwhile: the runner would be gone before a rollback is done.
    fn start_repair(&mut self, repair: Arc<Repair>) {
        if self.task_running {
            return;
        }
        // Repairs are carried out under a lease.
        let Some(holder) = self.lease.as_ref().map(|l| l.holder.clone()) else { return };
        self.task_running = true;
        let (ctx, publisher) = (self.ctx.clone(), self.publisher.clone());
        self.ctx.spawn("repair", async move {
            let report = match repair::run(&ctx, &repair, &holder, &publisher).await {
                Ok(report) => report,
                Err(halt @ Halt::Fenced(_)) => return ctx.report_halt(halt).await,
                Err(halt) => RepairReport::cut_off(&repair, &halt.to_string()),
            };
            // A closed channel means that the runner has ended.
            let _ = ctx.to_runner.send(Message::Repaired(report));
        });
    }

    /// Evaluates the gates of the current stage.
    fn look(&mut self) {
        let now = self.ctx.rt.now();
        let mut live = lock(&self.ctx.live);
        live.metrics.set("writes.stray", None, now, self.state.strays_open() as f64);
        if let Some(n) = super::publish::way_back(&self.ctx, &self.state, &live, now).writes_at_risk {
            live.metrics.set("writes.at_risk", None, now, n as f64);
        }
        if self.gates_of != Some(self.state.stage) {
            let stage = self.ctx.plan.stages.get(self.state.stage);
            let gate = |g: &crate::plan::Gate| GateState::new(g.clone()).with_baseline(self.baseline.clone());
            self.gates = stage.map(|s| s.gates.iter().map(gate).collect()).unwrap_or_default();
            self.gates.iter_mut().for_each(|g| g.reset(now));
            self.gates_of = Some(self.state.stage);
            // What is breached goes on being breached from stage to stage: plan-wide triggers keep what they have seen.
            self.triggers.truncate(self.ctx.plan.triggers.len());
            self.triggers.extend(stage.into_iter().flat_map(|s| s.triggers.iter().cloned().map(TriggerState::new)));
            live.metrics.begin_stage(now);
        }
        let mut views: Vec<GateView> = self.gates.iter_mut().map(|g| g.evaluate(&live.metrics, now)).collect();
        views.sort_by(|a, b| {
            let room = |v: &GateView| v.room.unwrap_or(f64::NEG_INFINITY);
            a.verdict.cmp(&b.verdict).then(room(a).total_cmp(&room(b)))
        });
        live.gates = views;
    }

    async fn trip(&mut self) -> Result<(), Over> {
        if !matches!(self.state.status, Status::Working | Status::Soaking { .. }) {
            return Ok(());
        }
        let now = self.ctx.rt.now();
        let tripped: Vec<Tripped> = {
            let live = lock(&self.ctx.live);
            self.triggers.iter_mut().filter_map(|t| t.evaluate(&live.metrics, now)).collect()
        };
        for Tripped { action, text: why, mut evidence } in tripped {
            let rollback = match action {
                Action::Pause => None,
                Action::Rollback(mode) => {
                    evidence["forecast"] = self.publisher.forecast(&self.state);
                    Some(mode == RollbackMode::Hard)
                }
            };
            self.input(By::Trigger, Input::Tripped { why, rollback, evidence }).await?;
        }
        Ok(())
    }

    /// What the gates said when they were last looked at. With evidence only when it may be `needed`: it takes merging histograms.
    fn summary(&self, needed: bool) -> GateSummary {
        let live = lock(&self.ctx.live);
        let blind = self.ctx.planted.has(Bug::GatePassesOnMissingData);
        let passes = |v: Verdict| v == Verdict::Pass || (blind && matches!(v, Verdict::Stale | Verdict::Inconclusive));
        let failing = live.gates.iter().find(|g| !passes(g.verdict));
        GateSummary {
            pass: failing.is_none(),
            why: failing.map_or_else(String::new, super::publish::gate_reason),
            evidence: if needed { self.gates.iter().map(|g| g.evidence(&live.metrics)).collect() } else { Value::Null },
        }
    }

    fn totals(&self) -> Value {
        let live = lock(&self.ctx.live);
        let (t, oracle) = live.totals();
        let r = live.reconcile.last.clone().unwrap_or_default();
        let silent = self.ctx.plan.is_unreported(!live.applications.is_empty());
        let told = |n: Value| if silent { Value::Null } else { n };
        let strays = self.ctx.observing.is_none().then(|| self.state.strays_open());
        json!({
            "writes": {
                "acknowledged": told(json!(t.acknowledged)),
                "lost": oracle.then_some(t.lost),
                "stale": told(json!(t.stale_owner)),
                "stray": strays,
            },
            "documents": {
                "matched": r.matched, "missing": r.missing, "extra": r.extra, "differing": r.differing,
                "checked_ratio": if live.reconcile.last.is_some() { json!(1.0) } else { Value::Null },
            },
        })
    }
}

async fn carry_out(ctx: Arc<Ctx>, state: &State, task: Task) {
    let said = ctx.clone();
    let last = Mutex::new(String::new());
    let held = move |why: String| {
        lock(&said.live).waiting = Some(why.clone());
        // The screen shows every figure; the journal is told again only when more than the figures has changed.
        let shape: String = why.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect();
        if std::mem::replace(&mut *lock(&last), shape.clone()) != shape {
            said.input(Input::TaskHeld { why });
        }
    };
    let outcome = loop {
        match as_task(tasks::run(&ctx, state, task, &held)).await {
            Err(Halt::LetGo) if ctx.is_leaving() => break Ok(None),
            // Begun again from where it stands, as after a restart.
            Err(Halt::LetGo) => {
                held(strand::words(&ctx));
                ctx.sleep(Micros::from_secs(1)).await;
            }
            other => break other,
        }
    };
    {
        let mut live = lock(&ctx.live);
        (live.waiting, live.throttled) = (None, None);
    }
    match outcome {
        Ok(Some(evidence)) => ctx.input(Input::TaskDone { evidence }),
        Ok(None) => ctx.input(Input::TaskStopped),
        Err(Halt::Broken(why)) => ctx.input(Input::TaskFailed { why }),
        Err(halt @ (Halt::Fenced(_) | Halt::LetGo)) => ctx.report_halt(halt).await,
    }
}
