//! Collections, indexes, validators, renames and views. Each operation looks at what is there when the server refuses it, so that
//! doing it twice is doing it once.

use bson::{Bson, Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc};

use super::errors::Phase;
use super::read::malformed;
use super::{Mongo, majority};
use crate::cluster::{AdminDone, AdminOp, CollKind, Failed, HOLDERS_MAX, Held, IndexSpec, Key, Ns, Reason, Validation};

impl Mongo {
    pub(super) async fn administer(&self, op: &AdminOp) -> Result<AdminDone, Failed> {
        match op {
            AdminOp::OpenSlot { slot, epoch } => self.open_slot(slot, *epoch).await,
            AdminOp::BumpSlot { slot, epoch } => self.bump_slot(slot, *epoch).await,
            AdminOp::BumpAll { rollout, epoch } => self.bump_all(rollout, *epoch).await,
            AdminOp::Sessions { rollout } => self.sessions_of(rollout).await,
            AdminOp::Create { ns } => {
                let made = self.ddl(&ns.db, rawdoc! { "create": &*ns.coll }).await;
                self.done_if(made, |kind| kind == CollKind::Collection, ns).await
            }
            AdminOp::CreateIndex { ns, index } => self.create_index(ns, index).await,
            AdminOp::SetExpiry { ns, index, seconds } => {
                let index = rawdoc! { "name": &**index, "expireAfterSeconds": *seconds };
                self.ddl(&ns.db, rawdoc! { "collMod": &*ns.coll, "index": index }).await.map(|()| AdminDone::Done)
            }
            AdminOp::Holders { ns, any } => self.holders(ns, any).await.map(AdminDone::Keys),
            AdminOp::DropIndex { ns, name } => self.drop_index(ns, name).await,
            AdminOp::Indexes { ns } => self.indexes(ns).await.map(AdminDone::Indexes),
            AdminOp::SetValidator { ns, validator } => {
                self.set_validation(ns, &Validation::strict(validator.clone())).await
            }
            AdminOp::Validation { ns } => self.validation(ns).await.map(AdminDone::Validation),
            AdminOp::SetValidation { ns, validation } => self.set_validation(ns, validation).await,
            AdminOp::Rename { from, to } => self.rename(from, to).await,
            AdminOp::CreateEmptyView { ns, on } => {
                if ns.db != on.db {
                    return Err(refused(format!("a view {ns} cannot stand on {on}, in another database")));
                }
                let mut pipeline = RawArrayBuf::new();
                pipeline.push(rawdoc! { "$match": { "$expr": false } });
                let command = rawdoc! { "create": &*ns.coll, "viewOn": &*on.coll, "pipeline": pipeline };
                let made = self.ddl(&ns.db, command).await;
                self.done_if(made, |kind| kind == CollKind::View, ns).await
            }
            AdminOp::Load => Ok(AdminDone::Load(self.load().await)),
            AdminOp::Building { ns } => Ok(AdminDone::Names(self.building(ns).await)),
            AdminOp::Latency { ns } => Ok(AdminDone::Latency(self.latency(ns).await)),
            AdminOp::Explain { ns, filter } => self.explained(ns, filter).await.map(AdminDone::Explained),
            AdminOp::Count { ns } => {
                // Without a query the server answers from the collection's metadata.
                let answer = self.run(&ns.db, rawdoc! { "count": &*ns.coll }, Phase::Harmless).await?;
                let n = answer.get("n");
                let n = n.and_then(|n| n.as_i64().or(n.as_i32().map(i64::from))).unwrap_or(0);
                Ok(AdminDone::Count(n.max(0) as u64))
            }
            AdminOp::Kind { ns } => self.kind(ns).await.map(AdminDone::Kind),
            AdminOp::Drop { ns } => {
                let dropped = self.ddl(&ns.db, rawdoc! { "drop": &*ns.coll }).await;
                self.done_if(dropped, |kind| kind == CollKind::Absent, ns).await
            }
        }
    }

    async fn ddl(&self, db: &str, mut command: RawDocumentBuf) -> Result<(), Failed> {
        command.append(bson::cstr!("writeConcern"), majority());
        self.run(db, command, Phase::Write).await.map(drop)
    }

    /// Done, or refused because it had been done before.
    async fn done_if(
        &self,
        r: Result<(), Failed>,
        wanted: impl Fn(CollKind) -> bool,
        ns: &Ns,
    ) -> Result<AdminDone, Failed> {
        match r {
            Ok(()) => Ok(AdminDone::Done),
            Err(Failed::NotDone(Reason::Refused(m))) => {
                if wanted(self.kind(ns).await?) {
                    Ok(AdminDone::Done)
                } else {
                    Err(refused(m))
                }
            }
            Err(other) => Err(other),
        }
    }

