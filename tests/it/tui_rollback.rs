//! The way back on the dashboard: its question, its keys, how it looks under way and at rest.
#![allow(clippy::unwrap_used)] // helpers of tests

use std::sync::Arc;

use proptest::prelude::*;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use tidegate::drill::{Drill, Scenario, Settings, builtin};
use tidegate::journal::MemStore;
use tidegate::plan::{Advance, Plan};
use tidegate::runtime::Micros;
use tidegate::snapshot::{BackView, Command, Phase, Reply, RestView, RouteView, Snapshot, StageStatus, WayBack};
use tidegate::tui::{Effect, Input, UiState, render_text, rollback, update};

use crate::fixture::{canary, early};

fn key(c: char) -> Input {
    code(KeyCode::Char(c))
}

const fn code(c: KeyCode) -> Input {
    Input::Key(KeyEvent::new(c, KeyModifiers::NONE))
}

const ENTER: Input = code(KeyCode::Enter);
const RIGHT: Input = code(KeyCode::Right);
const LEFT: Input = code(KeyCode::Left);
const SOFT: Command = Command::Rollback { hard: false, to: None };
const HARD: Command = Command::Rollback { hard: true, to: None };

/// Feeds the inputs; every frame in between is drawn, as the event loop does.
fn feed(ui: &mut UiState, s: &Snapshot, inputs: &[Input]) -> Vec<Effect> {
    let mut effects = Vec::new();
    for input in inputs {
        effects.extend(update(ui, s, input.clone()));
        effects.extend(update(ui, s, Input::Drawn));
    }
    effects
}

/// The commands that the inputs send.
fn sent(s: &Snapshot, inputs: &[Input]) -> Vec<Command> {
    commands(feed(&mut UiState::default(), s, inputs))
}

fn commands(effects: Vec<Effect>) -> Vec<Command> {
    effects.into_iter().filter_map(|e| if let Effect::Send(_, c) = e { Some(c) } else { None }).collect()
}

fn screen(s: &Snapshot, inputs: &[Input], w: u16, h: u16) -> String {
    let mut ui = UiState::default();
    feed(&mut ui, s, inputs);
    render_text(s, &ui, w, h)
}

fn footer(s: &Snapshot, ui: &UiState) -> String {
    render_text(s, ui, 120, 36).lines().last().unwrap().to_owned()
}

/// Mid-canary it goes back, stage by stage or at once: writes are back, reads are on their way.
pub fn going_back(hard: bool) -> Snapshot {
    let mut s = canary();
    s.phase = Phase::RollingBack;
    s.why = "reads back to legacy: checkout-2 has not acknowledged route epoch 20 yet".into();
    s.if_nothing = "goes back until everything is on legacy, compared and recovered".into();
    s.back = Some(BackView {
        hard,
        why: "next read p99 31.2ms is above 25.0ms for 60s".into(),
        to: None,
        step: "reads back to legacy".into(),
        steps: if hard { (1, 7) } else { (2, 10) },
        cohort: false,
    });
    s.route = RouteView { epoch: 20, shadow: 20, reads_next_below: 256, writes_next_below: 0, frozen: None };
    s.way_back.text = "legacy owns every write".into();
    s.way_back.seconds_at_risk = Some(Micros::ZERO);
    s.way_back.freeze = Some(Micros::ZERO);
    s
}

/// Everything is back on legacy.
pub fn rolled_back() -> Snapshot {
    let mut s = going_back(false);
    s.phase = Phase::RolledBack;
    s.why = "everything is back on legacy".into();
    s.if_nothing = "nothing more happens".into();
    s.route = RouteView { epoch: 23, ..RouteView::default() };
    s.way_back = WayBack { writes_at_risk: Some(0), text: s.why.clone(), ..WayBack::default() };
    s.rest = Some(RestView {
        applications: "applications read and write shop.orders".into(),
        collections: vec![
            "shop.orders is the collection in use".into(),
            "shop.orders_v2.isolated.orders-v2 is next, sealed and kept".into(),
        ],
        proof: "1204331 documents compared and equal on both sides before they parted".into(),
    });
    s
}

