//! The event loop of the dashboard: the only place here that waits, reads a clock and talks to a terminal.
//!
//! It draws when something changed and never otherwise: input at once, data at most [`DATA_FRAMES`] times a second.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // the terminal's own pace is wall time, in a drill too

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event};

use crate::runtime::Micros;
use crate::snapshot::{Command, Reply, Snapshot, TraceAsk};

use super::app::{Overlay, RequestState, UiState};
use super::input::{Effect, Input, update};
use super::terminal::Screen;

/// Frames a second for new data, at most.
pub const DATA_FRAMES: u32 = 20;
/// How long to wait for a key while the data moves.
const WAIT_MOVING: Duration = Duration::from_millis(33);
/// How long to wait for a key while it does not.
const WAIT_IDLE: Duration = Duration::from_millis(250);
/// Data counts as moving for so long after it last did.
const MOVING_FOR: Duration = Duration::from_millis(1_500);
/// Leaving waits for the safe point at most this long after the engine fell silent.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// Where snapshots come from and commands go.
pub trait Source {
    /// The newest snapshot. A drill advances its virtual time by as much as `elapsed` is worth; a live source ignores it.
    fn frame(&mut self, elapsed: Duration) -> Arc<Snapshot>;
    /// Sends a command; must not block. Its replies come back from [`Source::replies`] under the same id.
    fn send(&mut self, id: u64, cmd: Command);
    /// The replies since the last call.
    fn replies(&mut self) -> Vec<(u64, Reply)>;
    /// Asks for a document; must not block. The answer comes with a snapshot. The error says why there will be none.
    ///
    /// # Errors
    /// When nobody is there to answer.
    fn trace(&mut self, ask: TraceAsk) -> Result<(), String>;
    /// What went wrong outside since the last call and should be said.
    fn problems(&mut self) -> Vec<String> {
        Vec::new()
    }
    /// How old the newest snapshot is, for a source that knows it better than from when it came.
    fn age(&self) -> Option<Duration> {
        None
    }
    /// Why nobody moves what the snapshot shows; `None` while somebody does.
    fn absent(&self) -> Option<String> {
        None
    }
    /// Nothing more will come: the engine has ended.
    fn finished(&self) -> bool;
    /// Whether silence means that something is wrong. False for a drill or a recording that may stand still.
    fn is_live(&self) -> bool {
        true
    }
}

/// How the dashboard runs.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Set by a signal's task: the dashboard ends at the next chance with [`Exit::Signal`].
    pub stop: Arc<AtomicBool>,
    /// End by itself when the source is finished; otherwise the last picture stays until `q`.
    pub exit_when_finished: bool,
}

/// Why the dashboard ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The operator left; a drill ends with it.
    Quit,
    /// The operator left after the rollout stopped at a safe point.
    Stopped,
    /// The rollout stopped at a safe point to go on in a process of its own.
    HandOver,
    /// The operator left the screen only: the rollout goes on.
    Detached,
    /// The source has nothing more.
    Finished,
    /// There is no terminal any more: `--on-hangup` decides what becomes of the rollout.
    TerminalGone,
    /// [`Options::stop`] was set.
    Signal,
}

/// Runs the dashboard until it ends.
///
/// # Errors
/// When the terminal cannot be read or written although it is still there.
pub fn run(screen: &mut Screen, source: &mut dyn Source, ui: &mut UiState, options: &Options) -> io::Result<Exit> {
    match Loop::new(source, ui, options).run(screen) {
        Ok(exit) => Ok(exit),
        Err(e) if is_gone(&e) => Ok(Exit::TerminalGone),
        Err(e) => Err(e),
    }
}

/// Whether an error says that the terminal is no longer there.
fn is_gone(e: &io::Error) -> bool {
    const EIO: i32 = 5;
    const ENXIO: i32 = 6;
    const EBADF: i32 = 9;
    const ENOTTY: i32 = 25;
    matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof | io::ErrorKind::NotConnected)
        || matches!(e.raw_os_error(), Some(EIO | ENXIO | EBADF | ENOTTY))
}

