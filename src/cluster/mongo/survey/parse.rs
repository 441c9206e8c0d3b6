//! The server's answers as facts. Pure: what is missing or of another type is taken for what a server leaves out.

use bson::{Bson, Document, doc};

use super::super::admin::spec_of;
use super::super::observe::members_of_status;
use crate::cluster::survey::{
    Explained, IndexFacts, Options, Privilege, Resource, Rights, SetConfig, SetStatus, Size, Stands,
};
use crate::cluster::{IndexSpec, Validation};
use crate::runtime::Micros;
use crate::scrub::short;

/// A number of any type, when it is not negative.
pub(super) fn whole(d: &Document, field: &str) -> Option<u64> {
    number(d.get(field)?)
}

fn number(v: &Bson) -> Option<u64> {
    match v {
        Bson::Int32(n) => u64::try_from(*n).ok(),
        Bson::Int64(n) => u64::try_from(*n).ok(),
        Bson::Double(x) if *x >= 0.0 => Some(*x as u64),
        _ => None,
    }
}

fn truth(d: &Document, field: &str) -> Option<bool> {
    match d.get(field)? {
        Bson::Boolean(b) => Some(*b),
        other => number(other).map(|n| n > 0),
    }
}

fn documents<'d>(d: &'d Document, field: &str) -> impl Iterator<Item = &'d Document> {
    d.get_array(field).map(Vec::as_slice).unwrap_or_default().iter().filter_map(Bson::as_document)
}

pub(super) fn first_batch(answer: &Document) -> Vec<Document> {
    let Ok(cursor) = answer.get_document("cursor") else { return Vec::new() };
    documents(cursor, "firstBatch").cloned().collect()
}

/// Host names in these arrays.
pub(super) fn names(hello: &Document, fields: &[&str]) -> Vec<String> {
    let of = |f: &&str| hello.get_array(*f).map(Vec::as_slice).unwrap_or_default().iter();
    fields.iter().flat_map(of).filter_map(Bson::as_str).map(|h| short(h, 200)).collect()
}

pub(super) fn fcv(answer: &Document) -> String {
    let version = answer.get_document("featureCompatibilityVersion").and_then(|d| d.get_str("version"));
    short(version.unwrap_or("?"), 40)
}

pub(super) fn status(answer: &Document) -> SetStatus {
    let mut members = members_of_status(answer);
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let majority = whole(answer, "writeMajorityCount").and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    SetStatus { members, majority }
}

pub(super) fn config(answer: &Document) -> SetConfig {
    let none = doc! {};
    let config = answer.get_document("config").unwrap_or(&none);
    let mut found = SetConfig {
        majority_journal: truth(config, "writeConcernMajorityJournalDefault").unwrap_or(true),
        ..SetConfig::default()
    };
    for m in documents(config, "members") {
        let delay = whole(m, "secondaryDelaySecs").or_else(|| whole(m, "slaveDelay")).unwrap_or(0);
        if delay > 0 {
            found.delayed.push((short(m.get_str("host").unwrap_or("?"), 200), Micros::from_secs(delay)));
        }
        let votes = whole(m, "votes").unwrap_or(1) > 0;
        found.voting_data += u32::from(votes && !truth(m, "arbiterOnly").unwrap_or(false));
    }
    found
}

pub(super) fn write_concern(answer: &Document) -> (String, bool) {
    let w = answer.get_document("defaultWriteConcern").ok().and_then(|c| c.get("w"));
    let w = match w {
        Some(Bson::String(s)) => short(s, 40),
        Some(n) => number(n).map_or_else(|| "?".into(), |n| n.to_string()),
        // Before 5.0 nothing set meant 1; since then it means what `defaultWriteConcernSource` implies.
        None => "1".into(),
    };
    (w, answer.get_str("defaultWriteConcernSource").is_ok_and(|s| s == "global"))
}

