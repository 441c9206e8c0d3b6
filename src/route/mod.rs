//! Which side serves and owns each key: the bucket function, the route document, and the client that applications follow it with.

pub mod bucket;
pub mod client;
mod document;
mod pilot;
pub mod report;

pub use bucket::{BUCKETS, Bucket, BucketError, bucket_of};
pub use client::{ReadPlan, RouteClient, WritePermit};
pub use document::{Frozen, Route, RouteError, below_for_percent};
pub use pilot::{COHORT_MAX, Cohort, CohortError, Goes, Located, Pilot};
pub use report::OpKind;

/// One of the two sides of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Where the data lives now.
    Legacy,
    /// Where it goes.
    Next,
}

impl Side {
    /// Both sides, legacy first; index arrays with `side as usize`.
    pub const BOTH: [Side; 2] = [Side::Legacy, Side::Next];

    /// The other one.
    #[must_use]
    pub fn other(self) -> Side {
        match self {
            Side::Legacy => Side::Next,
            Side::Next => Side::Legacy,
        }
    }

    /// `legacy` or `next`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Side::Legacy => "legacy",
            Side::Next => "next",
        }
    }
}
