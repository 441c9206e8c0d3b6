//! A scenario file: what participants are told, the world that a drill runs in and what happens in it. An unknown key is an error,
//! with its place.

use super::inject::Inject;
use super::inject_parse;
use crate::plan::Diagnostics;
use crate::plan::reader::{self, At, Reader, Table};
use crate::runtime::Micros;
use crate::workload::Ids;

/// A scenario that has been checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// All that participants see before it begins.
    pub brief: Brief,
    /// The embedded cluster, its data and its application.
    pub world: World,
    /// How much it asks of people.
    pub difficulty: Difficulty,
    /// It ends at the latest after this much virtual time.
    pub max_length: Micros,
    /// What ends it before that.
    pub ends_when: EndsWhen,
    /// Keys files beside the scenario.
    pub scripts: Scripts,
}

/// Keys files that show how a scenario can go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scripts {
    /// What a good operator does.
    pub good: Option<String>,
    /// What a bad one does.
    pub bad: Option<String>,
}

/// What participants are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brief {
    /// A few words.
    pub title: String,
    /// Some sentences; lines are kept.
    pub text: String,
    /// What they are to reach, one sentence; may be empty.
    pub goal: String,
}

/// The embedded world.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    /// The plan's file, beside the scenario.
    pub plan: String,
    /// The seed of every draw.
    pub seed: u64,
    /// Wall-clock time at the start, milliseconds since the Unix epoch.
    pub start_ms: i64,
    /// Members of the replica set.
    pub nodes: u8,
    /// Documents at the start.
    pub documents: u64,
    /// Operations a second of all processes together.
    pub operations: u32,
    /// The share of operations that are reads, 0 to 1.
    pub reads: f64,
    /// Processes of the application.
    pub processes: u16,
    /// What the documents' `_id`s are like.
    pub ids: Ids,
    /// What happens in it; participants never see it.
    pub injects: Vec<Inject>,
}

/// How much a scenario asks of people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difficulty {
    /// For the first time.
    Introductory,
    /// For people who know the screen.
    Ordinary,
    /// Several things at once.
    Hard,
}

impl Difficulty {
    /// Its word in scenarios.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Difficulty::Introductory => "introductory",
            Difficulty::Ordinary => "ordinary",
            Difficulty::Hard => "hard",
        }
    }
}

/// What ends a scenario before its time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndsWhen {
    /// The last stage has passed.
    Completed,
    /// The rollout has ended, completed or rolled back.
    Ended,
}

/// A scenario that comes with tidegate.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    /// Its name on the command line.
    pub id: &'static str,
    /// `scenario.toml`.
    pub scenario: &'static str,
    /// `plan.toml`.
    pub plan: &'static str,
    /// `runbook.md`.
    pub runbook: &'static str,
}

/// The scenarios that come with tidegate, easiest first.
#[must_use]
pub fn builtin() -> &'static [Builtin] {
    const ALL: &[Builtin] = &[
        Builtin {
            id: "first-watch",
            scenario: include_str!("../../scenarios/first-watch/scenario.toml"),
            plan: include_str!("../../scenarios/first-watch/plan.toml"),
            runbook: include_str!("../../scenarios/first-watch/runbook.md"),
        },
        Builtin {
            id: "spring-tide",
            scenario: include_str!("../../scenarios/spring-tide/scenario.toml"),
            plan: include_str!("../../scenarios/spring-tide/plan.toml"),
            runbook: include_str!("../../scenarios/spring-tide/runbook.md"),
        },
        Builtin {
            id: "ebb",
            scenario: include_str!("../../scenarios/ebb/scenario.toml"),
            plan: include_str!("../../scenarios/ebb/plan.toml"),
            runbook: include_str!("../../scenarios/ebb/runbook.md"),
        },
    ];
    ALL
}

/// The largest collection that fits into a drill's memory comfortably.
const MOST_DOCUMENTS: i64 = 5_000_000;

impl Scenario {
    /// Reads and checks a scenario. `name` is the file's name in messages.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with line and column.
    pub fn parse(text: &str, name: &str) -> Result<Scenario, Diagnostics> {
        let root = reader::parse(text, name)?;
        let mut r = Reader::default();
        let t = Table { table: root.get_ref(), span: 0..0, what: "the scenario".into() };
        match read(&mut r, &t) {
            Some(s) if r.is_clean() => Ok(s),
            _ => {
                if r.is_clean() {
                    // Each reader reports before it gives up; this keeps an oversight there from looking like success.
                    r.error(0..0, "the scenario cannot be read", "", None);
                }
                Err(r.finish(text, name))
            }
        }
    }
}

