//! What may be asked of a cluster before anything is written on it: facts, each with the reason when it could not be had.
//!
//! Strictly read-only and bounded: no method writes, locks, or runs longer than a few seconds on the server. Facts are told as they are;
//! what they mean for a plan is not decided here.

use bson::Document;

use super::{Doc, IndexSpec, Member, Ns, Validation};
use crate::runtime::{Fut, Micros};

/// Why tidegate does not work with what answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A server without a replica set.
    #[error(
        "this is a standalone server; tidegate needs change streams and transactions, so a replica set (a single node will do)"
    )]
    Standalone,
    /// A sharded cluster.
    #[error("this is a mongos; tidegate does not migrate sharded clusters yet")]
    Mongos,
    /// Before 5.0.
    #[error("this server is older than MongoDB 5.0, which tidegate needs for snapshot reads")]
    TooOld,
}

/// Why a fact could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The user may not ask for it.
    #[error("needs the privilege {0}")]
    Right(&'static str),
    /// It was asked and did not come.
    #[error("{0}")]
    Failed(String),
    /// Something that comes first is missing.
    #[error("{0}")]
    NotAsked(&'static str),
}

/// A fact, or why there is none.
pub type Answer<T> = Result<T, Unanswered>;

/// No answer yet.
pub const NOT_ASKED: Unanswered = Unanswered::NotAsked("no primary answers");

/// How a connection string says to connect. Holds no secret of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// `host:port`, as the string (or its SRV record) names them.
    pub hosts: Vec<String>,
    /// The connection is encrypted.
    pub tls: bool,
    /// Certificates are not verified.
    pub unverified: bool,
    /// It names a user or another credential.
    pub user: bool,
}

/// The answer to `hello`, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The replica set's name; empty for what is none.
    pub set: String,
    /// What keeps tidegate from working with it.
    pub unfit: Option<Unfit>,
    /// Members that hold data and are not hidden, `host:port`.
    pub hosts: Vec<String>,
    /// Members that vote and hold no data.
    pub arbiters: Vec<String>,
    /// The primary's clock less this machine's.
    pub skew: Skew,
}

/// A server's clock less this machine's, by one question and its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skew {
    /// Milliseconds; positive when the server is ahead.
    pub ms: i64,
    /// It may be wrong by so much: half the way there and back.
    pub within_ms: i64,
}

/// What `replSetGetStatus` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SetStatus {
    /// The members, with states and lags.
    pub members: Vec<Member>,
    /// Members that must have a write for a majority; 0 when the server does not say.
    pub majority: u32,
}

/// What `replSetGetConfig` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetConfig {
    /// Members that are kept behind on purpose: name and by how much.
    pub delayed: Vec<(String, Micros)>,
    /// Voting members that hold data.
    pub voting_data: u32,
    /// A majority write is in the journal of each.
    pub majority_journal: bool,
}

/// A member asked directly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberLook {
    /// `host:port`.
    pub host: String,
    /// Its version.
    pub version: Answer<String>,
    /// Its clock.
    pub skew: Answer<Skew>,
}

/// How far back the oplog reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Oplog {
    /// From its first to its last entry.
    pub window: Micros,
    /// Bytes in it now; `None` where the user may not see its statistics.
    pub bytes: Option<u64>,
    /// Bytes it may have.
    pub max_bytes: Option<u64>,
}

/// One privilege: what may be done, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privilege {
    /// Where.
    pub on: Resource,
    /// What, in the server's words.
    pub actions: Vec<String>,
}

/// Where a privilege holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A database and a collection; an empty name stands for every one (but the server's own collections).
    Ns {
        /// The database.
        db: String,
        /// The collection.
        coll: String,
    },
    /// The cluster.
    Cluster,
    /// Everything.
    Any,
}

/// Who is logged in, and what they may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// `user@database`; none without credentials.
    pub users: Vec<String>,
    /// Their privileges, roles resolved.
    pub privileges: Vec<Privilege>,
}

/// A cluster looked at.
#[derive(Clone, Debug)]
pub struct ClusterFacts {
    /// How it is reached.
    pub link: Link,
    /// Who answers; the text says why nobody does.
    pub hello: Result<Hello, String>,
    /// The primary's version.
    pub version: Answer<String>,
    /// `featureCompatibilityVersion`.
    pub fcv: Answer<String>,
    /// The members.
    pub status: Answer<SetStatus>,
    /// The set's configuration.
    pub config: Answer<SetConfig>,
    /// The default write concern's `w`: `majority`, `1`, …; and whether somebody has set it.
    pub write_concern: Answer<(String, bool)>,
    /// Who is logged in.
    pub rights: Answer<Rights>,
    /// The oplog.
    pub oplog: Answer<Oplog>,
    /// Members asked directly.
    pub looks: Vec<MemberLook>,
}

