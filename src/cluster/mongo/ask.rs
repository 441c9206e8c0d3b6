//! Questions to a server: the documents and every answer are read at one and the same cluster time.

use std::collections::BTreeMap;

use bson::{RawArrayBuf, RawBson, RawDocumentBuf, Timestamp, rawdoc};

use super::Mongo;
use super::admin::{raw, refused};
use super::errors::Phase;
use super::read::{key_of, malformed};
use crate::cluster::survey::Explained;
use crate::cluster::{Ask, ClusterTime, Failed, Key, Ns, Question, Reason, Replies, Told};
use crate::runtime::Micros;

/// How long a server works on one question, before fewer documents are asked about at a time.
const PATIENCE: Micros = Micros::from_secs(8);

impl Mongo {
    pub(super) async fn ask_keys(
        &self,
        ns: &Ns,
        keys: &[Key],
        questions: &[Question],
        after: ClusterTime,
    ) -> Result<Replies, Failed> {
        let mut places: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
        let mut wanted = RawArrayBuf::new();
        for (i, key) in keys.iter().enumerate() {
            let at = places.entry(key.clone()).or_default();
            if at.is_empty() {
                wanted.push(key.value());
            }
            at.push(i);
        }
        let mut docs = vec![None; keys.len()];
        let n = i32::try_from(places.len()).unwrap_or(i32::MAX - 1);
        let at = self.read_some(ns, wanted.clone(), n, after, &places, &mut docs).await?;
        if docs.iter().all(Option::is_none) {
            // Of nothing, and at no time: a collection that is not there has no snapshot.
            return Ok(Replies { docs, told: vec![Told::Of(vec![None; keys.len()]); questions.len()], at });
        }
        let mut told = Vec::with_capacity(questions.len());
        for q in questions {
            let command = at_once(ns, &q.ask, &wanted, at)?;
            let yes = !matches!(q.ask, Ask::Value(_));
            told.push(match self.answers(ns, command, yes, &places, keys.len()).await {
                Ok(values) => Told::Of(values),
                Err(Failed::NotDone(Reason::Refused(why))) => Told::Refused(without_values(&q.ask, &why)),
                // Of fewer documents, perhaps; nobody waits for the other questions then.
                Err(Failed::NotDone(Reason::Timeout(why))) if is_late(&why) => {
                    told.resize(questions.len(), Told::Slow);
                    break;
                }
                Err(other) => return Err(other),
            });
        }
        Ok(Replies { docs, told, at })
    }

    /// What comes back: a value each, or, of what only finds, that it is found.
    async fn answers(
        &self,
        ns: &Ns,
        command: RawDocumentBuf,
        yes: bool,
        places: &BTreeMap<Key, Vec<usize>>,
        n: usize,
    ) -> Result<Vec<Option<RawBson>>, Failed> {
        let mut values = vec![None; n];
        let (batch, cursor) = self.find_first(ns, command).await?;
        self.each(batch, cursor, |doc| {
            let value = match yes {
                true => Some(RawBson::Boolean(true)),
                false => doc.get("v").map_err(malformed)?.map(RawBson::from),
            };
            for i in places.get(&key_of(doc)?).into_iter().flatten() {
                values[*i] = value.clone();
            }
            Ok(())
        })
        .await?;
        Ok(values)
    }

    pub(super) async fn draw_keys(&self, ns: &Ns, among: Option<&Question>, most: usize) -> Result<Vec<Key>, Failed> {
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        let first =
            |filter| rawdoc! { "find": &*ns.coll, "filter": filter, "projection": { "_id": 1 }, "limit": limit };
        let command = match among.map(|q| &q.ask) {
            Some(Ask::Matches(filter)) => first(raw(filter)?),
            Some(_) => return Ok(Vec::new()),
            None => {
                let stages = [rawdoc! { "$sample": { "size": limit } }, rawdoc! { "$project": { "_id": 1 } }];
                aggregate(ns, stages)
            }
        };
        match self.keys(ns, command).await {
            // It is refused again when it is asked, and said then; what takes too long to find is not looked for.
            Err(Failed::NotDone(Reason::Refused(_))) if among.is_some() => Ok(Vec::new()),
            Err(Failed::NotDone(Reason::Timeout(why))) if among.is_some() && is_late(&why) => Ok(Vec::new()),
            // The random cursor has met one document too often (28799), or the sort has no room: the first ones, then.
            Err(Failed::NotDone(Reason::Refused(_))) => self.keys(ns, first(rawdoc! {})).await,
            Err(Failed::NotDone(Reason::Timeout(why))) if is_late(&why) => self.keys(ns, first(rawdoc! {})).await,
            other => other,
        }
    }

