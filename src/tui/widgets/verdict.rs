//! The lines at the top that must answer within five seconds: are users hurt, what is on next, what happens if nobody does
//! anything, can we go back, who holds the lease, how old is this. Pure readings of the snapshot; what is unknown says so.

use crate::route::BUCKETS;
use crate::runtime::Micros;
use crate::snapshot::{Phase, Snapshot, Verdict};

use super::super::app::UiState;
use super::super::canvas::Canvas;
use super::super::format::{self, NOT_KNOWN};
use super::super::theme::Role;

/// Older than this, the data on screen is called stale.
pub const STALE_AFTER: Micros = Micros::from_secs(3);
/// Errors above this share of operations hurt.
const ERRORS_HURT: f64 = 0.01;
/// Errors above this share deserve a look.
const ERRORS_SHOW: f64 = 0.001;
/// Writes held for longer than this are felt.
const HELD_FELT: Micros = Micros::from_secs(1);

/// The word for a stage that cannot be left yet.
pub const BLOCKED: &str = "blocked";

/// How good or bad an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Neither.
    Plain,
    /// Good.
    Ok,
    /// Needs an eye.
    Warn,
    /// Bad.
    Bad,
    /// Not known, which is not good either.
    Unknown,
}

impl Level {
    /// The glyph that says the same as the colour.
    #[must_use]
    pub fn glyph(self) -> &'static str {
        match self {
            Level::Plain => " ",
            Level::Ok => "✓",
            Level::Warn => "!",
            Level::Bad => "✗",
            Level::Unknown => "?",
        }
    }

    /// Its colour.
    #[must_use]
    pub fn role(self) -> Role {
        match self {
            Level::Plain => Role::Text,
            Level::Ok => Role::Ok,
            Level::Warn | Level::Unknown => Role::Warn,
            Level::Bad => Role::Bad,
        }
    }
}

/// One answer: how it stands, in one word, and the words behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How it stands.
    pub level: Level,
    /// In one or two words; may be empty.
    pub word: String,
    /// Why.
    pub text: String,
}

fn answer(level: Level, word: impl Into<String>, text: impl Into<String>) -> Answer {
    Answer { level, word: word.into(), text: text.into() }
}

/// Percent of buckets below `below`.
fn buckets_percent(below: u16) -> f64 {
    f64::from(below.min(BUCKETS)) * 100.0 / f64::from(BUCKETS)
}

/// Age of the newest measurement, the time on this screen included.
#[must_use]
pub fn data_age(s: &Snapshot, ui: &UiState) -> Option<Micros> {
    s.reads.iter().chain(&s.writes).filter_map(|v| v.age).min().map(|age| age + ui.snapshot_age)
}

/// Are users hurt?
#[must_use]
pub fn users(s: &Snapshot, ui: &UiState) -> Answer {
    let mut bad: Vec<String> = Vec::new();
    let mut warn: Vec<String> = Vec::new();
    let t = &s.traffic;
    if let Some(lost @ 1..) = t.lost {
        bad.push(format!("{} acknowledged writes lost", format::grouped(lost)));
    }
    if t.stale_owner > 0 {
        bad.push(format!("{} reads older than an acknowledged write", format::grouped(t.stale_owner)));
    }
    if let Some((from, to, since)) = s.route.frozen {
        let held = s.at.since(since) + ui.snapshot_age;
        let share = format::percent(buckets_percent(to.saturating_sub(from)));
        let text = format!("writes of {share} of the keys held for {}", format::lag(held));
        if held > HELD_FELT { bad.push(text) } else { warn.push(text) }
    }
    let mut worst: Option<f64> = None;
    for (views, kind) in [(&s.reads, "reads"), (&s.writes, "writes")] {
        for (view, side) in views.iter().zip(["legacy", "next"]) {
            let Some(ratio) = view.error_ratio.filter(|r| r.is_finite()) else { continue };
            worst = Some(worst.map_or(ratio, |w| w.max(ratio)));
            let text = format!("{} of {kind} on {side} fail", format::share(ratio));
            if ratio >= ERRORS_HURT {
                bad.push(text);
            } else if ratio >= ERRORS_SHOW {
                warn.push(text);
            }
        }
    }
    let serves_next = s.route.reads_next_below > 0 || s.route.writes_next_below > 0;
    for g in s.gates.iter().filter(|g| g.verdict == Verdict::Fail) {
        let felt = matches!(g.unit, "ms" | "x") || g.name.contains("error") || g.name.ends_with("like legacy");
        if felt && (serves_next || !g.name.contains("next")) {
            bad.push(gate_sentence(g));
        }
    }
    if t.stray > 0 {
        warn.push(format!("{} stray writes on the side that does not own them", format::grouped(t.stray)));
    }
    let count: u64 = s.reads.iter().chain(&s.writes).map(|v| v.count).sum();
    let and_more = |list: &[String]| match list {
        [] => String::new(),
        [one] => one.clone(),
        [one, rest @ ..] => format!("{one}, and {} more (w)", rest.len()),
    };
    if !bad.is_empty() {
        return answer(Level::Bad, "HURT", and_more(&bad));
    }
    if count == 0 {
        return answer(Level::Unknown, "NOT KNOWN", "no measurement yet");
    }
    match data_age(s, ui) {
        Some(age) if age > STALE_AFTER => {
            return answer(Level::Unknown, "NOT KNOWN", format!("newest measurement is {} old", format::lag(age)));
        }
        None => return answer(Level::Unknown, "NOT KNOWN", "the age of the measurements is not known"),
        Some(_) => {}
    }
    if !warn.is_empty() {
        return answer(Level::Warn, "LOOK", and_more(&warn));
    }
    let reports = t.acknowledged > 0 || !s.applications.is_empty();
    let or_not = |n: u64| if reports { format::grouped(n) } else { NOT_KNOWN.into() };
    let text = format!(
        "errors {}, lost writes {}, stale reads {}, stray {}",
        worst.map_or(NOT_KNOWN.into(), format::share),
        t.lost.map_or(NOT_KNOWN.into(), format::grouped),
        or_not(t.stale_owner),
        format::grouped(t.stray),
    );
    answer(Level::Ok, "NOT HURT", text)
}

