//! What servers say about their own load. What one does not say, or may not be asked, is `None`.

use crate::runtime::Micros;

/// Tickets of one kind: so many operations may be inside the storage engine at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tickets {
    /// Free now.
    pub available: u32,
    /// Free or taken.
    pub total: u32,
}

impl Tickets {
    /// Taken now.
    #[must_use]
    pub fn in_use(self) -> u32 {
        self.total.saturating_sub(self.available)
    }

    /// The share that is free, 0 to 1; `None` where there are none at all.
    #[must_use]
    pub fn free(self) -> Option<f64> {
        (self.total > 0).then(|| f64::from(self.available) / f64::from(self.total))
    }
}

/// Flow control: a primary takes fewer writes while the majority is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowControl {
    /// It is switched on.
    pub enabled: bool,
    /// The server holds writes back now.
    pub lagged: bool,
}

/// The load of a primary.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Tickets for reads.
    pub read_tickets: Option<Tickets>,
    /// Tickets for writes.
    pub write_tickets: Option<Tickets>,
    /// Operations that wait for a lock or a ticket.
    pub queued: Option<u64>,
    /// The share of the cache that is not on disk yet, 0 to 1.
    pub cache_dirty: Option<f64>,
    /// The share of the cache that is in use, 0 to 1.
    pub cache_used: Option<f64>,
    /// Whether the server holds writes back by itself.
    pub flow_control: Option<FlowControl>,
    /// Write conflicts since the server started.
    pub conflicts: Option<u64>,
}

impl Load {
    /// The server said nothing at all.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        *self == Load::default()
    }
}

/// Write conflicts a second between two readings of the counter; `None` when the server was started anew in between.
#[must_use]
pub fn conflict_rate(before: (Micros, u64), now: (Micros, u64)) -> Option<f64> {
    let span = now.0.since(before.0);
    (span > Micros::ZERO && now.1 >= before.1).then(|| (now.1 - before.1) as f64 / span.as_secs_f64())
}

/// How many operations took how long: the longest time that a class holds, and how many are in it, rising.
pub type LatencyClasses = Vec<(Micros, u64)>;

/// How long operations of one collection took inside the server, since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatencyCounts {
    /// Reads.
    pub reads: LatencyClasses,
    /// Writes.
    pub writes: LatencyClasses,
}

impl LatencyCounts {
    /// The operations since an earlier reading; `None` when the counters began anew in between (a restart, another primary).
    #[must_use]
    pub fn since(&self, earlier: &LatencyCounts) -> Option<LatencyCounts> {
        Some(LatencyCounts { reads: more(&earlier.reads, &self.reads)?, writes: more(&earlier.writes, &self.writes)? })
    }
}

/// What each class has more than before; `None` when one has less.
fn more(before: &LatencyClasses, now: &LatencyClasses) -> Option<LatencyClasses> {
    let of = |class: Micros| now.iter().find(|(c, _)| *c == class).map_or(0, |(_, n)| *n);
    if before.iter().any(|(class, n)| of(*class) < *n) {
        return None;
    }
    let was = |class: Micros| before.iter().find(|(c, _)| *c == class).map_or(0, |(_, n)| *n);
    Some(now.iter().map(|(class, n)| (*class, n - was(*class))).filter(|(_, n)| *n > 0).collect())
}

/// Lower bounds of the classes of a server's latency histogram, microseconds: octaves up to 2 ms, half octaves from there to 2 s,
/// octaves again beyond.
const BOUNDS: [u64; 51] = bounds();

const fn bounds() -> [u64; 51] {
    let mut all = [0; 51];
    let (mut i, mut at) = (1, 2);
    while i < all.len() {
        all[i] = at;
        i += 1;
        if at >= 2_048 && at < 2_097_152 && i < all.len() {
            all[i] = at + at / 2;
            i += 1;
        }
        at *= 2;
    }
    all
}

/// The longest time of the class that begins at `from`.
#[must_use]
pub fn class_end(from: Micros) -> Micros {
    let next = BOUNDS[BOUNDS.partition_point(|b| *b <= from.0).min(BOUNDS.len() - 1)];
    Micros(next.saturating_sub(1).max(from.0))
}

/// The class that a time belongs to.
#[must_use]
pub(crate) fn class_of(time: Micros) -> Micros {
    let at = BOUNDS.partition_point(|b| *b <= time.0).saturating_sub(1);
    class_end(Micros(BOUNDS[at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(reads: &[(u64, u64)]) -> LatencyCounts {
        LatencyCounts { reads: reads.iter().map(|(c, n)| (Micros(*c), *n)).collect(), writes: Vec::new() }
    }

    #[test]
    fn classes_are_those_of_a_server() {
        let end = |from| class_end(Micros(from)).0;
        assert_eq!([0, 2, 1_024, 2_048, 3_072, 4_096].map(end), [1, 3, 2_047, 3_071, 4_095, 6_143]);
        assert_eq!(end(786_432), 1_048_575);
        assert_eq!([1_048_576, 1_572_864, 2_097_152].map(end), [1_572_863, 2_097_151, 4_194_303]);
        assert_eq!(BOUNDS[50], 1 << 40);
        assert_eq!([0, 1, 2, 5_000, 6_144].map(|t| class_of(Micros(t)).0), [1, 1, 3, 6_143, 8_191]);
    }

    #[test]
    fn what_came_since_an_earlier_reading_is_the_difference() {
        let (a, b) = (counts(&[(3, 5), (7, 2)]), counts(&[(3, 9), (7, 2), (15, 1)]));
        assert_eq!(b.since(&a), Some(counts(&[(3, 4), (15, 1)])));
        assert_eq!(a.since(&a), Some(counts(&[])));
        assert_eq!(a.since(&b), None, "a server that was started anew counts from nothing");
    }

    #[test]
    fn a_counter_that_went_back_says_nothing() {
        let s = Micros::from_secs;
        assert_eq!(conflict_rate((s(1), 10), (s(3), 30)), Some(10.0));
        assert_eq!(conflict_rate((s(1), 10), (s(3), 9)), None);
        assert_eq!(conflict_rate((s(1), 10), (s(1), 10)), None);
    }
}
