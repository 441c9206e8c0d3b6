//! Repairs: what a comparison or a stray has shown is mended, by the holder of the lease and on the path of every other write (DESIGN
//! rule 2).
//!
//! A repair takes the rollout up as any runner does, with both tails; no task is carried out and no stage advances while it is at it.
//! Copies are written by the tail's own worker of their bucket, one key by one writer. What a repair replaces or removes is kept in
//! quarantine first. An owner's document is only ever written over the very bytes that were looked at.

mod carry;
mod indexes;
mod mend;
mod release;
mod report;
mod sides;
mod strays;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;
use tokio::sync::mpsc;

pub(super) use mend::{Job, answer};
pub use report::{RepairEnd, RepairFate, RepairItem, RepairPart, RepairReport};

use super::ctx::{Ctx, Halt, lock};
use super::lease::{self, LeaseError};
use super::publish::Publisher;
use super::reconcile::{judge, pass_markers};
use super::writer::SlotWriter;
use super::{Config, Deps, observe, start};
use crate::cluster::Key;
use crate::journal::{Journal, JournalError};
use crate::plan::{Plan, RepairAction, RepairKind, RepairTemplate};
use crate::rollout::{Event, EventError, State, Status, Task};
use crate::route::{Side, bucket_of};
use crate::runtime::Micros;

/// Documents that a repair touches unless more are allowed.
pub const REPAIR_MAX: u64 = 10_000;
/// Rounds of comparing again before a repair believes a difference: both streams have passed several markers by then.
const ROUNDS: usize = 6;
/// How long both tails have to run.
const TAILS_START: Micros = Micros::from_secs(30);
/// Items named in the journal.
const NAMED: usize = 5;

/// A repair that is asked for.
#[derive(Clone, Debug)]
pub struct Repair {
    /// What is done, in which order.
    pub template: RepairTemplate,
    /// Only these keys, as the journal and the screen show them; empty is every key.
    pub keys: Vec<String>,
    /// Why; for the journal, and needed to release something.
    pub reason: Option<String>,
    /// Documents that an action may touch unless it says fewer; with more it does nothing.
    pub max_documents: u64,
}

/// Why a repair was not begun.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// Where the rollout stands there is nothing to repair.
    #[error("{0}")]
    NotNow(String),
    /// A cluster.
    #[error("{0}")]
    Cluster(#[from] Halt),
    /// The lease cannot be read.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A journal record of another version.
    #[error(transparent)]
    Event(#[from] EventError),
}

/// Why nothing can be repaired where the rollout stands; `None` when it can.
pub(super) fn refusal(state: &State, plan: &Plan) -> Option<String> {
    let id = &plan.id;
    if plan.in_place() {
        return Some(
            "documents change in place: there is no copy to repair; `tidegate rollback` has the pre-images".into(),
        );
    }
    if state.status == Status::New {
        return Some(format!("rollout `{id}` has not been begun: there is nothing to repair"));
    }
    if state.closed {
        return Some(format!(
            "rollout `{id}` is finished: nothing follows either side any more, so nothing is repaired"
        ));
    }
    if state.sealed.is_some() {
        return Some(
            "next is left behind: nothing is written there until `tidegate resume` has salvaged it; conflicts are resolved with `--resolve`"
                .into(),
        );
    }
    let ending = matches!(state.current_task(plan), Some(Task::StopReverse | Task::Quarantine | Task::Isolate));
    if ending || state.reverse_stopped || state.isolating {
        return Some("one side is being put away and is not kept in step any more: nothing is repaired".into());
    }
    if !state.has_copied(plan) {
        return Some(
            "the first copy is not finished: `tidegate resume` goes on with it; until then every key differs".into(),
        );
    }
    None
}

/// What an action is about.
struct Scope<'a> {
    action: &'a RepairAction,
    repair: &'a Repair,
    /// Keys that earlier actions of a dry run would have mended.
    handled: &'a BTreeSet<String>,
}

impl Scope<'_> {
    /// True for a key that was named, or where none was.
    fn names(&self, key: &str) -> bool {
        let within = |all: &[String]| all.is_empty() || all.iter().any(|k| k == key);
        within(&self.action.keys) && within(&self.repair.keys)
    }

    fn takes(&self, key: &Key) -> bool {
        let (from, to) = self.action.buckets.unwrap_or((0, u16::MAX));
        let text = key.to_string();
        self.names(&text) && !self.handled.contains(&text) && bucket_of(key).is_ok_and(|b| from <= b && b < to)
    }

    /// Everything that was named.
    fn named(&self) -> Vec<&String> {
        let all = if self.action.keys.is_empty() { &self.repair.keys } else { &self.action.keys };
        all.iter().filter(|k| self.names(k)).collect()
    }

    fn limit(&self) -> u64 {
        self.action.max_documents.map_or(self.repair.max_documents, |n| n.min(self.repair.max_documents))
    }
}

