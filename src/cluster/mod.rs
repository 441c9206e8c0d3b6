//! The port to data: what tidegate may ask of a MongoDB cluster, and in which words.
//!
//! [`embedded`] is a deterministic model of a replica set for drills and simulation, `mongo` talks to a real one through the
//! driver; one conformance suite holds both to the same behaviour. Nothing above this room knows which one it talks to.
//! All reads are majority reads from the primary, all writes are majority and journalled.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bson::{Bson, RawDocument, RawDocumentBuf};

use crate::runtime::{Fut, Micros};

mod ask;
pub mod embedded;
pub(crate) mod fields;
mod hash;
mod key;
mod key_text;
pub mod load;
#[cfg(feature = "mongo")]
pub mod mongo;
pub mod survey;

pub use ask::{Ask, Here, Question, Replies, Told};
pub use hash::{BucketError, hash64};
pub(crate) use key::value_bytes;
pub use key::{Key, KeyError};
pub use key_text::{KEY_TEXT_MAX, KeyTextError};

/// The control database, on legacy's cluster; `fences` and `sessions` live in it on both.
pub const CONTROL_DB: &str = "tidegate";

/// A shared handle to a cluster.
pub type Db = Arc<dyn Cluster>;

/// A namespace: database and collection.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ns {
    /// The database.
    pub db: Arc<str>,
    /// The collection.
    pub coll: Arc<str>,
}

impl Ns {
    /// A namespace from its two parts.
    #[must_use]
    pub fn new(db: &str, coll: &str) -> Self {
        Ns { db: db.into(), coll: coll.into() }
    }

    /// Splits `db.collection` at the first dot; `None` when either part is empty.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (db, coll) = text.split_once('.')?;
        (!db.is_empty() && !coll.is_empty()).then(|| Ns::new(db, coll))
    }
}

impl fmt::Display for Ns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.db, self.coll)
    }
}

impl fmt::Debug for Ns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A point in a cluster's logical time (a BSON timestamp: seconds, then an increment within the second).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterTime {
    /// Seconds since the Unix epoch.
    pub secs: u32,
    /// Increment within the second.
    pub inc: u32,
}

impl ClusterTime {
    /// Before everything: a read after it waits for nothing.
    pub const ZERO: ClusterTime = ClusterTime { secs: 0, inc: 0 };
}

impl From<bson::Timestamp> for ClusterTime {
    fn from(t: bson::Timestamp) -> Self {
        ClusterTime { secs: t.time, inc: t.increment }
    }
}

impl From<ClusterTime> for bson::Timestamp {
    fn from(t: ClusterTime) -> Self {
        bson::Timestamp { time: t.secs, increment: t.inc }
    }
}

impl fmt::Display for ClusterTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.secs, self.inc)
    }
}

/// Why an operation did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The connection failed.
    Network(String),
    /// No primary answered: an election, a stepdown.
    NotPrimary(String),
    /// The deadline passed.
    Timeout(String),
    /// Another transaction touched the same documents; the whole transaction was aborted.
    Conflict(String),
    /// A unique index refused a document; the whole transaction or the single write was aborted.
    DuplicateKey {
        /// The `_id` of the refused document, where the server's answer allows telling it.
        key: Option<Key>,
        /// The server's message.
        message: String,
    },
    /// The change stream cannot resume: its position has left the oplog (error 286).
    HistoryLost(String),
    /// The server refuses the operation and will refuse it again.
    Refused(String),
}

impl Reason {
    /// True when the same operation may succeed later without anybody mending anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Reason::Network(_) | Reason::NotPrimary(_) | Reason::Timeout(_) | Reason::Conflict(_))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Network(m) => write!(f, "network: {m}"),
            Reason::NotPrimary(m) => write!(f, "no primary: {m}"),
            Reason::Timeout(m) => write!(f, "timed out: {m}"),
            Reason::Conflict(m) => write!(f, "write conflict: {m}"),
            Reason::DuplicateKey { key: Some(k), message } => write!(f, "duplicate key at _id {k}: {message}"),
            Reason::DuplicateKey { key: None, message } => write!(f, "duplicate key: {message}"),
            Reason::HistoryLost(m) => write!(f, "the change stream cannot resume: {m}"),
            Reason::Refused(m) => write!(f, "refused: {m}"),
        }
    }
}

