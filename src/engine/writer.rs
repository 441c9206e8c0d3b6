//! Fenced writes through one worker's slot, with every unknown outcome settled before anything else happens (DESIGN rules 3, 4).

use std::sync::Arc;

use bson::RawDocumentBuf;

use super::ctx::{Ctx, Halt};
use super::planted::Bug;
use crate::cluster::{AdminDone, AdminOp, ClusterTime, Failed, Fence, Reason, SlotState, TxnOp};
use crate::route::Side;
use crate::runtime::Micros;

/// How long one transaction may take.
const DEADLINE: Micros = Micros::from_secs(5);

/// Why a commit did not happen.
#[derive(Debug)]
pub(super) enum NotCommitted {
    /// A unique index refused a document: the whole batch was aborted.
    Duplicate(String),
    /// The server refuses something in it.
    Refused(String),
    /// It was aborted: it took longer than its deadline, or met another transaction. Fewer documents at once may pass.
    Aborted(String),
    /// It did not happen and never will; what should be written now must be read afresh (DESIGN rule 1).
    Again,
    /// The worker must stop.
    Halt(Halt),
}

impl From<Halt> for NotCommitted {
    fn from(h: Halt) -> Self {
        NotCommitted::Halt(h)
    }
}

/// A worker's slot on the cluster that it writes to.
pub(super) struct SlotWriter {
    ctx: Arc<Ctx>,
    side: Side,
    worker: String,
    name: String,
    state: SlotState,
    generation: u32,
    /// How often what one transaction holds has been halved.
    halvings: u32,
    /// Transactions that went well since.
    well: u32,
}

/// Transactions that must go well before twice as much is tried again.
const WELL: u32 = 8;

impl SlotWriter {
    /// Opens the slot of `worker` on the cluster of `side`, the side written to.
    pub(super) async fn open(ctx: &Arc<Ctx>, side: Side, worker: &str) -> Result<SlotWriter, Halt> {
        super::strand::await_fenced(ctx, side).await?;
        let name = ctx.slot_name(worker);
        let state = open_slot(ctx, side, &name).await?;
        Ok(SlotWriter {
            ctx: ctx.clone(),
            side,
            worker: worker.to_owned(),
            name,
            state,
            generation: 0,
            halvings: 0,
            well: 0,
        })
    }

    /// After [`Halt::LetGo`]: waits for the cluster for as long as it takes and settles what was under way. Nothing is written through
    /// this slot any more.
    pub(super) async fn settle_later(ctx: &Arc<Ctx>, side: Side, worker: &str) -> Result<(), Halt> {
        let op = AdminOp::OpenSlot { slot: ctx.slot_name(worker), epoch: ctx.epoch };
        ctx.insist("settling an unknown outcome", || ctx.db(side).admin(&op)).await.map(drop)
    }

    /// The name of the worker whose slot this is.
    pub(super) fn worker(&self) -> String {
        self.worker.clone()
    }

    /// How many of `most` documents go into the next transaction: fewer after an abort, at least one.
    pub(super) fn batch(&self, most: usize) -> usize {
        (most >> self.halvings).max(1).min(most)
    }

    /// After an abort: half as many at once from here on.
    pub(super) fn halve(&mut self) {
        self.halvings = (self.halvings + 1).min(usize::BITS - 1);
        self.well = 0;
    }

    /// After a commit: when several went well, twice as many at once.
    pub(super) fn went_well(&mut self) {
        self.well += 1;
        if self.well >= WELL {
            self.halvings = self.halvings.saturating_sub(1);
            self.well = 0;
        }
    }

    /// The checkpoint stored by the last committed batch that had one.
    pub(super) fn checkpoint(&self) -> Option<&RawDocumentBuf> {
        self.state.checkpoint.as_ref()
    }