    async fn rename(&self, from: &Ns, to: &Ns) -> Result<AdminDone, Failed> {
        if from.db != to.db {
            return Err(refused(format!("{from} cannot be renamed to {to}: another database would mean copying it")));
        }
        let command = rawdoc! { "renameCollection": from.to_string(), "to": to.to_string(), "dropTarget": false };
        match self.ddl("admin", command).await {
            Ok(()) => Ok(AdminDone::Done),
            Err(Failed::NotDone(Reason::Refused(m))) => {
                // A view under the old name is what contract puts there right after the rename.
                let gone = matches!(self.kind(from).await?, CollKind::Absent | CollKind::View);
                if gone && self.kind(to).await? == CollKind::Collection { Ok(AdminDone::Done) } else { Err(refused(m)) }
            }
            Err(other) => Err(other),
        }
    }

    async fn create_index(&self, ns: &Ns, index: &IndexSpec) -> Result<AdminDone, Failed> {
        let mut spec = rawdoc! { "key": raw(&index.keys)?, "name": &*index.name };
        if index.unique {
            spec.append(bson::cstr!("unique"), true);
        }
        if let Some(seconds) = index.expire_after {
            spec.append(bson::cstr!("expireAfterSeconds"), seconds);
        }
        let odd = |e: &dyn std::fmt::Display| refused(format!("the options of the index {}: {e}", index.name));
        for part in raw(&index.options)?.iter() {
            let (name, value) = part.map_err(|e| odd(&e))?;
            spec.append(name, value.to_owned());
        }
        let mut specs = RawArrayBuf::new();
        specs.push(spec);
        let command = rawdoc! { "createIndexes": &*ns.coll, "indexes": specs, "writeConcern": majority() };
        // No time limit: a build takes as long as the collection is large.
        self.run_for(&ns.db, command, Phase::Write, None).await?;
        Ok(AdminDone::Done)
    }

    async fn drop_index(&self, ns: &Ns, name: &str) -> Result<AdminDone, Failed> {
        // `*` would be all of them.
        if name == "*" || name == "_id_" {
            return Err(refused(format!("the index {name} is not dropped")));
        }
        match self.ddl(&ns.db, rawdoc! { "dropIndexes": &*ns.coll, "index": name }).await {
            Err(Failed::NotDone(Reason::Refused(m))) => match self.indexes(ns).await?.iter().any(|i| i.name == name) {
                true => Err(refused(m)),
                false => Ok(AdminDone::Done),
            },
            other => other.map(|()| AdminDone::Done),
        }
    }

    async fn indexes(&self, ns: &Ns) -> Result<Vec<IndexSpec>, Failed> {
        // An absent collection is an error here (26), and one that was dropped meanwhile too.
        let specs = match self.list(&ns.db, rawdoc! { "listIndexes": &*ns.coll }).await {
            Err(Failed::NotDone(Reason::Refused(m))) => {
                return if self.kind(ns).await? == CollKind::Absent { Ok(Vec::new()) } else { Err(refused(m)) };
            }
            other => other?,
        };
        specs.iter().map(spec_of).collect()
    }

    /// `listIndexes` lists those that are being built like all others. Whoever builds one waits for the server's answer;
    /// it is asked about those that others build, and without the right to `$collStats` nothing is known of them.
    async fn building(&self, ns: &Ns) -> Vec<String> {
        let mut pipeline = RawArrayBuf::new();
        pipeline.push(rawdoc! { "$collStats": { "storageStats": {} } });
        let ask = rawdoc! { "aggregate": &*ns.coll, "pipeline": pipeline, "cursor": {} };
        let stats = self.list(&ns.db, ask).await.unwrap_or_default();
        let of = |d: &Document| d.get_document("storageStats").and_then(|s| s.get_array("indexBuilds")).ok().cloned();
        let builds = stats.iter().filter_map(of).flatten();
        builds.filter_map(|name| name.as_str().map(str::to_owned)).collect()
    }

