//! The rollback dialog's knowledge: what may be chosen, what a choice would change and cost, and why it may not be. Pure readings
//! of the newest snapshot, so that a dialog that stays open shows what is so now, not what was so when it opened.

use crate::route::{BUCKETS, Bucket};
use crate::runtime::Micros;
use crate::snapshot::{BackView, Command, Goes, Phase, PilotView, Snapshot, StageStatus, StrandView};

use super::app::current_stage;
use super::format::{self, NOT_KNOWN};
use super::theme::Role;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Everything at once, rather than stage by stage.
    pub hard: bool,
    /// Index of the stage to come to rest in; `None` is before the first one.
    pub to: Option<usize>,
    /// Without next, which does not answer: what legacy does not have is left behind.
    pub leave: bool,
    /// Only the pilot cohort, which then stays on legacy.
    pub cohort: bool,
}

impl Choice {
    /// The gentlest one: soft, or just what is under way already.
    #[must_use]
    pub fn first(s: &Snapshot) -> Choice {
        let b = under_way(s);
        let to = b.and_then(|b| stage_index(s, b));
        Choice { hard: b.is_some_and(|b| b.hard), to, leave: false, cohort: b.is_some_and(|b| b.cohort) }
    }

    /// Everybody, or only the cohort, where there is one.
    #[must_use]
    pub fn turned(self, s: &Snapshot) -> Choice {
        // In one branch each, not through a flag that is used twice: rustc 1.95 loses such a flag where this is inlined
        // (rust-lang/rust#158206; docs/testing.md).
        if !self.cohort && s.pilot.is_some() {
            Choice { cohort: true, leave: false, to: None, ..self }
        } else {
            Choice { cohort: false, leave: false, ..self }
        }
    }

    /// Soft or hard; what is hard already stays so.
    #[must_use]
    pub fn made(self, s: &Snapshot, hard: bool) -> Choice {
        Choice { hard: hard || whole(s).is_some_and(|b| b.hard), leave: false, ..self }
    }

    /// Without next, where it does not answer.
    #[must_use]
    pub fn leaving(self, s: &Snapshot) -> Choice {
        if can_leave(s) { Choice { hard: true, to: None, leave: true, cohort: false } } else { self }
    }

    /// The command it becomes.
    #[must_use]
    pub fn command(self) -> Command {
        match self {
            Choice { leave: true, .. } => Command::LeaveBehind,
            Choice { cohort: true, hard, .. } => Command::RollbackCohort { hard },
            Choice { hard, to, .. } => Command::Rollback { hard, to },
        }
    }

    /// One stage later (or earlier) to come to rest in, as far as there is one.
    #[must_use]
    pub fn moved(self, s: &Snapshot, later: bool) -> Choice {
        if self.leave {
            // A sealed next can be in no stage.
            return self;
        }
        let to = match (self.to, later) {
            (None, true) => Some(0),
            (Some(t), true) => Some(t + 1),
            (None | Some(0), false) => None,
            (Some(t), false) => Some(t - 1),
        };
        if !self.cohort && to.is_none_or(|t| t < rests(s)) { Choice { to, ..self } } else { self }
    }
}

/// Next does not answer, writes belong to it, and nobody has decided yet to go back without it.
#[must_use]
pub fn can_leave(s: &Snapshot) -> bool {
    let open = s.strand.as_ref().is_some_and(|v| v.silent.is_some() && !v.sealed && v.decided.is_none());
    open && s.route.writes_next_below > 0 && !s.phase.is_final()
}

/// `14s of writes, about 120 (estimate)`: what is on next only.
#[must_use]
pub fn stranded(v: &StrandView) -> String {
    let time = v.at_risk.map_or_else(|| "an unknown time".to_owned(), format::lag);
    match v.estimate {
        Some(n) => format!("{time} of writes, about {} (estimate)", format::grouped(n)),
        None => format!("{time} of writes, count not known"),
    }
}

