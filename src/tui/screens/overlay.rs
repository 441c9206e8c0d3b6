//! What lies over the panels: the help, the reasons and the questions ([`super::question`]).

use ratatui::layout::Rect;

use crate::snapshot::{LatencySource, LoadView, Snapshot, StageStatus, Verdict};

use super::super::app::{Overlay, UiState};
use super::super::canvas::{Canvas, Titles};
use super::super::format;
use super::super::keymap::{BINDINGS, Group};
use super::super::rollback;
use super::super::theme::Role;
use super::super::widgets::verdict;
use super::question::{keys, question, title};

/// Lines of text, each in its role.
pub(super) type Lines = Vec<(String, Role)>;

/// Draws the overlay in the middle, leaving the verdict in sight where there is room.
pub(crate) fn draw(c: &mut Canvas<'_>, area: Rect, s: &Snapshot, ui: &UiState, open: &Overlay) {
    let inner = usize::from(area.width.saturating_sub(6)).min(76);
    let (title, lines, bottom, role) = match open {
        Overlay::Help => ("KEYS", help(), "Esc closes".to_owned(), Role::Dim),
        Overlay::Why => ("WHY", why(s, ui, inner), "Esc closes".to_owned(), Role::Dim),
        Overlay::Dialog(d) => {
            // The border and the last row of the screen are not the question's.
            let rows = usize::from(area.height.saturating_sub(3));
            (title(s, d), question(s, d, inner, rows), keys(s, d), Role::Accent)
        }
    };
    boxed(c, area, title, &lines, (bottom, Some(role)), inner);
}

fn boxed(c: &mut Canvas<'_>, area: Rect, title: &str, lines: &Lines, bottom: (String, Option<Role>), inner: usize) {
    let widest = lines.iter().map(|(l, _)| format::width(l)).max().unwrap_or(0);
    let width = (widest.max(format::width(&bottom.0) + 4).min(inner) as u16 + 4).min(area.width);
    // The last row stays free: it carries the fate of the latest command and the pause key.
    let height = (lines.len() as u16 + 2).min(area.height - 1);
    // Below the verdict, if that leaves room for it.
    let free = area.height - 1 - height;
    let y = if free >= 6 { 6 + (free - 6) / 3 } else { free };
    let place = Rect::new(area.x + (area.width - width) / 2, area.y + y, width, height);
    c.part(place).clear();
    let mut panel = c.panel(place, &Titles { name: title, bottom, focused: true, ..Titles::default() });
    for (y, (line, role)) in lines.iter().enumerate() {
        let max = panel.width().saturating_sub(2);
        panel.put_fit(1, y, line, max, *role);
    }
}

/// Every key, by group.
fn help() -> Lines {
    let mut lines = Lines::new();
    for group in [Group::Act, Group::Look, Group::General] {
        lines.push((group.title().to_owned(), Role::Title));
        for b in BINDINGS.iter().filter(|b| b.group == group) {
            let keys: Vec<String> = b.keys.iter().map(|k| k.label()).collect();
            lines.push((format!("  {:<18} {}", keys.join(" "), b.help), Role::Text));
        }
    }
    lines
}

/// What servers say about their load; `None` when none says anything.
fn load_sentence(l: &LoadView) -> Option<String> {
    let tickets = |kind: &str, t: Option<(u32, u32)>| t.map(|(free, of)| format!("{free} of {of} {kind} tickets free"));
    let share = |what: &str, x: Option<f64>| x.map(|x| format!("{what} {}", format::share(x)));
    let parts = [
        tickets("read", l.read_tickets),
        tickets("write", l.write_tickets),
        l.queued.map(|n| format!("{} operations queued", format::grouped(n))),
        share("dirty cache", l.cache_dirty),
        share("cache in use", l.cache_used),
        l.conflicts.map(|x| format!("{} write conflicts", format::value(x, "/s"))),
        l.flow_control.filter(|lagged| *lagged).map(|_| "FLOW CONTROL holds writes back".to_owned()),
    ];
    let told: Vec<String> = parts.into_iter().flatten().collect();
    (!told.is_empty()).then(|| told.join(", "))
}

/// Everything that holds the rollout up, in whole sentences.
fn why(s: &Snapshot, ui: &UiState, width: usize) -> Lines {
    let mut lines = Lines::new();
    let mut say = |head: &str, text: &str, role: Role| {
        for (i, part) in format::wrap(text, width.saturating_sub(14)).into_iter().enumerate() {
            let head = if i == 0 { head } else { "" };
            lines.push((format!("{head:<11} {part}"), role));
        }
    };
    for (head, a) in [
        ("Users", verdict::users(s, ui)),
        ("Now", verdict::now_of(s, ui)),
        ("If idle", verdict::idle_of(s, ui)),
        ("Way back", verdict::back_of(s, ui)),
        ("Lease", verdict::lease(s)),
        ("Data", verdict::data(s, ui)),
    ] {
        let text = if a.word.is_empty() { a.text.clone() } else { format!("{}: {}", a.word, a.text) };
        say(head, text.trim_end_matches([':', ' ']), a.level.role());
    }
    if let Some(b) = rollback::under_way(s) {
        say("Goes back", &format!("{}: {}", rollback::word(b.hard), b.why), Role::Warn);
    }
    if let Some(r) = &s.rest {
        say("Came to", &r.applications, Role::Ok);
        r.collections.iter().for_each(|c| say("", c, Role::Text));
        say("Proof", &r.proof, Role::Text);
        return lines;
    }
    let blocking: Vec<_> = s.gates.iter().filter(|g| g.verdict != Verdict::Pass).collect();
    for (i, g) in blocking.iter().enumerate() {
        let role = if g.verdict == Verdict::Fail { Role::Bad } else { Role::Warn };
        say(if i == 0 { "Blocked by" } else { "" }, &verdict::gate_sentence(g), role);
    }
    match (&s.throttle, s.activity.as_ref().and_then(|a| a.throttled.as_deref())) {
        (Some(t), _) => say("Throttled", &format!("{}, for {}", t.text, format::span(t.held)), Role::Warn),
        (None, Some(slow)) => say("Slowed", slow, Role::Warn),
        (None, None) => {}
    }
    if let Some(load) = load_sentence(&s.load) {
        say("Servers", &load, Role::Text);
    }
    if s.latency_source == Some(LatencySource::Servers) {
        let text = "as the servers have it, tidegate's own operations included: no application reports its own";
        say("Latency", text, Role::Warn);
    }
    for a in s.applications.iter().filter(|a| a.epoch < s.route.epoch) {
        let text = format!("{} still follows route epoch {}, heard {} ago", a.name, a.epoch, format::lag(a.age));
        say("Application", &text, Role::Warn);
    }
    let current = s.stages.iter().find(|st| st.status == StageStatus::Current);
    if let Some(runbook) = current.and_then(|st| st.runbook.as_deref()) {
        say("Runbook", runbook, Role::Accent);
    }
    lines
}