    /// Point queries on fields of unique indexes, in the newest state: what stands in the way of a write need not be a majority's yet.
    async fn holders(&self, ns: &Ns, any: &[Held]) -> Result<Vec<Key>, Failed> {
        if any.is_empty() {
            return Ok(Vec::new());
        }
        let mut or = RawArrayBuf::new();
        for held in any {
            let mut one = RawDocumentBuf::new();
            for (path, all) in held {
                let mut values = RawArrayBuf::new();
                all.iter().for_each(|v| values.push(v.clone()));
                let path = bson::raw::CString::try_from(path.as_str()).map_err(|e| refused(e.to_string()))?;
                one.append(&path, rawdoc! { "$in": values });
            }
            or.push(one);
        }
        let filter = rawdoc! { "$or": or };
        let command = rawdoc! {
            "find": &*ns.coll, "filter": filter, "projection": { "_id": 1 }, "limit": HOLDERS_MAX as i64, "singleBatch": true,
            "readConcern": { "level": "local" },
        };
        let found = self.list(&ns.db, command).await?;
        found
            .iter()
            .map(|d| {
                let raw = RawDocumentBuf::try_from(d).map_err(malformed)?;
                Key::of(&raw).map_err(malformed)
            })
            .collect()
    }

    async fn set_validation(&self, ns: &Ns, v: &Validation) -> Result<AdminDone, Failed> {
        let validator = raw(v.validator.as_ref().unwrap_or(&Document::new()))?;
        let command = rawdoc! {
            "collMod": &*ns.coll, "validator": validator, "validationLevel": &*v.level, "validationAction": &*v.action,
        };
        self.ddl(&ns.db, command).await.map(|()| AdminDone::Done)
    }

    async fn validation(&self, ns: &Ns) -> Result<Validation, Failed> {
        let command = rawdoc! { "listCollections": 1, "filter": { "name": &*ns.coll } };
        let found = self.list(&ns.db, command).await?;
        let found = found.first().filter(|d| d.get_str("type").is_ok_and(|t| t == "collection"));
        let Some(d) = found else { return Err(refused(format!("{ns} is not a collection"))) };
        let none = doc! {};
        let options = d.get_document("options").unwrap_or(&none);
        let word = |name: &str, default: &str| options.get_str(name).unwrap_or(default).to_owned();
        Ok(Validation {
            validator: options.get_document("validator").ok().filter(|v| !v.is_empty()).cloned(),
            level: word("validationLevel", "strict"),
            action: word("validationAction", "error"),
        })
    }

    async fn kind(&self, ns: &Ns) -> Result<CollKind, Failed> {
        let command = rawdoc! { "listCollections": 1, "filter": { "name": &*ns.coll } };
        let found = self.list(&ns.db, command).await?;
        let Some(d) = found.first() else { return Ok(CollKind::Absent) };
        let none = doc! {};
        let options = d.get_document("options").unwrap_or(&none);
        Ok(match d.get_str("type") {
            Ok("view") => CollKind::View,
            // What an application encrypts with metadata of its own cannot be written past it.
            Ok("collection") if options.contains_key("encryptedFields") => CollKind::Other,
            // With a collation the server's order and equality of `_id`s are not those of their bytes.
            Ok("collection")
                if options
                    .get_document("collation")
                    .is_ok_and(|c| c.get_str("locale").is_ok_and(|l| l != "simple")) =>
            {
                CollKind::Other
            }
            Ok("collection") if !options.get_bool("capped").unwrap_or(false) => CollKind::Collection,
            _ => CollKind::Other,
        })
    }
}

/// An index as the server lists it.
pub(super) fn spec_of(d: &Document) -> Result<IndexSpec, Failed> {
    let mut options = d.clone();
    // The version of its format and older servers' namespace say nothing about what it does.
    for known in ["key", "name", "unique", "expireAfterSeconds", "v", "ns", "background"] {
        options.remove(known);
    }
    Ok(IndexSpec {
        name: d.get_str("name").map_err(malformed)?.to_owned(),
        keys: d.get_document("key").map_err(malformed)?.clone(),
        unique: d.get_bool("unique").unwrap_or(false),
        expire_after: d.get("expireAfterSeconds").and_then(seconds),
        options,
    })
}

/// A number of seconds as the server stores it, whatever its type. What is no number lets nothing expire.
fn seconds(v: &Bson) -> Option<i64> {
    match v {
        Bson::Int32(n) => Some(i64::from(*n)),
        Bson::Int64(n) => Some(*n),
        Bson::Double(n) if n.is_nan() => Some(i64::from(i32::MAX)),
        Bson::Double(n) => Some(*n as i64),
        _ => None,
    }
}

pub(super) fn raw(d: &Document) -> Result<RawDocumentBuf, Failed> {
    RawDocumentBuf::try_from(d).map_err(|e| refused(e.to_string()))
}

pub(super) fn refused(m: String) -> Failed {
    Failed::NotDone(Reason::Refused(m))
}
