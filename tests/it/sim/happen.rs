//! What a mishap does to the world, and how what lasts for a while is taken back.

use std::sync::atomic::Ordering;

use bson::{RawDocumentBuf, rawdoc};
use tidegate::cluster::{Cluster, Key, WriteOp};
use tidegate::journal::Fault;
use tidegate::route::client::acks_ns;
use tidegate::runtime::{Group, Micros, sleep};
use tidegate::snapshot::Command;

use super::faults::{Kind, Mishap, set_fates, set_rates};
use super::world::Simulation;

/// The processes that do not acknowledge have groups from here on.
const DEAF: u32 = 100_000;
/// Whoever tidies up after it.
const TIDY: Group = Group(5);

/// What ends after a while.
#[derive(Clone, Copy, Debug)]
pub enum Undo {
    Reachable,
    /// A line: 0 to the runners, 1 to the application.
    Join(usize),
    /// A member that was cut off.
    Member(usize),
    /// A runner that stood still.
    Resume(u32),
    /// A process that did not acknowledge is gone.
    Deaf(u32),
}

impl Simulation {
    pub(super) fn mishap(&mut self, m: Mishap) {
        let now = self.rt.now();
        let until = |span: Micros| now + span;
        let kind = match m {
            Mishap::Kill { down } => {
                self.kill_runner();
                self.start_at = Some(until(down));
                Kind::Kill
            }
            Mishap::CrashAt { sort, nth, moment, down } => {
                self.points.arm(sort, nth, moment);
                self.down = down;
                Kind::CrashAt
            }
            // The old one keeps running until it notices.
            Mishap::TakeOver if self.generation > 0 => {
                self.take_over();
                Kind::TakeOver
            }
            Mishap::Crowd if self.generation > 0 => {
                self.take_over();
                self.take_over();
                Kind::Crowd
            }
            Mishap::Stall { span, take_over } if self.generation > 0 => {
                Self::groups(self.generation).into_iter().for_each(|g| self.sim.suspend(g));
                self.undo.push((until(span), Undo::Resume(self.generation)));
                if take_over {
                    self.take_over();
                }
                Kind::Stall
            }
            Mishap::TakeOver | Mishap::Crowd | Mishap::Stall { .. } => return,
            Mishap::CutRunner { span } => self.cut(0, until(span), Kind::CutRunner),
            Mishap::CutApplication { span } => self.cut(1, until(span), Kind::CutApplication),
            Mishap::Disk { stored, down } => {
                self.disks += 1;
                self.down = down;
                self.journal.fail_next(if stored { Fault::FailAfter } else { Fault::FailBefore });
                Kind::Disk
            }
            Mishap::Clock { server: false, by_ms } => {
                self.clock_off_ms.fetch_add(by_ms, Ordering::SeqCst);
                Kind::Clock
            }
            Mishap::Deaf { silent, span } => {
                self.deafs += 1;
                self.deaf(silent);
                self.undo.push((until(span), Undo::Deaf(self.deafs)));
                Kind::Deaf
            }
            Mishap::Pause { span } => {
                self.send(Command::Pause);
                self.send(Command::Pause);
                self.continue_at = Some(until(span));
                Kind::Pause
            }
            Mishap::Calm => {
                self.calm();
                Kind::Calm
            }
            of_cluster => self.cluster_mishap(of_cluster, now),
        };
        *self.stats.happened.entry(kind).or_default() += 1;
    }

    fn cluster_mishap(&mut self, m: Mishap, now: Micros) -> Kind {
        let faults = self.cluster.faults();
        match m {
            Mishap::StepDown => {
                faults.step_down();
                Kind::StepDown
            }
            Mishap::Slow { percent } => {
                faults.set_latency(percent);
                Kind::Slow
            }
            Mishap::Lag { by } => {
                (1..self.case.nodes()).for_each(|n| faults.set_lag(n, by));
                Kind::Lag
            }
            Mishap::Unknown { ppm, late } => {
                set_fates(&faults, late);
                set_rates(&faults, ppm, 5_000);
                Kind::Unknown
            }
            Mishap::Errors { ppm } => {
                set_rates(&faults, 5_000, ppm);
                Kind::Errors
            }
            Mishap::BreakStreams => {
                faults.break_streams();
                Kind::BreakStreams
            }
            Mishap::Unreachable { span } => {
                faults.set_unreachable(true);
                self.undo.push((now + span, Undo::Reachable));
                Kind::Unreachable
            }
            Mishap::CutMember { primary, span } => {
                let at = faults.primary();
                let node = if primary { at } else { (at + 1) % self.case.nodes() };
                faults.set_cut(node, true);
                self.undo.push((now + span, Undo::Member(node)));
                Kind::CutMember
            }
            Mishap::Clock { by_ms, .. } => {
                faults.jump_clock(by_ms);
                Kind::Clock
            }
            Mishap::OplogLoss => {
                self.oplog_lost = true;
                faults.truncate_oplog();
                Kind::OplogLoss
            }
            other => unreachable!("{other:?} is not the cluster's"),
        }
    }

