//! Fencing slots and the sessions behind them.
//!
//! A worker's slot has one driver session for as long as the process lives; its lsid stands in `sessions` before the first
//! transaction uses it, so that every event of tidegate's own can be told by its lsid.

use std::sync::Arc;

use bson::{Bson, Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc};
use mongodb::ClientSession;
use tokio::sync::{Mutex, MutexGuard};

use super::errors::Phase;
use super::read::malformed;
use super::{Mongo, majority};
use crate::cluster::{AdminDone, CONTROL_DB, Failed, Reason, SessionId, SlotState};
use crate::runtime::{Micros, timeout};

/// Ending a transaction that went wrong may take so long; what is left then is ended before the session is used again.
const CLEAN_UP: Micros = Micros::from_ms(2_000);
/// How often a bump tries to get past an open transaction of somebody else.
const BUMP_TRIES: u32 = 5;
/// How long each try waits before the sessions are killed again.
const BUMP_WAIT_MS: i32 = 2_000;

/// A slot this process has opened.
pub(super) struct Slot {
    pub(super) session: Mutex<SlotSession>,
    id: SessionId,
}

/// The session of a slot.
pub(super) struct SlotSession {
    pub(super) driver: ClientSession,
    /// True from before a transaction's first statement until its end is known: a future dropped in between leaves it set.
    pub(super) dirty: bool,
    id: SessionId,
}

impl Mongo {
    /// The slot as this process opened it.
    pub(super) fn slot(&self, name: &str) -> Option<Arc<Slot>> {
        self.lock_slots().get(name).cloned()
    }

    async fn slot_or_new(&self, name: &str) -> Result<Arc<Slot>, Failed> {
        if let Some(slot) = self.slot(name) {
            return Ok(slot);
        }
        let driver = self.client.start_session().await.map_err(|e| self.failed(&e, Phase::Harmless))?;
        let id = lsid(driver.id()).ok_or_else(|| malformed("a session without an id"))?;
        let slot = Arc::new(Slot { session: Mutex::new(SlotSession { driver, dirty: false, id }), id });
        Ok(self.lock_slots().entry(name.to_owned()).or_insert(slot).clone())
    }

