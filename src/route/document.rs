//! The route document: one a plan, on legacy's cluster, written only by compare-and-set on its epoch.

use bson::{Bson, Document, RawDocument, RawDocumentBuf, doc};

use super::pilot::{Goes, Located, Pilot};
use super::{BUCKETS, Bucket, Side};
use crate::cluster::{ClusterTime, Ns};

/// `ceil(percent × 1024 / 100)`: the number of buckets that make up so many percent.
#[must_use]
pub fn below_for_percent(percent: u8) -> Bucket {
    ((u32::from(percent.min(100)) * u32::from(BUCKETS)).div_ceil(100)) as Bucket
}

/// A range of buckets that take no writes for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// The first frozen bucket.
    pub from: Bucket,
    /// One past the last.
    pub to: Bucket,
    /// Server time, milliseconds since the Unix epoch, after which anyone may undo the freeze.
    pub until_ms: i64,
}

/// Which side serves reads and owns writes, a bucket at a time, and a pilot cohort by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The plan's id.
    pub plan: String,
    /// Moved by every change.
    pub epoch: i64,
    /// How long an application's lease lasts, milliseconds.
    pub lease_ms: i32,
    /// Percent of reads sent to both sides and compared.
    pub shadow: u8,
    /// Buckets below this read from next.
    pub reads_next_below: Bucket,
    /// Buckets below this write to next.
    pub writes_next_below: Bucket,
    /// Buckets that take no writes for a moment.
    pub frozen: Option<Frozen>,
    /// A cohort that goes ahead of the buckets, or stays behind them.
    pub pilot: Option<Pilot>,
    /// Everything up to this legacy time has been applied to next, as of the last change.
    pub applied_through: ClusterTime,
    /// Where legacy lives.
    pub legacy: Ns,
    /// Where next lives.
    pub next: Ns,
    /// Buckets below this were given back to legacy while next did not answer: what was acknowledged there last may be missing on
    /// legacy until it is salvaged. 0 otherwise.
    pub stranded_below: Bucket,
    /// Who wrote this epoch: tells a compare-and-set of unknown outcome whether it won.
    pub nonce: i64,
}

/// Why a route document cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the route document is not usable: {0}")]
pub struct RouteError(pub String);

impl Route {
    /// The side whose documents a write of this key changes.
    #[must_use]
    pub fn owner(&self, at: &impl Located) -> Side {
        self.goes(at, |p| p.writes).side(at.bucket(), self.writes_next_below)
    }

    /// The side that answers a read of this key.
    #[must_use]
    pub fn reader(&self, at: &impl Located) -> Side {
        self.goes(at, |p| p.reads).side(at.bucket(), self.reads_next_below)
    }

    fn goes(&self, at: &impl Located, of: impl Fn(&Pilot) -> Goes) -> Goes {
        // Whoever goes with the buckets need not be told apart.
        let apart = self.pilot.as_ref().filter(|p| of(p) != Goes::Buckets && at.is_in(&p.cohort));
        apart.map_or(Goes::Buckets, of)
    }

    /// True when both routes give every key the same owner.
    #[must_use]
    pub fn owns_as(&self, other: &Route) -> bool {
        // A cohort that follows the buckets where none, or all, are on next goes where one that is held, or ahead, goes.
        let cohort = |r: &Route| match (r.pilot.as_ref().map_or(Goes::Buckets, |p| p.writes), r.writes_next_below) {
            (Goes::Buckets, 0) => Goes::Legacy,
            (Goes::Buckets, BUCKETS) => Goes::Next,
            (goes, _) => goes,
        };
        self.writes_next_below == other.writes_next_below && cohort(self) == cohort(other)
    }

    /// True while next serves a read or owns a write, of a bucket or of the cohort.
    #[must_use]
    pub fn uses_next(&self) -> bool {
        self.reads_next_below > 0 || self.pilot.as_ref().is_some_and(|p| p.reads == Goes::Next)
    }

    /// True while next owns a write, of a bucket or of the cohort.
    #[must_use]
    pub fn writes_to_next(&self) -> bool {
        self.writes_next_below > 0 || self.pilot.as_ref().is_some_and(|p| p.writes == Goes::Next)
    }

    /// True while next serves reads of keys that it does not own: they may be as old as it is behind.
    #[must_use]
    pub fn reads_ahead(&self) -> bool {
        let cohort = |p: &Pilot| p.reads == Goes::Next && p.writes != Goes::Next && self.writes_next_below < BUCKETS;
        self.reads_next_below > self.writes_next_below || self.pilot.as_ref().is_some_and(cohort)
    }

