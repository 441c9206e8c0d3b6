//! What another terminal can know of a rollout: the picture, who holds the lease, and how old both are by the server's clock.

use crate::cluster::{ClusterTime, Db, Failed, Key};
use crate::engine::lease::{self, Lease, rollouts_ns};
use crate::runtime::{Micros, Rt};

use super::view::{View, ViewError, read_view};

/// The server's clock is asked again after this.
const CLOCK_FOR: Micros = Micros::from_secs(10);

/// A runner whose newest picture is older than this is not heard of.
const HEARD_WITHIN_MS: i64 = 5_000;

/// A moment, to the second.
#[must_use]
pub fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms / 1_000 * 1_000).map_or_else(|_| "?".into(), |t| t.to_string())
}

/// Whole seconds up to a minute, then as ever.
fn span(t: Micros) -> String {
    if t < Micros::from_secs(60) { format!("{}s", t.as_ms() / 1_000) } else { t.to_string() }
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The server's time when this was read, milliseconds since the Unix epoch.
    pub server_ms: i64,
    /// The lease; `None` when the plan was never run.
    pub lease: Option<Lease>,
    /// The newest picture; `None` when nobody has published one.
    pub view: Option<View>,
}

impl Seen {
    /// How old the picture is by the server's clock, milliseconds; `None` without one.
    #[must_use]
    pub fn age_ms(&self) -> Option<i64> {
        self.view.as_ref().map(|v| (self.server_ms - v.at_ms).max(0))
    }

    /// Why nobody moves what the picture shows; `None` while its runner is heard of, or has come to the end.
    #[must_use]
    pub fn absent(&self) -> Option<String> {
        let newer = |epoch: i64| self.holder().filter(|l| l.epoch > epoch);
        let Some(view) = &self.view else {
            let unseen =
                |l: &Lease| format!("{} has it since {} and has published nothing yet", l.holder, time(l.since_ms));
            return Some(self.holder().map_or_else(|| "nobody runs it".into(), unseen));
        };
        if let Some(l) = newer(view.epoch) {
            let since = time(l.since_ms);
            return Some(format!(
                "{} has taken it up (epoch {}, since {since}) and has published nothing yet",
                l.holder, l.epoch
            ));
        }
        match view.ended.as_deref() {
            Some("completed" | "rolled_back") => return None,
            // It is taken up again at once.
            Some("amended") => {}
            Some("stopped") => return Some(format!("stopped at a safe point at {}", time(view.at_ms))),
            Some(word) => {
                return Some(format!("the runner ended ({}) at {}", word.replace('_', " "), time(view.at_ms)));
            }
            None => {}
        }
        let silent = self.age_ms().filter(|age| *age > HEARD_WITHIN_MS)?;
        let lease = match &self.lease {
            Some(l) if l.expires_ms > self.server_ms => format!("its lease lasts until {}", time(l.expires_ms)),
            Some(l) if l.expires_ms > 0 => format!("its lease ran out at {}", time(l.expires_ms)),
            _ => "it has no lease".to_owned(),
        };
        let silent = Micros::from_ms(silent.unsigned_abs() / 1_000 * 1_000);
        Some(format!("the runner has not been heard of for {} ({lease})", span(silent)))
    }

    /// The lease of a runner that has one now.
    #[must_use]
    pub fn holder(&self) -> Option<&Lease> {
        self.lease.as_ref().filter(|l| l.expires_ms > self.server_ms)
    }
}

/// Looks on; writes nothing.
pub struct Looker {
    rt: Rt,
    db: Db,
    plan: String,
    /// The server's time, and the runtime's of the same moment.
    clock: Option<(i64, Micros)>,
}

impl Looker {
    /// For a plan on legacy's cluster.
    #[must_use]
    pub fn new(rt: &Rt, db: &Db, plan: &str) -> Looker {
        Looker { rt: rt.clone(), db: db.clone(), plan: plan.to_owned(), clock: None }
    }

    /// Looks once.
    ///
    /// # Errors
    /// When the cluster does not answer, or the picture is of another version.
    pub async fn look(&mut self) -> Result<Seen, ViewError> {
        let keys = [Key::from(self.plan.as_str())];
        let found = self.db.read(&rollouts_ns(), &keys, ClusterTime::ZERO).await.map_err(ViewError::Cluster)?;
        let lease = found.docs.first().and_then(|d| d.as_deref()).and_then(lease::parse);
        let view = read_view(&self.db, &self.plan).await?;
        let server_ms = self.server_ms().await.map_err(ViewError::Cluster)?;
        Ok(Seen { server_ms, lease, view })
    }

    /// The server's time now.
    async fn server_ms(&mut self) -> Result<i64, Failed> {
        let now = self.rt.now();
        if let Some((server, at)) = self.clock.filter(|(_, at)| now.since(*at) < CLOCK_FOR) {
            return Ok(server + now.since(at).as_ms() as i64);
        }
        let server = self.db.observe().await?.server_ms;
        self.clock = Some((server, self.rt.now()));
        Ok(server)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::snapshot::Snapshot;

    fn seen(at_ms: i64, expires_ms: i64, ended: Option<&str>) -> Seen {
        let d = bson::rawdoc! {
            "_id": "p", "epoch": 3_i64, "holder": "anna", "since_ms": 0_i64, "expires_ms": expires_ms, "nonce": 1_i64,
        };
        let snapshot = Arc::new(Snapshot::default());
        let view = View { epoch: 3, n: 1, at_ms, ended: ended.map(str::to_owned), snapshot };
        Seen { server_ms: 100_000, lease: lease::parse(&d), view: Some(view) }
    }

    #[test]
    fn a_runner_that_is_silent_is_said_to_be_with_what_became_of_its_lease() {
        assert_eq!(seen(98_800, 105_000, None).absent(), None);
        assert_eq!(seen(98_800, 105_000, None).age_ms(), Some(1_200));
        let silent = |expires| seen(60_000, expires, None).absent().unwrap();
        assert_eq!(
            silent(70_000),
            "the runner has not been heard of for 40s (its lease ran out at 1970-01-01T00:01:10Z)"
        );
        assert!(silent(104_000).contains("its lease lasts until 1970-01-01T00:01:44Z"));
        assert!(silent(0).contains("it has no lease"));
    }

    #[test]
    fn an_end_is_not_silence() {
        assert_eq!(seen(1_000, 0, Some("completed")).absent(), None);
        assert_eq!(
            seen(60_000, 0, Some("stopped")).absent().unwrap(),
            "stopped at a safe point at 1970-01-01T00:01:00Z"
        );
        let mut next = seen(60_000, 110_000, Some("stopped"));
        let lease = next.lease.as_mut().unwrap();
        (lease.epoch, lease.holder) = (4, "bob".into());
        assert!(next.absent().unwrap().starts_with("bob has taken it up (epoch 4, since "));
    }
}