    async fn keys(&self, ns: &Ns, mut command: RawDocumentBuf) -> Result<Vec<Key>, Failed> {
        command.append(bson::cstr!("readConcern"), rawdoc! { "level": "majority" });
        command.append(bson::cstr!("maxTimeMS"), PATIENCE.as_ms() as i64);
        let (batch, cursor) = self.find_first(ns, command).await?;
        let mut keys = Vec::new();
        self.each(batch, cursor, |doc| {
            keys.push(key_of(doc)?);
            Ok(())
        })
        .await?;
        Ok(keys)
    }

    pub(super) async fn explained(&self, ns: &Ns, filter: &bson::Document) -> Result<Explained, Failed> {
        let find = rawdoc! { "find": &*ns.coll, "filter": raw(filter)? };
        let command = rawdoc! { "explain": find, "verbosity": "queryPlanner" };
        let answer = self.run(&ns.db, command, Phase::Harmless).await?;
        Ok(super::survey::explained(&answer))
    }
}

/// The command that asks about these keys as of that time.
fn at_once(ns: &Ns, ask: &Ask, keys: &RawArrayBuf, at: ClusterTime) -> Result<RawDocumentBuf, Failed> {
    let these = rawdoc! { "_id": { "$in": keys.clone() } };
    let only = |these| rawdoc! { "$match": these };
    let mut command = match ask {
        // A `find`, as the application's is: some filters are none in a pipeline.
        Ask::Matches(filter) => {
            let mut both = RawArrayBuf::new();
            both.push(these);
            both.push(raw(filter)?);
            rawdoc! { "find": &*ns.coll, "filter": { "$and": both }, "projection": { "_id": 1 } }
        }
        Ask::Value(e) => {
            let value = RawBson::try_from(e.clone()).map_err(|e| refused(e.to_string()))?;
            aggregate(ns, [only(these), rawdoc! { "$replaceWith": { "_id": "$_id", "v": value } }])
        }
        Ask::Orphan { path, from, field } => {
            // One is enough, and nothing of it.
            let mut one = RawArrayBuf::new();
            one.push(rawdoc! { "$limit": 1 });
            one.push(rawdoc! { "$project": { "_id": 1 } });
            aggregate(
                ns,
                [
                    only(these),
                    rawdoc! { "$replaceWith": { "_id": "$_id", "v": format!("${path}") } },
                    rawdoc! { "$unwind": "$v" },
                    rawdoc! { "$match": { "v": { "$ne": RawBson::Null } } },
                    rawdoc! { "$lookup": {
                        "from": &**from, "localField": "v", "foreignField": &**field, "as": "there", "pipeline": one,
                    } },
                    rawdoc! { "$match": { "there": { "$size": 0 } } },
                    rawdoc! { "$project": { "_id": 1 } },
                ],
            )
        }
    };
    command.append(bson::cstr!("maxTimeMS"), PATIENCE.as_ms() as i64);
    let read_concern = rawdoc! { "level": "snapshot", "atClusterTime": Timestamp::from(at) };
    command.append(bson::cstr!("readConcern"), read_concern);
    Ok(command)
}

/// What says nothing of a document: what the plan itself has wrong, and what the user may not do. Other refusals of an expression may quote
/// the value that it was computed from: of those the code is told.
fn without_values(ask: &Ask, why: &str) -> String {
    let code = why.rsplit_once("(code ").and_then(|(_, c)| c.strip_suffix(')')).unwrap_or("?");
    let computes = match ask {
        Ask::Matches(filter) => filter.iter().any(|(k, v)| k == "$expr" || has_expression(v)),
        Ask::Value(_) => true,
        Ask::Orphan { .. } => false,
    };
    match code {
        // The server's message quotes the whole command, and may be cut off before the code.
        _ if code == "13" || why.starts_with("not authorized") => {
            "the user may not read what it needs (code 13)".to_owned()
        }
        // InvalidPipelineOperator.
        _ if !computes || code == "168" => why.to_owned(),
        // ConversionFailure.
        "241" => "a document's value cannot be converted (code 241)".to_owned(),
        code => format!("it cannot be computed of some document (code {code})"),
    }
}

/// An expression stands somewhere in a filter.
fn has_expression(v: &bson::Bson) -> bool {
    match v {
        bson::Bson::Document(d) => d.iter().any(|(k, v)| k == "$expr" || has_expression(v)),
        bson::Bson::Array(a) => a.iter().any(has_expression),
        _ => false,
    }
}

/// The server gave up by itself (MaxTimeMSExpired).
fn is_late(why: &str) -> bool {
    why.contains("(code 50)")
}

fn aggregate(ns: &Ns, stages: impl IntoIterator<Item = RawDocumentBuf>) -> RawDocumentBuf {
    let mut pipeline = RawArrayBuf::new();
    stages.into_iter().for_each(|s| pipeline.push(s));
    rawdoc! { "aggregate": &*ns.coll, "pipeline": pipeline, "cursor": {} }
}
