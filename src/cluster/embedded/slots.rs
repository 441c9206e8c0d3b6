//! Fencing slots and sessions as documents of the control database, and the transactions that go through them.

use std::sync::{Arc, LazyLock};

use bson::spec::{BinarySubtype, ElementType};
use bson::{RawBson, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};

use super::Core;
use super::stage::Stage;
use super::state::State;
use super::store::Ts;
use crate::cluster::fields::{DocBytes, fields};
use crate::cluster::{CONTROL_DB, Failed, Fence, Key, Ns, Reason, SessionId, SlotState, TxnOp};
use crate::runtime::Micros;

/// Where slots live.
pub(super) fn fences() -> Ns {
    static NS: LazyLock<Ns> = LazyLock::new(|| Ns::new(CONTROL_DB, "fences"));
    NS.clone()
}

/// Where sessions are registered.
pub(super) fn sessions() -> Ns {
    Ns::new(CONTROL_DB, "sessions")
}

fn uuid(session: SessionId) -> RawBson {
    RawBson::Binary(bson::Binary { subtype: BinarySubtype::Uuid, bytes: session.0.to_vec() })
}

/// The session in a value, when it is one.
pub(super) fn session_of(value: Option<RawBsonRef<'_>>) -> Option<SessionId> {
    match value {
        Some(RawBsonRef::Binary(b)) => b.bytes.try_into().ok().map(SessionId),
        _ => None,
    }
}

/// A slot as a document.
pub(super) fn slot_doc(name: &str, s: &SlotState) -> RawDocumentBuf {
    let mut d = DocBytes::with_capacity(256);
    d.text("_id", name);
    d.int64("epoch", s.epoch);
    d.int64("seq", s.seq);
    d.int64("done", s.done);
    match &s.checkpoint {
        Some(c) => d.element(ElementType::EmbeddedDocument, "checkpoint", c.as_bytes()),
        None => d.element(ElementType::Null, "checkpoint", &[]),
    }
    let mut session = [0; 21];
    session[0] = 16;
    session[4] = BinarySubtype::Uuid.into();
    session[5..].copy_from_slice(&s.session.0);
    d.element(ElementType::Binary, "session", &session);
    d.finish()
}

/// A session as a document.
pub(super) fn session_doc(session: SessionId, slot: &str) -> RawDocumentBuf {
    let rollout = slot.split_once('/').map_or(slot, |(r, _)| r);
    rawdoc! { "_id": uuid(session), "rollout": rollout, "slot": slot }
}

/// Reads a slot; `None` when the document is not one.
pub(super) fn parse_slot(doc: &RawDocument) -> Option<SlotState> {
    let (mut epoch, mut seq, mut done, mut checkpoint, mut session) = (None, None, None, None, None);
    // Every transaction comes through here: the fields are gone through once.
    for f in fields(doc.as_bytes()) {
        let int = || f.int64().or_else(|| f.int32().map(i64::from));
        match f.name {
            b"epoch" => epoch = int(),
            b"seq" => seq = int(),
            b"done" => done = int(),
            b"checkpoint" if f.kind == ElementType::EmbeddedDocument as u8 => {
                checkpoint = RawDocumentBuf::from_bytes(f.value.to_vec()).ok();
            }
            b"session" if f.kind == ElementType::Binary as u8 => {
                // Behind its length and subtype.
                session = f.value.get(5..).and_then(|id| id.try_into().ok()).map(SessionId);
            }
            _ => {}
        }
    }
    Some(SlotState { session: session?, epoch: epoch?, seq: seq?, done: done?, checkpoint })
}

/// A transaction that has its snapshot and has not ended.
pub(super) struct Txn {
    core: Arc<Core>,
    snapshot: Ts,
}

impl Txn {
    pub(super) fn open(core: &Arc<Core>) -> Self {
        Txn { core: core.clone(), snapshot: core.with(|s, _| s.open_snapshot()) }
    }