/// What is to be done, with everything needed to do it.
enum Work {
    Copies(Vec<Key>),
    Indexes(Vec<indexes::Wrong>),
    Strays(Vec<strays::Group>),
    Release(Vec<release::Named>),
}

/// What an action would do.
struct Survey {
    work: Work,
    /// What would be mended, in the order of `work`.
    would: Vec<RepairItem>,
    /// What is a person's, or needs nothing.
    other: Vec<RepairItem>,
    /// Differences that there was no room to name.
    beyond: u64,
    notes: Vec<String>,
}

/// `None` when the engine is stopping.
async fn survey(ctx: &Arc<Ctx>, scope: &Scope<'_>, state: &State) -> Result<Option<Survey>, Halt> {
    match scope.action.kind {
        RepairKind::Resync | RepairKind::RestoreMissing | RepairKind::RemoveExtra => {
            sides::survey(ctx, scope, state).await
        }
        RepairKind::RebuildIndex => indexes::survey(ctx).await.map(Some),
        RepairKind::CarryStray => strays::survey(ctx, scope, state).await,
        RepairKind::Release => release::survey(ctx, scope, state).await.map(Some),
    }
}

/// Why an action does nothing although it could.
fn too_many(scope: &Scope<'_>, found: &Survey) -> Option<String> {
    let (n, limit) = (found.would.len() as u64, scope.limit());
    (n > limit).then(|| {
        format!(
            "{n} documents are more than the limit of {limit}: nothing was done; find out why so many differ, then raise \
             `--max-documents` or the file's `max_documents`"
        )
    })
}

/// What a template would do. Changes nothing, and needs no lease: a runner may be at it meanwhile.
///
/// # Errors
/// When the rollout is where nothing can be repaired, or a cluster cannot be read.
pub async fn repair_look(deps: &Deps, repair: &Repair) -> Result<RepairReport, RepairError> {
    let (to_runner, _inbox) = mpsc::unbounded_channel();
    let ctx = Ctx::new(deps, &Config::default(), 0, to_runner);
    let mut server_ms = 0;
    for side in Side::BOTH {
        let seen = ctx.retry("looking at the cluster", || ctx.db(side).observe()).await?;
        ctx.saw(side, seen.majority);
        server_ms = if side == Side::Legacy { seen.server_ms } else { server_ms };
    }
    let mut journal = Journal::new(deps.journal.clone(), deps.rt.clone(), deps.plan.id.clone());
    let (_, state) = start::replay(&journal.open().await?, deps)?;
    if let Some(why) = refusal(&state, &deps.plan) {
        return Err(RepairError::NotNow(why));
    }
    if let Some(route) = observe::read_route(&ctx).await? {
        ctx.ownership.set(route);
    }
    let lease = lease::read(&deps.rt, ctx.db(Side::Legacy), &deps.plan.id, ctx.seen(Side::Legacy)).await?;
    let running = lease.is_some_and(|l| l.expires_ms > server_ms);
    let mut report = RepairReport::new(&repair.template.id, true);
    let mut handled = BTreeSet::new();
    for action in &repair.template.actions {
        let scope = Scope { action, repair, handled: &handled };
        // Nothing can stop an onlooker: it answers with an outcome.
        let Some(found) = survey(&ctx, &scope, &state).await? else { continue };
        let mut part = RepairPart::new(action.kind);
        part.refused = too_many(&scope, &found);
        part.notes = found.notes;
        part.beyond = found.beyond;
        if !running && matches!(found.work, Work::Copies(_)) && !found.would.is_empty() {
            part.notes
                .push("no runner keeps both sides in step now: what was written since it stopped differs too".into());
        }
        handled.extend(found.would.iter().map(|i| i.key.clone()));
        part.items = found.would;
        part.items.extend(found.other);
        report.parts.push(part);
    }
    Ok(report)
}

/// Carries a repair out, as the runner's only task. What it could not do is in the report, too.
pub(super) async fn run(
    ctx: &Arc<Ctx>,
    repair: &Repair,
    holder: &str,
    publisher: &Publisher,
) -> Result<RepairReport, Halt> {
    let mut report = RepairReport::new(&repair.template.id, false);
    await_tails(ctx, &publisher.state()).await?;
    let mut keeper = SlotWriter::open(ctx, Side::Legacy, "repair").await?;
    let handled = BTreeSet::new();
    for action in &repair.template.actions {
        let scope = Scope { action, repair, handled: &handled };
        if let Some(found) = survey(ctx, &scope, &publisher.state()).await? {
            let part = carry_out(ctx, &scope, &mut keeper, found, holder).await?;
            report.parts.push(part);
        }
        if ctx.is_leaving() {
            let why = publisher.state().needs_operator;
            report.stopped = Some(why.unwrap_or_else(|| "it was stopped; begin it again".into()));
            break;
        }
    }
    Ok(report)
}