    /// Locks the session; a transaction that was left open on it is ended first.
    pub(super) async fn clean<'a>(&self, slot: &'a Slot) -> MutexGuard<'a, SlotSession> {
        let mut s = slot.session.lock().await;
        if s.dirty {
            // Ignored: the driver answers an error when no transaction is open, and the server's answer changes nothing.
            let _ = timeout(&self.rt, CLEAN_UP, s.driver.abort_transaction().into_future()).await;
            let _ = timeout(&self.rt, CLEAN_UP, self.kill_sessions(&[s.id])).await;
            s.dirty = false;
        }
        s
    }

    pub(super) async fn open_slot(&self, name: &str, epoch: i64) -> Result<AdminDone, Failed> {
        let slot = self.slot_or_new(name).await?;
        let _session = self.clean(&slot).await;
        // A stale runner must not disturb a newer one, so only sessions of this epoch and older ones are ended.
        let older = self.registered(doc! { "slot": name, "epoch": { "$lte": epoch } }).await?;
        self.end_transactions(&older).await?;
        let uuid = uuid(slot.id);
        let rollout = name.split_once('/').map_or(name, |(r, _)| r);
        self.update_control(
            "sessions",
            rawdoc! { "_id": uuid.clone() },
            rawdoc! { "$set": { "rollout": rollout, "slot": name, "epoch": epoch } },
        )
        .await?;
        // A document with a newer epoch does not match, so the upsert runs into its `_id`.
        let found = self
            .find_and_modify(
                rawdoc! { "_id": name, "epoch": { "$lte": epoch } },
                rawdoc! {
                    "$set": { "epoch": epoch, "session": uuid }, "$inc": { "seq": 1i64 }, "$setOnInsert": { "done": 0i64 },
                },
                true,
            )
            .await;
        match found {
            Ok(Some(d)) => {
                // A slot that did not exist could not be bumped: a take-over before this shows in another one.
                self.refuse_newer(rollout, epoch).await?;
                slot_state(&d).map(AdminDone::Slot)
            }
            Ok(None) => Err(malformed("an upsert without its document")),
            Err(Failed::NotDone(Reason::DuplicateKey { .. })) => Err(self.fenced_or_conflict(name, epoch).await?),
            Err(other) => Err(other),
        }
    }

    pub(super) async fn bump_slot(&self, name: &str, epoch: i64) -> Result<AdminDone, Failed> {
        // Waits for a transaction of this process to end, and ends one that was dropped.
        let own = self.slot(name);
        let _session = match &own {
            Some(slot) => Some(self.clean(slot).await),
            None => None,
        };
        let found = self
            .find_and_modify(rawdoc! { "_id": name, "epoch": epoch }, rawdoc! { "$inc": { "seq": 1i64 } }, false)
            .await?;
        match found {
            Some(d) => slot_state(&d).map(AdminDone::Slot),
            None => Err(self.fenced_or_conflict(name, epoch).await?),
        }
    }

    pub(super) async fn bump_all(&self, rollout: &str, epoch: i64) -> Result<AdminDone, Failed> {
        self.mark_epoch(rollout, epoch).await?;
        let mut tries = 0;
        loop {
            tries += 1;
            let mut older = of_rollout("slot", rollout);
            older.insert("epoch", doc! { "$lt": epoch });
            let older = self.registered(older).await?;
            self.end_transactions(&older).await?;
            let mut q = of_rollout("_id", rollout);
            q.insert("epoch", doc! { "$lt": epoch });
            let mut updates = RawArrayBuf::new();
            updates.push(rawdoc! {
                "q": raw(&q)?, "u": { "$set": { "epoch": epoch }, "$inc": { "seq": 1i64 } }, "multi": true,
            });
            let command = rawdoc! {
                "update": "fences", "updates": updates, "maxTimeMS": BUMP_WAIT_MS, "writeConcern": majority(),
            };
            match self.run(CONTROL_DB, command, Phase::Write).await {
                Ok(_) => break,
                // A transaction begun since the sessions were killed stands in the way: kill them again.
                Err(f) if f.is_transient() && tries < BUMP_TRIES => {}
                Err(f) => return Err(f),
            }
        }
        self.refuse_newer(rollout, epoch).await?;
        Ok(AdminDone::Done)
    }

    /// Leaves the epoch in a slot that no worker uses, before any slot is bumped: an older runner that opens a slot for the first time
    /// after the bump finds it there.
    async fn mark_epoch(&self, rollout: &str, epoch: i64) -> Result<(), Failed> {
        let marked = self
            .find_and_modify(
                rawdoc! { "_id": format!("{rollout}/"), "epoch": { "$lt": epoch } },
                rawdoc! {
                    "$set": { "epoch": epoch }, "$inc": { "seq": 1i64 },
                    "$setOnInsert": { "done": 0i64, "session": uuid(SessionId([0; 16])) },
                },
                true,
            )
            .await;
        match marked {
            // It is there, with this epoch or a newer one.
            Ok(_) | Err(Failed::NotDone(Reason::DuplicateKey { .. })) => Ok(()),
            Err(f) => Err(f),
        }
    }

    /// An error when any slot of the rollout has a newer epoch.
    async fn refuse_newer(&self, rollout: &str, epoch: i64) -> Result<(), Failed> {
        let mut newer = of_rollout("_id", rollout);
        newer.insert("epoch", doc! { "$gt": epoch });
        match self.find_control("fences", &newer).await?.first() {
            Some(d) => Err(Failed::Fenced { newer: slot_state(d)?.epoch }),
            None => Ok(()),
        }
    }

    pub(super) async fn sessions_of(&self, rollout: &str) -> Result<AdminDone, Failed> {
        self.registered(of_rollout("slot", rollout)).await.map(AdminDone::Sessions)
    }

    /// Why a slot did not match: a newer epoch stands in it, or somebody moved it.
    pub(super) async fn fenced_or_conflict(&self, name: &str, epoch: i64) -> Result<Failed, Failed> {
        let found = self.find_control("fences", &doc! { "_id": name }).await?;
        let Some(found) = found.first() else {
            return Ok(Failed::NotDone(Reason::Conflict(format!("there is no slot {name}"))));
        };
        let slot = slot_state(found)?;
        if slot.epoch > epoch {
            return Ok(Failed::Fenced { newer: slot.epoch });
        }
        let now = format!("slot {name} stands at epoch {}, sequence {}", slot.epoch, slot.seq);
        Ok(Failed::NotDone(Reason::Conflict(now)))
    }

    async fn registered(&self, filter: Document) -> Result<Vec<SessionId>, Failed> {
        let found = self.find_control("sessions", &filter).await?;
        Ok(found.iter().filter_map(|d| session_id(d.get("_id")?)).collect())
    }

    /// Ends what is open on these sessions, so that nobody waits for it. Only a help: the bump is what refuses them.
    async fn end_transactions(&self, ids: &[SessionId]) -> Result<(), Failed> {
        match self.kill_sessions(ids).await {
            // Without the privilege to kill other users' sessions the bump waits until the server ends them.
            Ok(()) | Err(Failed::NotDone(Reason::Refused(_))) => Ok(()),
            Err(other) => Err(other),
        }
    }

    async fn kill_sessions(&self, ids: &[SessionId]) -> Result<(), Failed> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut list = RawArrayBuf::new();
        for id in ids {
            list.push(rawdoc! { "id": uuid(*id) });
        }
        self.run("admin", rawdoc! { "killSessions": list }, Phase::Write).await.map(drop)
    }

    async fn update_control(&self, coll: &str, q: RawDocumentBuf, u: RawDocumentBuf) -> Result<(), Failed> {
        let mut updates = RawArrayBuf::new();
        updates.push(rawdoc! { "q": q, "u": u, "upsert": true });
        let command = rawdoc! { "update": coll, "updates": updates, "writeConcern": majority() };
        self.run(CONTROL_DB, command, Phase::Write).await.map(drop)
    }

    async fn find_and_modify(
        &self,
        query: RawDocumentBuf,
        update: RawDocumentBuf,
        upsert: bool,
    ) -> Result<Option<Document>, Failed> {
        let command = rawdoc! {
            "findAndModify": "fences", "query": query, "update": update, "new": true, "upsert": upsert,
            "writeConcern": majority(),
        };
        let mut answer = self.run(CONTROL_DB, command, Phase::Write).await?;
        match answer.remove("value") {
            Some(Bson::Document(d)) => Ok(Some(d)),
            _ => Ok(None),
        }
    }

    async fn find_control(&self, coll: &str, filter: &Document) -> Result<Vec<Document>, Failed> {
        let find = rawdoc! { "find": coll, "filter": raw(filter)?, "readConcern": { "level": "majority" } };
        self.list(CONTROL_DB, find).await
    }
}

