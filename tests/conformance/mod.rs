//! What every implementation of the port must do. The same cases run on the embedded cluster and on a real replica set.
//!
//! A case knows the cluster through the port only and owns one database and one rollout of its own, both named after it. It never
//! asserts on exact cluster times, nor on how long anything takes.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use bson::{RawBson, RawDocument, RawDocumentBuf};
use tidegate::cluster::{
    AdminDone, AdminOp, Change, ChangeKind, Changes, ClusterTime, Db, Expect, Failed, Fence, Key, Ns, Page, PageLimit,
    Reason, SlotState, StreamPos, TxnDone, TxnOp, WriteOp, Written,
};
use tidegate::runtime::{Fut, Micros, Rt};

mod ask;
mod data;
mod ddl;
mod fences;
pub mod history;
mod streams;

/// What a case answers: nothing, or what went wrong.
pub type R<T = ()> = Result<T, String>;

/// A case: the runtime, the cluster, and the name of a database that nothing else uses (also the name of its rollout).
pub type Case = fn(Rt, Db, String) -> Fut<'static, R>;

macro_rules! cases {
    ($($module:ident :: $name:ident),* $(,)?) => {
        vec![$((stringify!($name), |rt, db, name| Box::pin($module::$name(Env { rt, db, name })))),*]
    };
}

/// Every case with its name.
pub fn cases() -> Vec<(&'static str, Case)> {
    cases![
        data::a_scan_crosses_all_types_in_id_order,
        data::a_scan_resumes_after_a_key_that_is_gone,
        data::a_scan_page_holds_at_least_one_document,
        data::a_missing_collection_reads_as_empty,
        data::a_read_after_a_write_sees_it,
        data::a_key_of_another_numeric_type_is_the_same_key,
        data::plain_writes_answer_what_they_matched,
        data::compare_and_set_writes_only_what_it_expects,
        data::a_duplicate_insert_is_not_done,
        data::an_insert_creates_the_collection,
        data::observe_reaches_the_last_write,
        data::a_primary_tells_its_load,
        data::latencies_are_counted_by_collection,
        ask::what_is_asked_of_each_document_is_answered_in_order,
        ask::what_is_drawn_is_there,
        ask::a_query_is_explained,
        fences::a_transaction_moves_its_slot,
        fences::a_transaction_goes_on_only_with_the_bytes_it_expects,
        fences::a_checkpoint_is_stored_with_its_transaction,
        fences::a_bump_refuses_the_older_sequence,
        fences::a_newer_epoch_fences_out,
        fences::a_transaction_without_a_slot_does_nothing,
        fences::a_duplicate_key_aborts_everything,
        fences::statements_of_a_transaction_see_each_other,
        fences::a_put_is_byte_for_byte,
        fences::a_swap_writes_only_over_the_bytes_it_expects,
        fences::a_swap_and_plain_writes_lose_nothing_of_each_other,
        fences::a_deadline_that_has_passed_is_refused,
        fences::bump_all_moves_every_slot_of_the_rollout,
        fences::an_older_runner_opens_no_slot_after_a_take_over,
        fences::sessions_are_listed,
        streams::events_come_in_order_with_kinds_and_sessions,
        streams::a_stream_resumes_exactly_where_it_stopped,
        streams::a_stream_starts_strictly_after_its_time,
        streams::a_position_moves_past_unrelated_writes,
        streams::a_position_is_not_ahead_of_the_cluster,
        streams::a_write_that_changes_nothing_has_no_event,
        streams::a_drop_ends_the_stream,
        streams::a_rename_ends_the_stream,
        ddl::create_is_idempotent,
        ddl::indexes_are_listed_and_enforced,
        ddl::an_index_is_dropped_by_name,
        ddl::a_unique_index_refuses_existing_duplicates,
        ddl::a_ttl_index_is_set_by_its_name,
        ddl::whoever_holds_a_value_is_found,
        ddl::a_validator_refuses_plain_writes_only,
        ddl::validation_is_read_back_as_it_was_set,
        ddl::a_validator_of_buckets_refuses_by_the_hash_of_the_id,
        ddl::a_rename_is_idempotent,
        ddl::an_empty_view_refuses_writes,
        ddl::a_drop_is_idempotent,
    ]
}