/// `soft` or `hard`.
#[must_use]
pub fn word(hard: bool) -> &'static str {
    if hard { "hard" } else { "soft" }
}

/// The rollback under way; `None` once it has come to rest.
#[must_use]
pub fn under_way(s: &Snapshot) -> Option<&BackView> {
    s.back.as_ref().filter(|_| !s.phase.is_final())
}

/// The rollback of everybody under way: one of the cohort alone gives way to it.
fn whole(s: &Snapshot) -> Option<&BackView> {
    under_way(s).filter(|b| !b.cohort)
}

/// The step that is being carried out, counted from 1, and how many there are.
#[must_use]
pub fn step(b: &BackView) -> (usize, usize) {
    let (done, all) = b.steps;
    ((done + 1).min(all), all)
}

fn stage_index(s: &Snapshot, b: &BackView) -> Option<usize> {
    let to = b.to.as_ref()?;
    s.stages.iter().position(|st| st.id == *to)
}

/// How many stages, from the first on, a rollback may come to rest in.
#[must_use]
pub fn rests(s: &Snapshot) -> usize {
    match whole(s) {
        Some(b) => stage_index(s, b).map_or(0, |t| t + 1),
        None => current_stage(s).unwrap_or(0),
    }
}

/// What a place to come to rest in is called.
#[must_use]
pub fn place(s: &Snapshot, to: Option<usize>) -> &str {
    match to {
        None => "before the first stage",
        Some(t) => s.stages.get(t).map_or("?", |st| st.id.as_str()),
    }
}

/// Why nothing can go back, or no faster than it does.
#[must_use]
pub fn shut(s: &Snapshot) -> Option<String> {
    if s.plan.is_observed() {
        return Some("tidegate only observes and writes nothing: the tool that migrates goes back".into());
    }
    match s.phase {
        Phase::RolledBack => return Some("everything is back on legacy already".into()),
        Phase::Completed => return Some("there is no way back: the rollout is completed".into()),
        Phase::Failed => return Some("the rollout has failed: nothing more happens here".into()),
        _ => {}
    }
    if let Some(b) = whole(s) {
        let all = b.hard && b.to.is_none() && !can_leave(s);
        return all.then(|| "everything is going back hard already: nothing is faster".into());
    }
    // Before the stage that cannot be undone, a legacy that does not follow is a risk to be told, not a door that is shut.
    let passed = s.stages.iter().any(|st| st.irreversible && st.status != StageStatus::Pending);
    (passed && !s.way_back.open).then(|| format!("there is no way back: {}", s.way_back.text))
}

/// Why `choice` would not be sent; `None` when it would.
#[must_use]
pub fn refused(s: &Snapshot, choice: Choice) -> Option<String> {
    if let Some(why) = shut(s) {
        return Some(why);
    }
    if choice.leave {
        return (!can_leave(s)).then(|| "next answers, or it is decided already: nothing need be left behind".into());
    }
    if choice.cohort {
        return cohort_refused(s, choice);
    }
    let possible = choice.to.is_none_or(|t| t < rests(s));
    match whole(s) {
        Some(_) if !possible => Some("it goes back further already".into()),
        Some(b) if choice.to == stage_index(s, b) && (b.hard || !choice.hard) => {
            Some(format!("it is going back {} already and goes on", word(b.hard)))
        }
        None if !possible => Some(format!("{} is not before the stage it is in now", place(s, choice.to))),
        _ => None,
    }
}

/// Why the cohort alone would not go back.
fn cohort_refused(s: &Snapshot, choice: Choice) -> Option<String> {
    let Some(p) = &s.pilot else { return Some("the plan names no pilot cohort".into()) };
    match under_way(s) {
        Some(b) if !b.cohort => Some("everything is going back, the cohort with it".into()),
        Some(b) if b.hard || !choice.hard => Some(format!("it is going back {} already and goes on", word(b.hard))),
        Some(_) => None,
        None if (p.reads, p.writes) == (Goes::Legacy, Goes::Legacy) => {
            Some("the cohort is held on legacy already".into())
        }
        None if s.route.epoch == 0 => Some("nothing of the cohort has moved yet".into()),
        None => None,
    }
}