/// A filter for names that start with `<rollout>/`, by range: a rollout's name may hold characters that mean something in a
/// regular expression.
fn of_rollout(field: &str, rollout: &str) -> Document {
    // '0' is the character after '/'.
    doc! { field: { "$gte": format!("{rollout}/"), "$lt": format!("{rollout}0") } }
}

fn raw(d: &Document) -> Result<RawDocumentBuf, Failed> {
    RawDocumentBuf::try_from(d).map_err(|e| Failed::NotDone(Reason::Refused(e.to_string())))
}

fn uuid(id: SessionId) -> bson::RawBson {
    bson::RawBson::Binary(bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: id.0.to_vec() })
}

fn session_id(v: &Bson) -> Option<SessionId> {
    match v {
        Bson::Binary(b) => Some(SessionId(b.bytes.as_slice().try_into().ok()?)),
        _ => None,
    }
}

/// The uuid of an lsid document.
fn lsid(d: &Document) -> Option<SessionId> {
    session_id(d.get("id")?)
}

fn slot_state(d: &Document) -> Result<SlotState, Failed> {
    let number = |f: &str| d.get_i64(f).map_err(|e| malformed(format!("slot field {f}: {e}")));
    Ok(SlotState {
        session: d.get("session").and_then(session_id).ok_or_else(|| malformed("a slot without a session"))?,
        epoch: number("epoch")?,
        seq: number("seq")?,
        done: number("done")?,
        checkpoint: d.get_document("checkpoint").ok().map(RawDocumentBuf::try_from).transpose().map_err(malformed)?,
    })
}
