//! Taking up a rollout: lease, fences, journal, route, tails; in this order (DESIGN rule 3).

use std::sync::Arc;

use tokio::sync::mpsc;

use super::ctx::{Ctx, Halt, Message, lock};
use super::lease::{self, Lease, LeaseError};
use super::observe;
use super::planted::Bug;
use super::publish::Publisher;
use super::reconcile::Outcome;
use super::runner::Runner;
use super::{Config, Deps, Engine};
use crate::cluster::{AdminDone, AdminOp, CollKind};
use crate::journal::{Journal, JournalError, Record};
use crate::rollout::{Event, EventError, Input, State, Status, Task, decide};
use crate::route::Side;
use crate::runtime::{Micros, timeout};

/// Why a rollout was not taken up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The lease.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A journal record of another version.
    #[error(transparent)]
    Event(#[from] EventError),
    /// There is an unfinished rollout.
    #[error("rollout `{0}` was begun before and is not finished: use `tidegate resume`")]
    Unfinished(String),
    /// There is nothing to resume.
    #[error("rollout `{0}` has not been begun: use `tidegate run`")]
    Nothing(String),
    /// Where it stands there is nothing to repair.
    #[error("{0}")]
    NoRepair(String),
    /// It is over.
    #[error("rollout `{0}` is finished; its journal is closed (`tidegate cleanup` makes room for another run)")]
    Finished(String),
    /// The plan has changed.
    #[error(
        "the plan has changed since the rollout began or was last amended (was {was}, is {is}); go back to that plan"
    )]
    OtherPlan {
        /// Hash at the start.
        was: String,
        /// Hash now.
        is: String,
    },
    /// The cluster.
    #[error("{0}")]
    Cluster(#[from] Halt),
}

/// Starts or resumes the plan's rollout. When this returns, the engine runs in its group.
///
/// # Errors
/// When it may not or cannot run; nothing was changed then but the lease, which is given back.
pub async fn start(deps: Deps, config: Config) -> Result<Engine, StartError> {
    let plan_id = deps.plan.id.clone();
    let take_over = config.take_over.is_some();
    if take_over && !deps.plan.observes() {
        // What would be refused afterwards is refused before a healthy runner is fenced out for it.
        let mut journal = Journal::new(deps.journal.clone(), deps.rt.clone(), deps.plan.id.clone());
        let (begun, state) = replay(&journal.open().await?, &deps)?;
        admissible(&deps, &config, &state, begun)?;
    }
    if deps.plan.observes() {
        return observe_only(&deps, &config).await.inspect_err(|_| deps.rt.kill(deps.group));
    }
    let held = lease::acquire(&deps.rt, &deps.clusters[0], &plan_id, &config.holder, take_over).await?;
    match take_up(&deps, &config, &held).await {
        Ok(engine) => Ok(engine),
        Err(e) => {
            deps.rt.kill(deps.group);
            lease::release(&deps.clusters[0], &plan_id, &held).await;
            Err(e)
        }
    }
}

async fn take_up(deps: &Deps, config: &Config, held: &Lease) -> Result<Engine, StartError> {
    let (to_runner, inbox) = mpsc::unbounded_channel();
    let ctx = Ctx::new(deps, config, held.epoch, to_runner);
    fence_out(&ctx, Side::Legacy).await?;
    match ctx.one_cluster {
        true => fence_out(&ctx, Side::Next).await?,
        // A rollback must be possible while next does not answer.
        false => match timeout(&ctx.rt, NEXT_ANSWERS, fence_out(&ctx, Side::Next)).await {
            Some(fenced) => fenced?,
            None => super::strand::fence_later(&ctx),
        },
    }
    let mut journal = Journal::new(deps.journal.clone(), deps.rt.clone(), deps.plan.id.clone());
    let records = journal.open().await?;
    set_going(deps, config, Some(held.clone()), (ctx, inbox), (journal, &records)).await
}

/// As [`take_up`], where nothing may be written: no lease, no fence. Who may write the journal is the only one.
async fn observe_only(deps: &Deps, config: &Config) -> Result<Engine, StartError> {
    let mut journal = Journal::new(deps.journal.clone(), deps.rt.clone(), deps.plan.id.clone());
    let records = journal.open().await?;
    let (to_runner, inbox) = mpsc::unbounded_channel();
    let ctx = Ctx::new(deps, config, records.last().map_or(0, |r| r.epoch) + 1, to_runner);
    set_going(deps, config, None, (ctx, inbox), (journal, &records)).await
}

