//! What must hold when a run has come to rest.

use std::collections::BTreeMap;

use tidegate::rollout::{Event, State, Status};
use tidegate::route::Side;
use tidegate::runtime::Micros;
use tidegate::workload::Shapes;

use super::faults::Sort;
use super::world::{Simulation, sim_now};

impl Simulation {
    /// Writes the journal of a run that failed, where that is asked for.
    pub(super) fn keep_journal(&self) {
        if let Ok(path) = std::env::var("TIDEGATE_SIM_JOURNAL") {
            let lines: Vec<String> = self.journal.records().iter().map(tidegate::journal::show).collect();
            std::fs::write(path, lines.join("\n")).unwrap();
        }
    }

    pub(super) fn why(&self) -> String {
        let last: Vec<String> = self.journal.records().iter().rev().take(6).map(tidegate::journal::show).collect();
        let why = self.engine.as_ref().map_or_else(
            || "no runner".to_owned(),
            |e| {
                let s = e.snapshot();
                format!("{:?}: {}", s.phase, s.why)
            },
        );
        format!("{why}; last records: {}", last.join(" | "))
    }

    pub(super) fn finish(&mut self) -> Result<(), String> {
        self.settle()?;
        self.monitor.check_journal()?;
        self.check_data()?;
        self.check_replay(true)
    }

    /// A rollout whose oplog is lost stops and says so: no owner has lost anything.
    pub(super) fn finish_stopped(&mut self) -> Result<(), String> {
        self.settle()?;
        self.check_replay(false)?;
        let w = self.workload.clone();
        let verified = self.sim.block_on(async move { w.verify_owned().await });
        let verified = verified.ok_or("nothing is left to run")?.map_err(|e| format!("not comparable: {e}"))?;
        if verified.lost > 0 {
            return Err(format!("I1: {} orders are lost after the oplog was: {:?}", verified.lost, verified.examples));
        }
        self.stats.stopped = 1;
        Ok(())
    }

    /// Ends the application, looks for the last time and counts up.
    fn settle(&mut self) -> Result<(), String> {
        self.sim.run_until(self.rt.now() + Micros::from_secs(5));
        let w = self.workload.clone();
        let stopped = self.sim.block_on(async move { w.stop().await });
        stopped.ok_or("the application did not stop")?;
        self.monitor.look(sim_now(&self.sim))?;
        if let Some(v) = self.workload.oracle().violations().first() {
            return Err(format!("I1: {v}"));
        }
        self.stats.commits = self.monitor.check_commits()? as u64;
        let count = |kind: &str| self.journal.records().iter().filter(|r| r.kind == kind).count() as u64;
        self.stats.back = (count("rolled_back"), count("returned"));
        let counters = self.cluster.counters();
        self.stats.unknown = counters.unknown;
        self.stats.landed_late = counters.landed_late;
        self.stats.acknowledged = self.workload.totals().acknowledged as u64;
        self.stats.took = self.rt.now();
        self.stats.points = [self.points.count(Sort::Call), self.points.count(Sort::Append)];
        self.stats.journal_hash = self.journal.records().last().map(|r| r.hash.clone()).unwrap_or_default();
        Ok(())
    }

    /// I1, I2, I3 at the end: next holds exactly what was acknowledged, in next's shape. I8: after a rollback legacy does, in its own.
    fn check_data(&self) -> Result<(), String> {
        let c = &self.plan.collections[0];
        let shapes = Shapes::of(c).unwrap();
        let back = self.state().status == Status::RolledBack;
        let (name, side, ns) = if back { ("I8", Side::Legacy, &c.legacy) } else { ("I1", Side::Next, &c.next) };
        let dump: BTreeMap<_, _> = self.cluster.dump(ns).into_iter().collect();
        let v = self.workload.oracle().verify_dump(&dump, |o| shapes.document(side, o, 10));
        if v.lost > 0 {
            return Err(format!(
                "{name}: {} of {} orders are not as acknowledged: {:?}",
                v.lost, v.checked, v.examples
            ));
        }
        Ok(())
    }

    /// I9: any prefix of the journal gives one state, and the whole of one that is over gives a finished one.
    fn check_replay(&self, over: bool) -> Result<(), String> {
        let (mut a, mut b) = (State::default(), State::default());
        for r in self.journal.records() {
            for s in [&mut a, &mut b] {
                s.apply(&Event::from_parts(&r.kind, &r.body).unwrap(), &self.plan);
            }
            if a != b {
                return Err(format!("I9: replaying the journal twice gave two states at record {}", r.seq));
            }
        }
        if !over || a.closed && (a.route_epoch > 0 || a.back.is_some()) {
            return Ok(());
        }
        Err(format!("I9: the journal's last state is {a:?}"))
    }
}
