//! Two stores in one: the first is the truth, the second follows it.

use std::sync::Arc;

use super::{JournalError, JournalStore, Record};
use crate::runtime::Fut;

/// A primary store (the database) and a follower (the local file). A record is acknowledged when both have it.
pub struct TeeStore {
    primary: Arc<dyn JournalStore>,
    follower: Arc<dyn JournalStore>,
}

impl TeeStore {
    /// `follower` gets what `primary` has acknowledged.
    #[must_use]
    pub fn new(primary: Arc<dyn JournalStore>, follower: Arc<dyn JournalStore>) -> Self {
        TeeStore { primary, follower }
    }
}

impl JournalStore for TeeStore {
    fn append<'a>(&'a self, record: &'a Record) -> Fut<'a, Result<(), JournalError>> {
        Box::pin(async move {
            self.primary.append(record).await?;
            self.follower.append(record).await
        })
    }

    /// Loads the primary and brings the follower up to it. A follower that holds something else is
    /// [`JournalError::Diverged`].
    fn load(&self) -> Fut<'_, Result<Vec<Record>, JournalError>> {
        Box::pin(async move {
            let records = self.primary.load().await?;
            let copy = self.follower.load().await?;
            for (i, r) in copy.iter().enumerate() {
                if records.get(i).is_none_or(|p| p.hash != r.hash) {
                    return Err(JournalError::Diverged { seq: r.seq });
                }
            }
            for r in &records[copy.len()..] {
                self.follower.append(r).await?;
            }
            Ok(records)
        })
    }
}