/// `next read p99 31.2ms > 25.0ms for 42s`, or what is missing.
#[must_use]
pub fn gate_sentence(g: &crate::snapshot::GateView) -> String {
    let limit = format::value(g.limit, g.unit);
    let actual = g.actual.map_or_else(|| NOT_KNOWN.to_owned(), |a| format::value(a, g.unit));
    let name = &g.name;
    match g.verdict {
        Verdict::Fail => {
            let broken = if g.relation == ">=" { "<" } else { ">" };
            format!("{name} {actual} {broken} {limit} for {}", format::span(g.held))
        }
        Verdict::Stale => {
            format!("{name}: no new data{}", g.age.map(|a| format!(" for {}", format::lag(a))).unwrap_or_default())
        }
        Verdict::Inconclusive if g.samples < g.min_samples => {
            format!("{name}: {} of {} samples", format::grouped(g.samples), format::grouped(g.min_samples))
        }
        Verdict::Inconclusive => format!("{name}: no data"),
        Verdict::Holding => {
            format!("{name} {actual} holds for {} of {}", format::span(g.held), format::span(g.hold_for))
        }
        Verdict::Pass => format!("{name} {actual} passes ({} {limit})", g.relation),
    }
}

/// What it is doing and why.
#[must_use]
pub fn now(s: &Snapshot) -> Answer {
    let (level, word) = match s.phase {
        Phase::Starting => (Level::Plain, "STARTING"),
        Phase::Working => (Level::Plain, "WORKING"),
        Phase::Soaking => (Level::Plain, "SOAKING"),
        Phase::AwaitingOperator => (Level::Ok, "YOUR TURN"),
        Phase::Blocked => (Level::Warn, "BLOCKED"),
        Phase::Paused => (Level::Warn, "PAUSED"),
        Phase::Completed => (Level::Ok, "COMPLETED"),
        Phase::NeedsOperator => (Level::Bad, "NEEDS YOU"),
        Phase::Failed => (Level::Bad, "FAILED"),
    };
    answer(level, word, if s.why.is_empty() { "the reason is not known yet" } else { &s.why })
}

/// What happens if nobody does anything.
#[must_use]
pub fn idle(s: &Snapshot) -> Answer {
    answer(Level::Plain, "", if s.if_nothing.is_empty() { "not known yet" } else { &s.if_nothing })
}

/// Whether, until when and at what cost it is possible to go back.
#[must_use]
pub fn back(s: &Snapshot) -> Answer {
    let w = &s.way_back;
    if !w.open && w.text.is_empty() {
        return answer(Level::Unknown, "NOT KNOWN", "the engine has not said yet");
    }
    let risk = match w.writes_at_risk {
        Some(n) => format!("{} writes at risk", format::grouped(n)),
        None => "writes at risk not known".to_owned(),
    };
    if !w.open {
        return answer(Level::Bad, "SHUT", &w.text);
    }
    let until = w.until_stage.as_ref().map(|u| format!(", until {u}")).unwrap_or_default();
    let text = if w.text.is_empty() { format!("{risk}{until}") } else { format!("{risk}{until}: {}", w.text) };
    let level = if w.writes_at_risk == Some(0) { Level::Ok } else { Level::Warn };
    answer(level, "OPEN", text)
}