impl ClusterFacts {
    /// Nothing is known but how it would be reached and why it is not.
    #[must_use]
    pub fn silent(link: Link, why: String) -> ClusterFacts {
        ClusterFacts {
            link,
            hello: Err(why),
            version: Err(NOT_ASKED),
            fcv: Err(NOT_ASKED),
            status: Err(NOT_ASKED),
            config: Err(NOT_ASKED),
            write_concern: Err(NOT_ASKED),
            rights: Err(NOT_ASKED),
            oplog: Err(NOT_ASKED),
            looks: Vec::new(),
        }
    }
}

/// What stands under a name, in detail.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Stands {
    /// Nothing.
    #[default]
    Absent,
    /// A view.
    View,
    /// A time-series collection.
    TimeSeries,
    /// A collection.
    Collection(Options),
}

/// How a collection was created.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// It holds only so much.
    pub capped: bool,
    /// The locale of its collation, unless that is the simple one.
    pub collation: Option<String>,
    /// It is clustered by `_id`; with a time after which documents go, they go.
    pub clustered: Option<Option<Micros>>,
    /// The fields that are encrypted (Queryable Encryption).
    pub encrypted: Vec<String>,
    /// What documents are held against.
    pub validation: Option<Box<Validation>>,
}

/// An index with all that may matter.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexFacts {
    /// Name, keys, whether it is unique, after what time documents go.
    pub spec: IndexSpec,
    /// It does not hold every document: partial or sparse.
    pub partial: bool,
    /// The locale of its collation, unless that is the simple one.
    pub collation: Option<String>,
}

/// How much a collection holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Documents.
    pub documents: u64,
    /// Their bytes as BSON.
    pub bytes: u64,
    /// Bytes on disk, compressed, without indexes.
    pub stored: u64,
    /// Bytes of its indexes.
    pub indexes: u64,
}

/// The disk below a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Bytes in use.
    pub used: u64,
    /// Bytes there are.
    pub total: u64,
}

/// A collection looked at.
#[derive(Clone, Debug)]
pub struct CollectionFacts {
    /// What stands under the name.
    pub stands: Answer<Stands>,
    /// Its indexes, `_id_` included.
    pub indexes: Answer<Vec<IndexFacts>>,
    /// About how many documents, from the collection's metadata.
    pub count: Answer<u64>,
    /// How much it holds.
    pub size: Answer<Size>,
    /// The disk its primary has.
    pub disk: Answer<Disk>,
    /// A change stream can be opened on it.
    pub stream: Answer<()>,
}

impl CollectionFacts {
    /// Nothing is known.
    #[must_use]
    pub fn unknown() -> CollectionFacts {
        CollectionFacts {
            stands: Err(NOT_ASKED),
            indexes: Err(NOT_ASKED),
            count: Err(NOT_ASKED),
            size: Err(NOT_ASKED),
            disk: Err(NOT_ASKED),
            stream: Err(NOT_ASKED),
        }
    }
}

/// How a server would answer a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The names of the indexes that it uses; none when it looks at every document.
    pub indexes: Vec<String>,
    /// It looks at every document.
    pub scans: bool,
}

/// A cluster that is asked, and not changed.
pub trait Survey: Send + Sync + 'static {
    /// The cluster as a whole.
    fn cluster(&self) -> Fut<'_, ClusterFacts>;
    /// A collection.
    fn collection<'a>(&'a self, ns: &'a Ns) -> Fut<'a, CollectionFacts>;
    /// The names of a database's collections and views.
    fn names<'a>(&'a self, db: &'a str) -> Fut<'a, Answer<Vec<String>>>;
    /// The first documents that a filter finds, in ascending (`true`) or descending order of `_id`.
    fn find<'a>(&'a self, ns: &'a Ns, filter: &'a Document, ascending: bool, limit: u32) -> Fut<'a, Answer<Vec<Doc>>>;
    /// Documents drawn at random: at most so many, and at most 64 MiB of them. One may be drawn twice.
    fn sample<'a>(&'a self, ns: &'a Ns, documents: u32) -> Fut<'a, Answer<Vec<Doc>>>;
    /// How a query would be answered. It is planned, not run.
    fn explain<'a>(&'a self, ns: &'a Ns, filter: &'a Document) -> Fut<'a, Answer<Explained>>;
}