    /// Commits now, or does nothing.
    pub(super) fn commit(
        &self,
        s: &mut State,
        now: Micros,
        fence: &Fence,
        ops: &[TxnOp],
        bits: u64,
    ) -> Result<Ts, Failed> {
        let mut stage = Stage::transaction(s, self.snapshot, now);
        let fences = fences();
        let key = Key::from(fence.slot.as_str());
        let Some(mut slot) = stage.get(&fences, &key).and_then(|d| parse_slot(&d)) else {
            return Err(conflict(fence, "there is no such slot"));
        };
        let newer = slot.epoch;
        let is_stale = newer > fence.epoch;
        #[cfg(feature = "planted-bugs")]
        // The mistake: on this side nobody looks whose epoch it is.
        let is_stale = is_stale && !s.faults.unfenced.as_ref().is_some_and(|ns| ops.iter().any(|op| op.ns() == ns));
        if is_stale {
            return Err(Failed::Fenced { newer });
        }
        if newer < fence.epoch || (newer == fence.epoch && slot.seq != fence.seq) {
            return Err(conflict(fence, &format!("it stands at epoch {}, seq {}", slot.epoch, slot.seq)));
        }
        slot.seq += 1;
        slot.done = slot.seq;
        if fence.checkpoint.is_some() {
            slot.checkpoint.clone_from(&fence.checkpoint);
        }
        let mut update = || stage.replace(&fences, &key, None, &slot_doc(&fence.slot, &slot), false, true);
        #[cfg(feature = "planted-bugs")]
        if s.faults.read_only_fence {
            // The mistake: a conflict on the slot goes unseen.
            let _ = update();
        } else {
            update().map_err(Failed::NotDone)?;
        }
        #[cfg(not(feature = "planted-bugs"))]
        update().map_err(Failed::NotDone)?;
        for op in ops {
            match op {
                TxnOp::Insert { ns, docs } => docs.iter().try_for_each(|d| stage.insert(ns, d)),
                TxnOp::Put { ns, doc } => Key::of(doc)
                    .map_err(|e| Reason::Refused(e.to_string()))
                    .and_then(|key| stage.replace(ns, &key, None, doc, true, true).map(drop)),
                TxnOp::Delete { ns, keys } => keys.iter().try_for_each(|k| stage.delete(ns, k, None).map(drop)),
                TxnOp::Expect { ns, key, doc } => match stage.get(ns, key) == *doc {
                    true => Ok(()),
                    false => Err(Reason::Conflict(format!("{key} of {ns} is not what it was"))),
                },
            }
            .map_err(Failed::NotDone)?;
        }
        let staged = stage.finish();
        #[cfg(feature = "planted-bugs")]
        if newer > fence.epoch {
            // A stale transaction comes in a session of its own time.
            slot.session = earlier_session(s, &fence.slot, slot.session);
        }
        Ok(staged.commit(s, &self.core.config, now, Some(slot.session), bits))
    }
}

impl Drop for Txn {
    fn drop(&mut self) {
        // Also when the task that ran it was killed. The lock is free here: `commit` borrows it from its caller and never drops `self`.
        self.core.with(|s, _| s.close_snapshot(self.snapshot));
    }
}

/// A session that the slot had before `now`.
#[cfg(feature = "planted-bugs")]
fn earlier_session(s: &State, slot: &str, now: SessionId) -> SessionId {
    let docs = s.colls.get(&sessions()).into_iter().flat_map(|c| c.docs.values()).filter_map(|c| c.newest());
    let of_slot = docs.filter(|d| d.get_str("slot").is_ok_and(|name| name == slot));
    of_slot.filter_map(|d| session_of(d.get("_id").ok().flatten())).find(|id| *id != now).unwrap_or(now)
}

fn conflict(fence: &Fence, why: &str) -> Failed {
    Failed::NotDone(Reason::Conflict(format!(
        "slot {} is not at epoch {}, seq {}: {why}",
        crate::scrub::short(&fence.slot, 80),
        fence.epoch,
        fence.seq
    )))
}
