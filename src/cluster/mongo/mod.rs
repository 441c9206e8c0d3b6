//! The port on a real replica set, through the official driver, in raw commands.
//!
//! Every command carries its own concerns: reads are snapshot reads of majority-committed data on the primary, writes are majority
//! and journalled. The driver is never left to retry a write by itself, except a commit, which the server recognises by its
//! transaction number. Nothing in here decides what to do about a failure: it only says which kind it was.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bson::{Document, RawDocumentBuf, Timestamp, doc, rawdoc};
use mongodb::Client;
use mongodb::options::ClientOptions;

use super::survey::Unfit;
use super::{
    AdminDone, AdminOp, Changes, Cluster, ClusterTime, Failed, Fence, Key, Ns, Observation, Page, PageLimit, Question,
    Read, Reason, Replies, StreamPos, TxnDone, TxnOp, WriteOp, Written,
};
use crate::runtime::{Fut, Micros, Rt, timeout};

mod admin;
mod ask;
mod changes;
mod errors;
mod load;
mod observe;
mod read;
mod redact;
mod slots;
mod survey;
mod txn;
mod write;

pub use errors::MongoError;
use errors::{Phase, classify};
use redact::Secrets;
pub use survey::Probe;

/// A read or a command without documents ends within this, or counts as timed out.
const OP_TIMEOUT: Micros = Micros::from_secs(20);
/// How long a write waits for the majority before its outcome is called unknown.
const WRITE_TIMEOUT_MS: i32 = 10_000;
/// How long to look for a primary, unless the connection string says otherwise.
const SELECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// How often to look at the members. A primary given up after an error is found again, and one that stands still noticed, within
/// about this; the driver's ten seconds would be most of a freeze.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Snapshot reads outside transactions came with MongoDB 5.0.
const OLDEST_WIRE_VERSION: i32 = 13;

/// A replica set.
pub struct Mongo {
    client: Client,
    rt: Rt,
    secrets: Secrets,
    set: String,
    slots: Mutex<BTreeMap<String, Arc<slots::Slot>>>,
    sizes: Mutex<BTreeMap<Ns, usize>>,
}

impl fmt::Debug for Mongo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mongo").field("set", &self.set).finish_non_exhaustive()
    }
}

impl Mongo {
    /// Connects to the replica set behind a connection string and checks that tidegate can work with it.
    ///
    /// Concerns and read preference in the string are ignored: tidegate sets its own. No secret of the string is in any error.
    ///
    /// # Errors
    /// When the string is malformed, no primary answers, or what answers is a standalone, a mongos or too old.
    pub async fn connect(uri: &str, rt: Rt) -> Result<Arc<Mongo>, MongoError> {
        let mut mongo = Mongo::client(uri, rt).await?;
        mongo.set = mongo.check().await?;
        Ok(Arc::new(mongo))
    }

    /// As [`Mongo::connect`], but a set that does not answer now is no error: whoever uses it finds out when it does. It was checked
    /// when the rollout began.
    ///
    /// # Errors
    /// When the string is malformed, or what answers cannot be used.
    pub async fn connect_later(uri: &str, rt: Rt) -> Result<Arc<Mongo>, MongoError> {
        let mut mongo = Mongo::client(uri, rt).await?;
        match mongo.check().await {
            Ok(set) => mongo.set = set,
            Err(MongoError::Unreachable(_)) => {}
            Err(e) => return Err(e),
        }
        Ok(Arc::new(mongo))
    }

    async fn client(uri: &str, rt: Rt) -> Result<Mongo, MongoError> {
        Ok(Mongo::with_options(uri, rt).await?.0)
    }

    /// A client, and the options it was made with.
    async fn with_options(uri: &str, rt: Rt) -> Result<(Mongo, ClientOptions), MongoError> {
        let secrets = Secrets::of(uri);
        let invalid = |e: mongodb::error::Error| MongoError::Uri(errors::told(&e, |t| secrets.hide(t)));
        let mut options = ClientOptions::parse(uri).await.map_err(invalid)?;
        options.selection_criteria = None;
        options.read_concern = None;
        options.write_concern = None;
        options.app_name.get_or_insert_with(|| "tidegate".into());
        options.server_selection_timeout.get_or_insert(SELECTION_TIMEOUT);
        options.connect_timeout.get_or_insert(SELECTION_TIMEOUT);
        options.heartbeat_freq.get_or_insert(HEARTBEAT);
        let client = Client::with_options(options.clone()).map_err(invalid)?;
        let mongo = Mongo { client, rt, secrets, set: String::new(), slots: Mutex::default(), sizes: Mutex::default() };
        Ok((mongo, options))
    }

    /// The set's name, when tidegate can work with what answers.
    async fn check(&self) -> Result<String, MongoError> {
        let hello = self
            .client
            .database("admin")
            .run_command(doc! { "hello": 1 })
            .await
            .map_err(|e| MongoError::Unreachable(errors::told(&e, |t| self.secrets.hide(t))))?;
        match unfit(&hello) {
            Some(unfit) => Err(unfit.into()),
            None => Ok(set_name(&hello)),
        }
    }

