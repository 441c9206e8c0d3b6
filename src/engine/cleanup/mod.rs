//! What a rollout that is over has left behind, and taking it away: `tidegate cleanup`.
//!
//! What holds documents goes only where a person has typed its name. The journal is moved, never deleted. The lease and the route
//! stay: their epochs must never begin anew while a stale process may still know an older one.

mod archive;

use std::sync::Arc;

use bson::RawBsonRef;
use tokio::sync::mpsc;

use archive::{archive, archive_ns, half_moved};

use super::ctx::{Ctx, Halt, markers_ns};
use super::in_place::undo_ns;
use super::lease::{self, LeaseError};
use super::quarantine::quarantine_ns;
use super::ttl::{self, Kept, ttl_ns};
use super::watch::{commands_ns, views_ns};
use super::{Config, Deps, back, server_gate, start, tasks};
use crate::cluster::{AdminDone, AdminOp, CONTROL_DB, CollKind, Doc, Key, Ns, PageLimit, WriteOp};
use crate::journal::{Journal, JournalError, Record};
use crate::rollout::{EventError, Status};
use crate::route::Side;
use crate::route::client::{acks_ns, routes_ns};
use crate::runtime::Micros;

/// Names of earlier isolated collections that are looked for, newest lease epoch first.
const EARLIER: i64 = 50;

/// Why nothing was looked at or done.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// It goes on.
    #[error(
        "rollout `{0}` is not finished: bring it to its end (`tidegate resume`) or back (`tidegate rollback`) first"
    )]
    NotFinished(String),
    /// Somebody holds the lease.
    #[error("rollout `{plan}` is held by {holder}: wait until it has ended")]
    Held {
        /// The plan.
        plan: String,
        /// Who.
        holder: String,
    },
    /// A name that is not there to be dropped.
    #[error(
        "`{0}` is nothing that this rollout has left and that can be dropped by name; without --drop the list says what is"
    )]
    NoSuchName(String),
    /// The cluster.
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

/// What becomes of something that was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It holds nothing that is needed: it is removed.
    Removed,
    /// It is kept under another name.
    Moved,
    /// It holds documents, or protects: it is removed only where its name is typed.
    ByName,
    /// It stays.
    Stays,
}

impl Fate {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Fate::Removed => "remove",
            Fate::Moved => "move",
            Fate::ByName => "by name",
            Fate::Stays => "stays",
        }
    }
}

/// Something that a rollout has left.
#[derive(Clone, Debug)]
pub struct Left {
    /// The namespace, with the plan's id where it is only some of its documents.
    pub name: String,
    /// On which cluster.
    pub on: Side,
    /// What it is, and why it stays if it does.
    pub what: String,
    /// How many documents.
    pub documents: u64,
    /// What becomes of it.
    pub fate: Fate,
    how: How,
}

#[derive(Clone, Debug)]
enum How {
    Nothing,
    Keys(Ns, Vec<Key>),
    /// Acknowledgements, with their beats: those that still beat belong to a process that lives.
    Acks(Vec<(Key, i64)>),
    Journal(Vec<Record>),
    /// TTL indexes that are still suspended, with what they were set to.
    Ttl(Side, Vec<Kept>),
    Drop(Ns, CollKind),
    Rename(Ns, Ns),
}

