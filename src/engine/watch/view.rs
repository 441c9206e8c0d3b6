//! The picture of a rollout in the control database: one document a plan, written by whoever holds the lease.
//!
//! It is no part of the data protocol: nothing is decided from it, no fence is taken for it, and a runner that was taken over finds a
//! newer epoch in it and leaves it alone.

use std::sync::Arc;

use bson::{Bson, RawDocument, RawDocumentBuf, doc};
use serde_json::Value;

use crate::cluster::{CONTROL_DB, ClusterTime, Db, Expect, Failed, Key, Ns, Reason, WriteOp};
use crate::scrub;
use crate::snapshot::Snapshot;

/// The form that is written.
const FORMAT: i32 = 1;
/// No picture is larger than this as text: what is oldest on it is left out first.
pub const VIEW_MAX: usize = 64 << 10;
/// Texts on a picture are shorter than this.
const TEXT_MAX: usize = 500;
/// What a picture keeps: event lines, columns of the heat maps, application processes; tried in turn until it fits.
const KEEPS: [(usize, usize, usize); 5] = [(60, 120, 100), (40, 90, 60), (20, 48, 30), (10, 12, 10), (3, 0, 0)];

/// The namespace of the pictures.
#[must_use]
pub fn views_ns() -> Ns {
    Ns::new(CONTROL_DB, "snapshots")
}

/// A picture as it was published.
#[derive(Clone, Debug)]
pub struct View {
    /// The lease epoch of the runner that published it.
    pub epoch: i64,
    /// Counts the pictures of that runner.
    pub n: i64,
    /// Server time when it was written, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The runner has ended, in one word: `completed`, `rolled_back`, `stopped`, `amended`, `failed`. `None` while it runs.
    pub ended: Option<String>,
    /// The picture.
    pub snapshot: Arc<Snapshot>,
}

/// A picture that cannot be shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// The cluster.
    #[error("{0}")]
    Cluster(Failed),
    /// It is of another version.
    #[error("the runner's picture was written by tidegate {version}, which this one cannot read: {what}")]
    Version {
        /// Which.
        version: String,
        /// What cannot be read.
        what: String,
    },
}

impl View {
    fn parse(d: &RawDocument) -> Result<View, ViewError> {
        let version = scrub::short(d.get_str("version").unwrap_or("of another version"), 20);
        let broken = |what: String| ViewError::Version { version: version.clone(), what: scrub::short(&what, 200) };
        let number = |name: &str| d.get_i64(name).map_err(|e| broken(e.to_string()));
        if d.get_i32("format").unwrap_or(0) != FORMAT {
            return Err(broken("it has another form".into()));
        }
        let text = d.get_str("snapshot").map_err(|e| broken(e.to_string()))?;
        let mut value: Value = serde_json::from_str(text).map_err(|e| broken(e.to_string()))?;
        // It comes from outside: whoever writes the control database must not steer this terminal.
        clean(&mut value);
        Ok(View {
            epoch: number("epoch")?,
            n: number("n")?,
            at_ms: number("at_ms")?,
            ended: d.get_str("ended").ok().map(|w| scrub::short(w, 20)),
            snapshot: Arc::new(serde_json::from_value(value).map_err(|e| broken(e.to_string()))?),
        })
    }
}

