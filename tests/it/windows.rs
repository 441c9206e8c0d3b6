//! Change windows and freezes in drills, on the drill's own calendar: nothing begins or is left outside of them, and nothing else waits.

use tidegate::drill::{Scenario, World};
use tidegate::engine::End;
use tidegate::journal::Record;
use tidegate::plan::{Advance, Plan};
use tidegate::runtime::Micros;
use tidegate::snapshot::{Command, Phase, Reply};

use super::drill::run;

const STEP: Micros = Micros::from_ms(500);

fn world(start: &str) -> World {
    let text = format!(
        "schema = 1\n[brief]\ntitle = \"t\"\ntext = \"t\"\n[world]\nplan = \"plan.toml\"\nstart = \"{start}\"\ndocuments = 300\noperations = 40\nprocesses = 2\n"
    );
    Scenario::parse(&text, "scenario.toml").unwrap_or_else(|e| panic!("{e}")).world
}

/// Stages of a minute, with a calendar.
fn plan(calendar: &str) -> Plan {
    let stages = r#"[[collection]]
legacy = "shop.orders"
next = "shop.orders_v2"
steps = [{ rename = "customer.name", to = "customer_name" }, { set = "schema_version", value = 2 }]
[[stage]]
id = "copy"
do = ["create", "backfill"]
soak = "5s"
[[stage]]
id = "half"
reads = 50
writes = 50
soak = "1m"
"#;
    let text = format!("{}{stages}{}{calendar}", head!("orders-small", "Orders, in small", "drill"), to_the_end!());
    Plan::parse(&text, "plan.toml").unwrap_or_else(|e| panic!("{}", e.render(false)))
}

fn at(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

fn when(records: &[Record], kind: &str, stage: &str) -> i64 {
    records
        .iter()
        .find(|r| r.kind == kind && r.body["id"] == stage)
        .unwrap_or_else(|| panic!("no {kind} of {stage}"))
        .at_ms
}

/// 10:00 to 10:01 and from 10:02 on, in Berlin in winter.
const SHORT: &str = r#"
[[window]]
days = ["mon", "tue", "wed", "thu", "fri"]
from = "10:00"
to = "10:01"
tz = "Europe/Berlin"
[[window]]
days = ["tue"]
from = "10:02"
to = "16:30"
tz = "Europe/Berlin"
"#;

#[test]
fn stages_begin_and_end_in_their_windows_only() {
    let plan = plan(SHORT);
    let (mut early, mut between, mut asked) = (None, None, None);
    let run = run(&world("2027-03-09T08:59:50Z"), &plan, 3, Advance::Auto, STEP, |drill, s| {
        if early.is_none() && s.wall_ms >= at("2027-03-09T08:59:55Z") {
            early = Some((s.phase, s.why.clone(), s.if_nothing.clone()));
        }
        // The stage has soaked and its window is over.
        if between.is_none() && s.wall_ms >= at("2027-03-09T09:01:40Z") {
            let calendar = s.calendar.clone().unwrap();
            between = Some((s.phase, s.why.clone(), calendar.changes_ms));
            asked = drill.send(Command::Advance { stage: 1 });
        }
    });
    run.ended(&End::Completed);
    let why = "closed until Tue 2027-03-09 10:00 Europe/Berlin: outside the change window".to_owned();
    assert_eq!(early, Some((Phase::Starting, why, "begins by itself when the change window opens".to_owned())));
    let why = "closed until Tue 2027-03-09 10:02 Europe/Berlin: outside the change window".to_owned();
    let opens = at("2027-03-09T09:02:00Z");
    assert_eq!(between, Some((Phase::Blocked, why.clone(), Some(opens))));
    assert_eq!(asked.unwrap().try_recv().unwrap(), Reply::Refused(why));
    let within = |t: i64, from: &str, seconds: i64| (0..seconds * 1_000).contains(&(t - at(from)));
    assert!(within(when(&run.records, "stage_entered", "copy"), "2027-03-09T09:00:00Z", 1), "{}", run.log());
    assert!(within(when(&run.records, "stage_entered", "half"), "2027-03-09T09:00:05Z", 40), "{}", run.log());
    assert!(within(when(&run.records, "stage_passed", "half"), "2027-03-09T09:02:00Z", 1), "{}", run.log());
}

#[test]
fn a_freeze_stops_neither_a_pause_nor_the_way_back() {
    let plan = plan(
        "\n[[freeze]]\nfrom = \"2027-03-09T10:00:40\"\nto = \"2027-03-12\"\ntz = \"Europe/Berlin\"\nreason = \"quarter closing\"\n",
    );
    let (mut replies, mut sent, mut said) = (Vec::new(), 0, String::new());
    let commands =
        [Command::Advance { stage: 1 }, Command::Pause, Command::Continue, Command::Rollback { hard: false, to: None }];
    let run = run(&world("2027-03-09T09:00:00Z"), &plan, 3, Advance::Operator, STEP, |drill, s| {
        if s.phase == Phase::AwaitingOperator && s.stages[0].soaked >= s.stages[0].soak && sent == 0 {
            drop(drill.send(Command::Advance { stage: 0 }));
        }
        let due = at("2027-03-09T09:01:40Z") + sent as i64 * 5_000;
        if s.wall_ms >= due && sent < commands.len() {
            if sent == 0 {
                said.clone_from(&s.why);
            }
            replies.push(drill.send(commands[sent]).unwrap());
            sent += 1;
        }
    });
    run.ended(&End::RolledBack);
    let why = "closed until Sat 2027-03-13 00:00 Europe/Berlin: change freeze, quarter closing";
    assert_eq!(said, why);
    let answers: Vec<Reply> = replies.iter_mut().map(|r| r.try_recv().unwrap()).collect();
    assert_eq!(answers, [Reply::Refused(why.into()), Reply::Applied, Reply::Applied, Reply::Applied]);
}
