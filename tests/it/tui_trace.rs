//! The trace screen: what its keys ask, and how an answer looks at every size.
#![allow(clippy::unwrap_used)] // helpers of tests

use std::sync::Arc;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use tidegate::route::Side;
use tidegate::runtime::Micros;
use tidegate::snapshot::{
    Command, Snapshot, TraceAsk, TraceDifference, TraceEvent, TraceField, TraceKept, TraceReach, TraceRecord,
    TraceRoute, TraceStep, TraceVerdict, TraceVersion, TraceView,
};
use tidegate::tui::app::Overlay;
use tidegate::tui::{Effect, Input, UiState, render_text, update};

use crate::fixture::canary;

fn key(c: char) -> Input {
    Input::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE))
}

fn code(c: KeyCode) -> Input {
    Input::Key(KeyEvent::new(c, KeyModifiers::NONE))
}

fn typed(ui: &mut UiState, s: &Snapshot, text: &str) -> Vec<Effect> {
    text.chars().flat_map(|c| update(ui, s, key(c))).collect()
}

fn asked(effects: &[Effect]) -> Option<&TraceAsk> {
    match effects {
        [Effect::Trace(ask)] => Some(ask),
        _ => None,
    }
}

fn field(path: &str, value: &str) -> TraceField {
    TraceField { path: path.into(), value: value.into(), masked: value.starts_with("masked") }
}

fn version(name: &str, place: &str, fields: &[(&str, &str)]) -> TraceVersion {
    let fields: Vec<TraceField> = fields.iter().map(|(p, v)| field(p, v)).collect();
    let (bytes, place) = (Some(40 + 20 * fields.len()), place.to_owned());
    TraceVersion { name: name.into(), place, bytes, fields, ..TraceVersion::default() }
}

fn step(number: usize, text: &str, class: &str, reason: &str, touches: bool) -> TraceStep {
    let (text, class, reason) = (text.into(), class.into(), reason.into());
    TraceStep { number, text, class, reason, touches: Some(touches), from: vec![], to: vec![] }
}

/// An order whose copy differs, of which a stray is in quarantine.
pub fn traced() -> TraceView {
    let legacy = [("_id", "17"), ("customer.name", "masked string"), ("total", "\"12.50\""), ("n", "4")];
    let made =
        [("_id", "17"), ("customer_name", "masked string"), ("total", "12.50 (decimal)"), ("n", "4"), ("v", "2")];
    let next =
        [("_id", "17"), ("customer_name", "masked string"), ("total", "12.50 (decimal)"), ("n", "5"), ("v", "2")];
    let back = [("_id", "17"), ("customer.name", "masked string"), ("total", "\"12.50\""), ("n", "5")];
    TraceView {
        key: "17".into(),
        at_ms: 1_700_058_127_000,
        verdict: TraceVerdict::Differs,
        why: "legacy owns it, and next does not hold what the steps make of it".into(),
        person: Some("update on next, which did not own the key, nobody has decided about it yet".into()),
        bucket: Some(812),
        route: Some(TraceRoute {
            epoch: Some(18),
            owner: Side::Legacy,
            reads: Side::Legacy,
            frozen: false,
            cohort: Some((false, "_id.region in \"eu\"".into())),
            reads_next_below: 256,
            writes_next_below: 256,
        }),
        versions: vec![
            version("legacy", "shop.orders", &legacy),
            version("next", "shop.orders_v2", &next),
            TraceVersion { is_held: Some(false), ..version("T(legacy)", "", &made) },
            TraceVersion { is_held: Some(false), ..version("inverse(next)", "", &back) },
        ],
        differences: vec![TraceDifference { path: "n".into(), wanted: Some("4".into()), holds: Some("5".into()) }],
        kept: vec![TraceKept {
            kind: "stray".into(),
            id: "orders-v2/next/1700058100:1/17".into(),
            open: true,
            text: "update on next, which did not own the key, nobody has decided about it yet".into(),
            versions: vec![version("legacy", "", &legacy), version("next", "", &next)],
        }],
        events: vec![
            TraceEvent {
                side: Side::Next,
                at_ms: 1_700_058_000_000,
                at: "1700058000:3".into(),
                kind: "insert".into(),
                own: Some(true),
            },
            TraceEvent {
                side: Side::Next,
                at_ms: 1_700_058_100_000,
                at: "1700058100:1".into(),
                kind: "update".into(),
                own: Some(false),
            },
        ],
        reach: Side::BOTH
            .map(|side| TraceReach { side, back: Some(Micros::from_secs(3_600)), why: "as far as is looked".into() })
            .into(),
        journal: vec![TraceRecord {
            seq: 41,
            at_ms: 1_700_058_101_000,
            text: "stray write of 17 on next; `tidegate repair PLAN --template carry-stray` carries it over".into(),
        }],
        lineage: vec![
            step(
                1,
                "rename customer.name -> customer_name",
                "reordered",
                "fields may come back in another order",
                true,
            ),
            step(2, "convert total string -> decimal", "exact", "a value that would not come back is refused", true),
            step(3, "unset note", "lossy", "loses the value", false),
            step(4, "set v", "exact", "taken out again", true),
        ],
        masked: true,
        ..TraceView::default()
    }
}

