//! Looking at a cluster before anything is written on it. Every command in here only reads, says how long it may take on the server,
//! and takes "you may not" for an answer; what is made of the answers is in `parse`.

mod parse;

pub(super) use parse::explained;

use bson::{Document, RawArrayBuf, RawDocumentBuf, rawdoc};
use futures_util::future::join_all;
use mongodb::Client;
use mongodb::error::ErrorKind;
use mongodb::options::{ClientOptions, ServerAddress, Tls};

use super::errors::text;
use super::read::docs_of;
use super::{Mongo, MongoError, unfit};
use crate::cluster::survey::{
    Answer, ClusterFacts, CollectionFacts, Disk, Explained, Hello, Link, MemberLook, Oplog, Size, Skew, Stands, Survey,
    Unanswered,
};
use crate::cluster::{Doc, Failed, Ns, Reason};
use crate::runtime::{Fut, Micros, Rt, timeout};
use crate::scrub::short;

/// What the server may spend on a question, milliseconds.
const SERVER_MS: i32 = 5_000;
/// And on drawing a sample, which reads documents.
const SAMPLE_MS: i32 = 20_000;
/// How long an answer may take all in all.
const PATIENCE: Micros = Micros::from_secs(8);
const SAMPLE_PATIENCE: Micros = Micros::from_secs(40);
/// A member that does not answer holds nobody up for longer.
const MEMBER_PATIENCE: Micros = Micros::from_secs(3);
/// Bytes of a sample that are read at most.
const SAMPLE_BYTES: usize = 64 << 20;
/// Clocks are compared so often; the quickest answer counts.
const CLOCK_TRIES: usize = 3;

/// A replica set, or what was taken for one, to be asked before a rollout.
pub struct Probe {
    mongo: Mongo,
    options: ClientOptions,
}

impl Probe {
    /// Makes ready to ask. Whether anybody answers, and who, is among the facts.
    ///
    /// # Errors
    /// When the connection string is malformed.
    pub async fn open(uri: &str, rt: Rt) -> Result<Probe, MongoError> {
        let (mongo, options) = Mongo::with_options(uri, rt).await?;
        Ok(Probe { mongo, options })
    }

    fn link(&self) -> Link {
        let (tls, unverified) = match &self.options.tls {
            Some(Tls::Enabled(o)) => (true, o.allow_invalid_certificates.unwrap_or(false)),
            _ => (false, false),
        };
        Link {
            hosts: self.options.hosts.iter().map(|h| short(&h.to_string(), 200)).collect(),
            tls,
            unverified,
            user: self.options.credential.is_some(),
        }
    }

    async fn ask(&self, db: &str, command: RawDocumentBuf, right: &'static str) -> Answer<Document> {
        self.ask_client(&self.mongo.client, db, command, right, PATIENCE).await
    }

    async fn ask_client(
        &self,
        client: &Client,
        db: &str,
        mut command: RawDocumentBuf,
        right: &'static str,
        patience: Micros,
    ) -> Answer<Document> {
        command.append(bson::cstr!("maxTimeMS"), SERVER_MS);
        let db = client.database(db);
        let sent = async { db.run_raw_command(command).await };
        match timeout(&self.mongo.rt, patience, sent).await {
            None => Err(Unanswered::Failed(format!("no answer within {patience}"))),
            Some(Ok(answer)) => Ok(answer),
            Some(Err(e)) => Err(match e.kind.as_ref() {
                // Unauthorized.
                ErrorKind::Command(c) if c.code == 13 => Unanswered::Right(right),
                _ => Unanswered::Failed(short(&self.mongo.secrets.hide(&text(&e)), 200)),
            }),
        }
    }

    /// The first batch of a command that answers with a cursor.
    async fn list(&self, db: &str, command: RawDocumentBuf, right: &'static str) -> Answer<Vec<Document>> {
        self.ask(db, command, right).await.map(|answer| parse::first_batch(&answer))
    }

    /// `hello`, and what it says of the clock.
    async fn hello(&self, client: &Client, patience: Micros) -> Answer<(Document, Skew)> {
        let hello = || self.ask_client(client, "admin", rawdoc! { "hello": 1 }, "hello", patience);
        // The first question pays for the connection.
        let mut best = None;
        let mut answer = hello().await?;
        for _ in 0..CLOCK_TRIES {
            let before = self.mongo.rt.wall_ms();
            answer = hello().await?;
            let after = self.mongo.rt.wall_ms();
            let there = answer.get_datetime("localTime").map_or(0, |d| d.timestamp_millis());
            let skew = Skew { ms: there - (before + after) / 2, within_ms: (after - before) / 2 + 1 };
            if best.is_none_or(|b: Skew| skew.within_ms < b.within_ms) {
                best = Some(skew);
            }
        }
        Ok((answer, best.unwrap_or_default()))
    }