/// Everything a finished rollout has left. Changes nothing.
///
/// # Errors
/// When it is not finished, is held, or a cluster cannot be read.
pub async fn cleanup_list(deps: &Deps) -> Result<Vec<Left>, CleanupError> {
    let ctx = onlooker(deps).await?;
    let plan = &ctx.plan.id;
    let mut journal = Journal::new(deps.journal.clone(), deps.rt.clone(), plan.clone());
    let half = half_moved(&ctx).await?;
    let records = if half.is_some() { Vec::new() } else { journal.open().await? };
    let (begun, state) = start::replay(&records, deps)?;
    let lease = lease::read(&deps.rt, ctx.db(Side::Legacy), plan, ctx.seen(Side::Legacy)).await?;
    let now = ctx.retry("asking for the time", || ctx.db(Side::Legacy).observe()).await?.server_ms;
    if let Some(l) = lease.as_ref().filter(|l| l.expires_ms > now) {
        return Err(CleanupError::Held { plan: plan.clone(), holder: l.holder.clone() });
    }
    if begun && !state.closed {
        return Err(CleanupError::NotFinished(plan.clone()));
    }
    let mut left = control(&ctx).await?;
    let epoch = lease.as_ref().map_or(0, |l| l.epoch);
    left.extend(collections(&ctx, begun.then_some(state.status), epoch).await?);
    left.extend(half);
    if begun {
        let n = records.len() as u64;
        let what = format!("the journal; it is kept in {}", archive_ns());
        left.push(item(&ctx, "journal", Side::Legacy, what, n, Fate::Moved, How::Journal(records)));
    }
    if lease.is_some() {
        let what = "the lease: its epoch keeps out whatever stale process may still be about".to_owned();
        left.push(item(&ctx, "rollouts", Side::Legacy, what, 1, Fate::Stays, How::Nothing));
    }
    let route = super::observe::read_route(&ctx).await;
    if matches!(route, Ok(Some(_)) | Err(_)) {
        let what = "the route: applications follow it, and its epoch must not begin anew".to_owned();
        left.push(item(&ctx, &routes_ns().coll, Side::Legacy, what, 1, Fate::Stays, How::Nothing));
    }
    Ok(left)
}

async fn onlooker(deps: &Deps) -> Result<Arc<Ctx>, Halt> {
    let (to_runner, _inbox) = mpsc::unbounded_channel();
    let ctx = Ctx::new(deps, &Config::default(), 0, to_runner);
    for side in Side::BOTH {
        let seen = ctx.retry("looking at the cluster", || ctx.db(side).observe()).await?;
        ctx.saw(side, seen.majority);
    }
    Ok(ctx)
}

fn item(ctx: &Ctx, coll: &str, on: Side, what: String, documents: u64, fate: Fate, how: How) -> Left {
    Left { name: format!("{CONTROL_DB}.{coll} of {}", ctx.plan.id), on, what, documents, fate, how }
}

/// Everything in a control collection whose text `_id` goes on after `<plan>/`. The mark in `fences` whose `_id` is no longer than that is
/// none of it: it keeps a stale runner from opening a slot that it has not had yet, and stays as the lease does.
pub(super) async fn of_plan(ctx: &Arc<Ctx>, side: Side, ns: &Ns) -> Result<Vec<(Key, Doc)>, Halt> {
    with_prefix(ctx, side, ns, &format!("{}/", ctx.plan.id)).await
}

/// Everything in a control collection whose text `_id` begins so.
pub(super) async fn with_prefix(ctx: &Arc<Ctx>, side: Side, ns: &Ns, prefix: &str) -> Result<Vec<(Key, Doc)>, Halt> {
    let mut all = Vec::new();
    let each = |key: Key, doc: Doc| {
        let ours = matches!(key.value(), RawBsonRef::String(s) if s.starts_with(prefix));
        if ours {
            all.push((key, doc));
        }
        ours
    };
    scan(ctx, side, ns, Some(Key::from(prefix)), each).await?;
    Ok(all)
}

/// The keys in a control collection for which `ours` holds.
async fn keys_of(ctx: &Arc<Ctx>, side: Side, ns: &Ns, ours: impl Fn(&Key, &Doc) -> bool) -> Result<Vec<Key>, Halt> {
    let mut keys = Vec::new();
    let each = |key: Key, doc: Doc| {
        if ours(&key, &doc) {
            keys.push(key);
        }
        true
    };
    scan(ctx, side, ns, None, each).await?;
    Ok(keys)
}