/// True while a write belongs to next, of a bucket or of the cohort.
fn writes_on_next(s: &Snapshot) -> bool {
    s.route.writes_next_below > 0 || cohort_writes_ahead(s)
}

fn cohort_writes_ahead(s: &Snapshot) -> bool {
    s.pilot.as_ref().is_some_and(|p| p.writes == Goes::Next)
}

/// Acknowledged writes might not come along: some are on next only, and nothing carries them over.
#[must_use]
pub fn may_lose(s: &Snapshot) -> bool {
    writes_on_next(s) && !s.way_back.open && s.way_back.writes_at_risk != Some(0)
}

/// Legacy has what applications wrote on next, or will in a moment: a write or two on its way is how it always is.
#[must_use]
pub fn is_in_step(s: &Snapshot) -> bool {
    let w = &s.way_back;
    let moment = s.plan.max_staleness.max(Micros::from_secs(1));
    w.writes_at_risk == Some(0) || (w.writes_at_risk.is_some() && w.seconds_at_risk.is_some_and(|t| t <= moment))
}

/// What must be typed before `choice` is sent; `None` for whatever loses nothing.
#[must_use]
pub fn must_type(s: &Snapshot, choice: Choice) -> Option<String> {
    let asked = (choice.leave || (may_lose(s) && moves_writes(s, choice))) && refused(s, choice).is_none();
    asked.then(|| if s.plan.id.is_empty() { "back".to_owned() } else { s.plan.id.clone() })
}

/// Shadow, reads and writes at the place to come to rest in, percent.
fn settings(s: &Snapshot, to: Option<usize>) -> (u8, u8, u8) {
    to.and_then(|t| s.stages.get(t)).map_or((0, 0, 0), |st| (st.shadow, st.reads, st.writes))
}

fn moves_writes(s: &Snapshot, choice: Choice) -> bool {
    let follows = s.pilot.as_ref().is_some_and(|p| p.writes == Goes::Buckets) && s.route.writes_next_below > 0;
    if choice.cohort {
        return cohort_writes_ahead(s) || follows;
    }
    s.route.writes_next_below > buckets(settings(s, choice.to).2) || cohort_moves(s, choice)
}

/// The cohort's writes are ahead, and would not be in the stage to come to rest in.
fn cohort_moves(s: &Snapshot, choice: Choice) -> bool {
    let there = choice.to.and_then(|t| s.stages.get(t)).map_or(Goes::Buckets, |st| st.pilot.1);
    cohort_writes_ahead(s) && there < Goes::Next
}

/// How often writes are held on the way.
fn freezes(s: &Snapshot, choice: Choice) -> usize {
    if !moves_writes(s, choice) {
        return 0;
    }
    let first = choice.to.map_or(0, |t| t + 1);
    let moved = |i: &usize| {
        let before = settings(s, i.checked_sub(1)).2;
        settings(s, Some(*i)).2 > before && s.route.writes_next_below > buckets(before)
    };
    if choice.cohort {
        return 1;
    }
    let stages = current_stage(s).map_or(0, |at| (first..=at).filter(moved).count());
    let stages = stages + usize::from(cohort_moves(s, choice));
    if choice.hard { 1 } else { stages.max(1) }
}

/// One line of what a choice does or costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What it is about, in a word.
    pub head: &'static str,
    /// What is so.
    pub text: String,
    /// How it is to be taken.
    pub role: Role,
}

