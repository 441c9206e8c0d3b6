//! The way back without tidegate: where a rollout stands, and the commands that bring it back to legacy by hand.
//!
//! Only reads. What it answers is text and commands; whoever runs them needs mongosh or any driver, and nothing of tidegate's.

mod commands;
mod data;
mod shell;

use bson::Document;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::ctx::{Ctx, Halt};
use super::lease::{self, Lease};
use super::{Config, Deps, back, observe, server_gate, start, tasks, ttl};
use crate::cluster::{AdminDone, AdminOp, CollKind, Ns, SessionId, Validation};
use crate::journal::{Journal, JournalError};
use crate::rollout::{EventError, State, Status, Task};
use crate::route::{Route, Side};
use crate::transform::Class;

/// Why there are no commands to print.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// Nothing has happened.
    #[error("rollout `{0}` has not been begun: everything is on legacy, and there is nothing to bring back")]
    NotBegun(String),
    /// Everything is back.
    #[error("rollout `{0}` is rolled back: everything is on legacy already")]
    IsBack(String),
    /// Legacy is not kept in step any more.
    #[error(
        "rollout `{plan}` is past the point of no return: legacy does not have what was written on next since, and there is no way \
         back; what legacy held is kept as {kept} (or still stands under its name)"
    )]
    NoReturn {
        /// The plan.
        plan: String,
        /// Where legacy is kept.
        kept: Ns,
    },
    /// The plan has changed.
    #[error("the plan has changed since the rollout began (was {was}, is {is}); go back to that plan")]
    OtherPlan {
        /// Hash at the start.
        was: String,
        /// Hash now.
        is: String,
    },
    /// No pipeline makes legacy's documents of next's alone.
    #[error(
        "a step of the plan is lossy: what it loses only tidegate brings back, from what legacy holds (`tidegate rollback`)"
    )]
    Lossy,
    /// Documents change where they are.
    #[error("`{0}` changes in place: there is no second collection to bring it back from")]
    InPlace(Ns),
    /// Closing the journal would leave what is on next only there.
    #[error(
        "writes were left behind on next and are not salvaged or resolved yet: use `tidegate resume` and `tidegate repair`"
    )]
    Stranded,
    /// Ownership does not follow from the bucket alone.
    #[error("the plan has a pilot cohort, which these commands do not tell apart: use `tidegate rollback`")]
    Pilot,
    /// The cluster.
    #[error("{0}")]
    Cluster(#[from] Halt),
    /// The lease cannot be read.
    #[error(transparent)]
    Lease(#[from] lease::LeaseError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A journal record of another version.
    #[error(transparent)]
    Event(#[from] EventError),
}

/// What a command's answer must look like; beside that, `ok` is 1 and there are no write errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing more.
    Ok,
    /// It matched or wrote so many documents (`n`).
    N(u32),
    /// It finds nothing.
    Nothing,
    /// It finds nothing, now or after a while: run it until then.
    NothingInTime,
    /// A person has done what the step says beside it.
    ByHand,
}

/// One command of the way back.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it does, in a few words.
    pub title: String,
    /// The cluster it runs on.
    pub on: Side,
    /// The database it runs on.
    pub db: String,
    /// Why it is needed, and what can go wrong.
    pub why: String,
    /// How to see that it worked, and what to do if not.
    pub check: String,
    /// The same for a program.
    pub expect: Expect,
    /// What a driver sends.
    pub command: Document,
    /// Every document of the answer is inserted here, on legacy's cluster.
    pub copy_to: Option<Ns>,
}

/// The commands that bring a rollout back, and where it stood when they were made.
#[derive(Clone, Debug)]
pub struct WayBack {
    /// The plan's id.
    pub plan: String,
    /// Both sides are on one cluster.
    pub one_cluster: bool,
    /// Connection strings as the plan writes them, variables not filled in: legacy's, and next's when it is another one.
    pub uris: [Option<String>; 2],
    /// Where the rollout stood, a line each.
    pub stands: Vec<String>,
    /// In order. Each may be sent again when its answer was lost.
    pub steps: Vec<Step>,
}