/// Hands on the documents after `from` in `_id` order, as long as `each` goes on.
async fn scan(
    ctx: &Arc<Ctx>,
    side: Side,
    ns: &Ns,
    mut from: Option<Key>,
    mut each: impl FnMut(Key, Doc) -> bool,
) -> Result<(), Halt> {
    loop {
        let limit = PageLimit { docs: 1_000, bytes: 16 << 20 };
        let page = ctx.retry("scanning", || ctx.db(side).scan(ns, from.as_ref(), limit, ctx.seen(side))).await?;
        let end = page.end || page.docs.is_empty();
        from = page.docs.last().map(|(key, _)| key.clone());
        if !page.docs.into_iter().all(|(key, doc)| each(key, doc)) || end {
            return Ok(());
        }
    }
}

/// The keys in a control collection whose `_id` is a document that names the rollout.
async fn of_rollout(ctx: &Arc<Ctx>, ns: &Ns) -> Result<Vec<Key>, Halt> {
    let ours = |key: &Key, _: &Doc| match key.value() {
        RawBsonRef::Document(id) => id.get_str("rollout").is_ok_and(|r| r == ctx.plan.id),
        _ => false,
    };
    keys_of(ctx, Side::Legacy, ns, ours).await
}

async fn control(ctx: &Arc<Ctx>) -> Result<Vec<Left>, Halt> {
    let mut left = Vec::new();
    let clusters: &[Side] = if ctx.one_cluster { &[Side::Legacy] } else { &Side::BOTH };
    let mut add = |ns: Ns, on: Side, what: &str, fate: Fate, keys: Vec<Key>| {
        if !keys.is_empty() {
            let n = keys.len() as u64;
            left.push(item(ctx, &ns.coll, on, what.to_owned(), n, fate, How::Keys(ns.clone(), keys)));
        }
    };
    let keys = |docs: Vec<(Key, Doc)>| docs.into_iter().map(|(k, _)| k).collect::<Vec<_>>();
    for &side in clusters {
        let fences = Ns::new(CONTROL_DB, "fences");
        let found = keys(of_plan(ctx, side, &fences).await?);
        add(fences, side, "the workers' fencing slots with their positions", Fate::Removed, found);
        let sessions = Ns::new(CONTROL_DB, "sessions");
        let ours = |_: &Key, d: &Doc| d.get_str("rollout").is_ok_and(|r| r == ctx.plan.id);
        let found = keys_of(ctx, side, &sessions, ours).await?;
        add(sessions, side, "the workers' sessions", Fate::Removed, found);
        let markers = keys(of_plan(ctx, side, &markers_ns()).await?);
        add(markers_ns(), side, "markers in the stream of changes", Fate::Removed, markers);
    }
    let validators = server_gate::validators_ns();
    let found = keys(of_plan(ctx, Side::Legacy, &validators).await?);
    add(validators, Side::Legacy, "validators kept for the server gate", Fate::Removed, found);
    let asked = keys(of_plan(ctx, Side::Legacy, &commands_ns()).await?);
    add(commands_ns(), Side::Legacy, "what other terminals asked", Fate::Removed, asked);
    let views = keys_of(ctx, Side::Legacy, &views_ns(), |key, _| *key == Key::from(ctx.plan.id.as_str())).await?;
    add(views_ns(), Side::Legacy, "the last picture for other terminals", Fate::Removed, views);
    let quarantine = quarantine_ns();
    let mut strays = keys(of_plan(ctx, Side::Legacy, &quarantine).await?);
    strays.extend(of_rollout(ctx, &quarantine).await?);
    let undo = undo_ns();
    let images = of_rollout(ctx, &undo).await?;
    add(undo, Side::Legacy, "what documents were before tidegate overwrote them", Fate::ByName, images);
    add(
        quarantine,
        Side::Legacy,
        "strays with both documents, conflicts, and what repairs have replaced or removed",
        Fate::ByName,
        strays,
    );
    for side in Side::BOTH {
        let kept = ttl::kept(ctx, side).await?;
        if !kept.is_empty() {
            let what =
                format!("what TTL indexes of {} were set to; where it stands they are set to it again", ctx.ns(side));
            let n = kept.len() as u64;
            left.push(item(ctx, &ttl_ns().coll, side, what, n, Fate::Removed, How::Ttl(side, kept)));
        }
    }
    let beat = |d: &Doc| d.get_i64("beat").unwrap_or(0);
    let acks: Vec<(Key, i64)> =
        of_plan(ctx, Side::Legacy, &acks_ns()).await?.into_iter().map(|(k, d)| (k, beat(&d))).collect();
    if !acks.is_empty() {
        let what = "acknowledgements of processes; those of processes that still renew them stay".to_owned();
        let n = acks.len() as u64;
        left.push(item(ctx, &acks_ns().coll, Side::Legacy, what, n, Fate::Removed, How::Acks(acks)));
    }
    Ok(left)
}