/// Goes on from where the records leave it.
async fn set_going(
    deps: &Deps,
    config: &Config,
    held: Option<Lease>,
    (ctx, inbox): (Arc<Ctx>, mpsc::UnboundedReceiver<Message>),
    (journal, records): (Journal, &[Record]),
) -> Result<Engine, StartError> {
    let (begun, state) = replay(records, deps)?;
    admissible(deps, config, &state, begun)?;
    let publisher = Arc::new(Publisher::new(&ctx, config, state.clone()));
    let (requests, asked) = mpsc::channel(32);
    let mut runner = Runner::new(ctx.clone(), journal, state, deps.on_record.clone(), publisher.clone(), held);
    runner.only_repairs(config.repair.clone());
    runner.share(config.shared && config.repair.is_none());
    for r in records {
        runner.note(r);
    }
    lock(&ctx.live).reconcile.last = runner.state().reconciled.as_ref().map(Outcome::from_evidence);
    if let Some(observing) = ctx.observing.as_ref().filter(|_| runner.state().reconciled.is_some()) {
        observing.compared_before();
    }
    let input = if begun {
        Input::Resume { holder: config.holder.clone(), reason: config.take_over.clone() }
    } else {
        Input::Start { advance: config.advance, holder: config.holder.clone() }
    };
    for event in decide(runner.state(), &deps.plan, &input).unwrap_or_default() {
        runner.journal_now(event).await?;
    }
    ctx.spawn("runner", async move { runner.run(inbox, asked).await });
    ctx.spawn("open", {
        let ctx = ctx.clone();
        let publisher = publisher.clone();
        async move { open(ctx, publisher).await }
    });
    if ctx.observing.is_some() {
        super::observing::spawn_watchers(&ctx, &publisher);
        return Ok(Engine { requests, publisher });
    }
    if config.shared && config.repair.is_none() {
        ctx.spawn("publish", super::watch::publish(ctx.clone(), publisher.clone()));
        ctx.spawn("commands", super::watch::take_commands(ctx.clone(), publisher.clone()));
    }
    spawn_watchers(&ctx);
    Ok(Engine { requests, publisher })
}

/// The state that the records stand for, and whether there are any.
pub(super) fn replay(records: &[Record], deps: &Deps) -> Result<(bool, State), EventError> {
    let mut state = State::default();
    for r in records {
        state.apply(&Event::from_parts(&r.kind, &r.body)?, &deps.plan);
    }
    Ok((!records.is_empty(), state))
}

/// How long next has to answer before the rollout is taken up without it.
const NEXT_ANSWERS: Micros = Micros::from_secs(10);

/// Moves every slot of the rollout on a side's cluster to this epoch: what an older runner has under way there can no longer commit.
pub(super) async fn fence_out(ctx: &Arc<Ctx>, side: Side) -> Result<(), Halt> {
    if !ctx.planted.has(Bug::TakeOverWithoutBump) {
        let op = AdminOp::BumpAll { rollout: ctx.plan.id.clone(), epoch: ctx.epoch };
        ctx.admin(side, "fencing out older runners", op).await?;
    }
    let op = AdminOp::Sessions { rollout: ctx.plan.id.clone() };
    if let AdminDone::Sessions(list) = ctx.admin(side, "listing sessions", op).await? {
        for s in list {
            ctx.own_session(s);
        }
    }
    // Everything before this has been seen: later reads reflect whatever the older runner committed.
    ctx.marker(side).await.map(drop)
}

fn admissible(deps: &Deps, config: &Config, state: &State, begun: bool) -> Result<(), StartError> {
    let id = deps.plan.id.clone();
    if config.repair.is_some()
        && let Some(why) = super::repair::refusal(state, &deps.plan)
    {
        return Err(StartError::NoRepair(why));
    }
    if state.closed {
        return Err(StartError::Finished(id));
    }
    if begun && !config.resume && config.take_over.is_none() {
        return Err(StartError::Unfinished(id));
    }
    if !begun && config.resume {
        return Err(StartError::Nothing(id));
    }
    if begun && state.plan_hash != deps.plan.hash {
        return Err(StartError::OtherPlan { was: short(&state.plan_hash), is: short(&deps.plan.hash) });
    }
    Ok(())
}

fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}