struct Loop<'a> {
    source: &'a mut dyn Source,
    ui: &'a mut UiState,
    options: &'a Options,
    snapshot: Arc<Snapshot>,
    last_frame: Instant,
    last_change: Instant,
    last_draw: Option<Instant>,
    data_waiting: bool,
    input_waiting: bool,
    /// The stop command to wait for before leaving, since when, and how it is left.
    leaving: Option<(u64, Instant, Exit)>,
}

impl<'a> Loop<'a> {
    fn new(source: &'a mut dyn Source, ui: &'a mut UiState, options: &'a Options) -> Self {
        let now = Instant::now();
        let snapshot = source.frame(Duration::ZERO);
        Loop {
            source,
            ui,
            options,
            snapshot,
            last_frame: now,
            last_change: now,
            last_draw: None,
            data_waiting: true,
            input_waiting: true,
            leaving: None,
        }
    }

    fn run(mut self, screen: &mut Screen) -> io::Result<Exit> {
        let mut tty = tty::Tty::open()?;
        loop {
            if self.options.stop.load(Ordering::Relaxed) {
                return Ok(Exit::Signal);
            }
            if let Some(exit) = self.advance() {
                return Ok(exit);
            }
            let now = Instant::now();
            let since_draw = self.last_draw.map_or(Duration::MAX, |t| now - t);
            let frame = Duration::from_secs(1) / DATA_FRAMES;
            if self.input_waiting || (self.data_waiting && since_draw >= frame) {
                self.paint(screen)?;
                if !(self.is_unseen() && tty.ready()?) {
                    self.take(Input::Drawn);
                }
            }
            let mut wait = if now - self.last_change < MOVING_FOR { WAIT_MOVING } else { WAIT_IDLE };
            if self.data_waiting {
                wait = wait.min(frame.saturating_sub(since_draw));
            }
            if !tty.wait(wait)? {
                return Ok(Exit::TerminalGone);
            }
            // Everything typed so far is taken before the next frame; a flood of it does not keep the screen from drawing.
            for _ in 0..256 {
                if !tty.ready()? {
                    // What was typed or pasted before the question could be seen has been taken, and was no answer to it.
                    if self.is_unseen() {
                        self.paint(screen)?;
                        self.take(Input::Drawn);
                    }
                    break;
                }
                let input = match event::read()? {
                    Event::Key(key) => Input::Key(key),
                    Event::Paste(text) => Input::Paste(text),
                    Event::Resize(..) => Input::Resize,
                    Event::FocusGained | Event::FocusLost | Event::Mouse(_) => continue,
                };
                if let Some(exit) = self.take(input) {
                    return Ok(exit);
                }
            }
        }
    }

    /// Takes the newest snapshot, the replies and the passing of time.
    fn advance(&mut self) -> Option<Exit> {
        let now = Instant::now();
        let elapsed = now - self.last_frame;
        self.last_frame = now;
        let newest = self.source.frame(elapsed);
        if !Arc::ptr_eq(&newest, &self.snapshot) {
            self.snapshot = newest;
            self.last_change = now;
            self.data_waiting = true;
        }
        for (id, reply) in self.source.replies() {
            if let Some(exit) = self.take(Input::Reply(id, reply)) {
                return Some(exit);
            }
        }
        for problem in self.source.problems() {
            self.take(Input::Problem(problem));
        }
        let silent =
            if self.source.is_live() && !self.snapshot.drill { now - self.last_change } else { Duration::ZERO };
        let silent = self.source.age().unwrap_or(silent);
        self.take(Input::Absent(self.source.absent()));
        let tick = Input::Tick { elapsed: micros(elapsed), snapshot_age: micros(silent) };
        if let Some(exit) = self.take(tick) {
            return Some(exit);
        }
        if let Some((id, since, exit)) = self.leaving {
            let state = self.ui.requests.iter().find(|r| r.id == id).map(|r| r.state.clone());
            match state {
                Some(RequestState::Applied) => return Some(exit),
                Some(RequestState::Refused(_)) => self.leaving = None,
                _ if self.source.finished() => return Some(exit),
                _ if now - since > STOP_WITHIN => self.leaving = None, // the status line says UNKNOWN; the operator decides
                _ => {}
            }
        } else if self.options.exit_when_finished && self.source.finished() {
            return Some(Exit::Finished);
        }
        None
    }