/// Fails the case with a message when the condition does not hold.
macro_rules! ensure {
    ($cond:expr, $($arg:tt)+) => {
        if !$cond {
            return Err(format!("line {}: {}", line!(), format!($($arg)+)));
        }
    };
}
pub(crate) use ensure;

/// What a case works with.
pub struct Env {
    /// The runtime.
    pub rt: Rt,
    /// The cluster.
    pub db: Db,
    /// Its own database and rollout.
    pub name: String,
}

/// Any error as a message.
pub fn text<T>(r: Result<T, Failed>) -> R<T> {
    r.map_err(|e| format!("{e:?}"))
}

/// The key of a value.
pub fn key(v: impl Into<RawBson>) -> R<Key> {
    Key::new(v.into().as_raw_bson_ref()).map_err(|e| e.to_string())
}

/// A limit on documents only.
pub const fn docs(n: usize) -> PageLimit {
    PageLimit { docs: n, bytes: 1 << 20 }
}

/// True when it was surely not done because of a duplicate.
pub fn is_duplicate<T>(r: &Result<T, Failed>) -> bool {
    matches!(r, Err(Failed::NotDone(Reason::DuplicateKey { .. })))
}

/// True when the server surely refused it for good.
pub fn is_refused<T>(r: &Result<T, Failed>) -> bool {
    matches!(r, Err(Failed::NotDone(Reason::Refused(_))))
}

/// True when it was surely not done because something else came first.
pub fn is_conflict<T>(r: &Result<T, Failed>) -> bool {
    matches!(r, Err(Failed::NotDone(Reason::Conflict(_))))
}

impl Env {
    fn ns(&self, coll: &str) -> Ns {
        Ns::new(&self.name, coll)
    }

    async fn try_insert(&self, ns: &Ns, doc: RawDocumentBuf) -> Result<Written, Failed> {
        self.db.write(&WriteOp::Insert { ns: ns.clone(), doc }).await
    }

    async fn insert(&self, ns: &Ns, doc: RawDocumentBuf) -> R<Written> {
        text(self.try_insert(ns, doc).await)
    }

    async fn replace(&self, ns: &Ns, doc: RawDocumentBuf, only_if: Option<Expect>, upsert: bool) -> R<Written> {
        let key = Key::of(&doc).map_err(|e| e.to_string())?;
        text(self.db.write(&WriteOp::Replace { ns: ns.clone(), key, only_if, doc, upsert }).await)
    }

    async fn delete(&self, ns: &Ns, key: Key, only_if: Option<Expect>) -> R<Written> {
        text(self.db.write(&WriteOp::Delete { ns: ns.clone(), key, only_if }).await)
    }

    async fn get(&self, ns: &Ns, key: &Key, after: ClusterTime) -> R<Option<RawDocumentBuf>> {
        let read = text(self.db.read(ns, std::slice::from_ref(key), after).await)?;
        ensure!(read.docs.len() == 1, "one key, {} answers", read.docs.len());
        ensure!(read.at >= after, "a read after {after} reflects {}", read.at);
        Ok(read.docs.into_iter().next().flatten().map(|d| (*d).to_owned()))
    }

    async fn page(&self, ns: &Ns, from: Option<&Key>, limit: PageLimit, after: ClusterTime) -> R<Page> {
        let page = text(self.db.scan(ns, from, limit, after).await)?;
        ensure!(page.at >= after, "a page after {after} was read at {}", page.at);
        ensure!(page.docs.len() <= limit.docs.max(1), "{} documents for a limit of {}", page.docs.len(), limit.docs);
        ensure!(page.end || !page.docs.is_empty(), "an empty page that is not the end");
        Ok(page)
    }