/// Where a rollout stands, as far as the way back depends on it.
struct Standing {
    plan: std::sync::Arc<crate::plan::Plan>,
    one_cluster: bool,
    state: State,
    /// Sequence number and hash of the journal's last record.
    head: (u64, String),
    lease: Option<Lease>,
    /// The server's clock, milliseconds since the Unix epoch.
    server_ms: i64,
    wall_ms: i64,
    route: Option<Route>,
    sessions: [Vec<SessionId>; 2],
    /// What stands under next's name, and under the name it is put away under.
    next: [CollKind; 2],
    /// What legacy was held against before the server gate, where it is in force.
    before_gate: Option<Validation>,
    /// What legacy's suspended TTL indexes were set to.
    ttl: Vec<ttl::Kept>,
    /// T and its inverse as stages, and how well documents come back.
    forward: Vec<Document>,
    inverse: Vec<Document>,
    class: Class,
}

/// Reads where the plan's rollout stands and makes the commands that bring it back. Changes nothing.
///
/// # Errors
/// When there is nothing to bring back, or no way back, or a cluster cannot be read.
pub async fn explain(deps: &Deps) -> Result<WayBack, ExplainError> {
    if let Some(c) = deps.plan.collections.iter().find(|c| c.in_place()) {
        return Err(ExplainError::InPlace(c.legacy.clone()));
    }
    if deps.plan.pilot.is_some() {
        return Err(ExplainError::Pilot);
    }
    let standing = look(deps).await?;
    let id = deps.plan.id.clone();
    let s = &standing.state;
    if s.sealed.is_some() && (s.salvaged.is_none() || s.conflicts_open() > 0) {
        return Err(ExplainError::Stranded);
    }
    match standing.state.status {
        Status::RolledBack => return Err(ExplainError::IsBack(id)),
        _ if is_past_return(&standing) => {
            let kept = tasks::quarantine_ns(&deps.plan.collections[0].legacy, &id);
            return Err(ExplainError::NoReturn { plan: id, kept });
        }
        _ => {}
    }
    let uri = |u: &Option<String>| u.as_deref().map(|u| crate::scrub::short(u, 400));
    Ok(WayBack {
        plan: id,
        one_cluster: deps.one_cluster,
        uris: [uri(&deps.plan.cluster.uri), uri(&deps.plan.cluster.next_uri)],
        stands: standing.lines(),
        steps: commands::all(&standing),
    })
}

/// True once next's changes are not carried back any more, on the way forward.
fn is_past_return(s: &Standing) -> bool {
    let stopping = matches!(s.state.current_task(&s.plan), Some(Task::StopReverse | Task::Quarantine));
    s.state.status == Status::Completed || s.state.back.is_none() && (s.state.reverse_stopped || stopping)
}