/// What `choice` would change and cost, what matters most first.
#[must_use]
pub fn facts(s: &Snapshot, choice: Choice) -> Vec<Fact> {
    let until = match &s.way_back.until_stage {
        Some(stage) => format!("{stage}: after it there is no way back"),
        None => "the rollout completes".to_owned(),
    };
    if let Some(v) = s.strand.as_ref().filter(|_| choice.leave) {
        return leaving(s, v, choice);
    }
    vec![
        at_risk(s),
        Fact { head: "Freeze", text: freeze(s, choice), role: Role::Text },
        Fact { head: "Changes", text: changes(s, choice), role: Role::Text },
        Fact { head: "Next", text: becomes_of_next(s, choice), role: Role::Text },
        Fact { head: "Until", text: until, role: Role::Dim },
    ]
}

/// What going back without next does and costs.
fn leaving(s: &Snapshot, v: &StrandView, choice: Choice) -> Vec<Fact> {
    let next = s.plan.collections.first().map_or(NOT_KNOWN, |(_, next)| next.as_str());
    let fact = |head, text: String, role| Fact { head, text, role };
    let silent =
        v.silent.map_or_else(|| "does not answer".into(), |t| format!("has not answered for {}", format::span(t)));
    vec![
        fact("At risk", format!("{}: acknowledged, ON NEXT ONLY", stranded(v)), Role::Bad),
        fact("Counted", v.basis.clone(), Role::Dim),
        fact("Next", format!("{silent}; {next} is sealed until what is there has been salvaged"), Role::Warn),
        fact("Then", "a key also written on legacy meanwhile is a conflict for a person".into(), Role::Text),
        fact("Changes", changes(s, choice), Role::Text),
    ]
}

fn at_risk(s: &Snapshot) -> Fact {
    let fact = |text, role| Fact { head: "At risk", text, role };
    let w = &s.way_back;
    if let Some(v) = s.strand.as_ref().filter(|v| v.silent.is_some() && !v.sealed && s.route.writes_next_below > 0) {
        return fact(format!("{}: next does not answer, this WAITS for it", stranded(v)), Role::Warn);
    }
    if !writes_on_next(s) {
        return fact("0 writes: legacy owns all of them".into(), Role::Ok);
    }
    let writes = w.writes_at_risk.map_or_else(|| "writes not known".to_owned(), writes);
    if may_lose(s) {
        let text = format!("{writes}: LEGACY DOES NOT FOLLOW NEXT. What it does not have may be lost.");
        return fact(text, Role::Bad);
    }
    let behind = w.seconds_at_risk.map_or_else(|| "lag not known".to_owned(), format::lag);
    let role = if is_in_step(s) { Role::Ok } else { Role::Warn };
    fact(format!("{writes}, {behind}: not on legacy yet; carried over first"), role)
}

/// Where the cohort is, in a few words; empty where it goes as everybody else.
#[must_use]
pub fn cohort_word(p: &PilotView) -> &'static str {
    match (p.reads, p.writes) {
        (Goes::Buckets, Goes::Buckets) => "",
        (Goes::Next, Goes::Next) => "cohort next",
        (Goes::Next, _) => "cohort reads next",
        _ => "cohort legacy",
    }
}

/// `0 writes`, `1 write`.
#[must_use]
pub fn writes(n: u64) -> String {
    format!("{} write{}", format::grouped(n), if n == 1 { "" } else { "s" })
}

fn freeze(s: &Snapshot, choice: Choice) -> String {
    let times = match freezes(s, choice) {
        0 => return "no write is held: none moves".into(),
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        n => format!("{n} times"),
    };
    match s.way_back.freeze.filter(|f| *f > Micros::ZERO) {
        Some(longest) => format!("writes held {times} for about {} (longest so far)", format::lag(longest)),
        None => format!("writes held {times}; no freeze measured yet"),
    }
}

/// How many buckets make up so many percent: `ceil(percent × 1024 / 100)`, as the route counts them.
#[must_use]
pub fn buckets(percent: u8) -> Bucket {
    let all = u32::from(BUCKETS);
    // At most BUCKETS, which is a Bucket.
    (u32::from(percent.min(100)) * all).div_ceil(100) as Bucket
}

