//! The replica set looked at from outside. What a user may not see is unknown, not an error.

use bson::{Bson, Document, rawdoc};
use futures_util::future::join;

use super::Mongo;
use super::errors::Phase;
use crate::cluster::{ClusterTime, Failed, Member, Observation};
use crate::runtime::Micros;
use crate::scrub::short;

impl Mongo {
    pub(super) async fn look(&self) -> Result<Observation, Failed> {
        let hello = self.run("admin", rawdoc! { "hello": 1 }, Phase::Harmless).await?;
        let majority = hello
            .get_document("lastWrite")
            .and_then(|w| w.get_document("majorityOpTime"))
            .and_then(|t| t.get_timestamp("ts"))
            .map_or(ClusterTime::ZERO, ClusterTime::from);
        // Together: a cutover asks for the time while the clock of its freeze runs already.
        let status = self.run("admin", rawdoc! { "replSetGetStatus": 1 }, Phase::Harmless);
        let (status, oplog_window) = join(status, self.oplog_window()).await;
        let mut members = status.map_or_else(|_| members_of_hello(&hello), |s| members_of_status(&s));
        members.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Observation {
            server_ms: hello.get_datetime("localTime").map_or(0, |d| d.timestamp_millis()),
            majority,
            members,
            oplog_window,
        })
    }

    /// From the first to the last entry of the oplog.
    async fn oplog_window(&self) -> Option<Micros> {
        let (first, last) = (self.oplog_end(1).await?, self.oplog_end(-1).await?);
        Some(Micros::from_secs(last.saturating_sub(first).into()))
    }

    async fn oplog_end(&self, direction: i32) -> Option<u32> {
        let find = rawdoc! {
            "find": "oplog.rs", "filter": {}, "sort": { "$natural": direction }, "limit": 1, "singleBatch": true,
            "projection": { "ts": 1 },
        };
        let (batch, _) = self.cursor("local", find, None).await.ok()?;
        let doc = super::read::docs_of(&batch).ok()?.next()?.ok()?;
        doc.get_timestamp("ts").ok().map(|t| t.time)
    }
}

pub(super) fn members_of_status(status: &Document) -> Vec<Member> {
    let all: Vec<&Document> = match status.get_array("members") {
        Ok(a) => a.iter().filter_map(Bson::as_document).collect(),
        Err(_) => Vec::new(),
    };
    let applied = |m: &Document| {
        // Milliseconds where the server tells them, whole seconds otherwise.
        m.get_datetime("lastAppliedWallTime")
            .or_else(|_| m.get_datetime("optimeDate"))
            .ok()
            .map(|d| d.timestamp_millis())
    };
    let state = |m: &Document| short(m.get_str("stateStr").unwrap_or("UNKNOWN"), 40);
    let primary = all.iter().find(|m| state(m) == "PRIMARY").and_then(|m| applied(m));
    all.iter()
        .map(|m| {
            let state = state(m);
            // What a member that is down had applied says nothing about how far it is behind.
            let up = matches!(state.as_str(), "PRIMARY" | "SECONDARY" | "RECOVERING" | "ROLLBACK");
            let lag = match (primary, applied(m)) {
                (Some(p), Some(a)) if up => Some(Micros::from_ms(p.saturating_sub(a).max(0).unsigned_abs())),
                _ => None,
            };
            Member { name: short(m.get_str("name").unwrap_or("?"), 200), state, lag }
        })
        .collect()
}

/// Without the privilege for the status there are still the names.
fn members_of_hello(hello: &Document) -> Vec<Member> {
    let primary = hello.get_str("primary").unwrap_or_default();
    let hosts = hello.get_array("hosts").map(Vec::as_slice).unwrap_or_default();
    hosts
        .iter()
        .filter_map(Bson::as_str)
        .map(|h| {
            let (state, lag) = if h == primary { ("PRIMARY", Some(Micros::ZERO)) } else { ("UNKNOWN", None) };
            Member { name: short(h, 200), state: state.into(), lag }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{DateTime, doc};

    #[test]
    fn lag_is_told_only_of_members_that_are_up() {
        let at = |ms| DateTime::from_millis(ms);
        let status = doc! { "members": [
            { "name": "a", "stateStr": "SECONDARY", "lastAppliedWallTime": at(7_500) },
            { "name": "b", "stateStr": "PRIMARY", "lastAppliedWallTime": at(9_000) },
            { "name": "c", "stateStr": "(not reachable/healthy)", "optimeDate": at(0) },
        ] };
        let lags: Vec<_> = members_of_status(&status).into_iter().map(|m| m.lag).collect();
        assert_eq!(lags, [Some(Micros::from_ms(1_500)), Some(Micros::ZERO), None]);
    }
}
