//! What servers say about their load: into the metrics, and onto the screen. Of two clusters the worse one counts.

use super::live_view::LiveView;
use crate::cluster::Observation;
use crate::cluster::load::{Load, Tickets, conflict_rate};
use crate::route::Side;
use crate::runtime::Micros;
use crate::snapshot::LoadView;

/// What was seen longer ago is not shown as if it were now.
const FRESH: Micros = Micros::from_secs(5);

/// Takes what was seen of a side's cluster.
pub(super) fn note(live: &mut LiveView, side: Side, now: Micros, seen: Observation) {
    let slot = side as usize;
    let earlier = live.observed[slot].as_ref().and_then(|(at, o)| Some((*at, o.load.conflicts?)));
    live.conflicts[slot] = earlier.zip(seen.load.conflicts).and_then(|(then, n)| conflict_rate(then, (now, n)));
    live.observed[slot] = Some((now, seen));
    let view = view(live, now);
    let window = loads(live, now).filter_map(|(_, o)| o.oplog_window).min();
    for (name, value) in [
        ("lag.replication", live.replication_lag().map(|t| t.0 as f64)),
        ("oplog.window", window.map(|t| t.0 as f64)),
        ("tickets.read", view.read_tickets.map(|t| f64::from(t.0))),
        ("tickets.write", view.write_tickets.map(|t| f64::from(t.0))),
        ("queue.depth", view.queued.map(|n| n as f64)),
        ("cache.dirty_ratio", view.cache_dirty),
        ("conflicts.rate", view.conflicts),
    ] {
        // What nobody told is no sample: its age says so.
        if let Some(value) = value {
            live.metrics.set(name, None, now, value);
        }
    }
}

fn loads(live: &LiveView, now: Micros) -> impl Iterator<Item = (usize, &Observation)> {
    live.observed.iter().enumerate().filter_map(move |(side, seen)| {
        let (at, seen) = seen.as_ref()?;
        (now.since(*at) <= FRESH).then_some((side, seen))
    })
}

/// The worst of both clusters, as far as it was seen a moment ago.
pub(super) fn view(live: &LiveView, now: Micros) -> LoadView {
    let all = || loads(live, now).map(|(_, o)| &o.load);
    let tickets = |of: fn(&Load) -> Option<Tickets>| {
        let fewest = all().filter_map(of).min_by_key(|t| t.available)?;
        Some((fewest.available, fewest.total))
    };
    LoadView {
        read_tickets: tickets(|l| l.read_tickets),
        write_tickets: tickets(|l| l.write_tickets),
        queued: all().filter_map(|l| l.queued).max(),
        cache_dirty: all().filter_map(|l| l.cache_dirty).max_by(f64::total_cmp),
        cache_used: all().filter_map(|l| l.cache_used).max_by(f64::total_cmp),
        flow_control: all().filter_map(|l| l.flow_control).map(|f| f.enabled && f.lagged).max(),
        conflicts: loads(live, now).filter_map(|(side, _)| live.conflicts[side]).max_by(f64::total_cmp),
        age: live.observed.iter().flatten().map(|(at, _)| now.since(*at)).max(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(free: u32, conflicts: u64) -> Observation {
        let load = Load {
            read_tickets: Some(Tickets { available: free, total: 128 }),
            conflicts: Some(conflicts),
            ..Load::default()
        };
        Observation { load, ..Observation::default() }
    }

    #[test]
    fn the_worse_cluster_counts_and_what_was_not_told_is_not_known() {
        let (mut live, s) = (LiveView::default(), Micros::from_secs);
        note(&mut live, Side::Legacy, s(1), seen(100, 10));
        note(&mut live, Side::Next, s(1), seen(40, 0));
        let v = view(&live, s(2));
        assert_eq!((v.read_tickets, v.write_tickets, v.conflicts), (Some((40, 128)), None, None));
        note(&mut live, Side::Legacy, s(3), seen(100, 16));
        assert_eq!(view(&live, s(3)).conflicts, Some(3.0));
        let sample = |live: &LiveView, name| live.metrics.sample(name, None, s(10), s(3)).map(|s| s.value);
        assert_eq!(sample(&live, "tickets.read"), Some(40.0));
        assert_eq!(sample(&live, "conflicts.rate"), Some(3.0));
        assert_eq!(sample(&live, "queue.depth"), None);
        let later = view(&live, s(7));
        assert_eq!((later.read_tickets, later.age), (Some((100, 128)), Some(s(6))), "what is old is not shown as new");
    }
}