/// The screen with an answer on it.
fn answered(view: TraceView) -> (Snapshot, UiState) {
    let (mut s, mut ui) = (canary(), UiState::default());
    update(&mut ui, &s, key('d'));
    typed(&mut ui, &s, &view.key);
    let effects = update(&mut ui, &s, code(KeyCode::Enter));
    let ask = asked(&effects).unwrap().id;
    s.trace = Some(Arc::new(TraceView { ask, ..view }));
    (s, ui)
}

#[test]
fn screens_of_a_traced_document() {
    let (s, mut ui) = answered(traced());
    for (w, h) in [(120, 36), (80, 24)] {
        insta::assert_snapshot!(format!("traced_{w}x{h}"), render_text(&s, &ui, w, h));
    }
    for _ in 0..2 {
        update(&mut ui, &s, code(KeyCode::PageDown));
    }
    insta::assert_snapshot!("traced_further_down_80x24", render_text(&s, &ui, 80, 24));
}

#[test]
fn screens_of_a_document_that_agrees_and_of_the_line_for_a_key() {
    let next = [("_id", "17"), ("customer_name", "\"Ann\""), ("v", "2")];
    let legacy = [("_id", "17"), ("customer.name", "\"Ann\"")];
    let view = TraceView {
        verdict: TraceVerdict::Agrees,
        why: "legacy owns it, and next holds what the steps make of it".into(),
        person: None,
        differences: vec![],
        kept: vec![],
        masked: false,
        versions: vec![
            version("legacy", "shop.orders", &legacy),
            version("next", "shop.orders_v2", &next),
            TraceVersion { is_held: Some(true), ..version("T(legacy)", "", &next) },
            TraceVersion { is_held: Some(true), ..version("inverse(next)", "", &legacy) },
        ],
        ..traced()
    };
    let (s, ui) = answered(view);
    insta::assert_snapshot!("agrees_120x36", render_text(&s, &ui, 120, 36));
    let (s, mut ui) = (canary(), UiState::default());
    update(&mut ui, &s, key('d'));
    typed(&mut ui, &s, "{\"region\"");
    insta::assert_snapshot!("typing_a_key_80x24", render_text(&s, &ui, 80, 24));
}

#[test]
fn a_key_is_typed_and_asked_for_and_no_character_of_it_does_anything_else() {
    let (s, mut ui) = (canary(), UiState::default());
    update(&mut ui, &s, key('d'));
    let effects = typed(&mut ui, &s, "PRAq?\"17\"");
    assert!(effects.is_empty() && ui.overlay.is_none() && ui.requests.is_empty());
    update(&mut ui, &s, code(KeyCode::Backspace));
    update(&mut ui, &s, Input::Paste("8 \u{1b}[2J\nP".into()));
    let effects = update(&mut ui, &s, code(KeyCode::Enter));
    let ask = asked(&effects).unwrap().clone();
    assert_eq!((ask.key.as_str(), ask.reveal), ("PRAq?\"178 \u{FFFD}[2J", false));
    assert!(render_text(&s, &ui, 120, 36).contains("looking …"));
    // While it is looked for it is not asked again, and everything else works.
    assert!(update(&mut ui, &s, code(KeyCode::Enter)).is_empty());
    assert!(matches!(update(&mut ui, &s, key('P'))[..], [Effect::Send(_, Command::Pause)]));
    update(&mut ui, &s, key('R'));
    assert!(matches!(ui.overlay, Some(Overlay::Dialog(_))) && ui.trace.is_some());
    update(&mut ui, &s, code(KeyCode::Esc));
    assert!(ui.overlay.is_none() && ui.trace.is_some());
    update(&mut ui, &s, code(KeyCode::Esc));
    assert!(ui.trace.is_none());
}