async fn look(deps: &Deps) -> Result<Standing, ExplainError> {
    let (to_runner, _inbox) = mpsc::unbounded_channel();
    let ctx = Ctx::new(deps, &Config::default(), 0, to_runner);
    let plan = deps.plan.clone();
    let mut server_ms = 0;
    for side in Side::BOTH {
        let seen = ctx.retry("looking at the cluster", || ctx.db(side).observe()).await?;
        ctx.saw(side, seen.majority);
        if side == Side::Legacy {
            server_ms = seen.server_ms;
        }
    }
    let mut journal = Journal::new(deps.journal.clone(), deps.rt.clone(), plan.id.clone());
    let (begun, state) = start::replay(&journal.open().await?, deps)?;
    if !begun {
        return Err(ExplainError::NotBegun(plan.id.clone()));
    }
    if state.plan_hash != plan.hash {
        let short = |h: &str| h.chars().take(12).collect();
        return Err(ExplainError::OtherPlan { was: short(&state.plan_hash), is: short(&plan.hash) });
    }
    // What the steps lose a pipeline cannot take from legacy's document.
    let inverse = ctx.transform.inverse_pipeline().filter(|_| !ctx.transform.is_lossy()).ok_or(ExplainError::Lossy)?;
    let lease = lease::read(&deps.rt, &deps.clusters[0], &plan.id, ctx.seen(Side::Legacy)).await?;
    let mut sessions = [Vec::new(), Vec::new()];
    for side in Side::BOTH {
        let op = AdminOp::Sessions { rollout: plan.id.clone() };
        if let AdminDone::Sessions(list) = ctx.admin(side, "listing sessions", op).await? {
            sessions[side as usize] = list;
        }
    }
    let next = ctx.ns(Side::Next).clone();
    let kept = back::isolated_ns(&next, &plan.id);
    let kinds = [tasks::kind(&ctx, Side::Next, &next).await?, tasks::kind(&ctx, Side::Next, &kept).await?];
    Ok(Standing {
        one_cluster: deps.one_cluster,
        state,
        head: journal.head(),
        lease,
        server_ms,
        wall_ms: deps.rt.wall_ms(),
        route: observe::read_route(&ctx).await?,
        sessions,
        next: kinds,
        before_gate: server_gate::kept(&ctx, Side::Legacy).await?,
        ttl: ttl::kept(&ctx, Side::Legacy).await?,
        forward: ctx.transform.pipeline(),
        inverse,
        class: ctx.transform.class(),
        plan,
    })
}

impl Standing {
    /// The side's collection.
    fn ns(&self, side: Side) -> &Ns {
        let c = &self.plan.collections[0];
        if side == Side::Legacy { &c.legacy } else { &c.next }
    }

    /// Somebody runs it at this moment.
    fn held_by(&self) -> Option<&Lease> {
        self.lease.as_ref().filter(|l| l.expires_ms > self.server_ms)
    }

    fn lines(&self) -> Vec<String> {
        let stage = self.plan.stages.get(self.state.stage).map_or("?", |s| s.id.as_str());
        let mut lines = vec![match &self.state.back {
            None => format!("stage {stage}, {}", status(&self.state)),
            Some(b) => format!("going back from stage {stage}: {}", crate::scrub::short(&b.why, 200)),
        }];
        lines.push(match &self.route {
            None => "there is no route yet: every application reads and writes legacy".into(),
            Some(r) => {
                let share = |below: u16| format!("{below} of 1024 buckets");
                let frozen = if r.frozen.is_some() { "; a range is frozen" } else { "" };
                format!(
                    "route {}: next owns the writes of {}, and is read for {}{frozen}",
                    r.epoch,
                    share(r.writes_next_below),
                    share(r.reads_next_below)
                )
            }
        });
        if let Some(why) = &self.state.needs_operator {
            lines.push(format!("tidegate could not go on: {}", crate::scrub::short(why, 300)));
        }
        lines.push(match self.held_by() {
            Some(l) => format!(
                "{} RUNS IT NOW: stop that process first (Ctrl-C there), then print these commands again",
                crate::scrub::short(&l.holder, 120)
            ),
            None => "nobody runs it at this moment".into(),
        });
        lines
    }
}

fn status(state: &State) -> &'static str {
    match state.status {
        Status::New => "about to begin",
        Status::Working => "at work",
        Status::Soaking { .. } => "soaking",
        Status::Completed => "completed",
        Status::RolledBack => "rolled back",
    }
}