/// Both tails write the copies: without them nothing can be mended.
async fn await_tails(ctx: &Arc<Ctx>, state: &State) -> Result<(), Halt> {
    let reverse = state.reverse_from.is_some() && !state.reverse_stopped;
    let wanted = [(Side::Legacy, state.tail_from.is_some()), (Side::Next, reverse)];
    let end = ctx.rt.now() + TAILS_START;
    for (side, _) in wanted.into_iter().filter(|(_, wanted)| *wanted) {
        while !ctx.tails[side as usize].is_running() {
            if ctx.is_leaving() || ctx.rt.now() >= end {
                let ns = ctx.ns(side);
                return Err(Halt::Broken(format!("the changes of {ns} are not followed: nothing can be repaired now")));
            }
            ctx.sleep(Micros::from_ms(100)).await;
        }
    }
    Ok(())
}

/// One action: intended, done, and its keys compared again, each in the journal. What it had not come to when the engine was stopped is left
/// as it was found.
async fn carry_out(
    ctx: &Arc<Ctx>,
    scope: &Scope<'_>,
    keeper: &mut SlotWriter,
    found: Survey,
    holder: &str,
) -> Result<RepairPart, Halt> {
    let mut part = RepairPart::new(scope.action.kind);
    part.refused = too_many(scope, &found);
    part.notes = found.notes;
    part.beyond = found.beyond;
    part.items = found.other;
    if part.refused.is_some() || found.would.is_empty() {
        return Ok(part);
    }
    let (template, action) = (scope.repair.template.id.clone(), part.action.to_owned());
    let reason = scope.repair.reason.as_ref().map(|r| crate::scrub::short(r, 300));
    let began = Event::RepairBegan {
        template: template.clone(),
        action: action.clone(),
        documents: found.would.len() as u64,
        operator: crate::scrub::short(holder, 60),
        reason: reason.clone(),
        evidence: json!({ "first": first(&found.would) }),
    };
    ctx.record(began).await;
    let (items, keys) = match found.work {
        Work::Copies(keys) => sides::mend(ctx, scope.action.kind, keeper, &keys, found.would).await?,
        Work::Indexes(wrong) => (indexes::rebuild(ctx, &wrong, found.would).await?, BTreeSet::new()),
        Work::Strays(groups) => strays::carry(ctx, keeper, groups, found.would).await?,
        Work::Release(named) => release::release(ctx, keeper, &named, found.would, reason.as_deref()).await?,
    };
    let left = |i: &&RepairItem| i.fate == RepairFate::Person;
    let people: Vec<RepairItem> = part.items.iter().chain(&items).filter(left).cloned().collect();
    part.items.splice(0..0, items);
    let ended = Event::RepairEnded {
        template: template.clone(),
        action: action.clone(),
        done: part.count(RepairFate::Done),
        skipped: part.count(RepairFate::Nothing),
        conflicts: people.len() as u64,
        evidence: json!({ "for_a_person": first(&people) }),
    };
    ctx.record(ended).await;
    if !keys.is_empty()
        && let Some((matched, differing, through_ms)) = verify(ctx, keys).await?
    {
        ctx.record(Event::RepairVerified { template, action, matched, differing, through_ms }).await;
        part.verified = Some((matched, differing, through_ms));
    }
    Ok(part)
}

fn first(items: &[RepairItem]) -> Vec<String> {
    items.iter().take(NAMED).map(|i| crate::scrub::short(&format!("{}: {}", i.key, i.what), 200)).collect()
}

/// Compares the keys again, after both tails have passed markers taken now: how many are equal, how many are not, and as of when.
async fn verify(ctx: &Arc<Ctx>, keys: BTreeSet<Key>) -> Result<Option<(u64, u64, i64)>, Halt> {
    let Some(through_ms) = pass_markers(ctx).await? else { return Ok(None) };
    *lock(&ctx.dirty) = Some(BTreeSet::new());
    let Some(judged) = judge(ctx, keys, ROUNDS).await? else { return Ok(None) };
    let matched = judged.values().filter(|f| f.is_equal()).count() as u64;
    Ok(Some((matched, judged.len() as u64 - matched, through_ms)))
}