#[test]
fn only_the_answer_to_what_was_asked_is_shown_and_silence_is_told() {
    let (mut s, mut ui) = answered(traced());
    let older = s.trace.as_deref().cloned().unwrap();
    s.trace = Some(Arc::new(TraceView { ask: older.ask + 7, ..older }));
    assert!(!render_text(&s, &ui, 120, 36).contains("DIFFERS"));
    let tick = Input::Tick { elapsed: Micros::from_secs(31), snapshot_age: Micros::ZERO };
    update(&mut ui, &s, tick);
    assert!(render_text(&s, &ui, 120, 36).contains("no answer; Enter asks again"));
    assert!(asked(&update(&mut ui, &s, code(KeyCode::Enter))).is_some());
    update(&mut ui, &s, Input::Untraced("the drill is over".into()));
    assert!(render_text(&s, &ui, 120, 36).contains("the drill is over"));
}

#[test]
fn masked_values_are_asked_for_with_an_upper_case_key_and_only_where_there_are_any() {
    let (s, mut ui) = answered(traced());
    let effects = update(&mut ui, &s, key('V'));
    let ask = asked(&effects).unwrap();
    assert_eq!((ask.key.as_str(), ask.reveal), ("17", true));
    let (s, mut ui) = answered(TraceView { masked: false, ..traced() });
    assert!(update(&mut ui, &s, key('V')).is_empty());
    assert_eq!(ui.notice.as_ref().unwrap().text, "nothing of it is masked");
    let mut ui = UiState::default();
    assert!(update(&mut ui, &s, key('V')).is_empty());
    assert_eq!(ui.notice.as_ref().unwrap().text, "d traces a document first");
}

#[test]
fn whoever_watches_is_told_where_to_look() {
    let (s, mut ui) = (canary(), UiState::default());
    ui.watching = true;
    update(&mut ui, &s, key('d'));
    typed(&mut ui, &s, "17");
    assert!(update(&mut ui, &s, code(KeyCode::Enter)).is_empty());
    for (w, h) in [(120, 36), (80, 24)] {
        assert!(render_text(&s, &ui, w, h).contains("tidegate trace PLAN KEY"), "{w}x{h}");
    }
}

#[test]
fn no_size_panics_and_hostile_text_reaches_no_cell() {
    let hostile = "x\u{1b}]52;c;eA==\u{7}y\u{202E}z\r\n\t表示";
    let mut view = traced();
    view.why = hostile.into();
    view.key = hostile.into();
    view.notes.push(hostile.repeat(50));
    view.versions[0].fields.extend((0..300).map(|n| field(&format!("{hostile}{n}"), hostile)));
    view.versions[1].problem = Some(hostile.into());
    view.lineage[0].text = hostile.into();
    view.kept[0].text = hostile.into();
    let (s, mut ui) = answered(traced());
    let hostile =
        Snapshot { trace: Some(Arc::new(TraceView { ask: s.trace.as_ref().unwrap().ask, ..view })), ..s.clone() };
    for s in [&s, &hostile, &canary()] {
        for scroll in [0, 3, 500] {
            ui.trace.as_mut().unwrap().scroll = scroll;
            for w in (0..=200).step_by(9).chain([1, 2, 39, 40, 41, 79, 95, 97]) {
                for h in (0..=60).step_by(5).chain([1, 2, 6, 7, 8, 9, 11]) {
                    let text = render_text(s, &ui, w, h);
                    let bad = text.chars().find(|c| *c != '\n' && (c.is_control() || *c == '\u{202E}'));
                    assert_eq!(bad, None, "{w}x{h}");
                }
            }
        }
    }
    ui.ascii = true;
    ui.trace.as_mut().unwrap().scroll = 0;
    let text = render_text(&s, &ui, 120, 60);
    assert!(text.is_ascii() && !text.contains("??"), "{text}");
}

#[test]
fn the_end_of_the_page_is_reached_and_not_left() {
    let (s, mut ui) = answered(traced());
    for _ in 0..100 {
        update(&mut ui, &s, code(KeyCode::PageDown));
    }
    let text = render_text(&s, &ui, 80, 24);
    assert!(text.contains("JOURNAL") && text.contains("carries it over"), "{text}");
    for _ in 0..100 {
        update(&mut ui, &s, code(KeyCode::PageUp));
    }
    assert_eq!(ui.trace.as_ref().unwrap().scroll, 0);
}