    /// True while the bucket takes no writes.
    #[must_use]
    pub fn is_frozen(&self, bucket: Bucket) -> bool {
        self.frozen.is_some_and(|f| (f.from..f.to).contains(&bucket))
    }

    /// The namespace of a side.
    #[must_use]
    pub fn ns(&self, side: Side) -> &Ns {
        match side {
            Side::Legacy => &self.legacy,
            Side::Next => &self.next,
        }
    }

    /// The route one epoch on without the freeze: ownership stays what it was.
    #[must_use]
    pub fn unfrozen(&self, nonce: i64) -> Route {
        Route { epoch: self.epoch + 1, frozen: None, nonce, ..self.clone() }
    }

    /// The document as stored.
    #[must_use]
    pub fn to_raw(&self) -> RawDocumentBuf {
        let frozen = self.frozen.map_or(Bson::Null, |f| {
            Bson::Document(doc! { "from": i32::from(f.from), "to": i32::from(f.to), "until": bson::DateTime::from_millis(f.until_ms) })
        });
        let d: Document = doc! {
            "_id": &self.plan,
            "epoch": self.epoch,
            "lease_ms": self.lease_ms,
            "shadow": i32::from(self.shadow),
            "reads_next_below": i32::from(self.reads_next_below),
            "writes_next_below": i32::from(self.writes_next_below),
            "frozen": frozen,
            "pilot": self.pilot.as_ref().map_or(Bson::Null, |p| Bson::Document(p.to_document())),
            "applied_through": bson::Timestamp::from(self.applied_through),
            "legacy": self.legacy.to_string(),
            "next": self.next.to_string(),
            "stranded_below": i32::from(self.stranded_below),
            "nonce": self.nonce,
        };
        // Field names and values above hold no NUL and are far below 16 MB, the only ways this can fail.
        RawDocumentBuf::try_from(&d).unwrap_or_default()
    }