impl WayBack {
    /// All of it as JSON; commands are canonical extended JSON, their fields in the order in which they must be sent.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let steps: Vec<Value> =
            self.steps.iter().enumerate().map(|(i, s)| s.to_json(i + 1, self.one_cluster)).collect();
        json!({ "kind": "way_back", "plan": self.plan, "one_cluster": self.one_cluster, "stands": self.stands, "steps": steps })
    }

    /// All of it as a script with comments, to be read and pasted into mongosh step by step.
    #[must_use]
    pub fn to_script(&self) -> String {
        let mut out = format!("// The way back of {}, by hand, without tidegate.\n//\n", self.plan);
        for line in &self.stands {
            comment(&mut out, line);
        }
        out.push_str("//\n");
        comment(&mut out, HOW);
        if let Some(uri) = &self.uris[0] {
            out.push_str(&format!("//\n//     mongosh \"{uri}\"\n"));
        }
        if let (false, Some(uri)) = (self.one_cluster, &self.uris[1]) {
            comment(&mut out, "Next is on another cluster: connect to it from the same shell.");
            let template = uri.replace("${", "${process.env.");
            out.push_str(&format!("const legacy = db.getMongo(), next = new Mongo(`{template}`)\n"));
        }
        for (i, step) in self.steps.iter().enumerate() {
            out.push_str(&format!("\n// {}. {}\n", i + 1, step.title));
            comment(&mut out, &step.why);
            out.push_str(&step.mongosh(self.one_cluster));
            out.push('\n');
            comment(&mut out, &format!("Check: {}", step.check));
        }
        out
    }
}

const HOW: &str = "Run the commands one after the other and look at each answer before the next: `ok` must be 1, and there must be no \
`writeErrors` and no `writeConcernError`. After a lost connection run the same command again. Where the check fails, do what it says. \
You can stop after any step and let tidegate do the rest: `tidegate resume PLAN --take-over --reason TEXT` goes on with the way back. \
The user needs what tidegate's own user needs: reading and writing both collections, collMod and renameCollection there, everything on the \
database `tidegate`, and (for one step) killAnySession.";

fn comment(out: &mut String, text: &str) {
    let mut line = String::from("//");
    for word in text.split_whitespace() {
        if line.len() + word.len() > 110 {
            out.push_str(&line);
            out.push('\n');
            line = String::from("//");
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}

impl Step {
    /// As a person runs it in mongosh.
    #[must_use]
    pub fn mongosh(&self, one_cluster: bool) -> String {
        let on = (!one_cluster).then(|| self.on.name());
        let Some(to) = &self.copy_to else { return shell::run(on, &self.db, &self.command) };
        let pipeline = self.command.get("pipeline").map_or_else(|| "[]".into(), shell::value);
        let from = self.command.get_str("aggregate").unwrap_or_default();
        format!(
            "for (const c = {}.getDB({}).getCollection({}).aggregate({pipeline}, {{ readConcern: {{ level: \"majority\" }}, promoteValues: false }}); c.hasNext();) {{\n  \
             legacy.getDB({}).runCommand({{ insert: {}, documents: [c.next()], writeConcern: {{ w: \"majority\" }} }})\n}}",
            self.on.name(),
            shell::text(&self.db),
            shell::text(from),
            shell::text(&to.db),
            shell::text(&to.coll),
        )
    }

    fn to_json(&self, number: usize, one_cluster: bool) -> Value {
        let expect = match self.expect {
            Expect::Ok => json!({ "ok": 1 }),
            Expect::N(n) => json!({ "ok": 1, "n": n }),
            Expect::Nothing => json!({ "ok": 1, "documents": 0 }),
            Expect::NothingInTime => json!({ "ok": 1, "documents": 0, "repeat": true }),
            Expect::ByHand => json!({ "ok": 1, "by_hand": true }),
        };
        json!({
            "step": number,
            "title": self.title,
            "on": self.on.name(),
            "db": self.db,
            "why": self.why,
            "mongosh": self.mongosh(one_cluster),
            "command": bson::Bson::Document(self.command.clone()).into_canonical_extjson(),
            "copy_to": self.copy_to.as_ref().map(|n| json!({ "db": &*n.db, "collection": &*n.coll })),
            "check": self.check,
            "expect": expect,
        })
    }
}
