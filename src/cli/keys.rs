//! A keys file: what an operator does in a headless drill, at which virtual times.
//!
//! One command a line, `<virtual time> <command>`; `#` begins a comment. Times never go back.

use std::path::Path;

use super::{Failure, read_file, shown};
use crate::plan::reader::{nearest, parse_duration};
use crate::runtime::Micros;
use crate::snapshot::Command;

/// What can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyCommand {
    Advance,
    Pause,
    Continue,
    Stop,
    Rollback { hard: bool },
    LeaveBehind,
    RollbackCohort,
    CohortForward,
}

const COMMANDS: [(&str, KeyCommand); 9] = [
    ("advance", KeyCommand::Advance),
    ("pause", KeyCommand::Pause),
    ("continue", KeyCommand::Continue),
    ("stop", KeyCommand::Stop),
    ("rollback", KeyCommand::Rollback { hard: false }),
    ("rollback hard", KeyCommand::Rollback { hard: true }),
    ("rollback strand", KeyCommand::LeaveBehind),
    ("rollback cohort", KeyCommand::RollbackCohort),
    ("cohort forward", KeyCommand::CohortForward),
];

impl KeyCommand {
    /// The command for a rollout that is in this stage; `None` when there is none to advance.
    pub(super) fn of(self, stage: Option<usize>) -> Option<Command> {
        Some(match self {
            KeyCommand::Pause => Command::Pause,
            KeyCommand::Continue => Command::Continue,
            KeyCommand::Stop => Command::Stop,
            KeyCommand::Rollback { hard } => Command::Rollback { hard, to: None },
            KeyCommand::LeaveBehind => Command::LeaveBehind,
            KeyCommand::RollbackCohort => Command::RollbackCohort { hard: false },
            KeyCommand::CohortForward => Command::CohortForward,
            KeyCommand::Advance => Command::Advance { stage: stage? },
        })
    }

    pub(super) fn name(self) -> &'static str {
        COMMANDS.iter().find(|(_, c)| *c == self).map_or("?", |(n, _)| n)
    }
}

/// A command by its name, on a command line.
#[cfg(feature = "mongo")]
pub(super) fn command(text: &str) -> Result<KeyCommand, String> {
    let found = COMMANDS.iter().find(|(name, _)| *name == text.trim());
    found.map(|(_, c)| *c).ok_or_else(|| nearest(text, COMMANDS.iter().map(|(name, _)| *name)))
}

/// One line of a keys file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Press {
    /// When, in virtual time since the drill began.
    pub at: Micros,
    /// What.
    pub command: KeyCommand,
    /// Its line, from 1.
    pub line: usize,
}

/// Reads a keys file; every mistake is told with its place.
pub(super) fn read(path: &Path) -> Result<Vec<Press>, Failure> {
    parse(&read_file(path)?).map_err(|mistakes| {
        let lines: Vec<String> =
            mistakes.iter().map(|m| format!("{}:{}:{}: {}", shown(path), m.line, m.column, m.what)).collect();
        Failure::usage(lines.join("\n"))
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Mistake {
    line: usize,
    column: usize,
    what: String,
}

fn parse(text: &str) -> Result<Vec<Press>, Vec<Mistake>> {
    let mut presses: Vec<Press> = Vec::new();
    let mut mistakes = Vec::new();
    for (i, whole) in text.lines().enumerate() {
        let content = whole.split('#').next().unwrap_or("");
        let words = words(content);
        let mut wrong = |column: usize, what: String| {
            mistakes.push(Mistake { line: i + 1, column, what: crate::scrub::line(&what) })
        };
        let Some(&(at_column, at_text)) = words.first() else { continue };
        let Some(at) = parse_duration(at_text) else {
            wrong(at_column, format!("`{at_text}` is not a virtual time; expected one like `6m12s`"));
            continue;
        };
        if presses.last().is_some_and(|p| at < p.at) {
            wrong(at_column, format!("`{at_text}` is before the line above; times never go back"));
        }
        let names = || COMMANDS.iter().map(|(n, _)| *n);
        let Some(&(column, word)) = words.get(1) else {
            wrong(content.trim_end().chars().count() + 1, format!("a command is missing; {}", nearest("", names())));
            continue;
        };
        let two = words.get(2).map(|(_, more)| format!("{word} {more}"));
        let of_two = COMMANDS.iter().find(|(n, _)| Some(*n) == two.as_deref());
        let Some((name, command)) = of_two.or_else(|| COMMANDS.iter().find(|(n, _)| *n == word)) else {
            wrong(column, format!("`{word}` is not a command; {}", nearest(word, names())));
            continue;
        };
        if let Some(&(column, more)) = words.get(1 + name.split(' ').count()) {
            wrong(column, format!("`{more}` is too much; expected one command a line"));
        }
        presses.push(Press { at, command: *command, line: i + 1 });
    }
    if mistakes.is_empty() { Ok(presses) } else { Err(mistakes) }
}

/// The words of a line with their columns, from 1, in characters.
fn words(line: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut rest = line;
    let mut column = 1;
    loop {
        let skipped = rest.len() - rest.trim_start().len();
        column += rest[..skipped].chars().count();
        rest = &rest[skipped..];
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        if end == 0 {
            return found;
        }
        found.push((column, &rest[..end]));
        column += rest[..end].chars().count();
        rest = &rest[end..];
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_commands_and_comments_are_read() {
        let presses =
            parse("# by hand\n6m12s advance\n\n  8m pause # enough\n9m\tcontinue\n10m rollback\n10m rollback hard\n")
                .unwrap();
        let read: Vec<_> = presses.iter().map(|p| (p.at.as_ms() / 1000, p.command, p.line)).collect();
        assert_eq!(
            read,
            [
                (372, KeyCommand::Advance, 2),
                (480, KeyCommand::Pause, 4),
                (540, KeyCommand::Continue, 5),
                (600, KeyCommand::Rollback { hard: false }, 6),
                (600, KeyCommand::Rollback { hard: true }, 7)
            ]
        );
    }

    #[test]
    fn mistakes_have_line_and_column() {
        let e =
            parse("1m advance\n30s pause\nsoon pause\n2m\n2m  advanse\n3m pause now\n4m rollback soon\n").unwrap_err();
        let places: Vec<_> = e.iter().map(|m| (m.line, m.column)).collect();
        assert_eq!(places, [(2, 1), (3, 1), (4, 3), (5, 5), (6, 10), (7, 13)]);
        assert!(e[3].what.contains("did you mean `advance`"), "{}", e[3].what);
        assert!(e[2].what.contains("`advance`, `pause`, `continue`, `stop`, `rollback`"), "{}", e[2].what);
    }
}