/// The outcome of an operation that did not succeed. The difference between the first two is what keeps data safe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// Nothing was written, and nothing will be.
    #[error("{0}")]
    NotDone(Reason),
    /// It may have been written, or may be written yet. Settle it before touching the same keys again.
    #[error("unknown outcome: {0}")]
    Unknown(Reason),
    /// The fencing slot belongs to a newer epoch: this runner is stale and must stop.
    #[error("fenced out by epoch {newer}")]
    Fenced {
        /// The epoch found in the slot.
        newer: i64,
    },
}

impl Failed {
    /// The reason, when there is one.
    #[must_use]
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Failed::NotDone(r) | Failed::Unknown(r) => Some(r),
            Failed::Fenced { .. } => None,
        }
    }

    /// True for a reason that passes by itself.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.reason().is_some_and(Reason::is_transient)
    }
}

/// A document as it was read. Cheap to clone: clones share its bytes.
#[derive(Clone, PartialEq)]
pub struct Doc(Arc<[u8]>);

impl Doc {
    /// How many bytes it has.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.len()
    }
}

impl Deref for Doc {
    type Target = RawDocument;
    #[allow(clippy::expect_used)] // Only made from documents, and only the length and the last byte are looked at.
    fn deref(&self) -> &RawDocument {
        RawDocument::from_bytes(&self.0).expect("a document's own bytes")
    }
}

impl From<&RawDocument> for Doc {
    fn from(d: &RawDocument) -> Self {
        Doc(d.as_bytes().into())
    }
}

impl From<RawDocumentBuf> for Doc {
    fn from(d: RawDocumentBuf) -> Self {
        Doc(d.as_bytes().into())
    }
}

impl PartialEq<RawDocumentBuf> for Doc {
    fn eq(&self, o: &RawDocumentBuf) -> bool {
        *self.0 == *o.as_bytes()
    }
}

impl fmt::Debug for Doc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// A page of a scan in `_id` order.
#[derive(Debug)]
pub struct Page {
    /// Documents in `_id` order across all BSON types.
    pub docs: Vec<(Key, Doc)>,
    /// True when nothing follows this page.
    pub end: bool,
    /// The cluster time the page was read at, or later than.
    pub at: ClusterTime,
}

/// How much a scan page may hold; at least one document is returned whatever its size.
#[derive(Clone, Copy, Debug)]
pub struct PageLimit {
    /// At most so many documents.
    pub docs: usize,
    /// About so many bytes.
    pub bytes: usize,
}

/// Documents read by key.
#[derive(Debug)]
pub struct Read {
    /// One entry a key, in the order asked for; `None` where no document has that `_id`.
    pub docs: Vec<Option<Doc>>,
    /// The cluster time the read reflects.
    pub at: ClusterTime,
}

/// Only write when this top-level field has this value: a compare-and-set.
#[derive(Clone, Debug)]
pub struct Expect {
    /// A top-level field.
    pub field: &'static str,
    /// Its value now.
    pub value: Bson,
}