/// Brings back what ran when the rollout was left: route, tails. Then the runner may go on.
async fn open(ctx: Arc<Ctx>, publisher: Arc<Publisher>) {
    loop {
        let opened = match ctx.observing.is_some() {
            true => super::observing::open(&ctx).await,
            false => reopen(&ctx, &publisher.state()).await,
        };
        match opened {
            Ok(()) => break,
            Err(halt) => ctx.report_halt(halt).await,
        }
        ctx.sleep(Micros::from_secs(2)).await;
    }
    // Only then, and before any task: tails need not wait for it, and nobody else changes the route meanwhile.
    while let Err(halt) = super::switch::take_up(&ctx, &publisher.state().told).await {
        ctx.report_halt(halt).await;
        ctx.sleep(Micros::from_secs(2)).await;
    }
    publisher.opened();
}

async fn reopen(ctx: &Arc<Ctx>, state: &State) -> Result<(), Halt> {
    if let Some(route) = observe::read_route(ctx).await? {
        let known = state.route_epoch;
        ctx.ownership.set(route.clone());
        if route.epoch != known {
            // Changed by an application's unfreeze, or by this rollout right before it was cut off.
            super::routing::settled(ctx, &route, state.route_intended >= route.epoch).await;
        }
        take_up_gate(ctx, state).await?;
        if ctx.plan.switch.is_none() {
            super::routing::unfreeze(ctx).await?;
        }
        if let Some(route) = ctx.ownership.route() {
            super::server_gate::apply(ctx, &route).await?;
        }
    }
    if state.isolating || state.status == Status::RolledBack || state.sealed.is_some() {
        return Ok(());
    }
    let time = |t: (u32, u32)| crate::cluster::ClusterTime { secs: t.0, inc: t.1 };
    if let Some(place) = ctx.in_place.as_ref().filter(|_| state.back.is_some()) {
        place.turn(ctx, super::in_place::Way::Back).await;
    }
    if let Some(from) = state.tail_from.filter(|_| state.status != Status::Completed) {
        let op = AdminOp::Kind { ns: ctx.ns(Side::Legacy).clone() };
        let kind = ctx.admin(Side::Legacy, "looking at legacy", op).await?;
        if matches!(kind, AdminDone::Kind(CollKind::Collection)) {
            // It writes on next, which may not answer for long; the way back does not wait for that.
            match ctx.one_cluster {
                true => super::tail::start(ctx, Side::Legacy, time(from)).await?,
                false => ctx.spawn("start tail", {
                    let ctx = ctx.clone();
                    async move {
                        if let Err(halt) = super::tail::start(&ctx, Side::Legacy, time(from)).await {
                            ctx.report_halt(halt).await;
                        }
                    }
                }),
            }
        }
    }
    if let Some(from) = state.reverse_from.filter(|_| !state.reverse_stopped) {
        super::tail::start(ctx, Side::Next, time(from)).await?;
    }
    Ok(())
}

/// Not while a side is put away, nor after: those tasks take the gate down themselves.
async fn take_up_gate(ctx: &Arc<Ctx>, state: &State) -> Result<(), Halt> {
    let ends = matches!(state.current_task(&ctx.plan), Some(Task::Quarantine | Task::Isolate | Task::RestoreTtl));
    let over = matches!(state.status, Status::Completed | Status::RolledBack);
    if ends || over || state.isolating { Ok(()) } else { super::server_gate::take_up(ctx).await }
}

fn spawn_watchers(ctx: &Arc<Ctx>) {
    if ctx.plan.server_gate {
        ctx.spawn("server gate", super::server_gate::watch(ctx.clone()));
    }
    let c = ctx.clone();
    ctx.spawn("applications", observe::follow_applications(c));
    if !ctx.one_cluster {
        ctx.spawn("next answers", super::strand::listen(ctx.clone()));
    }
    let c = ctx.clone();
    ctx.spawn("meter", observe::meter_tails(c));
    ctx.spawn("throttle", super::throttle::watch(ctx.clone()));
    for side in Side::BOTH {
        let c = ctx.clone();
        ctx.spawn("lag", observe::measure_lag(c, side));
        if side == Side::Legacy || ctx.in_place.is_none() {
            ctx.spawn("served", super::served::follow(ctx.clone(), side));
        }
        if side == Side::Legacy || !ctx.one_cluster {
            let c = ctx.clone();
            ctx.spawn("watch", observe::watch_cluster(c, side));
        }
    }
}