fn read(r: &mut Reader, t: &Table<'_, '_>) -> Option<Scenario> {
    if !t.table.contains_key("schema") {
        r.missing(t, "schema", "1");
    }
    if let Some(n) = r.integer(t, "schema", i64::MIN, i64::MAX)
        && n.value != 1
    {
        let message = format!("schema {} is not known to this version of tidegate", n.value);
        r.error(n.span, message, "expected 1", None);
        return None;
    }
    r.only(t, &["schema", "difficulty", "max_length", "ends_when", "brief", "world", "inject", "scripts"]);
    let words = [Difficulty::Introductory, Difficulty::Ordinary, Difficulty::Hard].map(|d| (d.name(), d));
    let difficulty = r.string(t, "difficulty").and_then(|w| r.word(&w, "difficulty", &words));
    let hour = Micros::from_secs(3_600);
    let max_length = r.duration_in(t, "max_length", Micros::from_secs(60), hour * 24, hour);
    let ends = [("completed", EndsWhen::Completed), ("ended", EndsWhen::Ended)];
    let ends_when = r.string(t, "ends_when").and_then(|w| r.word(&w, "ending", &ends));
    let brief = read_brief(r, t);
    let world = read_world(r, t);
    let scripts = read_scripts(r, t);
    let injects = inject_parse::read(r, t, world.as_ref().map_or(u8::MAX, |w| w.nodes));
    Some(Scenario {
        brief: brief?,
        world: World { injects, ..world? },
        difficulty: difficulty.unwrap_or(Difficulty::Ordinary),
        max_length,
        ends_when: ends_when.unwrap_or(EndsWhen::Ended),
        scripts,
    })
}

fn section<'a, 'i>(r: &mut Reader, t: &Table<'a, 'i>, key: &str) -> Option<Table<'a, 'i>> {
    if !t.table.contains_key(key) {
        r.error(0..0, format!("the table `[{key}]` is missing"), "", Some(format!("add `[{key}]`")));
    }
    r.table(t, key, &format!("[{key}]"))
}

fn read_brief(r: &mut Reader, t: &Table<'_, '_>) -> Option<Brief> {
    let t = section(r, t, "brief")?;
    r.only(&t, &["title", "text", "goal"]);
    let title = r.required(&t, "title", "\"First watch\"");
    let text = r.required(&t, "text", "\"…\"");
    let goal = r.string(&t, "goal").map(|s| crate::scrub::line(&s.value)).unwrap_or_default();
    let lines = |s: String| s.trim().lines().map(crate::scrub::line).collect::<Vec<_>>().join("\n");
    Some(Brief { title: crate::scrub::line(&title?.value), text: lines(text?.value), goal })
}

/// A scenario may come from anywhere: it names files beside itself and no others.
fn beside(r: &mut Reader, name: At<String>, what: &str, example: &str) -> Option<String> {
    let plain = !name.value.contains(['/', '\\', ':', '\0']) && !name.value.starts_with('.');
    let ending = example.rfind('.').map_or("", |dot| &example[dot..]);
    if name.value.ends_with(ending) && plain {
        return Some(name.value);
    }
    let message = format!("`{}` is not a {what} beside the scenario", crate::scrub::short(&name.value, 80));
    r.error(name.span, message, format!("expected a name like `{example}`"), None);
    None
}

fn read_scripts(r: &mut Reader, t: &Table<'_, '_>) -> Scripts {
    let Some(t) = r.table(t, "scripts", "[scripts]") else { return Scripts::default() };
    r.only(&t, &["good", "bad"]);
    let mut script = |key: &str| r.string(&t, key).and_then(|s| beside(r, s, "keys file", "good.keys"));
    Scripts { good: script("good"), bad: script("bad") }
}