    /// The replica set's name.
    #[must_use]
    pub fn set_name(&self) -> &str {
        &self.set
    }

    /// The runtime whose clock deadlines are measured on.
    #[must_use]
    pub fn runtime(&self) -> &Rt {
        &self.rt
    }

    /// The driver's error as the port's, without secrets.
    fn failed(&self, e: &mongodb::error::Error, phase: Phase) -> Failed {
        classify(e, phase, |t| self.secrets.hide(t))
    }

    /// Runs one command on the primary and checks its answer, write errors included.
    async fn run(&self, db: &str, command: RawDocumentBuf, phase: Phase) -> Result<Document, Failed> {
        self.run_for(db, command, phase, Some(OP_TIMEOUT)).await
    }

    async fn run_for(
        &self,
        db: &str,
        command: RawDocumentBuf,
        phase: Phase,
        limit: Option<Micros>,
    ) -> Result<Document, Failed> {
        let db = self.client.database(db);
        let sent = async { db.run_raw_command(command).await };
        let answer = match limit {
            None => sent.await,
            Some(limit) => match timeout(&self.rt, limit, sent).await {
                Some(answer) => answer,
                None => return Err(phase.interrupted(Reason::Timeout(format!("no answer within {limit}")))),
            },
        };
        let answer = answer.map_err(|e| self.failed(&e, phase))?;
        errors::check_reply(&answer, phase)?;
        Ok(answer)
    }

    fn lock_slots(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<slots::Slot>>> {
        // Nothing under this lock can leave the map half changed.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What keeps tidegate from working with what has answered `hello`.
fn unfit(hello: &Document) -> Option<Unfit> {
    if hello.get_str("msg").is_ok_and(|m| m == "isdbgrid") {
        return Some(Unfit::Mongos);
    }
    if hello.get_str("setName").is_err() {
        return Some(Unfit::Standalone);
    }
    (hello.get_i32("maxWireVersion").unwrap_or(0) < OLDEST_WIRE_VERSION).then_some(Unfit::TooOld)
}

fn set_name(hello: &Document) -> String {
    crate::scrub::short(hello.get_str("setName").unwrap_or_default(), 100)
}

/// The write concern of everything that is not a transaction.
fn majority() -> RawDocumentBuf {
    rawdoc! { "w": "majority", "j": true, "wtimeout": WRITE_TIMEOUT_MS }
}

/// The answer's cluster time; every replica set member sends it.
fn operation_time(answer: &Document) -> ClusterTime {
    answer.get_timestamp("operationTime").map_or(ClusterTime::ZERO, ClusterTime::from)
}

/// A snapshot of majority-committed data, not older than `after`; the answer says which one.
fn snapshot_after(after: ClusterTime) -> RawDocumentBuf {
    let mut rc = rawdoc! { "level": "snapshot" };
    if after > ClusterTime::ZERO {
        rc.append(bson::cstr!("afterClusterTime"), Timestamp::from(after));
    }
    rc
}

impl Cluster for Mongo {
    fn scan<'a>(
        &'a self,
        ns: &'a Ns,
        from: Option<&'a Key>,
        limit: PageLimit,
        after: ClusterTime,
    ) -> Fut<'a, Result<Page, Failed>> {
        Box::pin(self.scan_page(ns, from, limit, after))
    }

    fn read<'a>(&'a self, ns: &'a Ns, keys: &'a [Key], after: ClusterTime) -> Fut<'a, Result<Read, Failed>> {
        Box::pin(self.read_keys(ns, keys, after))
    }

    fn ask<'a>(
        &'a self,
        ns: &'a Ns,
        keys: &'a [Key],
        questions: &'a [Question],
        after: ClusterTime,
    ) -> Fut<'a, Result<Replies, Failed>> {
        Box::pin(self.ask_keys(ns, keys, questions, after))
    }

    fn draw<'a>(&'a self, ns: &'a Ns, among: Option<&'a Question>, most: usize) -> Fut<'a, Result<Vec<Key>, Failed>> {
        Box::pin(self.draw_keys(ns, among, most))
    }

    fn write<'a>(&'a self, op: &'a WriteOp) -> Fut<'a, Result<Written, Failed>> {
        Box::pin(self.write_one(op))
    }

    fn transact<'a>(&'a self, fence: &'a Fence, ops: &'a [TxnOp]) -> Fut<'a, Result<TxnDone, Failed>> {
        Box::pin(self.fenced(fence, ops))
    }

    fn changes<'a>(&'a self, ns: &'a Ns, from: &'a StreamPos) -> Fut<'a, Result<Box<dyn Changes>, Failed>> {
        Box::pin(self.open_stream(ns, from))
    }

    fn admin<'a>(&'a self, op: &'a AdminOp) -> Fut<'a, Result<AdminDone, Failed>> {
        Box::pin(self.administer(op))
    }

    fn observe(&self) -> Fut<'_, Result<Observation, Failed>> {
        Box::pin(self.look())
    }
}
