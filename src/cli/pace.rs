//! What moves a drill's virtual time: as fast as it goes, or at the pace of a person's screen.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot::{Receiver, error::TryRecvError};

use super::keys::Press;
use crate::drill::Drill;
use crate::runtime::Micros;
use crate::snapshot::{Command, Reply, Snapshot, TraceAsk};
use crate::tui::app::current_stage;
use crate::tui::run::Source;

/// A drill with what a keys file does in it.
pub(super) struct Scripted {
    drill: Drill,
    presses: VecDeque<Press>,
    waiting: Vec<(Press, Receiver<Reply>)>,
    refused: Vec<String>,
    until: Micros,
}

impl Scripted {
    /// `until` is the virtual time at which it ends at the latest.
    pub(super) fn new(drill: Drill, presses: Vec<Press>, until: Micros) -> Scripted {
        Scripted { drill, presses: presses.into(), waiting: Vec::new(), refused: Vec::new(), until }
    }

    pub(super) fn drill(&self) -> &Drill {
        &self.drill
    }

    /// The rollout has ended, or its time is up.
    pub(super) fn is_over(&self) -> bool {
        self.drill.ended().is_some() || self.is_time_up()
    }

    pub(super) fn is_time_up(&self) -> bool {
        self.drill.now() >= self.until
    }

    /// Runs up to `to`, doing what the keys file says at exactly its times.
    pub(super) fn run_to(&mut self, to: Micros) {
        let to = to.min(self.until);
        while let Some(press) = self.presses.front().copied().filter(|p| p.at <= to) {
            self.presses.pop_front();
            self.drill.run_until(press.at);
            self.press(press);
        }
        self.drill.run_until(to);
        self.collect();
    }

    fn press(&mut self, press: Press) {
        let Some(command) = press.command.of(current_stage(&self.drill.snapshot())) else {
            return self.refuse(press, "no stage is under way");
        };
        match self.drill.send(command) {
            Some(reply) => self.waiting.push((press, reply)),
            None => self.refuse(press, "the rollout takes no commands any more"),
        }
    }

    fn refuse(&mut self, press: Press, why: &str) {
        self.refused.push(format!("line {}: {} at {} was refused: {why}", press.line, press.command.name(), press.at));
    }

    fn collect(&mut self) {
        for (press, mut reply) in std::mem::take(&mut self.waiting) {
            match reply.try_recv() {
                Ok(Reply::Refused(why)) => self.refuse(press, &why),
                Ok(Reply::Accepted | Reply::Applied) => {}
                Err(TryRecvError::Empty) => self.waiting.push((press, reply)),
                Err(TryRecvError::Closed) => self.refuse(press, "the rollout ended before it was answered"),
            }
        }
    }

    /// What was refused since the last call, in words.
    pub(super) fn take_refused(&mut self) -> Vec<String> {
        std::mem::take(&mut self.refused)
    }
}

/// Virtual time that is run without looking at the clock.
const STEP: Micros = Micros::from_ms(10);
/// Work for one frame, at most: keys are taken in between.
const WORK: Duration = Duration::from_millis(25);
/// A frame later than this was not the simulation's doing (a suspended process, a closed lid); that time is not made up for.
const LATE: Duration = Duration::from_millis(300);
/// How often it is judged, and said, whether the pace is kept.
const JUDGE: Duration = Duration::from_secs(10);

/// A drill at the pace of a screen: `speed` seconds of virtual time a second.
pub(super) struct PacedDrill {
    scripted: Scripted,
    speed: f64,
    replies: Vec<(u64, Receiver<Reply>)>,
    problems: Vec<String>,
    /// Virtual time wanted and not yet run.
    owed: f64,
    judged: Duration,
    judged_from: Micros,
    time_up_said: bool,
}

impl PacedDrill {
    pub(super) fn new(scripted: Scripted, speed: f64) -> PacedDrill {
        let judged_from = scripted.drill.now();
        PacedDrill {
            scripted,
            speed,
            replies: Vec::new(),
            problems: Vec::new(),
            owed: 0.0,
            judged: Duration::ZERO,
            judged_from,
            time_up_said: false,
        }
    }

    pub(super) fn drill(&self) -> &Drill {
        &self.scripted.drill
    }

    #[allow(clippy::disallowed_methods, clippy::disallowed_types)] // how long a person waits for a frame is wall time
    fn work(&mut self, elapsed: Duration) {
        let began = std::time::Instant::now();
        self.owed += elapsed.min(LATE).as_secs_f64() * 1e6 * self.speed;
        while self.owed >= 1.0 && !self.scripted.is_over() {
            let now = self.drill().now();
            let step = (self.owed as u64).min(STEP.0.max((STEP.0 as f64 * self.speed) as u64));
            self.scripted.run_to(now + Micros(step));
            self.owed -= step as f64;
            if began.elapsed() >= WORK {
                break;
            }
        }
        // What could not be run in time is not run later either: the drill is slower, the screen is not.
        self.owed = self.owed.min(WORK.as_secs_f64() * 1e6 * self.speed);
        self.judged += elapsed;
        if self.judged >= JUDGE {
            let pace = self.drill().now().since(self.judged_from).as_secs_f64() / self.judged.as_secs_f64();
            if pace < 0.8 * self.speed && !self.scripted.is_over() {
                self.problems.push(format!("runs behind: {pace:.1}x instead of {:.1}x", self.speed));
            }
            self.judged = Duration::ZERO;
            self.judged_from = self.drill().now();
        }
    }
}

impl Source for PacedDrill {
    fn frame(&mut self, elapsed: Duration) -> Arc<Snapshot> {
        if !self.scripted.is_over() {
            self.work(elapsed);
            self.problems.extend(self.scripted.take_refused());
        } else if self.scripted.is_time_up() && !self.time_up_said {
            self.time_up_said = true;
            self.problems.push("the drill's time is up; q leaves".to_owned());
        }
        self.drill().snapshot()
    }

    fn send(&mut self, id: u64, cmd: Command) {
        // Without a receiver the dashboard says after a while that the outcome is unknown.
        match self.drill().send(cmd) {
            Some(reply) => self.replies.push((id, reply)),
            None => self.problems.push("the rollout takes no commands any more".to_owned()),
        }
    }

    fn replies(&mut self) -> Vec<(u64, Reply)> {
        answered(&mut self.replies)
    }

    fn trace(&mut self, ask: TraceAsk) -> Result<(), String> {
        match self.drill().trace(ask) && !self.scripted.is_over() {
            true => Ok(()),
            false => Err("the drill is over: nobody is there to look".to_owned()),
        }
    }

    fn problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems)
    }

    fn finished(&self) -> bool {
        self.scripted.is_over()
    }
}

/// Takes the answers that have come.
pub(super) fn answered(waiting: &mut Vec<(u64, Receiver<Reply>)>) -> Vec<(u64, Reply)> {
    let mut replies = Vec::new();
    waiting.retain_mut(|(id, reply)| match reply.try_recv() {
        Ok(r) => {
            replies.push((*id, r));
            false
        }
        Err(TryRecvError::Empty) => true,
        Err(TryRecvError::Closed) => {
            replies.push((*id, Reply::Refused("the rollout ended before it answered".to_owned())));
            false
        }
    });
    replies
}
