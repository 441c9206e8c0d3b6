//! Where output goes: results to standard output, everything said about them to standard error.
//!
//! Standard output has a thread of its own: a reader that is slow, or does not read at all, holds up nobody but that thread. What
//! waits is counted and never dropped; [`flush`] sees it out. A reader that has gone away (a closed pipe, a terminal that hung up)
//! is no error: nothing more is printed then.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

/// What [`say`] allows standard output to catch up, so that the two keep their order on a terminal.
const CATCH_UP: Duration = Duration::from_millis(100);
/// After this long [`flush`] says what it waits for.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Queue {
    waiting: VecDeque<String>,
    /// Lines being written.
    writing: usize,
    /// The thread is there.
    started: bool,
    /// Nobody reads any more.
    gone: bool,
}

/// The queue of lines and the thread that writes them.
struct Printer {
    queue: Mutex<Queue>,
    changed: Condvar,
}

static PRINTER: Printer = Printer {
    queue: Mutex::new(Queue { waiting: VecDeque::new(), writing: 0, started: false, gone: false }),
    changed: Condvar::new(),
};

impl Queue {
    /// Lines not printed yet; none once nobody reads.
    fn left(&self) -> usize {
        if self.gone { 0 } else { self.waiting.len() + self.writing }
    }
}

impl Printer {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code panics while holding it; if it did, the lines are still whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a line. Never waits for the reader.
    fn put(&'static self, line: String) {
        let mut queue = self.lock();
        if queue.gone {
            return;
        }
        queue.waiting.push_back(line);
        if !queue.started {
            let thread = std::thread::Builder::new().name("printer".into());
            queue.started = thread.spawn(|| self.print(&mut io::stdout())).is_ok();
            // Without a thread nothing can be printed without waiting.
            queue.gone = !queue.started;
        }
        self.changed.notify_all();
    }

    /// Writes what is queued until nobody reads any more.
    fn print(&self, out: &mut dyn Write) {
        loop {
            let lines: Vec<String> = {
                let queue = self.lock();
                let wait = self.changed.wait_while(queue, |q| q.waiting.is_empty());
                let mut queue = wait.unwrap_or_else(PoisonError::into_inner);
                queue.writing = queue.waiting.len();
                queue.waiting.drain(..).collect()
            };
            let written = lines.iter().try_for_each(|l| out.write_all(l.as_bytes())).and_then(|()| out.flush());
            let mut queue = self.lock();
            queue.writing = 0;
            queue.gone = written.is_err();
            self.changed.notify_all();
            if queue.gone {
                queue.waiting.clear();
                return;
            }
        }
    }

    /// Waits until everything is printed, at most so long; how many lines are left.
    fn wait(&self, at_most: Duration) -> usize {
        let waited = self.changed.wait_timeout_while(self.lock(), at_most, |q| q.left() > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.left()
    }
}

/// Prints a line to standard output, in its turn.
pub(super) fn line(text: &str) {
    PRINTER.put(format!("{text}\n"));
}

/// Waits until everything has been printed or nobody reads any more: before the process ends.
pub(super) fn flush() {
    let left = PRINTER.wait(PATIENCE);
    if left > 0 {
        say(&format!("waiting for standard output to take {left} lines"));
        while PRINTER.wait(Duration::from_secs(3_600)) > 0 {}
    }
}

/// Prints a value as one line of JSON.
pub(super) fn json(value: &Value) {
    line(&value.to_string());
}

/// Nobody reads standard output any more.
pub(super) fn is_gone() -> bool {
    PRINTER.lock().gone
}

/// Says something to a person, on standard error.
pub(super) fn say(text: &str) {
    PRINTER.wait(CATCH_UP);
    // Nobody to tell is no error.
    let _ = writeln!(io::stderr().lock(), "{}", text.trim_end());
}

/// Whether what goes to standard error may have colours.
pub(super) fn colour_on_stderr() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Whether there is a terminal for a dashboard.
pub(super) fn has_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// `1 234 567`.
pub(super) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::thousands;

    #[test]
    fn thousands_are_set_apart() {
        for (n, text) in [(0, "0"), (999, "999"), (1_000, "1 000"), (1_234_567, "1 234 567")] {
            assert_eq!(thousands(n), text);
        }
    }
}