    fn take(&mut self, input: Input) -> Option<Exit> {
        for effect in update(self.ui, &self.snapshot, input) {
            match effect {
                Effect::Send(id, command) => self.source.send(id, command),
                Effect::Trace(ask) => {
                    if let Err(why) = self.source.trace(ask) {
                        update(self.ui, &self.snapshot, Input::Untraced(why));
                    }
                }
                Effect::Quit => return Some(Exit::Quit),
                Effect::Detach => return Some(Exit::Detached),
                Effect::QuitAfter(id) => self.leave(id, Exit::Stopped),
                Effect::HandOverAfter(id) => self.leave(id, Exit::HandOver),
            }
        }
        self.input_waiting |= self.ui.take_dirty();
        None
    }

    fn leave(&mut self, id: u64, exit: Exit) {
        self.leaving = Some((id, Instant::now(), exit));
    }

    /// A question is open that has not been on screen yet.
    fn is_unseen(&self) -> bool {
        matches!(self.ui.overlay, Some(Overlay::Dialog(ref d)) if !d.drawn)
    }

    fn paint(&mut self, screen: &mut Screen) -> io::Result<()> {
        let (snapshot, ui) = (&self.snapshot, &*self.ui);
        screen.draw(|frame| super::draw(frame, snapshot, ui))?;
        self.data_waiting = false;
        self.input_waiting = false;
        self.last_draw = Some(Instant::now());
        Ok(())
    }
}

fn micros(d: Duration) -> Micros {
    Micros(u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}

/// Waiting for input without spinning when the terminal is gone. crossterm reads in a loop until something comes, which on a
/// terminal that hung up is for ever, so it is only asked when the terminal is known to be there.
#[cfg(unix)]
mod tty {
    use std::fs::File;
    use std::io::{self, IsTerminal};
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    use ratatui::crossterm::event;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    /// The terminal that keys come from: the same one crossterm reads.
    pub(super) struct Tty {
        other: Option<File>,
        hung_up: bool,
    }

    impl Tty {
        pub(super) fn open() -> io::Result<Tty> {
            let other =
                if io::stdin().is_terminal() { None } else { Some(File::options().read(true).open("/dev/tty")?) };
            Ok(Tty { other, hung_up: false })
        }

        fn poll(&mut self, wait: Duration) -> io::Result<()> {
            let stdin = io::stdin();
            let fd = self.other.as_ref().map_or_else(|| stdin.as_fd(), AsFd::as_fd);
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
            let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
            match poll(&mut fds, Some(&wait)) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => {} // a resize: crossterm has the event
                Err(e) => return Err(e.into()),
            }
            self.hung_up |= fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
            Ok(())
        }

        /// Waits for input; false when the terminal is gone.
        pub(super) fn wait(&mut self, wait: Duration) -> io::Result<bool> {
            // Events that crossterm has already read do not wake a poll.
            if self.ready()? || self.hung_up {
                return Ok(!self.hung_up);
            }
            let until = Instant::now() + wait;
            self.poll(until.saturating_duration_since(Instant::now()))?;
            Ok(!self.hung_up)
        }

        /// Whether an event can be read at once.
        pub(super) fn ready(&mut self) -> io::Result<bool> {
            self.poll(Duration::ZERO)?;
            if self.hung_up {
                return Ok(false);
            }
            event::poll(Duration::ZERO)
        }
    }
}

/// Elsewhere crossterm waits by itself.
#[cfg(not(unix))]
mod tty {
    use std::io;
    use std::time::Duration;

    use ratatui::crossterm::event;

    pub(super) struct Tty;

    impl Tty {
        pub(super) fn open() -> io::Result<Tty> {
            Ok(Tty)
        }

        pub(super) fn wait(&mut self, wait: Duration) -> io::Result<bool> {
            event::poll(wait)?;
            Ok(true)
        }

        pub(super) fn ready(&mut self) -> io::Result<bool> {
            event::poll(Duration::ZERO)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_that_hung_up_is_told_from_other_errors() {
        assert!(is_gone(&io::Error::from_raw_os_error(5)));
        assert!(is_gone(&io::ErrorKind::BrokenPipe.into()));
        assert!(!is_gone(&io::ErrorKind::PermissionDenied.into()));
    }
}