/// Percent of buckets below `below`.
#[must_use]
pub fn percent_below(below: Bucket) -> f64 {
    f64::from(below.min(BUCKETS)) * 100.0 / f64::from(BUCKETS)
}

fn changes(s: &Snapshot, choice: Choice) -> String {
    if s.route.epoch == 0 {
        return "nothing has moved yet".into();
    }
    if let Some(p) = s.pilot.as_ref().filter(|_| choice.cohort) {
        return format!(
            "{}: reads {}, writes {} → legacy; everybody else as now. It stays there until you say otherwise",
            p.cohort,
            p.reads.name(),
            p.writes.name()
        );
    }
    let (shadow, reads, writes) = settings(s, choice.to);
    let r = &s.route;
    let part = |name: &str, now: String, then: u8| match format!("{then}%") {
        then if then == now => format!("{name} {now} as now"),
        then => format!("{name} {now} → {then}"),
    };
    // A share of buckets is rounded up, so 5 % are 5.1 % of them; what is there already is not called a change.
    let moved = |name: &str, below: Bucket, then: u8| match below == buckets(then) {
        true => format!("{name} {then}% as now"),
        false => part(name, format::percent(percent_below(below)), then),
    };
    let mut text = format!(
        "on next: {}, {}, {}",
        moved("reads", r.reads_next_below, reads),
        moved("writes", r.writes_next_below, writes),
        part("shadow", format!("{}%", r.shadow), shadow)
    );
    if let Some(p) = s.pilot.as_ref().filter(|p| p.reads == Goes::Next || p.is_held()) {
        text.push_str(&format!("; {}", cohort_word(p)));
        if p.reads == Goes::Next {
            text.push_str(if choice.to.is_some_and(|t| s.stages.get(t).is_some_and(|st| st.pilot.0 == Goes::Next)) {
                " as far as there"
            } else {
                " → with everybody"
            });
        }
    }
    text
}

