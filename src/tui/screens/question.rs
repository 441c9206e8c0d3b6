//! How a question looks: on a screen of any size, down to a single line. What it asks is [`super::super::dialog`]'s.

use crate::snapshot::Snapshot;

use super::super::app::{Dialog, Question};
use super::super::canvas::Canvas;
use super::super::dialog::{held, must_type};
use super::super::format;
use super::super::rollback::{self, Choice};
use super::super::theme::Role;
use super::super::widgets::verdict;
use super::overlay::Lines;

/// Beside the left-hand words of a rollback's question.
const HEAD: usize = 9;

/// What stands on its border.
pub(super) fn title(s: &Snapshot, d: &Dialog) -> &'static str {
    match d.question {
        Question::Advance => "ADVANCE?",
        Question::Continue => "CONTINUE?",
        Question::Rollback(_) if rollback::under_way(s).is_some() => "GOING BACK: HARDER OR FURTHER?",
        Question::Rollback(_) => "ROLL BACK?",
        Question::QuitDrill => "END THE DRILL?",
        Question::QuitLive => "LEAVE?",
    }
}

/// The keys that answer it.
pub(super) fn keys(s: &Snapshot, d: &Dialog) -> String {
    match d.question {
        Question::Advance => "Enter advances   Esc does not".into(),
        Question::Continue if held(s).is_some() => "Enter continues   f cohort forward   Esc does not".into(),
        Question::Continue => "Enter continues   Esc does not".into(),
        Question::Rollback(choice) if choice.leave && rollback::refused(s, choice).is_none() => {
            "type the word, Enter goes back WITHOUT next   Esc does not   Up hard".into()
        }
        Question::Rollback(choice) if rollback::can_leave(s) && rollback::refused(s, choice).is_some() => {
            "Esc closes, it goes on waiting   l or Down leaves them behind".into()
        }
        Question::Rollback(choice) if rollback::refused(s, choice).is_some() => {
            "Enter sends nothing   Esc closes   h hard   Left further back".into()
        }
        Question::Rollback(_) => {
            // Typed letters are letters of the word.
            let how = if must_type(d, s).is_some() { "Up Down" } else { "s h" };
            let whom = if s.pilot.is_some() && must_type(d, s).is_none() { "   c cohort" } else { "" };
            format!("Enter goes back   Esc does not{whom}   {how} soft or hard   Left Right where to")
        }
        Question::QuitDrill => "Enter or y ends it   Esc stays".into(),
        Question::QuitLive => "Enter stops   H hands over   d leaves only   Esc stays".into(),
    }
}

/// Its lines, at most `rows` of them where it can do with fewer.
pub(super) fn question(s: &Snapshot, d: &Dialog, width: usize, rows: usize) -> Lines {
    let mut lines = match d.question {
        Question::Rollback(choice) => {
            let rows = rows.saturating_sub(usize::from(must_type(d, s).is_some()));
            going_back(s, choice, width, rows)
        }
        _ => plain(d, width),
    };
    if let Some(word) = must_type(d, s) {
        let role = if word == d.typed { Role::Ok } else { Role::Warn };
        // The line that Enter waits for is never the one that is cut off.
        lines.truncate(rows.saturating_sub(1));
        lines.push((format!("Type {word} to confirm: {}_", d.typed), role));
    }
    lines
}

fn plain(d: &Dialog, width: usize) -> Lines {
    let mut lines = Lines::new();
    for (i, line) in d.lines.iter().enumerate() {
        let role = if i == 0 {
            Role::Title
        } else if line.contains("NO WAY BACK") {
            Role::Bad
        } else {
            Role::Text
        };
        lines.extend(format::wrap(line, width.saturating_sub(2)).into_iter().map(|l| (l, role)));
    }
    lines
}

/// The choice, then what it would change and cost: as many of the facts as fit, what matters most first.
fn going_back(s: &Snapshot, choice: Choice, width: usize, rows: usize) -> Lines {
    let width = width.saturating_sub(2);
    let mut lines = if rows >= 6 { choices(s, choice) } else { vec![short(choice)] };
    let place = match s.pilot.as_ref().filter(|_| choice.cohort) {
        Some(p) => format::fit(&format!("legacy, only the pilot cohort: {}", p.cohort), width.saturating_sub(HEAD)),
        None => rests(s, choice, width.saturating_sub(HEAD)),
    };
    lines.push((format!("{:<HEAD$}{place}", "back to"), Role::Title));
    if let Some(why) = rollback::refused(s, choice) {
        lines.extend(fact("Enter", &format!("sends nothing: {why}"), Role::Warn, width));
        return lines;
    }
    let facts: Vec<Lines> = rollback::facts(s, choice).iter().map(|f| fact(f.head, &f.text, f.role, width)).collect();
    if lines.len() + 1 + facts.iter().map(Vec::len).sum::<usize>() <= rows {
        lines.push((String::new(), Role::Text));
    }
    for fact in facts {
        if lines.len() + fact.len() <= rows {
            lines.extend(fact);
        } else if lines.len() < rows {
            // Its first line, marked as cut, rather than nothing.
            lines.extend(fact.into_iter().take(1).map(|(l, role)| (format!("{l}…"), role)));
        }
    }
    // The box keeps its size while the figures in it change.
    if let Some((first, _)) = lines.first_mut() {
        *first = format!("{first:<width$}");
    }
    lines
}