/// Collections and views outside the control database. `ended` is how the journal says that it ended, if it still does.
async fn collections(ctx: &Arc<Ctx>, ended: Option<Status>, epoch: i64) -> Result<Vec<Left>, Halt> {
    let (legacy, next) = (ctx.ns(Side::Legacy).clone(), ctx.ns(Side::Next).clone());
    let plan = ctx.plan.id.as_str();
    let isolated = back::isolated_ns(&next, plan);
    let beside = |ns: &Ns, word: &str| Ns::new(&ns.db, &format!("{}.{word}.{plan}", ns.coll));
    let data = "all that next held";
    let mut wanted = vec![
        (Side::Next, isolated.clone(), data, Fate::ByName),
        (Side::Legacy, tasks::quarantine_ns(&legacy, plan), "all that legacy held", Fate::ByName),
        (Side::Legacy, beside(&legacy, "removed"), "what was deleted on legacy on the way back by hand", Fate::ByName),
        (Side::Legacy, beside(&legacy, "back"), "copies made on the way back by hand", Fate::Removed),
    ];
    wanted.extend(
        (1..=epoch).rev().take(EARLIER as usize).map(|e| (Side::Next, earlier(&isolated, e), data, Fate::ByName)),
    );
    let mut left = Vec::new();
    for (on, ns, what, fate) in wanted {
        if tasks::kind(ctx, on, &ns).await? != CollKind::Collection {
            continue;
        }
        let op = AdminOp::Count { ns: ns.clone() };
        let documents = match ctx.admin(on, "counting", op).await? {
            AdminDone::Count(n) => n,
            _ => 0,
        };
        // Another rollback of the same plan needs the name.
        let (fate, how, what) = if ns == isolated && ended == Some(Status::RolledBack) {
            let to = earlier(&ns, epoch);
            (
                Fate::Moved,
                How::Rename(ns.clone(), to.clone()),
                format!("{what}; it is kept as {to}, unless its name is typed"),
            )
        } else {
            (fate, How::Drop(ns.clone(), CollKind::Collection), what.to_owned())
        };
        left.push(Left { name: ns.to_string(), on, what, documents, fate, how });
    }
    let views = [
        (Side::Next, next, Status::RolledBack, "an empty view in next's place", Fate::Removed),
        (
            Side::Legacy,
            legacy,
            Status::Completed,
            "an empty view in legacy's place: late writes fail there",
            Fate::ByName,
        ),
    ];
    for (on, ns, when, what, fate) in views {
        if ended == Some(when) && tasks::kind(ctx, on, &ns).await? == CollKind::View {
            let how = How::Drop(ns.clone(), CollKind::View);
            left.push(Left { name: ns.to_string(), on, what: what.into(), documents: 0, fate, how });
        }
    }
    Ok(left)
}

fn earlier(isolated: &Ns, epoch: i64) -> Ns {
    Ns::new(&isolated.db, &format!("{}.{epoch}", isolated.coll))
}

