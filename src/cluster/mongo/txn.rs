//! Fenced transactions.
//!
//! The first statement moves the worker's slot. Until the commit has been sent nothing can come of the transaction, whatever goes
//! wrong; from then on only the server's word counts.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::{RawArrayBuf, rawdoc};
use mongodb::error::TRANSIENT_TRANSACTION_ERROR;
use mongodb::options::{ReadConcern, TransactionOptions, WriteConcern};

use super::errors::{Phase, check_reply, refused_index};
use super::slots::SlotSession;
use super::write::{Statement, statements, with_key};
use super::{Mongo, errors};
use crate::cluster::{CONTROL_DB, ClusterTime, Doc, Failed, Fence, Key, Reason, TxnDone, TxnOp};
use crate::runtime::{Micros, timeout};

/// How long an abort may take after the deadline; the session is cleaned before its next use when it takes longer.
const ABORT_WITHIN: Micros = Micros::from_ms(500);

impl Mongo {
    pub(super) async fn fenced(&self, fence: &Fence, ops: &[TxnOp]) -> Result<TxnDone, Failed> {
        let late = || Failed::NotDone(Reason::Timeout("the deadline has passed before the transaction began".into()));
        let left = || fence.deadline.since(self.rt.now());
        if left() == Micros::ZERO {
            return Err(late());
        }
        let commands = statements(ops)?;
        let Some(slot) = self.slot(&fence.slot) else {
            // Without a session of its own a transaction would not be recognised as tidegate's.
            return Err(self.fenced_or_conflict(&fence.slot, fence.epoch).await?);
        };
        let Some(mut session) = timeout(&self.rt, left(), self.clean(&slot)).await else { return Err(late()) };
        let left = left();
        if left == Micros::ZERO {
            return Err(late());
        }
        session.dirty = true;
        let mut phase = Phase::Harmless;
        let body = self.carry_out(&mut session, fence, commands, left, &mut phase);
        let result = timeout(&self.rt, left, body).await;
        let result = result.unwrap_or_else(|| {
            Err(phase.interrupted(Reason::Timeout(format!("the transaction did not end within {left}"))))
        });
        match result {
            Ok(done) => {
                session.dirty = false;
                Ok(done)
            }
            Err(failed) => Err(self.after_failure(&mut session, fence, failed, phase).await),
        }
    }

    /// The transaction itself; `phase` turns to commit just before that is sent.
    async fn carry_out(
        &self,
        session: &mut SlotSession,
        fence: &Fence,
        commands: Vec<Statement>,
        left: Micros,
        phase: &mut Phase,
    ) -> Result<TxnDone, Failed> {
        let wait = Duration::from_millis(left.as_ms().max(1));
        let options = TransactionOptions::builder()
            .read_concern(ReadConcern::majority())
            .write_concern(
                WriteConcern::builder()
                    .w(mongodb::options::Acknowledgment::Majority)
                    .journal(true)
                    .w_timeout(wait)
                    .build(),
            )
            .build();
        let started = session.driver.start_transaction().with_options(options).await;
        started.map_err(|e| self.failed(&e, Phase::Harmless))?;
        let moved = self.statement(session, fence_statement(fence)).await?;
        if moved == 0 {
            return Err(Failed::NotDone(Reason::Conflict(format!("slot {} has moved on", fence.slot))));
        }
        for mut command in commands {
            match command.expect.take() {
                Some(all) => self.expected(session, command, &all).await?,
                None => drop(self.statement(session, command).await?),
            }
        }
        *phase = Phase::Commit;
        let mut committed = session.driver.commit_transaction().await;
        if committed.as_ref().is_err_and(|e| !e.contains_label(TRANSIENT_TRANSACTION_ERROR)) {
            // The same transaction number again: the server answers what became of it.
            committed = session.driver.commit_transaction().await;
        }
        match committed {
            Ok(()) => Ok(TxnDone { at: session.driver.operation_time().map_or(ClusterTime::ZERO, ClusterTime::from) }),
            Err(e) if e.contains_label(TRANSIENT_TRANSACTION_ERROR) => {
                *phase = Phase::Harmless;
                Err(Failed::NotDone(Reason::Conflict(errors::told(&e, |t| self.secrets.hide(t)))))
            }
            Err(e) => Err(self.failed(&e, Phase::Commit)),
        }
    }