/// What share of reads and writes is on next.
#[must_use]
pub fn on_next(s: &Snapshot) -> Answer {
    if s.route.epoch == 0 {
        return answer(Level::Plain, "", "no route yet");
    }
    let p = |below| format::percent(buckets_percent(below));
    answer(
        Level::Plain,
        format!("reads {}  writes {}", p(s.route.reads_next_below), p(s.route.writes_next_below)),
        format!("shadow {}%", s.route.shadow),
    )
}

/// Whether the stage can be left.
#[must_use]
pub fn advance(s: &Snapshot) -> Answer {
    let total = s.gates.len();
    let passing = s.gates.iter().filter(|g| g.verdict == Verdict::Pass).count();
    let count = format!("{passing} of {total} gates pass");
    match s.phase {
        Phase::Completed | Phase::Failed => answer(Level::Plain, "", "nothing left to advance"),
        Phase::AwaitingOperator if passing == total => answer(Level::Ok, "ready, press A", count),
        Phase::Starting => answer(Level::Plain, "", "not begun"),
        _ if total == 0 => answer(Level::Plain, "", "no gates on this stage"),
        _ if passing < total => {
            let failing = s.gates.iter().any(|g| g.verdict == Verdict::Fail);
            answer(if failing { Level::Bad } else { Level::Warn }, BLOCKED, count)
        }
        Phase::Soaking => answer(Level::Ok, "after the soak", count),
        _ => answer(Level::Ok, "", count),
    }
}

/// Who holds the lease.
#[must_use]
pub fn lease(s: &Snapshot) -> Answer {
    if s.holder.is_empty() {
        return answer(Level::Plain, "", "nobody yet");
    }
    answer(Level::Plain, "", format!("{}, epoch {}", s.holder, s.epoch))
}

/// How old this is.
#[must_use]
pub fn data(s: &Snapshot, ui: &UiState) -> Answer {
    let dropped = if s.dropped == 0 { String::new() } else { format!("{} dropped", format::grouped(s.dropped)) };
    if ui.snapshot_age > STALE_AFTER && !s.phase.is_final() {
        return answer(Level::Bad, format!("STALE, silent for {}", format::span(ui.snapshot_age)), dropped);
    }
    match data_age(s, ui) {
        None => answer(Level::Unknown, "no data yet", dropped),
        Some(age) if age > STALE_AFTER && !s.phase.is_final() => {
            answer(Level::Bad, format!("STALE, {} old", format::lag(age)), dropped)
        }
        Some(age) => {
            let none = if s.dropped == 0 { "0 dropped".to_owned() } else { dropped };
            answer(if s.dropped == 0 { Level::Ok } else { Level::Warn }, format!("{} old", format::lag(age)), none)
        }
    }
}

/// The first line: what this is, how real, and the time.
pub(crate) fn identity(c: &mut Canvas<'_>, s: &Snapshot, ui: &UiState) {
    let (badge, role) = if s.drill {
        ("DRILL".to_owned(), Role::Accent)
    } else {
        let env = if s.plan.environment.is_empty() { "?" } else { &s.plan.environment };
        (format::fit(&env.to_uppercase(), 14), if env == "production" { Role::Bad } else { Role::Warn })
    };
    let badge_end = c.put_styled(0, 0, &format!(" {badge} "), c.theme.badge(role));
    // From the right: time, live or frozen, age on narrow screens.
    let mut right = c.width().saturating_sub(1);
    let time = format::clock(s.wall_ms);
    if c.width() >= 70 {
        c.put_right(right, 0, &time, Role::Text);
        right = right.saturating_sub(time.len() + 2);
    }
    let (state, role) = match (&ui.frozen, s.drill) {
        (Some(_), _) => ("FROZEN", Role::Warn),
        (None, true) => ("VIRTUAL TIME", Role::Accent),
        (None, false) => ("LIVE", Role::Ok),
    };
    let state = if c.width() < 100 {
        // Without the second column of answers the age of the data stands here.
        let age = data(s, ui);
        let state = if c.width() >= 70 || ui.frozen.is_some() { format!("{state}, ") } else { String::new() };
        let state = format!("{state}{}", age.word);
        c.put_right(right, 0, &state, age.level.role());
        state
    } else {
        c.put_right(right, 0, state, role);
        state.to_owned()
    };
    right = right.saturating_sub(format::width(&state) + 2);
    let mut x = badge_end + 1;
    let room = right.saturating_sub(x);
    let id = if s.plan.id.is_empty() { "no plan yet" } else { &s.plan.id };
    let id = format::fit(id, room);
    x = c.put_styled(x, 0, &id, c.theme.style(Role::Title)) + 2;
    let mut parts: Vec<(String, Role)> = Vec::new();
    if let Some((legacy, next)) = s.plan.collections.first() {
        parts.push((legacy.clone(), Role::Legacy));
        parts.push(("=>".into(), Role::Dim));
        parts.push((next.clone(), Role::Next));
    }
    let all: usize = parts.iter().map(|(t, _)| format::width(t) + 1).sum();
    if x + all <= right {
        for (text, role) in parts {
            x = c.put(x, 0, &text, role) + 1;
        }
        x += 1;
        if s.plan.collections.len() > 1 {
            let more = format!("+{}", s.plan.collections.len() - 1);
            x = c.put(x, 0, &more, Role::Dim) + 2;
        }
        let hash: String = s.plan.hash.chars().take(7).collect();
        let mode = if s.plan.mode.is_empty() { String::new() } else { format!("{} mode", s.plan.mode) };
        for extra in [mode, if hash.is_empty() { hash } else { format!("plan {hash}") }] {
            if !extra.is_empty() && x + format::width(&extra) <= right {
                x = c.put(x, 0, &extra, Role::Dim) + 2;
            }
        }
    }
}