/// One plain write outside any fence: the application's, and tidegate's own on control documents.
#[derive(Clone, Debug)]
pub enum WriteOp {
    /// Inserts a document; a duplicate `_id` is `NotDone(DuplicateKey)`.
    Insert {
        /// Where.
        ns: Ns,
        /// The document, with its `_id`.
        doc: RawDocumentBuf,
    },
    /// Replaces the document with this key.
    Replace {
        /// Where.
        ns: Ns,
        /// Which.
        key: Key,
        /// Only when this holds; otherwise `matched` is 0.
        only_if: Option<Expect>,
        /// The new document, with its `_id`.
        doc: RawDocumentBuf,
        /// Insert when no document has the key (never together with `only_if`).
        upsert: bool,
    },
    /// Deletes the document with this key.
    Delete {
        /// Where.
        ns: Ns,
        /// Which.
        key: Key,
        /// Only when this holds; otherwise `matched` is 0.
        only_if: Option<Expect>,
    },
}

/// What a plain write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Documents inserted, replaced or deleted: 0 or 1.
    pub matched: u64,
    /// The cluster time of the write (or of the answer, when nothing matched).
    pub at: ClusterTime,
}

/// The identity of a server session (an lsid), carried by the change events of its transactions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for b in self.0 {
            write!(f, "{b:02x}")?;
        }
        Ok(())
    }
}

/// The fence a data write goes through: the transaction first moves `slot` from `seq` to `seq + 1`, only if its epoch is `epoch`.
#[derive(Clone, Debug)]
pub struct Fence {
    /// The worker's own document in `fences`.
    pub slot: String,
    /// The epoch of the lease the worker runs under.
    pub epoch: i64,
    /// The slot's sequence number as last seen.
    pub seq: i64,
    /// Stored in the slot by the same transaction; `None` leaves the stored one.
    pub checkpoint: Option<RawDocumentBuf>,
    /// The whole transaction ends by then, or fails.
    pub deadline: Micros,
}

/// One statement of a fenced transaction.
#[derive(Clone, Debug)]
pub enum TxnOp {
    /// Inserts documents; a duplicate aborts the whole transaction.
    Insert {
        /// Where.
        ns: Ns,
        /// What.
        docs: Vec<RawDocumentBuf>,
    },
    /// Replaces or inserts one document, byte for byte.
    Put {
        /// Where.
        ns: Ns,
        /// The document, with its `_id`.
        doc: RawDocumentBuf,
    },
    /// Deletes by key; absent keys are no error.
    Delete {
        /// Where.
        ns: Ns,
        /// Which.
        keys: Vec<Key>,
    },
    /// Goes on only while a key holds exactly these bytes (or nothing); otherwise the whole transaction is `NotDone(Conflict)`.
    /// Write the key in the same transaction: only then does a write of others in between abort it too.
    Expect {
        /// Where.
        ns: Ns,
        /// Which.
        key: Key,
        /// What must be there; `None` is nothing.
        doc: Option<Doc>,
    },
}

impl TxnOp {
    /// The namespace that it writes to.
    #[must_use]
    pub fn ns(&self) -> &Ns {
        match self {
            TxnOp::Insert { ns, .. } | TxnOp::Put { ns, .. } | TxnOp::Delete { ns, .. } | TxnOp::Expect { ns, .. } => {
                ns
            }
        }
    }
}

/// A committed transaction.
#[derive(Clone, Copy, Debug)]
pub struct TxnDone {
    /// The cluster time of the commit.
    pub at: ClusterTime,
}

/// A fencing slot as stored.
#[derive(Clone, Debug)]
pub struct SlotState {
    /// The session whose lsid the worker's transactions carry, registered in `sessions` before first use.
    pub session: SessionId,
    /// The epoch that may write.
    pub epoch: i64,
    /// Moved by every transaction and every bump.
    pub seq: i64,
    /// The `seq` that the last committed transaction set: the outcome of a transaction fenced at `s` is `done == s + 1`.
    pub done: i64,
    /// What the last transaction with a checkpoint stored.
    pub checkpoint: Option<RawDocumentBuf>,
}

/// Where a change stream stands.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamPos {
    /// The server's resume token; `None` starts at `at`.
    pub token: Option<RawDocumentBuf>,
    /// Everything up to and including this time has been seen.
    pub at: ClusterTime,
}

