//! Carries out what the core decides: backfill, tails, cutover, reconciliation; publishes snapshots.
//!
//! Every effect has a durable intent in the journal. Data is reached through `cluster` only; time, tasks and randomness come from
//! `runtime` only, so that the same code runs live and simulated. Actors talk to the runner over one channel; state changes there.

mod answers;
mod back;
mod backfill;
mod cleanup;
mod coherence;
mod crew;
mod ctx;
mod cutover;
mod enforce;
mod explain;
mod hooks;
mod in_place;
mod keys;
pub mod lease;
mod live_view;
mod load;
mod lossy;
mod observe;
mod observing;
mod pilot;
pub mod planted;
pub mod preflight;
mod proof;
mod publish;
mod quarantine;
mod reconcile;
mod refusal;
mod repair;
mod resync;
mod routing;
mod runner;
mod salvage;
mod served;
mod server_gate;
mod sides;
mod start;
mod status;
mod steady;
mod strand;
mod switch;
mod tail;
mod tasks;
mod throttle;
mod trace;
mod ttl;
mod unfit;
mod unique;
mod verify;
pub mod watch;
mod writer;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

pub use answers::Answer;
pub use cleanup::{CleanupError, Fate, Left, cleanup, cleanup_list, cleanup_names};
pub use ctx::Halt;
pub use explain::{Expect, ExplainError, Step as WayBackStep, WayBack, explain};
pub use publish::gate_reason;
pub use refusal::Refusal;
pub use repair::{
    REPAIR_MAX, Repair, RepairEnd, RepairError, RepairFate, RepairItem, RepairPart, RepairReport, repair_look,
};
pub use runner::End;
pub use start::{StartError, start};
pub use status::{StatusError, StatusReport, status};
pub use trace::{TraceError, trace};
pub(crate) use unique::refusal as unique_refusal;
pub use verify::{VerifyError, VerifyOutcome, verify};

use crate::cluster::Db;
use crate::hooks::Hooks;
use crate::journal::{JournalStore, Record};
use crate::plan::{Advance, Plan};
use crate::route::Side;
use crate::runtime::{Group, Rt};
use crate::snapshot::{Command, Reply, Snapshot, TraceAsk};

/// Called with every journal record once it is durable.
pub type OnRecord = Arc<dyn Fn(&Record) + Send + Sync>;

/// What the engine runs on.
#[derive(Clone)]
pub struct Deps {
    /// Time, tasks, randomness.
    pub rt: Rt,
    /// The group of every task of this runner.
    pub group: Group,
    /// Legacy's and next's cluster; the same handle twice when it is one.
    pub clusters: [Db; 2],
    /// True when both are one cluster.
    pub one_cluster: bool,
    /// Where the journal is kept.
    pub journal: Arc<dyn JournalStore>,
    /// The plan.
    pub plan: Arc<Plan>,
    /// Called with every record once it is durable.
    pub on_record: OnRecord,
}

/// How this run goes about it.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Who runs it: for the lease, the journal and the screen.
    pub holder: String,
    /// Override of every stage's `advance`.
    pub advance: Option<Advance>,
    /// Take up an unfinished rollout; without it one is refused.
    pub resume: bool,
    /// Take the lease from a live holder, for this reason.
    pub take_over: Option<String>,
    /// A drill on the embedded cluster.
    pub drill: bool,
    /// Documents a chunk of the backfill; the default suits real servers, simulations want several chunks of little data.
    pub chunk_docs: Option<usize>,
    /// Why writes are left behind, when the command to do so comes: for the journal.
    pub strand_reason: Option<String>,
    /// Which side's version is right of a key that was written on both, by the key's text.
    pub resolve: Vec<(String, Side)>,
    /// Carry out this repair and nothing else, then stop.
    pub repair: Option<Arc<Repair>>,
    /// Other terminals may watch it and ask for things: the snapshot is published, commands are taken.
    pub shared: bool,
    /// Who calls the plan's hooks; nothing is called unless somebody is named here.
    pub hooks: Hooks,
    /// Deliberate mistakes, for the simulator only.
    pub planted: planted::Planted,
}

/// What the terminal of a running engine asks.
enum Request {
    /// Something that changes the rollout, and who waits for what became of it.
    Command(Command, oneshot::Sender<Reply>),
    /// A document to be shown: the answer is in the snapshot.
    Trace(TraceAsk),
}

/// A running engine.
#[derive(Clone)]
pub struct Engine {
    requests: mpsc::Sender<Request>,
    publisher: Arc<publish::Publisher>,
}

impl Engine {
    /// The picture of this moment. At most twenty a second are built; in between the last one is given again.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.publisher.snapshot()
    }

    /// Sends a command; the reply says what became of it. `None` when the queue is full or the engine has ended.
    #[must_use]
    pub fn send(&self, command: Command) -> Option<oneshot::Receiver<Reply>> {
        let (tx, rx) = oneshot::channel();
        self.requests.try_send(Request::Command(command, tx)).ok().map(|()| rx)
    }

    /// Asks for a document; the answer comes as [`Snapshot::trace`]. False when the queue is full or the engine has ended.
    #[must_use]
    pub fn trace(&self, ask: TraceAsk) -> bool {
        self.requests.try_send(Request::Trace(ask)).is_ok()
    }

    /// What the repair that this engine was started for came to, once it has.
    #[must_use]
    pub fn repaired(&self) -> Option<Arc<RepairReport>> {
        self.publisher.repaired()
    }

    /// The plan to take it up again with, once it has ended as [`End::Amended`].
    #[must_use]
    pub fn amended(&self) -> Option<Arc<Plan>> {
        self.publisher.amended()
    }

    /// How the rollout ended, once it has.
    #[must_use]
    pub fn ended(&self) -> Option<End> {
        self.publisher.end()
    }
}