fn choices(s: &Snapshot, choice: Choice) -> Lines {
    let under_way = rollback::under_way(s).filter(|b| b.cohort == choice.cohort);
    let soft = match under_way {
        Some(b) => {
            let (n, of) = rollback::step(b);
            format!("it goes on stage by stage; step {n} of {of}: {}", b.step)
        }
        None if choice.cohort => "both sides compared before and after".to_owned(),
        None => "stage by stage, verified at each".to_owned(),
    };
    let leave = |lines: &mut Vec<(String, Role)>| {
        if choice.leave || rollback::can_leave(s) {
            let (mark, role) = if choice.leave { ("»", Role::Accent) } else { (" ", Role::Text) };
            let text = "go back now WITHOUT next: leave its last writes behind";
            lines.push((format!("{mark} {:<w$}{text}", "leave", w = HEAD - 2), role));
        }
    };
    if under_way.is_some_and(|b| b.hard) {
        let (mark, role) = if choice.leave { (" ", Role::Text) } else { ("»", Role::Accent) };
        let mut lines = vec![(format!("{mark} {:<w$}it is going back hard already", "hard", w = HEAD - 2), role)];
        leave(&mut lines);
        return lines;
    }
    let hard = if choice.cohort {
        "at once, compared after"
    } else if under_way.is_some() {
        "make it hard: everything back now"
    } else {
        "everything back now (hard)"
    };
    let line = |on: bool, word: &str, text: &str| {
        let mark = if on { "»" } else { " " };
        (format!("{mark} {word:<w$}{text}", w = HEAD - 2), if on { Role::Accent } else { Role::Text })
    };
    let mut lines = vec![line(!choice.hard, "soft", &soft), line(choice.hard && !choice.leave, "hard", hard)];
    leave(&mut lines);
    lines
}

/// The choice in one line.
fn short(choice: Choice) -> (String, Role) {
    if choice.leave {
        return ("» leave: back WITHOUT next".to_owned(), Role::Accent);
    }
    let text = if choice.hard { "  soft  » hard: everything now" } else { "» soft: by stages    hard" };
    (text.to_owned(), Role::Accent)
}

/// Every place to come to rest in, the chosen one in brackets; only that one where they do not all fit.
fn rests(s: &Snapshot, choice: Choice, width: usize) -> String {
    let places: Vec<Option<usize>> = std::iter::once(None).chain((0..rollback::rests(s)).map(Some)).collect();
    let name = |to: &Option<usize>| {
        let name = rollback::place(s, *to);
        if *to == choice.to { format!("[{name}]") } else { name.to_owned() }
    };
    let all = places.iter().map(name).collect::<Vec<_>>().join("  ");
    let at = places.iter().position(|p| *p == choice.to);
    match at {
        Some(_) if format::width(&all) <= width => all,
        Some(at) if width > 32 => format!("{}  {} of {}", name(&choice.to), at + 1, places.len()),
        _ => name(&choice.to),
    }
}

fn fact(head: &str, text: &str, role: Role, width: usize) -> Lines {
    let parts = format::wrap(text, width.saturating_sub(HEAD));
    parts
        .into_iter()
        .enumerate()
        .map(|(i, part)| (format!("{:<HEAD$}{part}", if i == 0 { head } else { "" }), role))
        .collect()
}

/// Where there is no room for anything else: what is asked, what it would do, and the keys.
pub(super) fn small(c: &mut Canvas<'_>, s: &Snapshot, d: &Dialog) {
    let asked = match d.question {
        Question::Rollback(choice) if choice.leave => "BACK WITHOUT NEXT?".to_owned(),
        Question::Rollback(choice) => format!("BACK {}?", rollback::word(choice.hard).to_uppercase()),
        _ => title(s, d).to_owned(),
    };
    let mut lines: Lines = vec![(asked, Role::Warn)];
    match must_type(d, s) {
        Some(word) => lines.push((format!("type {word}: {}_", d.typed), Role::Warn)),
        None => lines.push(("Enter yes  Esc no".into(), Role::Text)),
    }
    if let Question::Rollback(choice) = d.question {
        let text = match rollback::refused(s, choice) {
            Some(why) => why,
            None if choice.cohort => "only the cohort".to_owned(),
            None => format!("to {}", rollback::place(s, choice.to)),
        };
        lines.push((verdict::cost(&s.way_back), Role::Text));
        lines.extend(format::wrap(&text, c.width()).into_iter().map(|l| (l, Role::Text)));
    }
    for (y, (line, role)) in lines.iter().enumerate() {
        c.put(0, y, line, *role);
    }
}
