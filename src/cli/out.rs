//! Where output goes: results to standard output, everything said about them to standard error.
//!
//! A reader that has gone away (a closed pipe, a terminal that hung up) is no error: nothing more is printed then.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

static GONE: AtomicBool = AtomicBool::new(false);

/// Prints a line to standard output.
pub(super) fn line(text: &str) {
    if is_gone() {
        return;
    }
    let mut out = io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()).is_err() {
        GONE.store(true, Ordering::SeqCst);
    }
}

/// Prints a value as one line of JSON.
pub(super) fn json(value: &Value) {
    line(&value.to_string());
}

/// Nobody reads standard output any more.
pub(super) fn is_gone() -> bool {
    GONE.load(Ordering::SeqCst)
}

/// Says something to a person, on standard error.
pub(super) fn say(text: &str) {
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