/// Writes are on next and nothing carries them back.
fn legacy_does_not_follow() -> Snapshot {
    let mut s = canary();
    s.way_back.open = false;
    s.way_back.writes_at_risk = None;
    s.way_back.seconds_at_risk = None;
    s.way_back.text = "10% of writes are on next and legacy does not follow".into();
    s
}

fn past_the_point_of_no_return() -> Snapshot {
    let mut s = legacy_does_not_follow();
    s.stages.iter_mut().for_each(|st| st.status = StageStatus::Passed);
    s.stages[6].status = StageStatus::Current;
    s.way_back.text = "legacy no longer follows".into();
    s
}

#[test]
fn screens_of_the_question() {
    for (w, h) in [(120, 36), (80, 24), (40, 6), (20, 5)] {
        insta::assert_snapshot!(format!("soft_{w}x{h}"), screen(&canary(), &[key('R')], w, h));
        insta::assert_snapshot!(format!("hard_{w}x{h}"), screen(&canary(), &[key('R'), key('h'), RIGHT], w, h));
    }
    insta::assert_snapshot!("typed_80x24", screen(&legacy_does_not_follow(), &[key('R'), key('o')], 80, 24));
    insta::assert_snapshot!("harder_80x24", screen(&going_back(false), &[key('R'), key('h')], 80, 24));
}

#[test]
fn screens_of_the_way_back_and_of_where_it_came_to_rest() {
    for (w, h) in [(120, 36), (80, 24), (60, 16), (40, 6), (20, 5)] {
        insta::assert_snapshot!(format!("going_soft_{w}x{h}"), screen(&going_back(false), &[], w, h));
        insta::assert_snapshot!(format!("at_rest_{w}x{h}"), screen(&rolled_back(), &[], w, h));
    }
    insta::assert_snapshot!("going_hard_80x24", screen(&going_back(true), &[], 80, 24));
    let paused = Snapshot { phase: Phase::Paused, why: "by the operator".into(), ..going_back(false) };
    insta::assert_snapshot!("standing_still_80x24", screen(&paused, &[], 80, 24));
}

#[test]
fn r_and_enter_go_back_softly_to_before_the_first_stage() {
    assert_eq!(sent(&canary(), &[key('R')]), []);
    assert_eq!(sent(&canary(), &[key('R'), ENTER]), [SOFT]);
    assert_eq!(sent(&canary(), &[key('R'), code(KeyCode::Esc), ENTER]), []);
}

#[test]
fn hard_and_the_place_to_rest_in_are_chosen() {
    let s = canary();
    for hard in [key('h'), code(KeyCode::Down)] {
        assert_eq!(sent(&s, &[key('R'), hard.clone(), ENTER]), [HARD]);
        for soft in [key('s'), code(KeyCode::Up)] {
            assert_eq!(sent(&s, &[key('R'), hard.clone(), soft, ENTER]), [SOFT]);
        }
    }
    // The canary is the fourth stage: three lie before it.
    for (presses, to) in [(1, Some(0)), (2, Some(1)), (3, Some(2)), (4, Some(2)), (9, Some(2))] {
        let mut inputs = vec![key('R')];
        inputs.extend(std::iter::repeat_n(RIGHT, presses));
        inputs.push(ENTER);
        assert_eq!(sent(&s, &inputs), [Command::Rollback { hard: false, to }], "{presses} times Right");
    }
    assert_eq!(sent(&s, &[key('R'), RIGHT, LEFT, LEFT, ENTER]), [SOFT]);
}

#[test]
fn it_is_possible_from_every_phase_that_is_not_the_end() {
    use Phase::{AwaitingOperator, Blocked, NeedsOperator, Paused, Soaking, Starting, Working};
    for phase in [Starting, Working, Soaking, AwaitingOperator, Blocked, Paused, NeedsOperator] {
        assert_eq!(sent(&Snapshot { phase, ..canary() }, &[key('R'), ENTER]), [SOFT], "{phase:?}");
    }
    assert_eq!(sent(&early(), &[key('R'), ENTER]), [SOFT]);
    assert_eq!(sent(&Snapshot::default(), &[key('R'), ENTER]), [SOFT]);
}