    /// Sends one statement; answers how many documents it matched.
    async fn statement(&self, session: &mut SlotSession, s: Statement) -> Result<i32, Failed> {
        let db = self.client.database(&s.db);
        let answer = db.run_raw_command(s.command).session(&mut session.driver).await;
        let answer = answer.map_err(|e| self.failed(&e, Phase::Harmless))?;
        check_reply(&answer, Phase::Harmless).map_err(|f| {
            let key = refused_index(&answer).and_then(|i| s.keys.get(i).cloned().flatten());
            with_key(f, key)
        })?;
        Ok(answer.get_i32("n").unwrap_or(0))
    }

    /// Reads documents in the transaction's snapshot: a conflict unless they are what is expected, byte for byte. Whoever writes one of
    /// them after the snapshot conflicts with the write of it that follows.
    async fn expected(
        &self,
        session: &mut SlotSession,
        find: Statement,
        all: &[(Key, Option<Doc>)],
    ) -> Result<(), Failed> {
        let failed = |e: mongodb::error::Error| self.failed(&e, Phase::Harmless);
        let mut wanted: BTreeMap<&Key, Option<&Doc>> = all.iter().map(|(k, d)| (k, d.as_ref())).collect();
        let other = |key: &Key| Failed::NotDone(Reason::Conflict(format!("{key} is not what it was")));
        let db = self.client.database(&find.db);
        let mut cursor = db.run_raw_cursor_command(find.command).session(&mut session.driver).await.map_err(failed)?;
        while cursor.advance(&mut session.driver).await.map_err(failed)? {
            let is = cursor.current();
            let key = Key::of(is).map_err(|e| Failed::NotDone(Reason::Refused(e.to_string())))?;
            match wanted.remove(&key) {
                Some(Some(doc)) if doc.as_bytes() == is.as_bytes() => {}
                _ => return Err(other(&key)),
            }
        }
        match wanted.iter().find(|(_, doc)| doc.is_some()) {
            None => Ok(()),
            Some((key, _)) => Err(other(key)),
        }
    }

    /// Ends what is open, and says whether a conflict was in truth a newer epoch.
    async fn after_failure(&self, session: &mut SlotSession, fence: &Fence, failed: Failed, phase: Phase) -> Failed {
        if phase == Phase::Commit {
            // Left alone: whether it committed is for a bump to find out.
            return failed;
        }
        let answered =
            !matches!(failed.reason(), Some(Reason::Network(_) | Reason::Timeout(_) | Reason::NotPrimary(_)));
        let aborted = timeout(&self.rt, ABORT_WITHIN, session.driver.abort_transaction().into_future()).await.is_some();
        session.dirty = !(answered && aborted);
        match failed {
            Failed::NotDone(Reason::Conflict(m)) => {
                match timeout(&self.rt, ABORT_WITHIN * 4, self.fenced_or_conflict(&fence.slot, fence.epoch)).await {
                    Some(Ok(Failed::Fenced { newer })) => Failed::Fenced { newer },
                    Some(_) | None => Failed::NotDone(Reason::Conflict(m)),
                }
            }
            other => other,
        }
    }
}

fn fence_statement(fence: &Fence) -> Statement {
    let next = fence.seq + 1;
    let mut set = rawdoc! { "seq": next, "done": next };
    if let Some(c) = &fence.checkpoint {
        set.append(bson::cstr!("checkpoint"), c.clone());
    }
    let mut updates = RawArrayBuf::new();
    updates.push(rawdoc! {
        "q": { "_id": &*fence.slot, "epoch": fence.epoch, "seq": fence.seq }, "u": { "$set": set },
    });
    Statement {
        db: CONTROL_DB.to_owned(),
        command: rawdoc! { "update": "fences", "updates": updates },
        keys: Vec::new(),
        expect: None,
    }
}