pub(super) fn rights(answer: &Document) -> Rights {
    let none = doc! {};
    let info = answer.get_document("authInfo").unwrap_or(&none);
    let word = |d: &Document, f: &str| short(d.get_str(f).unwrap_or_default(), 200);
    let user = |d: &Document| format!("{}@{}", word(d, "user"), word(d, "db"));
    let privilege = |d: &Document| {
        let r = d.get_document("resource").ok()?;
        let on = if truth(r, "anyResource").unwrap_or(false) {
            Resource::Any
        } else if truth(r, "cluster").unwrap_or(false) {
            Resource::Cluster
        } else {
            // Without both it is a kind of the server's own, which no rollout needs.
            Resource::Ns { db: r.get_str("db").ok()?.to_owned(), coll: r.get_str("collection").ok()?.to_owned() }
        };
        let actions = d.get_array("actions").ok()?.iter().filter_map(Bson::as_str).map(str::to_owned).collect();
        Some(Privilege { on, actions })
    };
    Rights {
        users: documents(info, "authenticatedUsers").map(user).collect(),
        privileges: documents(info, "authenticatedUserPrivileges").filter_map(privilege).collect(),
    }
}

/// From `serverStatus` with its section `oplog`.
pub(super) fn oplog_window(answer: &Document) -> Option<Micros> {
    let oplog = answer.get_document("oplog").ok()?;
    let at = |f: &str| match oplog.get(f)? {
        Bson::Timestamp(t) => Some(t.time),
        Bson::Document(d) => d.get_timestamp("ts").ok().map(|t| t.time),
        _ => None,
    };
    Some(Micros::from_secs(at("latestOptime")?.saturating_sub(at("earliestOptime")?).into()))
}

/// How many bytes the oplog has, and may have.
pub(super) fn oplog_bytes(stats: &[Document]) -> (Option<u64>, Option<u64>) {
    let stats = stats.first().and_then(|d| d.get_document("storageStats").ok());
    stats.map_or((None, None), |s| (whole(s, "size"), whole(s, "maxSize")))
}

fn locale(d: &Document) -> Option<String> {
    let locale = d.get_document("collation").ok()?.get_str("locale").ok()?;
    (locale != "simple").then(|| short(locale, 40))
}

pub(super) fn stands(listed: Option<&Document>) -> Stands {
    let Some(d) = listed else { return Stands::Absent };
    let none = doc! {};
    let options = d.get_document("options").unwrap_or(&none);
    match d.get_str("type") {
        Ok("view") => return Stands::View,
        Ok("timeseries") => return Stands::TimeSeries,
        _ => {}
    }
    let word = |name: &str, default: &str| short(options.get_str(name).unwrap_or(default), 20);
    let validator = options.get_document("validator").ok().filter(|v| !v.is_empty());
    let encrypted = options.get_document("encryptedFields").ok().map(|e| {
        let paths: Vec<String> = documents(e, "fields").map(|f| short(f.get_str("path").unwrap_or("?"), 80)).collect();
        if paths.is_empty() { vec!["no field named".to_owned()] } else { paths }
    });
    Stands::Collection(Options {
        capped: truth(options, "capped").unwrap_or(false),
        collation: locale(options),
        clustered: options
            .contains_key("clusteredIndex")
            .then(|| whole(options, "expireAfterSeconds").map(Micros::from_secs)),
        encrypted: encrypted.unwrap_or_default(),
        validation: validator.map(|v| {
            Box::new(Validation {
                validator: Some(v.clone()),
                level: word("validationLevel", "strict"),
                action: word("validationAction", "error"),
            })
        }),
    })
}

pub(super) fn index(d: &Document) -> IndexFacts {
    IndexFacts {
        spec: IndexSpec { name: short(d.get_str("name").unwrap_or("?"), 120), ..spec_of(d).unwrap_or_default() },
        partial: d.contains_key("partialFilterExpression") || truth(d, "sparse").unwrap_or(false),
        collation: locale(d),
    }
}

pub(super) fn size(stats: &[Document]) -> Size {
    let Some(s) = stats.first().and_then(|d| d.get_document("storageStats").ok()) else { return Size::default() };
    let n = |f: &str| whole(s, f).unwrap_or(0);
    Size { documents: n("count"), bytes: n("size"), stored: n("storageSize"), indexes: n("totalIndexSize") }
}

pub(in crate::cluster::mongo) fn explained(answer: &Document) -> Explained {
    let mut found = Explained { indexes: Vec::new(), scans: false };
    if let Some(plan) = answer.get_document("queryPlanner").ok().and_then(|p| p.get_document("winningPlan").ok()) {
        walk(plan, &mut found);
    }
    found
}