    /// Everything in `_id` order, in pages of `n`.
    async fn all(&self, ns: &Ns, n: usize, after: ClusterTime) -> R<Vec<(Key, RawDocumentBuf)>> {
        let mut out: Vec<(Key, RawDocumentBuf)> = Vec::new();
        loop {
            let from = out.last().map(|(k, _)| k.clone());
            let page = self.page(ns, from.as_ref(), docs(n), after).await?;
            out.extend(page.docs.into_iter().map(|(k, d)| (k, (*d).to_owned())));
            if page.end {
                return Ok(out);
            }
        }
    }

    async fn admin(&self, op: AdminOp) -> R<AdminDone> {
        text(self.db.admin(&op).await)
    }

    fn slot(&self, worker: &str) -> String {
        format!("{}/{worker}", self.name)
    }

    async fn open(&self, worker: &str, epoch: i64) -> R<SlotState> {
        self.slot_op(AdminOp::OpenSlot { slot: self.slot(worker), epoch }).await
    }

    async fn bump(&self, worker: &str, epoch: i64) -> R<SlotState> {
        self.slot_op(AdminOp::BumpSlot { slot: self.slot(worker), epoch }).await
    }

    async fn slot_op(&self, op: AdminOp) -> R<SlotState> {
        match self.admin(op).await? {
            AdminDone::Slot(s) => Ok(s),
            other => Err(format!("expected a slot, got {other:?}")),
        }
    }

    fn fence(&self, worker: &str, slot: &SlotState) -> Fence {
        let deadline = self.rt.now() + Micros::from_secs(20);
        Fence { slot: self.slot(worker), epoch: slot.epoch, seq: slot.seq, checkpoint: None, deadline }
    }

    /// A transaction under the slot as it stands in `slot`, which moves on when it commits.
    async fn txn(&self, worker: &str, slot: &mut SlotState, ops: &[TxnOp]) -> Result<TxnDone, Failed> {
        let done = self.db.transact(&self.fence(worker, slot), ops).await?;
        slot.seq += 1;
        slot.done = slot.seq;
        Ok(done)
    }

    async fn stream(&self, ns: &Ns, from: &StreamPos) -> R<Box<dyn Changes>> {
        text(self.db.changes(ns, from).await)
    }

    async fn stream_after(&self, ns: &Ns, at: ClusterTime) -> R<Box<dyn Changes>> {
        self.stream(ns, &StreamPos { token: None, at }).await
    }

    /// Reads until `n` events came, or time ran out; more than `n` is an error.
    async fn events(&self, stream: &mut dyn Changes, n: usize) -> R<(Vec<Change>, StreamPos)> {
        let deadline = self.rt.now() + Micros::from_secs(20);
        let mut events: Vec<Change> = Vec::new();
        loop {
            let batch = text(stream.next(Micros::from_ms(200)).await)?;
            for e in &batch.events {
                ensure!(e.at <= batch.pos.at, "an event at {} in a batch read up to {}", e.at, batch.pos.at);
            }
            events.extend(batch.events);
            ensure!(events.len() <= n, "{} events instead of {n}: {events:?}", events.len());
            if events.len() == n {
                return Ok((events, batch.pos));
            }
            ensure!(self.rt.now() < deadline, "only {} of {n} events within 20 s: {events:?}", events.len());
        }
    }

    /// Reads on until the position reaches `at`, and answers what came on the way.
    async fn until(&self, stream: &mut dyn Changes, at: ClusterTime) -> R<(Vec<Change>, StreamPos)> {
        let deadline = self.rt.now() + Micros::from_secs(30);
        let mut events = Vec::new();
        loop {
            let batch = text(stream.next(Micros::from_ms(200)).await)?;
            events.extend(batch.events);
            if batch.pos.at >= at {
                return Ok((events, batch.pos));
            }
            ensure!(self.rt.now() < deadline, "the position stands at {} and never reached {at}", batch.pos.at);
        }
    }
}

/// A change as a word: an update and a replacement are one, since a put may be either.
pub fn word(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Insert => "insert",
        ChangeKind::Update | ChangeKind::Replace => "write",
        ChangeKind::Delete => "delete",
        ChangeKind::Gone => "gone",
    }
}

/// A value of a document, for a message.
pub fn field(doc: &RawDocument, name: &str) -> Option<RawBson> {
    doc.get(name).ok().flatten().map(RawBson::from)
}
