//! Documents that expire: what a server's TTL thread does, in virtual time.
//!
//! As on a server the primary deletes them, one plain delete each, on whatever collection has the index: nobody asks who owns a key.

use bson::{RawBsonRef, RawDocument};

use super::config::Config;
use super::state::{Event, State, Writes};
use super::store::lookup;
use crate::cluster::{ChangeKind, Key, Ns};
use crate::runtime::{Micros, keyed_hash};

impl State {
    /// Deletes what has expired, when it is time to look.
    pub(super) fn expire(&mut self, config: &Config, now: Micros) {
        if now < self.expire_at || self.down().is_some() {
            return;
        }
        self.expire_at = now + config.expire_every;
        for (ns, key) in self.expired(self.server_ms(now)) {
            let event = Event { ts: 0, key: Some(key.clone()), kind: ChangeKind::Delete, session: None };
            let bits = keyed_hash(now.0, super::DRAWS, u64::from(config.id), self.newest());
            self.commit(config, now, vec![Writes { ns, docs: vec![(key, None)], events: vec![event] }], false, bits);
        }
    }

    fn expired(&self, now_ms: i64) -> Vec<(Ns, Key)> {
        let mut due = Vec::new();
        for (ns, coll) in self.colls.iter() {
            for index in &coll.indexes {
                let (Some(seconds), Some(path)) = (index.spec.expire_after, index.spec.keys.keys().next()) else {
                    continue;
                };
                let before = now_ms.saturating_sub(seconds.saturating_mul(1_000));
                for (key, chain) in &coll.docs {
                    if chain.newest().and_then(|d| date(d, path)).is_some_and(|at| at <= before) {
                        due.push((ns.clone(), key.clone()));
                    }
                }
            }
        }
        due
    }
}

/// The date at a path, the earliest of several; what is no date never expires.
fn date(doc: &RawDocument, path: &str) -> Option<i64> {
    match lookup(doc, path)? {
        RawBsonRef::DateTime(d) => Some(d.timestamp_millis()),
        RawBsonRef::Array(a) => {
            a.into_iter().flatten().filter_map(|v| v.as_datetime()).map(|d| d.timestamp_millis()).min()
        }
        _ => None,
    }
}