/// Every stage of a plan, however deep.
fn walk(d: &Document, found: &mut Explained) {
    match d.get_str("stage") {
        Ok("COLLSCAN") => found.scans = true,
        Ok("IDHACK" | "CLUSTERED_IXSCAN") => found.indexes.push("_id_".into()),
        _ => {}
    }
    if let Ok(name) = d.get_str("indexName") {
        found.indexes.push(short(name, 120));
    }
    for (key, v) in d {
        match v {
            // The same plan once more, in the server's own language.
            _ if key == "slotBasedPlan" || key == "rejectedPlans" => {}
            Bson::Document(d) => walk(d, found),
            Bson::Array(a) => a.iter().filter_map(Bson::as_document).for_each(|d| walk(d, found)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bson::Timestamp;

    #[test]
    fn privileges_keep_where_they_hold() {
        let found = rights(&doc! { "authInfo": {
            "authenticatedUsers": [{ "user": "tide", "db": "admin" }],
            "authenticatedUserPrivileges": [
                { "resource": { "db": "shop", "collection": "" }, "actions": ["find", "insert"] },
                { "resource": { "cluster": true }, "actions": ["replSetGetStatus"] },
                { "resource": { "anyResource": true }, "actions": ["anyAction"] },
                { "resource": { "system_buckets": "x" }, "actions": ["find"] },
            ],
        } });
        assert_eq!(found.users, ["tide@admin"]);
        let on: Vec<_> = found.privileges.iter().map(|p| p.on.clone()).collect();
        let shop = Resource::Ns { db: "shop".into(), coll: String::new() };
        assert_eq!(on, [shop, Resource::Cluster, Resource::Any]);
        assert_eq!(found.privileges[0].actions, ["find", "insert"]);
    }

    #[test]
    fn what_stands_there_is_told_with_its_options() {
        assert_eq!(stands(None), Stands::Absent);
        assert_eq!(stands(Some(&doc! { "type": "timeseries", "options": {} })), Stands::TimeSeries);
        let d = doc! { "type": "collection", "options": {
            "capped": true, "collation": { "locale": "de" }, "validator": { "a": 1 }, "validationLevel": "moderate",
            "encryptedFields": { "fields": [{ "path": "ssn" }] }, "clusteredIndex": { "unique": true }, "expireAfterSeconds": 60i64,
        } };
        let Stands::Collection(o) = stands(Some(&d)) else { unreachable!() };
        assert!(o.capped && o.collation.as_deref() == Some("de") && o.encrypted == ["ssn"]);
        assert_eq!(o.clustered, Some(Some(Micros::from_secs(60))));
        assert_eq!(o.validation.unwrap().level, "moderate");
        let simple = doc! { "type": "collection", "options": { "collation": { "locale": "simple" }, "validator": {} } };
        assert_eq!(stands(Some(&simple)), Stands::Collection(Options::default()));
    }

    #[test]
    fn a_plan_is_walked_to_its_leaves() {
        let plan = |inner: Document| doc! { "queryPlanner": { "winningPlan": inner, "rejectedPlans": [{ "stage": "COLLSCAN" }] } };
        let or = doc! { "stage": "SUBPLAN", "inputStage": { "stage": "OR", "inputStages": [
            { "stage": "IXSCAN", "indexName": "a_1" }, { "stage": "COLLSCAN" },
        ] } };
        assert_eq!(explained(&plan(or)), Explained { indexes: vec!["a_1".into()], scans: true });
        let sbe = doc! { "queryPlan": { "stage": "IDHACK" }, "slotBasedPlan": { "stages": "COLLSCAN" } };
        assert_eq!(explained(&plan(sbe)), Explained { indexes: vec!["_id_".into()], scans: false });
    }

    #[test]
    fn the_configuration_tells_who_holds_data_and_who_is_late() {
        let found = config(&doc! { "config": { "writeConcernMajorityJournalDefault": false, "members": [
            { "host": "a", "votes": 1 }, { "host": "b", "votes": 1, "arbiterOnly": true },
            { "host": "c", "votes": 0, "secondaryDelaySecs": 3600i64 },
        ] } });
        let late = vec![("c".to_owned(), Micros::from_secs(3_600))];
        assert_eq!(found, SetConfig { delayed: late, voting_data: 1, majority_journal: false });
        let oplog = doc! { "oplog": { "earliestOptime": Timestamp { time: 10, increment: 1 }, "latestOptime": Timestamp { time: 70, increment: 1 } } };
        assert_eq!(oplog_window(&oplog), Some(Micros::from_secs(60)));
    }
}
