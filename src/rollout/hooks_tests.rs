//! The outbox and what is told, record by record.

#![allow(clippy::unwrap_used, clippy::panic)]
use serde_json::json;

use super::*;

fn plan() -> Plan {
    let text = r#"
            schema = 1
            plan = { id = "p", title = "t", version = 1, owner = "o" }
            [[collection]]
            legacy = "a.b"
            next = "a.c"
            steps = [{ set = "v", value = 2 }]
            [[stage]]
            id = "copy"
            do = ["create", "backfill"]
            [[stage]]
            id = "shadow"
            shadow = 10
            [[hook]]
            id = "all"
            on = ["stage_begin", "stage_passed", "pause", "continue", "rollback", "needs_operator", "completed"]
            command = ["./all.sh"]
            [[hook]]
            id = "tripped"
            on = ["trigger"]
            command = ["./tripped.sh"]
            [[hook]]
            id = "must"
            on = ["stage_begin"]
            stages = ["shadow"]
            required = true
            command = ["./must.sh"]
        "#;
    Plan::parse(text, "plan.toml").map_err(|d| d.render(false)).unwrap()
}

struct Log {
    plan: Plan,
    outbox: Outbox,
    seq: u64,
}

impl Log {
    fn new() -> Log {
        Log { plan: plan(), outbox: Outbox::default(), seq: 0 }
    }

    fn add(&mut self, by: By, event: &Event) -> u64 {
        self.seq += 1;
        let (kind, body) = event.to_parts();
        let record = Record {
            seq: self.seq,
            at_ms: 1_700_000_000_000,
            rollout: "p".into(),
            epoch: 4,
            by,
            kind,
            body,
            prev: String::new(),
            hash: String::new(),
        };
        self.outbox.note(&self.plan, &record.sealed(), event);
        self.seq
    }

    fn due(&self, hook: usize) -> Option<u64> {
        self.outbox.next(hook).map(|d| d.of)
    }
}

fn entered(stage: usize, id: &str) -> Event {
    Event::StageEntered { stage, id: id.into(), at_ms: 1 }
}

fn settled(hook: &str, of: u64, ok: bool) -> Event {
    Event::HookSettled {
        hook: hook.into(),
        of,
        on: "stage_begin".into(),
        ok,
        attempts: 1,
        outcome: "exit code 1".into(),
        exit: Some(1),
        status: None,
        output: String::new(),
    }
}

#[test]
fn a_call_is_due_until_it_is_settled() {
    let mut log = Log::new();
    let first = log.add(By::Engine, &entered(0, "copy"));
    assert_eq!((log.due(0), log.due(1), log.due(2)), (Some(first), None, None));
    let called = Event::HookCalled { hook: "all".into(), of: first, on: "stage_begin".into(), again: false };
    log.add(By::Engine, &called);
    assert!(log.outbox.next(0).unwrap().again, "whoever finds it called and not settled calls it again");
    log.add(By::Engine, &settled("all", first, false));
    assert!(log.outbox.is_empty(), "given up is settled too");
}

#[test]
fn a_required_one_that_failed_is_due_again_when_somebody_goes_on() {
    let mut log = Log::new();
    let of = log.add(By::Engine, &entered(1, "shadow"));
    let id = log.outbox.next(2).unwrap().event_id.clone();
    log.add(By::Engine, &settled("must", of, false));
    assert_eq!(log.due(2), None);
    log.add(By::Operator(None), &Event::Continued {});
    let again = log.outbox.next(2).unwrap();
    assert_eq!((again.of, again.again, &again.event_id), (of, true, &id));
    // Entered anew, it is another beginning.
    log.add(By::Engine, &settled("must", of, false));
    log.add(By::Engine, &entered(1, "shadow"));
    log.add(By::Operator(None), &Event::Continued {});
    assert!(log.due(2) > Some(of));
}

#[test]
fn a_trigger_is_told_to_who_asks_for_it_and_once_to_who_asks_for_both() {
    let mut log = Log::new();
    let of = log.add(By::Trigger, &Event::Paused { why: "errors".into(), evidence: json!({ "value": 3 }) });
    assert_eq!((log.due(0), log.due(1)), (Some(of), Some(of)));
    assert_eq!(log.outbox.next(1).unwrap().body["event"], "trigger");
    log.add(By::Operator(None), &Event::Paused { why: "by the operator".into(), evidence: Value::Null });
    log.add(By::Engine, &settled("tripped", of, true));
    assert_eq!(log.due(1), None, "an operator's pause is no trigger");
}

#[test]
fn the_oldest_gives_way_when_too_many_are_outstanding() {
    let mut log = Log::new();
    for _ in 0..OUTSTANDING_MAX {
        log.add(By::Operator(None), &Event::Continued {});
    }
    assert_eq!(log.outbox.surplus(&log.plan, 0, Some(1)), None);
    log.add(By::Operator(None), &Event::Continued {});
    assert_eq!(log.outbox.surplus(&log.plan, 0, None).map(|d| d.of), Some(1));
    assert_eq!(log.outbox.surplus(&log.plan, 0, Some(1)).map(|d| d.of), Some(2), "not the one under way");
    log.add(By::Engine, &settled("all", 2, false));
    assert_eq!(log.outbox.surplus(&log.plan, 0, Some(1)), None);
}

#[test]
fn what_is_told_holds_figures_and_no_documents() {
    let mut log = Log::new();
    let gates = json!([{ "gate": "p99 of reads", "actual": 3.5, "samples": 900, "secret": "anna@example.com",
        "measured": [{ "value": 1, "classes_us": [[1, 2]] }] }]);
    let cases = [
        (
            By::Engine,
            Event::StagePassed { stage: 0, id: "copy".into(), evidence: json!({ "at_ms": 1, "gates": gates }) },
        ),
        (By::Trigger, Event::Paused { why: "stray write of anna@example.com on next".into(), evidence: Value::Null }),
        (By::Engine, Event::NeedsOperator { why: "dup key: { mail: \"anna@example.com\" }".into() }),
    ];
    for (n, (by, event)) in cases.into_iter().enumerate() {
        let of = log.add(by, &event);
        let told = log.outbox.next(0).unwrap().body.clone();
        log.add(By::Engine, &settled("all", of, true));
        assert!(!told.to_string().contains("anna"), "{told}");
        let text = told["text"].as_str().unwrap();
        let wanted = ["stage copy passed", "PAUSED: a write on", "an operator is needed: record"];
        assert!(text.starts_with(wanted[n]), "{text}");
        if n == 0 {
            let wanted = json!({ "at_ms": 1, "gates": [{ "gate": "p99 of reads", "actual": 3.5, "samples": 900, "measured": [{ "value": 1 }] }] });
            assert_eq!(told["evidence"], wanted);
        }
    }
}
