//! Keeps what variables were filled in with out of everything that is kept of a call.

use std::collections::BTreeSet;

use crate::plan::{EnvError, resolve_env};
use crate::scrub;

const MASK: &str = "***";
/// A shorter secret cannot be masked without masking much else.
const SECRET_MIN: usize = 4;
/// Characters kept of an answer.
const OUTPUT_MAX: usize = 1_000;
/// Bytes kept of an answer while it comes in: its end says most.
const TAIL_MAX: usize = 8_192;

/// The values of the variables that a call has used.
#[derive(Clone, Default)]
pub(super) struct Secrets(BTreeSet<String>);

impl Secrets {
    /// Fills in every `${NAME}` from the environment, and remembers what was put in. The error names the variable, not a value.
    pub(super) fn fill_in(&mut self, text: &str) -> Result<String, String> {
        self.fill_in_from(text, |name| std::env::var(name).ok())
    }

    pub(super) fn fill_in_from(
        &mut self,
        text: &str,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<String, String> {
        let used = std::cell::RefCell::new(Vec::new());
        let filled = resolve_env(text, |name| {
            let value = lookup(name).filter(|v| !v.is_empty())?;
            used.borrow_mut().push(value.clone());
            Some(value)
        });
        self.0.extend(used.into_inner());
        filled.map_err(|e| match e {
            EnvError::Missing(name) => format!("the environment variable `{name}` is not set"),
            EnvError::Syntax(_) => e.to_string(),
        })
    }

    /// One line that is safe to keep and to show.
    pub(super) fn clean(&self, text: &str) -> String {
        if self.0.iter().any(|s| s.len() < SECRET_MIN && text.contains(s.as_str())) {
            return "not kept: a variable of this hook is too short to be masked".into();
        }
        let mut text = text.to_owned();
        // The longest first: a secret may be part of another one.
        let mut all: Vec<&String> = self.0.iter().collect();
        all.sort_by_key(|s| std::cmp::Reverse(s.len()));
        for secret in all {
            text = text.replace(secret.as_str(), MASK);
        }
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        let line = scrub::line(&lines.join(" | "));
        let over = line.chars().count().saturating_sub(OUTPUT_MAX);
        if over == 0 { line } else { format!("…{}", line.chars().skip(over + 1).collect::<String>()) }
    }

    /// The end of an answer, safe to keep and to show.
    pub(super) fn clean_tail(&self, tail: &Tail) -> String {
        let longest = self.0.iter().map(String::len).max().unwrap_or(0);
        // Where the beginning was cut off, a secret may have been cut in two.
        let from = if tail.cut { longest.min(tail.bytes.len()) } else { 0 };
        self.clean(&String::from_utf8_lossy(&tail.bytes[from..]))
    }
}

/// The last bytes of something that may be endless.
#[derive(Default)]
pub(super) struct Tail {
    bytes: Vec<u8>,
    cut: bool,
}

impl Tail {
    pub(super) fn push(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
        let over = self.bytes.len().saturating_sub(TAIL_MAX);
        if over > 0 {
            self.bytes.drain(..over);
            self.cut = true;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn secrets(value: &str) -> Secrets {
        let mut s = Secrets::default();
        s.fill_in_from("Bearer ${T}", |n| (n == "T").then(|| value.to_owned())).unwrap();
        s
    }

    #[test]
    fn what_was_filled_in_is_masked_and_the_rest_made_safe() {
        let s = secrets("s3cret-token");
        assert_eq!(s.clean("said s3cret-token\n\n and \u{1b}[31mred"), "said *** | and \u{FFFD}[31mred");
        assert_eq!(secrets("abc").clean("xabcx"), "not kept: a variable of this hook is too short to be masked");
        let missing = Secrets::default().fill_in_from("${NONE}", |_| None).unwrap_err();
        assert_eq!(missing, "the environment variable `NONE` is not set");
    }

    #[test]
    fn a_secret_cut_in_two_by_a_long_answer_was_half_shown() {
        let s = secrets("s3cret-token");
        for extra in 0..20 {
            let mut tail = Tail::default();
            tail.push(b"s3cret-token");
            tail.push(&vec![b'x'; TAIL_MAX - extra]);
            let kept = s.clean_tail(&tail);
            assert!(!kept.contains("token") && !kept.contains("oken"), "{extra}: {}", &kept[..40]);
        }
        let mut tail = Tail::default();
        tail.push(&vec![b'\n'; TAIL_MAX]);
        tail.push(b"et-token");
        tail.push(b"\nend");
        assert_eq!(s.clean_tail(&tail), "et-token | end", "no secret, and nothing is lost");
    }
}