/// Whether every name is that of something that is removed only by its name.
///
/// # Errors
/// Names the first that is not.
pub fn cleanup_names(left: &[Left], names: &[String]) -> Result<(), CleanupError> {
    let may_drop = |l: &Left| l.fate == Fate::ByName || matches!(l.how, How::Rename(..));
    match names.iter().find(|n| !left.iter().any(|l| may_drop(l) && l.name == **n)) {
        Some(odd) => Err(CleanupError::NoSuchName(crate::scrub::short(odd, 200))),
        None => Ok(()),
    }
}

/// Carries it out: what is removed or moved by itself, and what `names` says. Tells each thing once it is done.
///
/// # Errors
/// When a name is not one of them, or a cluster does not do it; what was told is done, and it can be begun again.
pub async fn cleanup(
    deps: &Deps,
    left: &[Left],
    names: &[String],
    told: &mut (dyn FnMut(&str, &Left) + Send),
) -> Result<(), CleanupError> {
    cleanup_names(left, names)?;
    let ctx = onlooker(deps).await?;
    for l in left {
        let named = names.contains(&l.name);
        let done = match (&l.how, l.fate) {
            (How::Rename(ns, _), _) if named => drop_it(&ctx, l.on, ns, CollKind::Collection).await?,
            (_, Fate::Stays) => continue,
            (_, Fate::ByName) if !named => continue,
            (How::Nothing, _) => continue,
            (How::Keys(ns, keys), _) => {
                for key in keys {
                    delete(&ctx, l.on, ns, key).await?;
                }
                "removed".to_owned()
            }
            (How::Ttl(side, kept), _) => {
                ttl::bring_back(&ctx, *side, kept, false).await?;
                "removed".to_owned()
            }
            (How::Acks(acks), _) => stale_acks(&ctx, acks).await?,
            (How::Drop(ns, kind), _) => drop_it(&ctx, l.on, ns, *kind).await?,
            (How::Rename(from, to), _) => {
                let op = AdminOp::Rename { from: from.clone(), to: to.clone() };
                ctx.admin(l.on, "renaming", op).await?;
                format!("moved to {to}")
            }
            (How::Journal(records), _) => archive(&ctx, records).await?,
        };
        told(&done, l);
    }
    Ok(())
}

pub(super) async fn delete(ctx: &Arc<Ctx>, on: Side, ns: &Ns, key: &Key) -> Result<(), Halt> {
    let op = WriteOp::Delete { ns: ns.clone(), key: key.clone(), only_if: None };
    let written = ctx.retry("removing a document", || ctx.db(on).write(&op)).await?;
    ctx.saw(on, written.at);
    Ok(())
}

/// Looks once more what it is: between the list and now somebody may have put something else there.
async fn drop_it(ctx: &Arc<Ctx>, on: Side, ns: &Ns, kind: CollKind) -> Result<String, Halt> {
    match tasks::kind(ctx, on, ns).await? {
        CollKind::Absent => {}
        found if found == kind => drop(ctx.admin(on, "dropping", AdminOp::Drop { ns: ns.clone() }).await?),
        _ => return Err(Halt::Broken(format!("{ns} is something else by now; list again"))),
    }
    Ok("dropped".into())
}

/// Removes the acknowledgements that nobody renews any more.
async fn stale_acks(ctx: &Arc<Ctx>, before: &[(Key, i64)]) -> Result<String, Halt> {
    ctx.sleep(ctx.plan.lease + Micros::from_secs(1)).await;
    let seen = ctx.retry("asking for the time", || ctx.db(Side::Legacy).observe()).await?;
    ctx.saw(Side::Legacy, seen.majority);
    let mut stale = 0;
    for (key, doc) in of_plan(ctx, Side::Legacy, &acks_ns()).await? {
        let beat = doc.get_i64("beat").unwrap_or(0);
        if before.iter().any(|(k, b)| *k == key && *b == beat) {
            delete(ctx, Side::Legacy, &acks_ns(), &key).await?;
            stale += 1;
        }
    }
    Ok(format!("{stale} removed"))
}