fn clean(value: &mut Value) {
    match value {
        Value::String(s) => *s = scrub::short(s, TEXT_MAX),
        Value::Array(list) => list.iter_mut().for_each(clean),
        Value::Object(map) => map.values_mut().for_each(clean),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The newest picture of a plan; `None` when nobody has published one.
///
/// # Errors
/// When the cluster does not answer, or the picture is of another version.
pub async fn read_view(db: &Db, plan: &str) -> Result<Option<View>, ViewError> {
    let keys = [Key::from(plan)];
    let found = db.read(&views_ns(), &keys, ClusterTime::ZERO).await.map_err(ViewError::Cluster)?;
    found.docs.first().and_then(|d| d.as_deref()).map(View::parse).transpose()
}

/// The snapshot as text that is not larger than [`VIEW_MAX`].
fn fitted(snapshot: &Snapshot) -> Result<String, String> {
    let mut s = snapshot.clone();
    let mut size = 0;
    for (events, columns, applications) in KEEPS {
        let from = s.events.len().saturating_sub(events);
        s.events.drain(..from);
        for view in s.reads.iter_mut().chain(&mut s.writes) {
            let from = view.heat.len().saturating_sub(columns);
            view.heat.drain(..from);
        }
        s.applications.truncate(applications);
        // It is for more eyes than the runner's screen.
        let value = crate::journal::masked_value(serde_json::to_value(&s).map_err(|e| e.to_string())?);
        let text = value.to_string();
        size = text.len();
        if size <= VIEW_MAX {
            return Ok(text);
        }
    }
    Err(format!("the picture has {size} bytes, and may have {VIEW_MAX}"))
}

/// What became of an attempt to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// It is there.
    Done,
    /// A newer runner publishes: this one has nothing more to say.
    Superseded,
}

/// Writes the pictures of one runner.
pub(in crate::engine) struct Pen {
    plan: String,
    epoch: i64,
    n: i64,
    /// The epoch of the document that is there, once this runner knows it.
    there: Option<i64>,
    /// The last picture is written.
    closed: bool,
}

impl Pen {
    pub(in crate::engine) fn new(plan: &str, epoch: i64) -> Pen {
        Pen { plan: plan.to_owned(), epoch, n: 0, there: None, closed: false }
    }

    /// Publishes a picture over an older one; the error says why it did not.
    pub(super) async fn put(
        &mut self,
        db: &Db,
        snapshot: &Snapshot,
        at_ms: i64,
        ended: Option<&str>,
    ) -> Result<Put, String> {
        if self.closed {
            return Ok(Put::Superseded);
        }
        self.n += 1;
        let d = doc! {
            "_id": &self.plan, "format": FORMAT, "version": env!("CARGO_PKG_VERSION"), "epoch": self.epoch, "n": self.n,
            "at_ms": at_ms, "ended": ended, "snapshot": fitted(snapshot)?,
        };
        let d = RawDocumentBuf::try_from(&d).map_err(|e| e.to_string())?;
        // Twice at most: the first attempt of a runner finds out what is there.
        for _ in 0..3 {
            match self.write(db, d.clone()).await {
                Ok(true) => {
                    self.there = Some(self.epoch);
                    self.closed = ended.is_some();
                    return Ok(Put::Done);
                }
                Ok(false) => {}
                Err(f) => return Err(f.to_string()),
            }
            let found = db.read(&views_ns(), &[Key::from(self.plan.as_str())], ClusterTime::ZERO).await;
            let found = found.map_err(|f| f.to_string())?;
            self.there = found.docs.first().and_then(|d| d.as_deref()).map(|d| d.get_i64("epoch").unwrap_or(0));
            if self.there.is_some_and(|there| there > self.epoch) {
                return Ok(Put::Superseded);
            }
        }
        Err("another runner writes it at the same time".into())
    }

    /// False when something else is there than was known.
    async fn write(&self, db: &Db, doc: RawDocumentBuf) -> Result<bool, Failed> {
        let op = match self.there {
            None => WriteOp::Insert { ns: views_ns(), doc },
            Some(epoch) => WriteOp::Replace {
                ns: views_ns(),
                key: Key::from(self.plan.as_str()),
                only_if: Some(Expect { field: "epoch", value: Bson::Int64(epoch) }),
                doc,
                upsert: false,
            },
        };
        match db.write(&op).await {
            Ok(written) => Ok(written.matched == 1),
            Err(Failed::NotDone(Reason::DuplicateKey { .. })) => Ok(false),
            Err(f) => Err(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{ApplicationView, EventLine, HeatColumn};

    fn crowded(events: usize, applications: usize) -> Snapshot {
        let mut s = Snapshot::default();
        let line = |n| EventLine { seq: n as u64, text: "x".repeat(400), ..EventLine::default() };
        s.events = (0..events).map(line).collect();
        s.applications =
            (0..applications).map(|n| ApplicationView { name: format!("app-{n}"), ..Default::default() }).collect();
        s.reads[0].heat = vec![HeatColumn { rows: [4_000_000_000; 18], ..HeatColumn::default() }; 120];
        s
    }

    #[test]
    fn a_picture_is_never_larger_than_it_may_be_and_keeps_what_is_newest() {
        for (events, applications) in [(0, 0), (200, 0), (200, 5_000)] {
            let text = fitted(&crowded(events, applications)).unwrap();
            assert!(text.len() <= VIEW_MAX, "{} bytes", text.len());
            let back: Snapshot = serde_json::from_str(&text).unwrap();
            assert_eq!(back.events.last().map(|e| e.seq), events.checked_sub(1).map(|n| n as u64));
        }
        let s = Snapshot { why: "x".repeat(VIEW_MAX), ..Snapshot::default() };
        assert!(fitted(&s).unwrap_err().contains("bytes"));
    }

    #[test]
    fn a_picture_has_no_credentials() {
        let s = Snapshot { why: "mongodb://anna:hunter2@db/?x=1 does not answer".into(), ..Snapshot::default() };
        let text = fitted(&s).unwrap();
        assert!(text.contains("does not answer") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_picture_cannot_steer_the_terminal_that_shows_it() {
        let s = Snapshot { why: "wait\u{1b}[2Jhere".into(), ..Snapshot::default() };
        let d = doc! {
            "_id": "p", "format": FORMAT, "version": "0.0.0", "epoch": 1_i64, "n": 1_i64, "at_ms": 5_i64, "ended": Bson::Null,
            "snapshot": fitted(&s).unwrap(),
        };
        let view = View::parse(&RawDocumentBuf::try_from(&d).unwrap()).unwrap();
        assert_eq!((view.snapshot.why.as_str(), view.ended), ("wait\u{FFFD}[2Jhere", None));
    }
}
