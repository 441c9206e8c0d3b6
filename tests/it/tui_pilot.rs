//! The pilot cohort on the dashboard: where it is, the question that sends it back alone, and the one that takes it forward again.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use tidegate::route::Goes;
use tidegate::snapshot::{BackView, Command, Phase, PilotView, RouteView, Snapshot};
use tidegate::tui::{Effect, Input, UiState, render_text, update};

use crate::fixture::canary;

fn key(c: char) -> Input {
    Input::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE))
}

const ENTER: Input = Input::Key(KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE));

fn feed(s: &Snapshot, inputs: &[Input]) -> (UiState, Vec<Command>) {
    let mut ui = UiState::default();
    let mut sent = Vec::new();
    for input in inputs {
        let effects = [update(&mut ui, s, input.clone()), update(&mut ui, s, Input::Drawn)].concat();
        sent.extend(effects.into_iter().filter_map(|e| if let Effect::Send(_, c) = e { Some(c) } else { None }));
    }
    (ui, sent)
}

fn screen(s: &Snapshot, inputs: &[Input], w: u16, h: u16) -> String {
    render_text(s, &feed(s, inputs).0, w, h)
}

fn pilot(reads: Goes, writes: Goes) -> Option<PilotView> {
    Some(PilotView { cohort: "_id.region in \"eu\", \"sa\"".into(), reads, writes })
}

/// The cohort alone is on next, with its writes.
fn ahead() -> Snapshot {
    let mut s = canary();
    s.pilot = pilot(Goes::Next, Goes::Next);
    s.stages.iter_mut().skip(3).for_each(|st| st.pilot = (Goes::Next, Goes::Next));
    (s.stages[3].reads, s.stages[3].writes) = (0, 0);
    s.route = RouteView { epoch: 18, shadow: 20, ..RouteView::default() };
    s.way_back.text = "writes of the pilot cohort are on next, legacy follows 0.1s behind".into();
    s
}

/// It is on its way back alone.
fn going_back() -> Snapshot {
    let mut s = ahead();
    s.phase = Phase::RollingBack;
    s.why = "pilot cohort back to legacy is under way".into();
    s.if_nothing = "the pilot cohort goes back to legacy, then it waits".into();
    let step = "pilot cohort back to legacy".into();
    s.back = Some(BackView { why: "by the operator".into(), step, steps: (1, 3), cohort: true, ..BackView::default() });
    s
}

/// It is back, and stays.
fn held() -> Snapshot {
    let mut s = canary();
    s.stages.iter_mut().skip(3).for_each(|st| st.pilot = (Goes::Next, Goes::Next));
    s.pilot = pilot(Goes::Legacy, Goes::Legacy);
    s.phase = Phase::Paused;
    s.why = "the pilot cohort is back on legacy and stays there; everybody else is where they were".into();
    s.if_nothing = "stays paused; both sides are kept in step".into();
    s
}

#[test]
fn screens_of_a_cohort() {
    for (w, h) in [(120, 36), (80, 24)] {
        insta::assert_snapshot!(format!("ahead_{w}x{h}"), screen(&ahead(), &[], w, h));
        insta::assert_snapshot!(format!("asked_{w}x{h}"), screen(&ahead(), &[key('R'), key('c')], w, h));
        insta::assert_snapshot!(format!("going_back_{w}x{h}"), screen(&going_back(), &[], w, h));
        insta::assert_snapshot!(format!("held_{w}x{h}"), screen(&held(), &[key('C')], w, h));
    }
}

#[test]
fn c_in_the_question_sends_the_cohort_back_alone() {
    let alone = |hard| Command::RollbackCohort { hard };
    assert_eq!(feed(&ahead(), &[key('R'), key('c'), ENTER]).1, [alone(false)]);
    assert_eq!(feed(&ahead(), &[key('R'), key('c'), key('h'), ENTER]).1, [alone(true)]);
    let everybody = Command::Rollback { hard: false, to: None };
    assert_eq!(feed(&ahead(), &[key('R'), key('c'), key('c'), ENTER]).1, [everybody]);
    // Without a cohort the key says nothing.
    assert_eq!(feed(&canary(), &[key('R'), key('c'), ENTER]).1, [everybody]);
    assert_eq!(feed(&held(), &[key('R'), key('c'), ENTER]).1, []);
}

#[test]
fn f_takes_a_held_cohort_forward_and_enter_goes_on_without_it() {
    assert_eq!(feed(&held(), &[key('C'), ENTER]).1, [Command::Continue]);
    assert_eq!(feed(&held(), &[key('C'), key('f')]).1, [Command::CohortForward]);
    let mut s = held();
    s.pilot = pilot(Goes::Next, Goes::Next);
    assert_eq!(feed(&s, &[key('C'), key('f')]).1, []);
}