    async fn look(&self) -> ClusterFacts {
        let link = self.link();
        let (hello, skew) = match self.hello(&self.mongo.client, PATIENCE).await {
            Ok(found) => found,
            Err(why) => return ClusterFacts::silent(link, MongoError::Unreachable(why.to_string()).to_string()),
        };
        let facts = Hello {
            set: super::set_name(&hello),
            unfit: unfit(&hello),
            hosts: parse::names(&hello, &["hosts", "passives"]),
            arbiters: parse::names(&hello, &["arbiters"]),
            skew,
        };
        let status = self.ask("admin", rawdoc! { "replSetGetStatus": 1 }, "`replSetGetStatus` on the cluster").await;
        let config = self.ask("admin", rawdoc! { "replSetGetConfig": 1 }, "`replSetGetConfig` on the cluster").await;
        let concern = rawdoc! { "getDefaultRWConcern": 1 };
        let concern = self.ask("admin", concern, "`getDefaultRWConcern` on the cluster").await;
        let fcv = rawdoc! { "getParameter": 1, "featureCompatibilityVersion": 1 };
        let fcv = self.ask("admin", fcv, "`getParameter` on the cluster").await;
        let rights = self.ask("admin", rawdoc! { "connectionStatus": 1, "showPrivileges": true }, "login").await;
        ClusterFacts {
            link,
            version: self.version(&self.mongo.client, PATIENCE).await,
            fcv: fcv.map(|d| parse::fcv(&d)),
            status: status.map(|d| parse::status(&d)),
            config: config.map(|d| parse::config(&d)),
            write_concern: concern.map(|d| parse::write_concern(&d)),
            rights: rights.map(|d| parse::rights(&d)),
            oplog: self.oplog().await,
            looks: self.members(&facts.hosts).await,
            hello: Ok(facts),
        }
    }

    async fn version(&self, client: &Client, patience: Micros) -> Answer<String> {
        let answer = self.ask_client(client, "admin", rawdoc! { "buildInfo": 1 }, "buildInfo", patience).await?;
        Ok(short(answer.get_str("version").unwrap_or("?"), 40))
    }

    /// Each member that holds data, asked by itself. A set of one has been asked already.
    async fn members(&self, hosts: &[String]) -> Vec<MemberLook> {
        let hosts = if hosts.len() > 1 { hosts } else { &[] };
        join_all(hosts.iter().map(|h| self.member(h))).await
    }

    async fn member(&self, host: &str) -> MemberLook {
        let failed = |why: String| {
            let why = Unanswered::Failed(short(&self.mongo.secrets.hide(&why), 200));
            MemberLook { host: host.to_owned(), version: Err(why.clone()), skew: Err(why) }
        };
        let mut options = self.options.clone();
        match ServerAddress::parse(host) {
            Ok(address) => options.hosts = vec![address],
            Err(e) => return failed(text(&e)),
        }
        options.direct_connection = Some(true);
        options.repl_set_name = None;
        options.server_selection_timeout = Some(std::time::Duration::from_micros(MEMBER_PATIENCE.0));
        let client = match Client::with_options(options) {
            Ok(client) => client,
            Err(e) => return failed(text(&e)),
        };
        let skew = self.hello(&client, MEMBER_PATIENCE).await.map(|(_, skew)| skew);
        MemberLook { host: host.to_owned(), version: self.version(&client, MEMBER_PATIENCE).await, skew }
    }

    async fn oplog(&self) -> Answer<Oplog> {
        let window = match (self.oplog_end(1).await, self.oplog_end(-1).await) {
            (Ok(first), Ok(last)) => Ok(Micros::from_secs(last.saturating_sub(first).into())),
            (Err(why), _) | (_, Err(why)) => {
                // What the server says of itself, where the oplog itself may not be read.
                let status = self.ask("admin", rawdoc! { "serverStatus": 1, "oplog": 1 }, "serverStatus").await;
                status.ok().and_then(|d| parse::oplog_window(&d)).ok_or(why)
            }
        };
        let mut pipeline = RawArrayBuf::new();
        pipeline.push(rawdoc! { "$collStats": { "storageStats": {} } });
        let stats = rawdoc! { "aggregate": "oplog.rs", "pipeline": pipeline, "cursor": {} };
        let stats = self.list("local", stats, "`collStats` on local.oplog.rs").await.unwrap_or_default();
        let (bytes, max_bytes) = parse::oplog_bytes(&stats);
        window.map(|window| Oplog { window, bytes, max_bytes })
    }