/// One labelled answer on row `y`, from column `x` to `end`.
pub(crate) fn row(c: &mut Canvas<'_>, (x, end): (usize, usize), y: usize, label: &str, word_width: usize, a: &Answer) {
    let end = end.min(c.width());
    c.put(x, y, label, Role::Dim);
    let mut at = x + 9;
    if a.level != Level::Plain {
        at = c.put(at, y, a.level.glyph(), a.level.role()) + 1;
    } else if word_width > 0 {
        at += 2;
    }
    if !a.word.is_empty() {
        let role = if a.level == Level::Plain { Role::Title } else { a.level.role() };
        let word_end = c.put_fit(at, y, &a.word, end.saturating_sub(at), role);
        at = (word_end + 2).max(at + word_width);
    }
    let room = end.saturating_sub(at);
    // A few letters of a sentence say nothing.
    if room >= 14 || format::width(&a.text) <= room {
        c.put_fit(at, y, &a.text, room, Role::Text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{GateView, TrafficView};

    fn healthy() -> Snapshot {
        let mut s = Snapshot::default();
        s.reads[0].count = 1_000;
        s.reads[0].age = Some(Micros::from_ms(300));
        s.reads[0].error_ratio = Some(0.0002);
        s
    }

    #[test]
    fn nothing_measured_is_not_called_healthy() {
        let said = users(&Snapshot::default(), &UiState::default());
        assert_eq!((said.level, said.word.as_str()), (Level::Unknown, "NOT KNOWN"));
        assert_eq!(back(&Snapshot::default()).level, Level::Unknown);
        assert!(!on_next(&Snapshot::default()).text.contains("0%"));
    }

    #[test]
    fn without_reports_lost_writes_are_not_zero() {
        let said = users(&healthy(), &UiState::default());
        assert_eq!(said.level, Level::Ok);
        assert!(said.text.contains("lost writes –") && said.text.contains("stale reads –"), "{}", said.text);
    }

    #[test]
    fn old_measurements_do_not_say_that_users_are_fine() {
        let mut ui = UiState::default();
        assert_eq!(users(&healthy(), &ui).level, Level::Ok);
        ui.snapshot_age = Micros::from_secs(4);
        assert_eq!(users(&healthy(), &ui).level, Level::Unknown);
        assert_eq!(data(&healthy(), &ui).level, Level::Bad);
    }

    #[test]
    fn a_failing_gate_on_next_hurts_only_when_next_serves() {
        let mut s = healthy();
        s.gates.push(GateView {
            name: "next read p99".into(),
            actual: Some(31.2),
            limit: 25.0,
            relation: "<=",
            unit: "ms",
            verdict: Verdict::Fail,
            held: Micros::from_secs(42),
            ..GateView::default()
        });
        assert_eq!(users(&s, &UiState::default()).level, Level::Ok);
        s.route.reads_next_below = 52;
        let said = users(&s, &UiState::default());
        assert_eq!(said.text, "next read p99 31.2ms > 25.0ms for 42s");
        assert_eq!(said.word, "HURT");
    }

    #[test]
    fn a_lost_write_comes_before_everything() {
        let mut s = healthy();
        s.traffic = TrafficView { acknowledged: 10, lost: Some(1), stray: 3, ..TrafficView::default() };
        assert!(users(&s, &UiState::default()).text.starts_with("1 acknowledged writes lost"));
    }
}