    /// Commits `ops` and the checkpoint together, or nothing. Returns only when the outcome is known. What never reached the cluster
    /// is tried again here; after anything else the caller reads afresh.
    pub(super) async fn commit(
        &mut self,
        ops: &[TxnOp],
        checkpoint: Option<RawDocumentBuf>,
    ) -> Result<ClusterTime, NotCommitted> {
        let mut pause = Micros::from_ms(10);
        loop {
            let fence = Fence {
                slot: self.name.clone(),
                epoch: self.ctx.epoch,
                seq: self.state.seq,
                checkpoint: checkpoint.clone(),
                deadline: self.ctx.rt.now() + DEADLINE,
            };
            match self.ctx.db(self.side).transact(&fence, ops).await {
                Ok(done) => {
                    self.committed(fence, done.at);
                    return Ok(done.at);
                }
                Err(Failed::Fenced { newer }) => return Err(Halt::Fenced(newer).into()),
                Err(Failed::NotDone(Reason::DuplicateKey { message, .. })) => {
                    return Err(NotCommitted::Duplicate(message));
                }
                Err(Failed::NotDone(r @ Reason::Timeout(_))) => return Err(NotCommitted::Aborted(r.to_string())),
                Err(Failed::NotDone(r @ Reason::Conflict(_)) | Failed::Unknown(r)) => {
                    if self.settle(&fence).await? {
                        let at = self.ctx.marker(self.side).await?;
                        self.state.checkpoint = fence.checkpoint.or_else(|| self.state.checkpoint.take());
                        return Ok(at);
                    }
                    self.ctx.sleep(pause).await;
                    return Err(match r {
                        Reason::Conflict(_) | Reason::Timeout(_) => NotCommitted::Aborted(r.to_string()),
                        _ => NotCommitted::Again,
                    });
                }
                Err(Failed::NotDone(r)) if r.is_transient() => {
                    if self.ctx.lets_go() {
                        return Err(Halt::LetGo.into());
                    }
                }
                Err(Failed::NotDone(r)) => return Err(NotCommitted::Refused(r.to_string())),
            }
            self.ctx.sleep(pause).await;
            pause = Micros((pause.0 * 2).min(Micros::from_secs(1).0));
        }
    }

    fn committed(&mut self, fence: Fence, at: ClusterTime) {
        self.state.seq = fence.seq + 1;
        self.state.done = fence.seq + 1;
        if fence.checkpoint.is_some() {
            self.state.checkpoint = fence.checkpoint;
        }
        self.ctx.saw(self.side, at);
    }

    /// Bumps the slot, after which the transaction fenced at `fence.seq` has either committed or never will. True: committed.
    async fn settle(&mut self, fence: &Fence) -> Result<bool, Halt> {
        if self.ctx.planted.has(Bug::ReadBackWithoutBump) {
            // The planted mistake: look once, and go on in a fresh slot while the old transaction may still land.
            let key = [crate::cluster::Key::from(self.name.as_str())];
            let ns = crate::cluster::Ns::new(crate::cluster::CONTROL_DB, "fences");
            let read = self
                .ctx
                .retry("reading the slot", || self.ctx.db(self.side).read(&ns, &key, ClusterTime::ZERO))
                .await?;
            let done = read.docs.first().and_then(|d| d.as_ref()).and_then(|d| d.get_i64("done").ok());
            if done == Some(fence.seq + 1) {
                self.state.seq = fence.seq + 1;
                return Ok(true);
            }
            self.generation += 1;
            self.name = format!("{}~{}", self.name.split('~').next().unwrap_or_default(), self.generation);
            self.state = open_slot(&self.ctx, self.side, &self.name).await?;
            return Ok(false);
        }
        let op = AdminOp::BumpSlot { slot: self.name.clone(), epoch: self.ctx.epoch };
        let done = self.ctx.admin(self.side, "settling an unknown outcome", op).await?;
        let AdminDone::Slot(state) = done else {
            return Err(Halt::Broken("the cluster answered a bump without a slot".into()));
        };
        let committed = state.done == fence.seq + 1;
        self.state.seq = state.seq;
        self.state.done = state.done;
        Ok(committed)
    }
}

async fn open_slot(ctx: &Arc<Ctx>, side: Side, name: &str) -> Result<SlotState, Halt> {
    let op = AdminOp::OpenSlot { slot: name.to_owned(), epoch: ctx.epoch };
    match ctx.admin(side, "opening a fencing slot", op).await? {
        AdminDone::Slot(state) => {
            ctx.own_session(state.session);
            Ok(state)
        }
        _ => Err(Halt::Broken("the cluster answered OpenSlot without a slot".into())),
    }
}