    pub(super) fn take_back(&mut self, undo: Undo) {
        let faults = self.cluster.faults();
        match undo {
            Undo::Reachable => faults.set_unreachable(false),
            Undo::Join(line) => self.lines[line].set_cut(false),
            Undo::Member(node) => faults.set_cut(node, false),
            Undo::Resume(generation) => Self::groups(generation).into_iter().for_each(|g| self.sim.resume(g)),
            Undo::Deaf(n) => self.tidy_up(n),
        }
    }

    fn cut(&mut self, line: usize, until: Micros, kind: Kind) -> Kind {
        self.lines[line].set_cut(true);
        self.undo.push((until, Undo::Join(line)));
        kind
    }

    fn take_over(&mut self) {
        self.engine = None;
        self.start_at = None;
        self.begin_start();
    }

    pub(super) fn kill_runner(&mut self) {
        Self::groups(self.generation).into_iter().for_each(|g| self.rt.kill(g));
        self.died();
    }

    fn died(&mut self) {
        self.journal.crash();
        self.engine = None;
        self.starting = None;
    }

    /// A runner that died at a point of its own is followed by another, which may die too.
    pub(super) fn attend_deaths(&mut self, now: Micros) {
        let Some(generation) = self.points.take_died() else { return };
        self.stats.died += 1;
        if generation == self.generation {
            self.died();
            self.start_at = Some(now + self.down);
        }
        if let Some(nth) = self.again.pop() {
            self.points.arm(super::faults::Sort::Call, nth, super::faults::Moment::During);
        }
    }

    /// A process registers and then follows the route no further: alive, or not.
    fn deaf(&self, silent: bool) {
        let (rt, db, plan, n) = (self.rt.clone(), self.cluster.clone(), self.plan.id.clone(), self.deafs);
        let epoch = self.monitor.route_epoch();
        self.rt.spawn(
            Group(DEAF + n),
            "deaf process",
            Box::pin(async move {
                for beat in 1i64.. {
                    let op = WriteOp::Replace {
                        ns: acks_ns(),
                        key: deaf_key(&plan, n),
                        only_if: None,
                        doc: deaf_document(&plan, n, epoch, beat),
                        upsert: true,
                    };
                    if db.write(&op).await.is_ok() && silent {
                        return;
                    }
                    sleep(&rt, Micros::from_ms(500)).await;
                }
            }),
        );
    }

    /// What an operator does about it: the process is stopped and its document deleted.
    fn tidy_up(&mut self, n: u32) {
        self.rt.kill(Group(DEAF + n));
        let key = deaf_key(&self.plan.id, n);
        self.monitor.withdrawn(&key.to_string());
        let (rt, db) = (self.rt.clone(), self.cluster.clone());
        self.rt.spawn(
            TIDY,
            "tidy up",
            Box::pin(async move {
                // Twice, some time apart: a write of the dead process may land late.
                for pause in [3_000, 0] {
                    let op = WriteOp::Delete { ns: acks_ns(), key: key.clone(), only_if: None };
                    while db.write(&op).await.is_err() {
                        sleep(&rt, Micros::from_ms(300)).await;
                    }
                    sleep(&rt, Micros::from_ms(pause)).await;
                }
            }),
        );
    }

    /// Everything that lasts ends.
    pub(super) fn calm(&mut self) {
        self.cluster.faults().clear();
        for (_, undo) in std::mem::take(&mut self.undo) {
            self.take_back(undo);
        }
        self.plant();
    }

    /// Health does not mend a planted mistake.
    pub(super) fn plant(&self) {
        #[cfg(feature = "planted-bugs")]
        {
            use tidegate::engine::planted::Bug;
            let planted = self.case.planted;
            self.cluster.set_read_only_fence(planted.has(Bug::ReadOnlyFence));
            self.cluster
                .set_unfenced(planted.has(Bug::StaleEpochOnLegacy).then(|| self.plan.collections[0].legacy.clone()));
            if planted.has(Bug::JournalAckBeforeSync) {
                self.journal.set_ack_before_sync();
            }
        }
    }
}

fn deaf_key(plan: &str, n: u32) -> Key {
    Key::from(format!("{plan}/deaf-{n}").as_str())
}

fn deaf_document(plan: &str, n: u32, epoch: i64, beat: i64) -> RawDocumentBuf {
    let process = format!("deaf-{n}");
    rawdoc! { "_id": format!("{plan}/{process}"), "plan": plan, "process": process, "epoch": epoch, "beat": beat, "report": {} }
}