    async fn oplog_end(&self, direction: i32) -> Answer<u32> {
        let find = rawdoc! {
            "find": "oplog.rs", "filter": {}, "sort": { "$natural": direction }, "limit": 1, "singleBatch": true,
            "projection": { "ts": 1 },
        };
        let found = self.list("local", find, "`find` on local.oplog.rs").await?;
        let ts = found.first().and_then(|d| d.get_timestamp("ts").ok());
        ts.map(|t| t.time).ok_or_else(|| Unanswered::Failed("the oplog is empty".into()))
    }

    async fn look_at(&self, ns: &Ns) -> CollectionFacts {
        let listed = rawdoc! { "listCollections": 1, "filter": { "name": &*ns.coll } };
        let listed = self.list(&ns.db, listed, "`listCollections` on the database").await;
        let stands = listed.map(|found| parse::stands(found.first()));
        let disk = self.ask(&ns.db, rawdoc! { "dbStats": 1 }, "`dbStats` on the database").await;
        let disk = disk.and_then(|d| {
            let total = parse::whole(&d, "fsTotalSize").filter(|n| *n > 0);
            let unsaid = || Unanswered::Failed("the server does not say".into());
            Ok(Disk { used: parse::whole(&d, "fsUsedSize").unwrap_or(0), total: total.ok_or_else(unsaid)? })
        });
        if !matches!(stands, Ok(Stands::Collection(_)) | Err(_)) {
            let there = matches!(stands, Ok(Stands::Absent));
            let nothing = Unanswered::NotAsked("it is no collection");
            return CollectionFacts {
                stands,
                indexes: Ok(Vec::new()),
                count: if there { Ok(0) } else { Err(nothing.clone()) },
                size: if there { Ok(Size::default()) } else { Err(nothing.clone()) },
                disk,
                stream: Err(nothing),
            };
        }
        let indexes = self.list(&ns.db, rawdoc! { "listIndexes": &*ns.coll }, "`listIndexes` on the collection").await;
        let count = self.ask(&ns.db, rawdoc! { "count": &*ns.coll }, "`find` on the collection").await;
        let mut pipeline = RawArrayBuf::new();
        pipeline.push(rawdoc! { "$collStats": { "storageStats": {} } });
        let stats = rawdoc! { "aggregate": &*ns.coll, "pipeline": pipeline, "cursor": {} };
        let stats = self.list(&ns.db, stats, "`collStats` on the collection").await;
        CollectionFacts {
            stands,
            indexes: indexes.map(|all| all.iter().map(parse::index).collect()),
            count: count.map(|d| parse::whole(&d, "n").unwrap_or(0)),
            size: stats.map(|d| parse::size(&d)),
            disk,
            stream: self.stream(ns).await,
        }
    }

    /// Opens a change stream and lets go of it.
    async fn stream(&self, ns: &Ns) -> Answer<()> {
        let mut pipeline = RawArrayBuf::new();
        pipeline.push(rawdoc! { "$changeStream": {} });
        let command = rawdoc! {
            "aggregate": &*ns.coll, "pipeline": pipeline, "cursor": { "batchSize": 0 },
            "readConcern": { "level": "majority" },
        };
        let opened = timeout(&self.mongo.rt, PATIENCE, self.mongo.cursor(&ns.db, command, None)).await;
        match opened {
            Some(answer) => answer.map(drop).map_err(|f| unanswered(f, "`changeStream` on the collection")),
            None => Err(Unanswered::Failed(format!("no answer within {PATIENCE}"))),
        }
    }

    async fn find_some(&self, ns: &Ns, filter: &Document, ascending: bool, limit: u32) -> Answer<Vec<Doc>> {
        let find = rawdoc! {
            "find": &*ns.coll, "filter": raw(filter)?, "sort": { "_id": if ascending { 1 } else { -1 } },
            "limit": i64::from(limit), "singleBatch": true, "maxTimeMS": SERVER_MS,
        };
        self.documents(&ns.db, find, PATIENCE).await
    }