fn read_world(r: &mut Reader, t: &Table<'_, '_>) -> Option<World> {
    let t = section(r, t, "world")?;
    r.only(&t, &["plan", "seed", "start", "nodes", "documents", "operations", "reads", "processes", "ids"]);
    let plan = r.required(&t, "plan", "\"plan.toml\"").and_then(|p| beside(r, p, "plan", "plan.toml"));
    let mut whole =
        |key: &str, from: i64, to: i64, default: i64| r.integer(&t, key, from, to).map_or(default, |n| n.value);
    let seed = whole("seed", 0, i64::MAX, 1);
    let nodes = whole("nodes", 1, 7, 3);
    let documents = whole("documents", 0, MOST_DOCUMENTS, 50_000);
    let operations = whole("operations", 0, 20_000, 400);
    let processes = whole("processes", 1, 100, 4);
    let words = [("mixed", Ids::Mixed), ("region", Ids::Region)];
    let ids = r.string(&t, "ids").and_then(|w| r.word(&w, "kind of ids", &words)).unwrap_or_default();
    let reads = match r.number(&t, "reads") {
        Some(n) if (0.0..=1.0).contains(&n.value) => n.value,
        Some(n) => {
            r.error(n.span, "`reads` is out of range", "expected a share, 0 to 1", None);
            0.8
        }
        None => 0.8,
    };
    let start_ms = match r.string(&t, "start") {
        Some(s) => match s.value.parse::<jiff::Timestamp>() {
            Ok(at) => at.as_millisecond(),
            Err(_) => {
                r.error(s.span, format!("`{}` is not a time", s.value), "expected \"2027-03-09T09:00:00Z\"", None);
                0
            }
        },
        None => 1_804_582_800_000,
    };
    Some(World {
        plan: plan?,
        seed: seed.unsigned_abs(),
        start_ms,
        // The ranges above fit the types.
        nodes: nodes as u8,
        documents: documents.unsigned_abs(),
        operations: operations as u32,
        reads,
        processes: processes as u16,
        ids,
        injects: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::plan::Plan;

    #[test]
    fn what_comes_with_tidegate_parses_and_its_runbook_has_every_stage() {
        for b in builtin() {
            let s = Scenario::parse(b.scenario, "scenario.toml").unwrap_or_else(|e| panic!("{}:\n{e}", b.id));
            assert_eq!(s.world.plan, "plan.toml");
            let plan = Plan::parse(b.plan, "plan.toml").unwrap_or_else(|e| panic!("{}:\n{e}", b.id));
            for stage in &plan.stages {
                assert_eq!(stage.runbook, Some(format!("runbook.md#{}", stage.id)), "{}", b.id);
                assert!(b.runbook.contains(&format!("\n## {}\n", stage.id)), "{}: no heading for {}", b.id, stage.id);
            }
        }
    }

    #[test]
    fn what_comes_with_tidegate_does_not_give_itself_away() {
        for b in builtin() {
            let s = Scenario::parse(b.scenario, "scenario.toml").unwrap();
            let told = format!("{} {} {} {}", b.id, s.brief.title, s.brief.text, s.brief.goal).to_lowercase();
            let ids: Vec<&str> = s.world.injects.iter().map(|i| i.id.as_str()).collect();
            for word in ["slow", "latency", "error", "fail", "stepdown", "partition", "lag", "canary", "inject"] {
                assert!(!told.contains(word), "{}: `{word}` in the brief", b.id);
                assert!(!ids.iter().any(|id| id.contains(word)), "{}: `{word}` in {ids:?}", b.id);
            }
            assert!(!ids.iter().any(|id| told.contains(&format!(" {id} "))), "{}: an id in the brief", b.id);
            let beside = |name: &String| {
                let path = format!("{}/scenarios/{}/{name}", env!("CARGO_MANIFEST_DIR"), b.id);
                assert!(std::path::Path::new(&path).is_file(), "{path}");
            };
            s.scripts.good.iter().chain(&s.scripts.bad).for_each(beside);
        }
    }

    #[test]
    fn gates_of_the_scenarios_can_get_enough_samples() {
        builtin().iter().for_each(enough_samples);
    }

    fn enough_samples(b: &Builtin) {
        let s = Scenario::parse(b.scenario, "s").unwrap();
        let plan = Plan::parse(b.plan, "p").unwrap();
        for stage in &plan.stages {
            for g in stage.gates.iter().filter(|g| g.metric.contains(".read.") || g.metric.contains(".write.")) {
                let read = g.metric.contains(".read.");
                let share = if read { s.world.reads } else { 1.0 - s.world.reads };
                let on_next = f64::from(if read { stage.reads } else { stage.writes }) / 100.0;
                let expected = f64::from(s.world.operations) * share * on_next * g.window.as_secs_f64();
                assert!(expected > 1.2 * g.min_samples as f64, "{}: {} gets {expected}", stage.id, g.metric);
                if matches!(g.bound, crate::plan::Bound::MaxRatioToLegacy(_)) {
                    assert!(on_next <= 0.5, "{}: nothing is left on legacy to compare with", stage.id);
                }
            }
        }
    }

    #[test]
    fn mistakes_in_a_scenario_have_places() {
        let text = "schema = 1\nmax_length = \"1s\"\n[brief]\ntitle = \"t\"\ntext = \"x\"\n[world]\nplan = \"../plan.toml\"\nnodez = 3\n";
        let e = Scenario::parse(text, "s.toml").unwrap_err();
        let places: Vec<_> = e.list().iter().map(|d| (d.line, d.column, d.message.as_str())).collect();
        assert_eq!(
            places,
            [
                (2, 14, "`max_length` is out of range"),
                (7, 8, "`../plan.toml` is not a plan beside the scenario"),
                (8, 1, "unknown key `nodez` in [world]"),
            ]
        );
        assert!(e.list()[2].help.as_deref().unwrap().contains("nodes"));
    }
}