    /// Reads a stored route document.
    ///
    /// # Errors
    /// Names the field that is missing or out of range.
    pub fn from_raw(raw: &RawDocument) -> Result<Route, RouteError> {
        let d = Document::try_from(raw).map_err(|e| RouteError(e.to_string()))?;
        let missing = |f: &str| RouteError(format!("field `{f}` is missing or of the wrong type"));
        let below = |f: &str| {
            let n = d.get_i32(f).map_err(|_| missing(f))?;
            u16::try_from(n)
                .ok()
                .filter(|n| *n <= BUCKETS)
                .ok_or_else(|| RouteError(format!("field `{f}` is {n}, not 0 to {BUCKETS}")))
        };
        let ns = |f: &str| Ns::parse(d.get_str(f).map_err(|_| missing(f))?).ok_or_else(|| missing(f));
        let frozen = match d.get("frozen") {
            None | Some(Bson::Null) => None,
            Some(Bson::Document(f)) => Some(Frozen {
                from: u16::try_from(f.get_i32("from").map_err(|_| missing("frozen.from"))?)
                    .map_err(|_| missing("frozen.from"))?,
                to: u16::try_from(f.get_i32("to").map_err(|_| missing("frozen.to"))?)
                    .map_err(|_| missing("frozen.to"))?,
                until_ms: f.get_datetime("until").map_err(|_| missing("frozen.until"))?.timestamp_millis(),
            }),
            Some(_) => return Err(missing("frozen")),
        };
        let pilot = match d.get("pilot") {
            None | Some(Bson::Null) => None,
            Some(Bson::Document(p)) => Some(Pilot::from_document(p).map_err(RouteError)?),
            Some(_) => return Err(missing("pilot")),
        };
        let route = Route {
            plan: d.get_str("_id").map_err(|_| missing("_id"))?.to_owned(),
            epoch: d.get_i64("epoch").map_err(|_| missing("epoch"))?,
            lease_ms: d.get_i32("lease_ms").map_err(|_| missing("lease_ms"))?,
            shadow: u8::try_from(d.get_i32("shadow").map_err(|_| missing("shadow"))?).map_err(|_| missing("shadow"))?,
            reads_next_below: below("reads_next_below")?,
            writes_next_below: below("writes_next_below")?,
            frozen,
            pilot,
            applied_through: d.get_timestamp("applied_through").map_err(|_| missing("applied_through"))?.into(),
            legacy: ns("legacy")?,
            next: ns("next")?,
            // Routes written before there was such a thing lack it.
            stranded_below: if d.contains_key("stranded_below") { below("stranded_below")? } else { 0 },
            nonce: d.get_i64("nonce").unwrap_or(0),
        };
        if route.writes_next_below > route.reads_next_below {
            return Err(RouteError("more writes than reads are on next".into()));
        }
        Ok(route)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bson::RawBsonRef;

    use crate::cluster::Key;
    use crate::route::Cohort;

    #[test]
    fn percent_to_buckets_rounds_up() {
        assert_eq!([0, 1, 5, 50, 100].map(below_for_percent), [0, 11, 52, 512, 1024]);
    }

    fn route() -> Route {
        Route {
            plan: "p".into(),
            epoch: 7,
            lease_ms: 5_000,
            shadow: 20,
            reads_next_below: 52,
            writes_next_below: 11,
            frozen: Some(Frozen { from: 0, to: 11, until_ms: 12_345 }),
            pilot: None,
            applied_through: ClusterTime { secs: 3, inc: 4 },
            legacy: Ns::new("shop", "orders"),
            next: Ns::new("shop", "orders.v2"),
            stranded_below: 11,
            nonce: -9,
        }
    }

    fn with(reads: Goes, writes: Goes) -> Route {
        let cohort = Cohort::new("_id.region", &["eu".into(), 5.into()]).unwrap();
        Route { pilot: Some(Pilot { cohort, reads, writes }), ..route() }
    }

    const GOES: [Goes; 3] = [Goes::Legacy, Goes::Buckets, Goes::Next];

    #[test]
    fn a_route_survives_its_document() {
        assert_eq!(Route::from_raw(&route().to_raw()).unwrap(), route());
        let piloted = with(Goes::Next, Goes::Legacy);
        assert_eq!(Route::from_raw(&piloted.to_raw()).unwrap(), piloted);
        // Documents of before there were pilots.
        let mut old = Document::try_from(&*route().to_raw()).unwrap();
        old.remove("pilot");
        assert_eq!(Route::from_raw(&RawDocumentBuf::try_from(&old).unwrap()).unwrap(), route());
        let raw = with(Goes::Buckets, Goes::Next).to_raw();
        assert!(Route::from_raw(&raw).unwrap_err().to_string().contains("ahead of its reads"));
    }

    #[test]
    fn a_cohort_goes_its_own_way_and_nobody_else_does() {
        let eu = Key::new(RawBsonRef::Document(&bson::rawdoc! { "region": "eu", "n": 1 })).unwrap();
        let us = Key::new(RawBsonRef::Document(&bson::rawdoc! { "region": "us", "n": 1 })).unwrap();
        for bucket in [0, 10, 11, 51, 52, 1023] {
            for (r, w) in GOES.iter().flat_map(|r| GOES.map(|w| (*r, w))) {
                let route = with(r, w);
                let plain = |below| if bucket < below { Side::Next } else { Side::Legacy };
                assert_eq!((route.reader(&(&us, bucket)), route.owner(&(&us, bucket))), (plain(52), plain(11)));
                let own = |g, below| match g {
                    Goes::Legacy => Side::Legacy,
                    Goes::Buckets => plain(below),
                    Goes::Next => Side::Next,
                };
                assert_eq!((route.reader(&(&eu, bucket)), route.owner(&(&eu, bucket))), (own(r, 52), own(w, 11)));
            }
        }
    }

    #[test]
    fn routes_own_alike_exactly_when_every_key_has_the_same_owner() {
        let eu = Key::new(RawBsonRef::Document(&bson::rawdoc! { "region": "eu", "n": 1 })).unwrap();
        let us = Key::from(7);
        let all: Vec<Route> = [0, 11, BUCKETS]
            .into_iter()
            .flat_map(|b| {
                GOES.map(|w| Route { writes_next_below: b, reads_next_below: BUCKETS, ..with(Goes::Next, w) })
            })
            .collect();
        for (a, b) in all.iter().flat_map(|a| all.iter().map(move |b| (a, b))) {
            let alike = (0..BUCKETS).all(|n| [&eu, &us].iter().all(|k| a.owner(&(*k, n)) == b.owner(&(*k, n))));
            assert_eq!(a.owns_as(b), alike, "{a:?} {b:?}");
        }
    }
}