#[test]
fn mashing_sends_one() {
    let (s, mut ui) = (canary(), UiState::default());
    let mash = [key('R'), key('R'), ENTER, ENTER, key('R'), ENTER, key('R'), key('R'), ENTER];
    assert_eq!(commands(feed(&mut ui, &s, &mash)), [SOFT]);
    assert!(footer(&s, &ui).contains("asked for already"), "{}", footer(&s, &ui));
    // And once it is under way, it does not become a hard one.
    feed(&mut ui, &s, &[Input::Reply(1, Reply::Applied)]);
    assert_eq!(commands(feed(&mut ui, &going_back(false), &mash)), []);
}

#[test]
fn a_paste_never_goes_back() {
    let (s, mut ui) = (canary(), UiState::default());
    assert_eq!(feed(&mut ui, &s, &[Input::Paste("RRRR\n".into())]), []);
    assert_eq!(ui.overlay, None);
    assert_eq!(feed(&mut ui, &s, &[key('R'), Input::Paste("h\n".into())]), []);
    // As keys, all at once: the question has not been on screen.
    let mut ui = UiState::default();
    for input in [key('R'), key('R'), key('R'), ENTER, key('h'), ENTER] {
        assert_eq!(update(&mut ui, &s, input), []);
    }
    update(&mut ui, &s, Input::Drawn);
    assert_eq!(commands(update(&mut ui, &s, ENTER)), [SOFT]);
}

#[test]
fn any_other_question_gives_way_to_this_one() {
    for open in ['A', 'C', 'q', '?', 'w'] {
        assert_eq!(sent(&canary(), &[key(open), key('R'), ENTER]), [SOFT], "{open}");
    }
    // Also where a word is being typed, unless it has the letter.
    let mut s = canary();
    s.stages[3].status = StageStatus::Passed;
    s.stages[5].status = StageStatus::Current;
    assert_eq!(sent(&s, &[key('A'), key('o'), key('R'), ENTER]), [SOFT]);
    s.plan.id = "oR".into();
    let mut ui = UiState::default();
    let effects = feed(&mut ui, &s, &[key('A'), key('o'), key('R'), ENTER]);
    assert_eq!(commands(effects), [Command::Advance { stage: 5 }]);
}

#[test]
fn what_may_lose_writes_wants_a_word_and_nothing_else_does() {
    let s = legacy_does_not_follow();
    assert_eq!(sent(&s, &[key('R'), ENTER]), []);
    let typed: Vec<Input> = std::iter::once(key('R')).chain("orders-v2".chars().map(key)).collect();
    assert_eq!(sent(&s, &[typed.clone(), vec![ENTER]].concat()), [SOFT]);
    assert_eq!(sent(&s, &[typed.clone(), vec![code(KeyCode::Down), ENTER]].concat()), [HARD]);
    assert_eq!(sent(&s, &[key('R'), key('P')]), [Command::Pause]);
    // Legacy follows, however far behind: what it lacks is carried over.
    let mut behind = canary();
    behind.way_back.writes_at_risk = None;
    behind.way_back.seconds_at_risk = Some(Micros::from_secs(90));
    assert_eq!(sent(&behind, &[key('R'), ENTER]), [SOFT]);
    // And what was asked while all was well is asked for the word when it no longer is.
    let mut ui = UiState::default();
    feed(&mut ui, &canary(), &[key('R')]);
    assert_eq!(feed(&mut ui, &s, &[ENTER]), []);
    assert!(render_text(&s, &ui, 80, 24).contains("Type orders-v2 to confirm"));
}

#[test]
fn a_way_back_that_is_shut_is_refused_at_once() {
    let done = Snapshot { phase: Phase::Completed, ..canary() };
    let gone = past_the_point_of_no_return();
    let all = [(done, "completed"), (gone, "legacy no longer follows"), (rolled_back(), "back on legacy already")];
    for (s, why) in all.into_iter().chain([(going_back(true), "nothing is faster")]) {
        let mut ui = UiState::default();
        assert_eq!(feed(&mut ui, &s, &[key('R'), ENTER]), []);
        assert_eq!(ui.overlay, None);
        assert!(footer(&s, &ui).contains(why), "{}", footer(&s, &ui));
    }
}