    async fn draw(&self, ns: &Ns, documents: u32) -> Answer<Vec<Doc>> {
        let mut pipeline = RawArrayBuf::new();
        pipeline.push(rawdoc! { "$sample": { "size": i64::from(documents) } });
        let sample = rawdoc! {
            "aggregate": &*ns.coll, "pipeline": pipeline, "cursor": {}, "allowDiskUse": false, "maxTimeMS": SAMPLE_MS,
        };
        match self.documents(&ns.db, sample, SAMPLE_PATIENCE).await {
            // Large documents of a small collection are more than the server sorts in memory: the first ones will have to do.
            Err(Unanswered::Failed(_)) => {
                let first = rawdoc! { "find": &*ns.coll, "limit": i64::from(documents), "maxTimeMS": SAMPLE_MS };
                self.documents(&ns.db, first, SAMPLE_PATIENCE).await
            }
            other => other,
        }
    }

    /// The documents of a command that answers with a cursor, as many as fit.
    async fn documents(&self, db: &str, command: RawDocumentBuf, patience: Micros) -> Answer<Vec<Doc>> {
        let all = async {
            let (mut batch, mut cursor) = self.mongo.cursor(db, command, None).await?;
            let (mut out, mut bytes) = (Vec::new(), 0);
            loop {
                for d in docs_of(&batch)? {
                    let d: Doc = d?.into();
                    bytes += d.size();
                    out.push(d);
                }
                match futures_util::StreamExt::next(&mut cursor).await {
                    Some(next) if bytes < SAMPLE_BYTES => {
                        batch = next.map_err(|e| self.mongo.failed(&e, super::Phase::Harmless))?;
                    }
                    _ => return Ok(out),
                }
            }
        };
        match timeout(&self.mongo.rt, patience, all).await {
            Some(answer) => answer.map_err(|f| unanswered(f, "`find` on the collection")),
            None => Err(Unanswered::Failed(format!("no answer within {patience}"))),
        }
    }

    async fn plan(&self, ns: &Ns, filter: &Document) -> Answer<Explained> {
        let find = rawdoc! { "find": &*ns.coll, "filter": raw(filter)? };
        let command = rawdoc! { "explain": find, "verbosity": "queryPlanner" };
        let answer = self.ask(&ns.db, command, "`find` on the collection").await?;
        Ok(parse::explained(&answer))
    }
}

fn raw(d: &Document) -> Answer<RawDocumentBuf> {
    RawDocumentBuf::try_from(d).map_err(|e| Unanswered::Failed(short(&e.to_string(), 200)))
}

/// A failure of the port as no answer.
fn unanswered(f: Failed, right: &'static str) -> Unanswered {
    match f {
        Failed::NotDone(Reason::Refused(m)) if m.starts_with("not authorized") || m.contains("(code 13)") => {
            Unanswered::Right(right)
        }
        other => Unanswered::Failed(short(&other.to_string(), 200)),
    }
}

impl Survey for Probe {
    fn cluster(&self) -> Fut<'_, ClusterFacts> {
        Box::pin(self.look())
    }

    fn collection<'a>(&'a self, ns: &'a Ns) -> Fut<'a, CollectionFacts> {
        Box::pin(self.look_at(ns))
    }

    fn names<'a>(&'a self, db: &'a str) -> Fut<'a, Answer<Vec<String>>> {
        let command = rawdoc! { "listCollections": 1, "nameOnly": true, "cursor": { "batchSize": 100_000 } };
        Box::pin(async move {
            let found = self.list(db, command, "`listCollections` on the database").await?;
            Ok(found.iter().filter_map(|d| d.get_str("name").ok().map(str::to_owned)).collect())
        })
    }

    fn find<'a>(&'a self, ns: &'a Ns, filter: &'a Document, ascending: bool, limit: u32) -> Fut<'a, Answer<Vec<Doc>>> {
        Box::pin(self.find_some(ns, filter, ascending, limit))
    }

    fn sample<'a>(&'a self, ns: &'a Ns, documents: u32) -> Fut<'a, Answer<Vec<Doc>>> {
        Box::pin(self.draw(ns, documents))
    }

    fn explain<'a>(&'a self, ns: &'a Ns, filter: &'a Document) -> Fut<'a, Answer<Explained>> {
        Box::pin(self.plan(ns, filter))
    }
}