/// What happened to a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Inserted.
    Insert,
    /// Updated in place.
    Update,
    /// Replaced.
    Replace,
    /// Deleted.
    Delete,
    /// The collection was dropped or renamed, or the stream was invalidated: there is no key and nothing follows.
    Gone,
}

/// One event of a change stream.
#[derive(Clone, Debug)]
pub struct Change {
    /// The document; `None` only for [`ChangeKind::Gone`].
    pub key: Option<Key>,
    /// What happened.
    pub kind: ChangeKind,
    /// When.
    pub at: ClusterTime,
    /// The session of the transaction that wrote it; `None` for a plain write.
    pub session: Option<SessionId>,
}

/// Some events, and how far the stream has been read with them.
#[derive(Debug)]
pub struct ChangeBatch {
    /// In the order of the oplog; may be empty.
    pub events: Vec<Change>,
    /// Resume here after this batch. `pos.at` moves on even when no event matched.
    pub pos: StreamPos,
}

/// An open change stream.
pub trait Changes: Send {
    /// The next events, waiting at most `max_wait` for the first one. An error ends the stream: open a new one at the last position.
    fn next(&mut self, max_wait: Micros) -> Fut<'_, Result<ChangeBatch, Failed>>;
}

/// Values of one document under a unique index: every path holds one of its values; a missing field is null.
pub type Held = Vec<(String, Vec<bson::RawBson>)>;

/// The most documents that `AdminOp::Holders` answers with.
pub const HOLDERS_MAX: usize = 100;

/// An index as the plan or the server names it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IndexSpec {
    /// Its name.
    pub name: String,
    /// Fields and directions, in order.
    pub keys: bson::Document,
    /// Whether it refuses duplicates.
    pub unique: bool,
    /// A TTL index: documents expire so many seconds after the date in its field.
    pub expire_after: Option<i64>,
    /// Whatever else the server has for it (`sparse`, `partialFilterExpression`, `collation`, …); a plan asks for none of it.
    pub options: bson::Document,
}

impl IndexSpec {
    /// It covers some documents only, or does not compare byte by byte: sparse, partial or with a collation.
    #[must_use]
    pub fn is_narrow(&self) -> bool {
        self.options.get_bool("sparse").unwrap_or(false)
            || ["partialFilterExpression", "collation"].iter().any(|o| self.options.contains_key(o))
    }
}

/// What the server holds documents of a collection against.
#[derive(Clone, Debug, PartialEq)]
pub struct Validation {
    /// A query filter that a document must satisfy; `None` when there is none.
    pub validator: Option<bson::Document>,
    /// Which documents: `strict` (all), `moderate` (but those that did not satisfy it before), `off`.
    pub level: String,
    /// What becomes of one that does not satisfy it: `error`, or `warn`, which writes it all the same.
    pub action: String,
}

impl Validation {
    /// Refuses every document that does not satisfy `validator`; without one it is what a new collection has.
    #[must_use]
    pub fn strict(validator: Option<bson::Document>) -> Validation {
        Validation { validator, level: "strict".into(), action: "error".into() }
    }
}

