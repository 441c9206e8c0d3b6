//! What servers say about their load: into the metrics, and onto the screen. Of two clusters the worse one counts.

use super::live_view::LiveView;
use crate::cluster::Observation;
use crate::cluster::load::{Load, Tickets, conflict_rate};
use crate::route::Side;
use crate::runtime::Micros;
use crate::snapshot::LoadView;

/// What was seen longer ago says nothing about now.
const FRESH: Micros = Micros::from_secs(5);

/// Takes what was seen of a side's cluster.
pub(super) fn note(live: &mut LiveView, side: Side, now: Micros, seen: Observation) {
    live.observed[side as usize] = Some((now, seen));
    let (lag, window) = (live.replication_lag(), live.oplog_window());
    if all_fresh(&live.observed, now) {
        set(live, now, "lag.replication", lag.map(|t| t.0 as f64));
        set(live, now, "oplog.window", window.map(|t| t.0 as f64));
    }
}

/// Takes what a side's cluster told of its load.
pub(super) fn note_load(live: &mut LiveView, side: Side, now: Micros, told: Load) {
    let slot = side as usize;
    let earlier = live.loads[slot].as_ref().and_then(|(at, load)| Some((*at, load.conflicts?)));
    live.conflicts[slot] = earlier.zip(told.conflicts).and_then(|(then, n)| conflict_rate(then, (now, n)));
    live.loads[slot] = Some((now, told));
    if !all_fresh(&live.loads, now) {
        return;
    }
    let view = view(live, now);
    for (name, value) in [
        ("tickets.read", view.read_tickets.map(|t| f64::from(t.0))),
        ("tickets.write", view.write_tickets.map(|t| f64::from(t.0))),
        ("queue.depth", view.queued.map(|n| n as f64)),
        ("cache.dirty_ratio", view.cache_dirty),
        ("conflicts.rate", view.conflicts),
    ] {
        set(live, now, name, value);
    }
}

/// One cluster that has fallen silent may be the worse one: then nothing is known of both.
fn all_fresh<T>(seen: &[Option<(Micros, T)>; 2], now: Micros) -> bool {
    seen.iter().all(|s| s.is_none() || fresh(s, now).is_some())
}

/// What nobody told is no sample: its age says so.
fn set(live: &mut LiveView, now: Micros, name: &'static str, value: Option<f64>) {
    if let Some(value) = value {
        live.metrics.set(name, None, now, value);
    }
}

/// What was seen of a cluster, unless that is too long ago.
pub(super) fn fresh<T>(seen: &Option<(Micros, T)>, now: Micros) -> Option<&T> {
    seen.as_ref().filter(|(at, _)| now.since(*at) <= FRESH).map(|(_, seen)| seen)
}

fn loads(live: &LiveView, now: Micros) -> impl Iterator<Item = (usize, &Load)> {
    live.loads.iter().enumerate().filter_map(move |(side, told)| Some((side, fresh(told, now)?)))
}

/// The worst of both clusters, as far as it was told a moment ago.
pub(super) fn view(live: &LiveView, now: Micros) -> LoadView {
    let all = || loads(live, now).map(|(_, load)| load);
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
        age: live.loads.iter().flatten().map(|(at, _)| now.since(*at)).max(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(free: u32, conflicts: u64) -> Load {
        Load {
            read_tickets: Some(Tickets { available: free, total: 128 }),
            conflicts: Some(conflicts),
            ..Load::default()
        }
    }

    #[test]
    fn the_worse_cluster_counts_and_what_was_not_told_is_not_known() {
        let (mut live, s) = (LiveView::default(), Micros::from_secs);
        note_load(&mut live, Side::Legacy, s(1), told(100, 10));
        note_load(&mut live, Side::Next, s(1), told(40, 0));
        let v = view(&live, s(2));
        assert_eq!((v.read_tickets, v.write_tickets, v.conflicts), (Some((40, 128)), None, None));
        note_load(&mut live, Side::Legacy, s(3), told(100, 16));
        assert_eq!(view(&live, s(3)).conflicts, Some(3.0));
        let sample = |live: &LiveView, name| live.metrics.sample(name, None, s(10), s(3)).map(|s| s.value);
        assert_eq!(sample(&live, "tickets.read"), Some(40.0));
        assert_eq!(sample(&live, "conflicts.rate"), Some(3.0));
        assert_eq!(sample(&live, "queue.depth"), None);
        let later = view(&live, s(7));
        assert_eq!((later.read_tickets, later.age), (Some((100, 128)), Some(s(6))), "what is old is not shown as new");
        // Next has been silent for longer than what is told of now may be old.
        note_load(&mut live, Side::Legacy, s(8), told(90, 16));
        assert_eq!(
            live.metrics.sample("tickets.read", None, s(10), s(8)).map(|s| s.age),
            Some(s(5)),
            "not known of both"
        );
    }
}
