//! The lines at the top that must answer within five seconds: are users hurt, what is on next, what happens if nobody does
//! anything, can we go back, who holds the lease, how old is this. Pure readings of the snapshot; what is unknown says so.

use crate::runtime::Micros;
use crate::snapshot::{BackView, Goes, Phase, Snapshot, Verdict, WayBack};

use super::super::app::UiState;
use super::super::format::{self, NOT_KNOWN};
use super::super::rollback::{self, percent_below};
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
    if let Some(v) = s.strand.as_ref().filter(|v| v.is_outstanding()) {
        bad.push(format!("{} stranded on next", rollback::stranded(v)));
    }
    if t.stale_owner > 0 {
        bad.push(format!("{} reads older than an acknowledged write", format::grouped(t.stale_owner)));
    }
    if let Some((from, to, since)) = s.route.frozen {
        let held = s.at.since(since) + ui.snapshot_age;
        let share = format::percent(percent_below(to.saturating_sub(from)));
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
    let ahead = s.pilot.as_ref().is_some_and(|p| p.reads == Goes::Next);
    let serves_next = s.route.reads_next_below > 0 || s.route.writes_next_below > 0 || ahead;
    for g in s.gates.iter().filter(|g| g.verdict == Verdict::Fail) {
        let felt = matches!(g.unit, "ms" | "x") || g.name.contains("error") || g.name.ends_with("like legacy");
        if felt && (serves_next || !g.name.contains("next")) {
            bad.push(gate_sentence(g));
        }
    }
    if t.stray > 0 {
        warn.push(format!(
            "{} stray writes past the route: `tidegate repair` carries them over",
            format::grouped(t.stray)
        ));
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
    if s.plan.is_observed() {
        return answer(Level::Ok, "NOT HURT", "latencies are the servers'; errors and lost writes are not known here");
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
        Phase::RollingBack => (Level::Warn, "GOING BACK"),
        Phase::RolledBack => (Level::Ok, "ROLLED BACK"),
        Phase::NeedsOperator => (Level::Bad, "NEEDS YOU"),
        Phase::Failed => (Level::Bad, "FAILED"),
    };
    let why = if s.why.is_empty() { "the reason is not known yet" } else { &s.why };
    match rollback::under_way(s) {
        Some(b) => answer(level, word, going_back(s, b)),
        None => answer(level, word, why),
    }
}

/// As [`now`]; where nobody moves it, that is what it is doing.
#[must_use]
pub fn now_of(s: &Snapshot, ui: &UiState) -> Answer {
    match &ui.absent {
        Some(why) => answer(Level::Bad, "NO RUNNER", format!("{why}; it was {}", now(s).word.to_lowercase())),
        None => now(s),
    }
}

/// As [`idle`]: nothing happens by itself where nobody moves it.
#[must_use]
pub fn idle_of(s: &Snapshot, ui: &UiState) -> Answer {
    match &ui.absent {
        Some(_) => answer(Level::Plain, "", "nothing moves until a runner takes it up: `tidegate resume`"),
        None => idle(s),
    }
}

/// As [`back`]: where nobody moves it, what was true when it was last heard of.
#[must_use]
pub fn back_of(s: &Snapshot, ui: &UiState) -> Answer {
    let a = back(s);
    match &ui.absent {
        Some(_) => answer(Level::Unknown, a.word, format!("when last heard of: {}", a.text)),
        None => a,
    }
}

/// `soft, step 3 of 9: reads back to legacy`, with what the step waits for, or why the way back stands still.
fn going_back(s: &Snapshot, b: &BackView) -> String {
    let (n, of) = rollback::step(b);
    let alone = if b.cohort { "cohort only, " } else { "" };
    let way = format!("{alone}{}, step {n} of {of}", rollback::word(b.hard));
    if s.phase != Phase::RollingBack {
        return format!("going back {way}, stands still: {}", s.why);
    }
    // The engine's sentence begins with the step's name; between two steps it names none.
    let waits = s.why.starts_with(&b.step) && !s.why.ends_with("is under way");
    let what = if waits { &s.why } else { &b.step };
    format!("{way}: {}", if what.is_empty() { "coming to rest" } else { what })
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
    if s.plan.is_observed() {
        return answer(Level::Plain, "NOT OURS", &w.text);
    }
    match s.phase {
        Phase::RolledBack => return answer(Level::Ok, "DONE", "everything is back on legacy"),
        // Nothing is wrong: this is how a rollout ends.
        Phase::Completed => return answer(Level::Plain, "SHUT", &w.text),
        _ => {}
    }
    if !w.open && w.text.is_empty() {
        return answer(Level::Unknown, "NOT KNOWN", "the engine has not said yet");
    }
    if !w.open {
        return answer(Level::Bad, "SHUT", &w.text);
    }
    if let Some(v) = &s.strand {
        if v.is_outstanding() {
            return answer(Level::Bad, "SEALED", format!("{}: on next only until salvaged", rollback::stranded(v)));
        }
        if v.conflicts.1 > 0 {
            let n = format::grouped(v.conflicts.1);
            return answer(
                Level::Bad,
                "CONFLICTS",
                format!("{n} keys written on both sides: `tidegate repair` resolves"),
            );
        }
        if v.silent.is_some() && !v.sealed && s.route.writes_next_below > 0 {
            let how = if v.decided.is_some() { "left behind as decided" } else { "waits for next, or R leaves them" };
            return answer(Level::Bad, "NO ANSWER", format!("{} at risk; {how}", rollback::stranded(v)));
        }
    }
    let level = if rollback::is_in_step(s) { Level::Ok } else { Level::Warn };
    let cost = cost(w);
    if let Some(b) = rollback::under_way(s) {
        let faster = if b.hard { "" } else { "; R makes it hard" };
        return answer(level, "GOING", format!("{cost}{faster}"));
    }
    let until = w.until_stage.as_ref().map(|u| format!(", until {u}")).unwrap_or_default();
    // The shares and the lag in the engine's sentence are on the screen already where all of the cost is known.
    let known = w.writes_at_risk.is_some() && w.seconds_at_risk.is_some() && w.freeze.is_some_and(|f| f > Micros::ZERO);
    let more = if known || w.text.is_empty() { String::new() } else { format!(": {}", w.text) };
    answer(level, "OPEN", format!("{cost}{until}{more}"))
}

/// `0 writes/0.1s at risk, freeze 0.3s`: what going back would cost now.
pub(crate) fn cost(w: &WayBack) -> String {
    let writes = w.writes_at_risk.map_or_else(|| "writes not known".to_owned(), rollback::writes);
    // Where legacy owns every write, there is neither anything to wait for nor to hold.
    if w.seconds_at_risk == Some(Micros::ZERO) && w.freeze == Some(Micros::ZERO) {
        return format!("{writes} at risk");
    }
    let seconds = w.seconds_at_risk.map(|t| format!("/{}", format::lag(t))).unwrap_or_default();
    let freeze = w.freeze.map_or_else(|| "not measured".to_owned(), format::lag);
    format!("{writes}{seconds} at risk, freeze {freeze}")
}

/// What share of reads and writes is on next.
#[must_use]
pub fn on_next(s: &Snapshot) -> Answer {
    if s.plan.is_observed() {
        return answer(Level::Plain, "", "the other tool moves it");
    }
    if s.route.epoch == 0 {
        return answer(Level::Plain, "", "no route yet");
    }
    let p = |below| format::percent(percent_below(below));
    let (reads, writes) = (p(s.route.reads_next_below), p(s.route.writes_next_below));
    let cohort = s.pilot.as_ref().map_or("", rollback::cohort_word);
    if !cohort.is_empty() {
        let text = format!("reads/writes, shadow {}%", s.route.shadow);
        return answer(Level::Plain, format!("{cohort}, others {reads}/{writes}"), text);
    }
    answer(Level::Plain, format!("reads {reads}  writes {writes}"), format!("shadow {}%", s.route.shadow))
}

/// Whether the stage can be left.
#[must_use]
pub fn advance(s: &Snapshot) -> Answer {
    let total = s.gates.len();
    let passing = s.gates.iter().filter(|g| g.verdict == Verdict::Pass).count();
    let count = format!("{passing} of {total} gates pass");
    let closed = s.calendar.as_ref().and_then(|c| c.closed.as_deref());
    match s.phase {
        Phase::Completed | Phase::RolledBack | Phase::Failed => answer(Level::Plain, "", "nothing left to advance"),
        _ if rollback::under_way(s).is_some() => answer(Level::Plain, "", "not while it goes back"),
        Phase::Starting | Phase::Soaking | Phase::Blocked if passing == total && closed.is_some() => {
            answer(Level::Warn, "", closed.unwrap_or_default())
        }
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
    if s.plan.is_observed() {
        return answer(Level::Ok, "", format!("none, nothing is written; {} observes", s.holder));
    }
    if let Some(why) = &s.unpublished {
        return answer(Level::Warn, "", format!("{}, epoch {}; {why}", s.holder, s.epoch));
    }
    answer(Level::Plain, "", format!("{}, epoch {}", s.holder, s.epoch))
}

/// How old this is.
#[must_use]
pub fn data(s: &Snapshot, ui: &UiState) -> Answer {
    if ui.snapshot_age > STALE_AFTER && !s.phase.is_final() {
        return answer(Level::Bad, format!("STALE, silent for {}", format::span(ui.snapshot_age)), "");
    }
    match data_age(s, ui) {
        None => answer(Level::Unknown, "no data yet", ""),
        Some(age) if age > STALE_AFTER && !s.phase.is_final() => {
            answer(Level::Bad, format!("STALE, {} old", format::lag(age)), "")
        }
        Some(age) => answer(Level::Ok, format!("{} old", format::lag(age)), ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{CalendarView, GateView, TrafficView};

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
    fn a_shut_window_is_said_where_it_is_asked_whether_to_advance() {
        let mut s = healthy();
        let why = "closed until Tue 2027-01-05 09:00 Europe/Berlin: change freeze, year-end closing".to_owned();
        s.calendar = Some(CalendarView { closed: Some(why.clone()), changes_ms: None });
        for phase in [Phase::Starting, Phase::Soaking, Phase::Blocked] {
            s.phase = phase;
            assert_eq!((advance(&s).level, advance(&s).text), (Level::Warn, why.clone()));
        }
        // What a person can do something about comes first.
        s.gates.push(GateView { verdict: Verdict::Fail, ..GateView::default() });
        assert_eq!(advance(&s).word, BLOCKED);
    }

    #[test]
    fn an_observed_rollout_says_that_nothing_is_written_and_promises_no_way_back() {
        let mut s = healthy();
        (s.plan.mode, s.holder) = ("observe".into(), "ana".into());
        s.way_back.text = "nothing is written here: the tool that migrates goes back".into();
        assert_eq!(lease(&s).text, "none, nothing is written; ana observes");
        assert_eq!((back(&s).word.as_str(), back(&s).level), ("NOT OURS", Level::Plain));
        assert!(!on_next(&s).text.contains('%') && on_next(&s).word.is_empty());
        assert!(rollback::shut(&s).is_some_and(|why| why.contains("only observes")));
    }

    #[test]
    fn a_lost_write_comes_before_everything() {
        let mut s = healthy();
        s.traffic = TrafficView { acknowledged: 10, lost: Some(1), stray: 3, ..TrafficView::default() };
        assert!(users(&s, &UiState::default()).text.starts_with("1 acknowledged writes lost"));
    }
}