/// Work that is not document traffic. Each is idempotent: doing it twice is doing it once.
#[derive(Clone, Debug)]
pub enum AdminOp {
    /// Creates the worker's slot or moves it to `epoch`, bumps it, and registers its session. Answers `Slot`; a newer epoch in it is `Fenced`.
    OpenSlot {
        /// Slot name: `<rollout>/<worker>`.
        slot: String,
        /// The lease's epoch.
        epoch: i64,
    },
    /// Bumps the slot, so that no transaction fenced on an older `seq` can commit any more. Answers `Slot`.
    BumpSlot {
        /// Slot name.
        slot: String,
        /// The lease's epoch.
        epoch: i64,
    },
    /// Take-over: moves every slot whose name starts with `<rollout>/` to `epoch`, bumps it, and kills the sessions registered by older runners.
    BumpAll {
        /// The rollout.
        rollout: String,
        /// The new lease's epoch.
        epoch: i64,
    },
    /// Every session ever registered for this rollout. Answers `Sessions`.
    Sessions {
        /// The rollout.
        rollout: String,
    },
    /// Creates a collection; existing is fine.
    Create {
        /// Which.
        ns: Ns,
    },
    /// Builds an index; the same one existing is fine, another definition under the same name is refused.
    CreateIndex {
        /// Where.
        ns: Ns,
        /// What.
        index: IndexSpec,
    },
    /// Changes after how many seconds a TTL index lets documents expire; an index that is not there, or is none, is refused.
    SetExpiry {
        /// Where.
        ns: Ns,
        /// The index by name.
        index: String,
        /// Seconds after the date in its field.
        seconds: i64,
    },
    /// Finds the documents that stand in the way of values under unique indexes, in the newest state. Answers `Keys`, at most
    /// [`HOLDERS_MAX`].
    Holders {
        /// Where.
        ns: Ns,
        /// Any of these.
        any: Vec<Held>,
    },
    /// Drops an index by its name; absent is fine. `_id_` is refused.
    DropIndex {
        /// Where.
        ns: Ns,
        /// Its name.
        name: String,
    },
    /// Lists indexes, `_id_` included. Answers `Indexes`; none when the collection does not exist.
    Indexes {
        /// Where.
        ns: Ns,
    },
    /// Sets or removes the validator (level strict, action error).
    SetValidator {
        /// Where.
        ns: Ns,
        /// A query filter that every write must satisfy.
        validator: Option<bson::Document>,
    },
    /// Reads what documents are held against. Answers `Validation`; a collection that does not exist is refused.
    Validation {
        /// Where.
        ns: Ns,
    },
    /// Sets what documents are held against, as [`AdminOp::Validation`] has read it.
    SetValidation {
        /// Where.
        ns: Ns,
        /// What.
        validation: Validation,
    },
    /// Renames a collection within its database; done already (source gone, target there) is fine.
    Rename {
        /// From.
        from: Ns,
        /// To.
        to: Ns,
    },
    /// Puts a view that matches nothing under `ns`, so that late writes fail loudly.
    CreateEmptyView {
        /// The view's name.
        ns: Ns,
        /// The collection it is defined on.
        on: Ns,
    },
    /// What stands under a name. Answers `Kind`.
    Kind {
        /// Which.
        ns: Ns,
    },
    /// What the primary says about its own load. Answers `Load`.
    Load,
    /// Which indexes of a collection are being built. Answers `Names`.
    Building {
        /// Which.
        ns: Ns,
    },
    /// How long operations of a collection took inside the server. Answers `Latency`.
    Latency {
        /// Which.
        ns: Ns,
    },
    /// How a query would be answered. It is planned, not run. Answers `Explained`.
    Explain {
        /// Of which.
        ns: Ns,
        /// The query.
        filter: bson::Document,
    },
    /// About how many documents a collection holds. Answers `Count`.
    Count {
        /// Which.
        ns: Ns,
    },
    /// Drops a collection or view; absent is fine.
    Drop {
        /// Which.
        ns: Ns,
    },
}

/// What stands under a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollKind {
    /// Nothing.
    Absent,
    /// A plain collection.
    Collection,
    /// A view.
    View,
    /// Something tidegate does not migrate (time-series, capped, with a collation or encrypted fields).
    Other,
}

/// The answer to an [`AdminOp`].
#[derive(Clone, Debug)]
pub enum AdminDone {
    /// Done (or found done).
    Done,
    /// The slot after the operation.
    Slot(SlotState),
    /// Session ids.
    Sessions(Vec<SessionId>),
    /// Indexes.
    Indexes(Vec<IndexSpec>),
    /// `_id`s.
    Keys(Vec<Key>),
    /// What documents are held against.
    Validation(Validation),
    /// What stands there.
    Kind(CollKind),
    /// About so many.
    Count(u64),
    /// What it tells.
    Load(load::Load),
    /// How it would be answered.
    Explained(survey::Explained),
    /// Names; none either when the server does not tell, or may not be asked.
    Names(Vec<String>),
    /// Counts since the server started; `None` when it does not tell, or may not be asked.
    Latency(Option<load::LatencyCounts>),
}