#[test]
fn an_open_question_shows_what_is_so_now() {
    let mut ui = UiState::default();
    let mut s = canary();
    feed(&mut ui, &s, &[key('R')]);
    assert!(render_text(&s, &ui, 80, 24).contains("0 writes, 0.1s"));
    s.way_back.writes_at_risk = Some(17);
    s.way_back.seconds_at_risk = Some(Micros::from_secs(4));
    s.way_back.freeze = Some(Micros::from_ms(900));
    s.route.reads_next_below = 512;
    let text = render_text(&s, &ui, 80, 24);
    for now in ["17 writes, 4.0s", "for about 0.9s", "reads 50% → 0%"] {
        assert!(text.contains(now), "{now} is not in\n{text}");
    }
    s.way_back.freeze = None;
    assert!(render_text(&s, &ui, 80, 24).contains("no freeze measured yet"));
    // Its stage may pass meanwhile: it leads to the same place.
    s.stages[3].status = StageStatus::Passed;
    s.stages[4].status = StageStatus::Current;
    assert_eq!(commands(feed(&mut ui.clone(), &s, &[ENTER])), [SOFT]);
    // A trigger went back first: a soft answer does not make that hard, and does not ask for it twice.
    assert_eq!(feed(&mut ui.clone(), &going_back(false), &[ENTER]), []);
    // A place it has gone behind by then, or a lease in other hands: not sent, and it says so.
    feed(&mut ui, &s, &[RIGHT]);
    for (s, why) in [(going_back(true), "hard already"), (Snapshot { epoch: 19, ..s }, "lease changed hands")] {
        let mut ui = ui.clone();
        assert_eq!(feed(&mut ui, &s, &[ENTER]), []);
        assert!(footer(&s, &ui).contains(why), "{}", footer(&s, &ui));
    }
}

#[test]
fn under_way_it_can_be_made_hard_and_go_further() {
    let mut s = going_back(false);
    assert_eq!(sent(&s, &[key('R'), ENTER]), []);
    assert_eq!(sent(&s, &[key('R'), key('h'), ENTER]), [HARD]);
    s.back = Some(BackView { to: Some("shadow".into()), ..s.back.unwrap() });
    assert_eq!(sent(&s, &[key('R'), key('h'), ENTER]), [Command::Rollback { hard: true, to: Some(2) }]);
    assert_eq!(sent(&s, &[key('R'), LEFT, ENTER]), [Command::Rollback { hard: false, to: Some(1) }]);
    assert_eq!(sent(&s, &[key('R'), RIGHT, ENTER]), []);
}

#[test]
fn under_way_it_is_paused_and_continued_and_no_stage_is_left() {
    let s = going_back(false);
    assert_eq!(sent(&s, &[key('P')]), [Command::Pause]);
    let paused = Snapshot { phase: Phase::Paused, ..s.clone() };
    assert_eq!(sent(&paused, &[key('C'), ENTER]), [Command::Continue]);
    let mut ui = UiState::default();
    assert_eq!(feed(&mut ui, &s, &[key('A'), ENTER]), []);
    assert!(footer(&s, &ui).contains("it is going back to legacy: nothing to advance"), "{}", footer(&s, &ui));
    assert!(!footer(&s, &UiState::default()).contains("A advance"));
}

#[test]
fn stages_gone_back_differ_from_passed_ones_without_colour() {
    let mut s = going_back(false);
    let line = |s: &Snapshot| render_text(s, &UiState::default(), 120, 36).lines().nth(5).unwrap().to_owned();
    assert!(line(&s).contains("[✓ shadow 22:00]─[« CANARY]─[half]"), "{}", line(&s));
    // The fixture's stages before the canary set nothing but the shadow that the plan begins with.
    s.route.reads_next_below = 0;
    assert!(line(&s).contains("[« COPY]─[← verify]─[← shadow]─[← canary]─[half]"), "{}", line(&s));
    assert!(line(&rolled_back()).contains("[← copy]─[← verify]─[← shadow]─[← canary]─[half]"));
}

#[test]
fn a_message_does_not_hide_what_became_of_the_rollback() {
    let (s, mut ui) = (canary(), UiState::default());
    let slow = Input::Problem("runs behind: 6x instead of 20x".into());
    feed(&mut ui, &s, &[key('R'), ENTER, Input::Reply(1, Reply::Applied), slow.clone()]);
    assert!(footer(&s, &ui).contains("ROLLBACK soft requested -> accepted -> begun"), "{}", footer(&s, &ui));
    // What a key is answered with is shown, and stays.
    feed(&mut ui, &rolled_back(), &[key('R'), slow]);
    assert!(footer(&s, &ui).contains("back on legacy already"), "{}", footer(&s, &ui));
}