fn becomes_of_next(s: &Snapshot, choice: Choice) -> String {
    let next = s.plan.collections.first().map_or(NOT_KNOWN, |(_, next)| next.as_str());
    match choice.to {
        None if !choice.cohort => format!("{next} is sealed and kept as {next}.isolated.{}", s.plan.id),
        _ => format!("{next} stays and is kept in step"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{RouteView, StageView, WayBack};

    /// In the last of three stages, every write on next.
    fn full() -> Snapshot {
        let stage = |id: &str, status, percent| StageView {
            id: id.into(),
            status,
            reads: percent,
            writes: percent,
            ..StageView::default()
        };
        Snapshot {
            phase: Phase::Soaking,
            stages: vec![
                stage("copy", StageStatus::Passed, 0),
                stage("half", StageStatus::Passed, 50),
                stage("full", StageStatus::Current, 100),
            ],
            route: RouteView { epoch: 7, reads_next_below: 1024, writes_next_below: 1024, ..RouteView::default() },
            way_back: WayBack { open: true, writes_at_risk: Some(0), ..WayBack::default() },
            ..Snapshot::default()
        }
    }

    const SOFT: Choice = Choice { hard: false, to: None, leave: false, cohort: false };

    #[test]
    fn a_soft_one_holds_writes_once_a_stage_that_moved_them_and_a_hard_one_once() {
        let s = full();
        assert_eq!((freezes(&s, SOFT), freezes(&s, Choice { hard: true, ..SOFT })), (2, 1));
        assert_eq!((freezes(&s, Choice { to: Some(1), ..SOFT }), freezes(&s, Choice { to: Some(2), ..SOFT })), (1, 0));
        // Half of the way back is done.
        let mut s = full();
        s.route.writes_next_below = 512;
        assert_eq!(freezes(&s, SOFT), 1);
    }

    #[test]
    fn a_word_is_asked_for_only_where_writes_may_be_lost() {
        let mut s = full();
        s.way_back.writes_at_risk = None;
        assert_eq!(must_type(&s, SOFT), None, "legacy follows: what it lacks is carried over");
        s.way_back.open = false;
        assert!(must_type(&s, SOFT).is_some());
        assert_eq!(must_type(&s, Choice { to: Some(2), ..SOFT }), None, "no write moves");
        s.way_back.writes_at_risk = Some(3);
        assert!(must_type(&s, SOFT).is_some());
        s.way_back.writes_at_risk = Some(0);
        assert_eq!(must_type(&s, SOFT), None);
        s.route.writes_next_below = 0;
        s.way_back.writes_at_risk = None;
        assert_eq!(must_type(&s, SOFT), None, "legacy owns every write");
    }

    #[test]
    fn legacy_not_following_shuts_nothing_before_the_stage_without_a_way_back() {
        let mut s = full();
        s.way_back.open = false;
        assert_eq!(shut(&s), None);
        s.stages[2].irreversible = true;
        assert!(shut(&s).is_some());
    }

    #[test]
    fn a_rollback_under_way_can_only_be_made_harder_or_go_further() {
        let mut s = full();
        s.back = Some(BackView { to: Some("half".into()), steps: (2, 5), ..BackView::default() });
        assert_eq!((rests(&s), Choice::first(&s).to), (2, Some(1)));
        let choice = |hard, to| Choice { hard, to, leave: false, cohort: false };
        assert!(refused(&s, choice(false, Some(1))).is_some());
        for possible in [choice(true, Some(1)), choice(false, Some(0)), choice(false, None), choice(true, None)] {
            assert_eq!(refused(&s, possible), None, "{possible:?}");
        }
        s.back = Some(BackView { hard: true, to: Some("half".into()), ..BackView::default() });
        assert!(refused(&s, choice(true, Some(1))).is_some() && refused(&s, choice(false, None)).is_none());
        s.back = Some(BackView { hard: true, ..BackView::default() });
        assert!(shut(&s).is_some());
    }

    #[test]
    fn the_place_to_rest_in_stays_among_the_earlier_stages() {
        let s = full();
        let right = SOFT.moved(&s, true).moved(&s, true).moved(&s, true);
        assert_eq!(right.to, Some(1));
        assert_eq!(right.moved(&s, false).moved(&s, false).moved(&s, false).to, None);
    }

    #[test]
    fn a_cohort_alone_goes_back_once_and_only_where_there_is_one() {
        let mut s = full();
        assert!(refused(&s, Choice { cohort: true, ..SOFT }).is_some());
        assert!(!SOFT.turned(&s).cohort);
        s.pilot = Some(PilotView { cohort: "_id.region in \"eu\"".into(), reads: Goes::Next, writes: Goes::Next });
        let alone = Choice { to: Some(1), ..SOFT }.turned(&s);
        assert_eq!((alone.command(), refused(&s, alone)), (Command::RollbackCohort { hard: false }, None));
        assert_eq!((freezes(&s, alone), freezes(&s, SOFT)), (1, 3));
        assert!(!alone.turned(&s).cohort);
        // Everybody may still go back while the cohort does, and not the other way round.
        s.back = Some(BackView { cohort: true, ..BackView::default() });
        assert_eq!((refused(&s, SOFT), refused(&s, alone).is_some()), (None, true));
        assert_eq!(refused(&s, Choice { hard: true, ..alone }), None);
        s.back = Some(BackView::default());
        assert!(refused(&s, alone).is_some());
        s.back = None;
        s.pilot = Some(PilotView { reads: Goes::Legacy, writes: Goes::Legacy, ..PilotView::default() });
        assert!(refused(&s, alone).is_some());
    }

    #[test]
    fn a_share_that_stays_is_not_called_a_change() {
        let mut s = full();
        s.route.writes_next_below = 512;
        let text = changes(&s, Choice { to: Some(1), ..SOFT });
        assert_eq!(text, "on next: reads 100% → 50%, writes 50% as now, shadow 0% as now");
    }
}