/// One member of a replica set as the primary sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// `host:port`, or the embedded node's name.
    pub name: String,
    /// `PRIMARY`, `SECONDARY`, `DOWN`, …
    pub state: String,
    /// How far behind the primary it is; `None` when unknown.
    pub lag: Option<Micros>,
}

/// A cluster looked at from outside.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// The server's wall clock, milliseconds since the Unix epoch.
    pub server_ms: i64,
    /// The latest majority-committed time.
    pub majority: ClusterTime,
    /// Members, sorted by name.
    pub members: Vec<Member>,
    /// How far back the oplog reaches; `None` when unknown.
    pub oplog_window: Option<Micros>,
}

impl Observation {
    /// How far the worst member is behind; `None` when the primary has others beside it and nothing is known of any of them.
    #[must_use]
    pub fn replication_lag(&self) -> Option<Micros> {
        let alone = self.members.len() == 1;
        let others = self.members.iter().filter(|m| alone || m.state != "PRIMARY");
        others.filter_map(|m| m.lag).max()
    }
}

/// The port. Every call may fail; a failed write says whether its outcome is known. Implementations retry nothing that could write twice.
pub trait Cluster: Send + Sync + 'static {
    /// A page in `_id` order across all BSON types, strictly after `from`, at majority and not before `after`.
    fn scan<'a>(
        &'a self,
        ns: &'a Ns,
        from: Option<&'a Key>,
        limit: PageLimit,
        after: ClusterTime,
    ) -> Fut<'a, Result<Page, Failed>>;
    /// Documents by key, at majority and not before `after`.
    fn read<'a>(&'a self, ns: &'a Ns, keys: &'a [Key], after: ClusterTime) -> Fut<'a, Result<Read, Failed>>;
    /// Documents by key, and what each question gets for them, all as of one moment: at majority and not before `after`. Few keys, and
    /// small ones, at a time: they are sent once a question.
    fn ask<'a>(
        &'a self,
        ns: &'a Ns,
        keys: &'a [Key],
        questions: &'a [Question],
        after: ClusterTime,
    ) -> Fut<'a, Result<Replies, Failed>>;
    /// The `_id`s of some documents, at most so many: of those that a question finds, or of any, drawn across the collection. One may come
    /// twice. What a question does not find because it cannot be asked is nothing.
    fn draw<'a>(&'a self, ns: &'a Ns, among: Option<&'a Question>, most: usize) -> Fut<'a, Result<Vec<Key>, Failed>>;
    /// One plain majority write.
    fn write<'a>(&'a self, op: &'a WriteOp) -> Fut<'a, Result<Written, Failed>>;
    /// A fenced transaction: the slot first, then `ops`, all or nothing; validators are bypassed. When the slot does not match,
    /// a newer epoch in it is `Fenced` and anything else `NotDone(Conflict)`. Success means a majority has it.
    fn transact<'a>(&'a self, fence: &'a Fence, ops: &'a [TxnOp]) -> Fut<'a, Result<TxnDone, Failed>>;
    /// Opens a change stream of majority-committed events.
    fn changes<'a>(&'a self, ns: &'a Ns, from: &'a StreamPos) -> Fut<'a, Result<Box<dyn Changes>, Failed>>;
    /// Work that is not document traffic.
    fn admin<'a>(&'a self, op: &'a AdminOp) -> Fut<'a, Result<AdminDone, Failed>>;
    /// Looks at the cluster.
    fn observe(&self) -> Fut<'_, Result<Observation, Failed>>;
}