#[test]
fn buckets_are_counted_as_the_route_counts_them() {
    for percent in 0..=u8::MAX {
        assert_eq!(rollback::buckets(percent), tidegate::route::below_for_percent(percent), "{percent}%");
    }
}

/// What the question promises is what the engine does: next is kept under the name it gave, and the route is where it said.
#[test]
fn the_question_says_what_will_be() {
    let b = &builtin()[0];
    let scenario = Scenario::parse(b.scenario, "scenario.toml").unwrap();
    let plan = Plan::parse(b.plan, "plan.toml").unwrap();
    let world = tidegate::drill::World { documents: 300, ..scenario.world };
    let settings = Settings {
        seed: world.seed,
        advance: Some(Advance::Auto),
        journal: Arc::new(|_| Arc::new(MemStore::new())),
        on_record: Arc::new(|_| {}),
    };
    let drill = Drill::begin(&world, &plan, &settings).unwrap();
    let until = |what: &str, holds: &dyn Fn(&Snapshot) -> bool| {
        let limit = drill.now() + Micros::from_secs(300);
        while !holds(&drill.snapshot()) {
            assert!(drill.now() < limit, "{what}: {}", drill.snapshot().why);
            drill.run_until(drill.now() + Micros::from_ms(500));
        }
        drill.snapshot()
    };
    let s = until("the canary", &|s| s.stages[2].soaked > Micros::from_secs(1));
    let asked = screen(&s, &[key('R')], 120, 36);
    let kept = "shop.orders_v2.isolated.orders-v2";
    assert!(asked.contains(kept) && asked.contains("reads 10% → 0%, writes 5.1% → 0%"), "{asked}");
    let command = sent(&s, &[key('R'), RIGHT, RIGHT, ENTER])[0];
    let _reply = drill.send(command).unwrap();
    let s = until("shadow", &|s| s.back.is_none() && s.stages[2].status == StageStatus::Pending);
    assert_eq!((s.stages[1].status, s.route.reads_next_below), (StageStatus::Current, 0));
    let _reply = drill.send(sent(&s, &[key('R'), ENTER])[0]).unwrap();
    let s = until("rest", &|s| s.phase == Phase::RolledBack);
    let seen = screen(&s, &[], 120, 36);
    assert!(seen.contains("CAME TO REST") && s.rest.as_ref().unwrap().collections.concat().contains(kept), "{seen}");
}

proptest! {
    /// Whatever is pressed, in whatever order: a rollback is sent by Enter alone, a hard one only after hard was chosen.
    #[test]
    fn only_enter_goes_back_and_hard_is_always_chosen(keys in "[RhsACwq?n]{0,30}", last in any::<bool>()) {
        let mut inputs: Vec<Input> = keys.chars().map(key).collect();
        let back = |c: &Command| matches!(c, Command::Rollback { .. });
        prop_assert!(!sent(&canary(), &inputs).iter().any(back), "without Enter");
        if last {
            inputs.push(ENTER);
            let hard = sent(&canary(), &inputs).iter().any(|c| matches!(c, Command::Rollback { hard: true, .. }));
            prop_assert!(!hard || keys.contains('h'), "hard was not chosen");
        }
    }

    /// The question fits any screen, in every world, and its last word is never cut off.
    #[test]
    fn the_question_fits_any_size(w in 1u16..130, h in 1u16..40, hard in any::<bool>(), world in 0usize..5) {
        let s = [canary(), early(), going_back(false), legacy_does_not_follow(), Snapshot::default()][world].clone();
        let mut inputs = vec![key('R')];
        inputs.extend(hard.then(|| code(KeyCode::Down)));
        let text = screen(&s, &inputs, w, h);
        prop_assert_eq!(text.lines().count(), usize::from(h));
        if world == 3 && w >= 40 && h >= 6 {
            prop_assert!(text.contains("Type orders-v2 to confirm"), "{w}x{h}\n{text}");
        }
    }
}
