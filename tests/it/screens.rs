//! What README.md and docs/ show is what the program shows.
//!
//! `TIDEGATE_BLESS=1 cargo test --test it screens` writes docs/screens/overview.txt and the copy of it in README.md anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate::drill::{Drill, Scenario, Settings, World, builtin};
use tidegate::journal::MemStore;
use tidegate::plan::{Advance, Plan};
use tidegate::runtime::Micros;
use tidegate::snapshot::{Command, Phase, Reply, StageStatus};
use tidegate::tui::keymap::BINDINGS;
use tidegate::tui::{UiState, render_text};

fn at_root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(at_root(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn bless() -> bool {
    std::env::var("TIDEGATE_BLESS").is_ok_and(|v| v == "1")
}

/// The first watch with fewer documents, 38 s into the canary's soak; an operator advances as soon as that is not refused.
fn mid_canary() -> Drill {
    let b = &builtin()[0];
    let scenario = Scenario::parse(b.scenario, "scenario.toml").unwrap();
    let plan = Plan::parse(b.plan, "plan.toml").unwrap();
    let world = World { documents: 5_000, ..scenario.world };
    let settings = Settings {
        seed: world.seed,
        advance: Some(Advance::Operator),
        journal: Arc::new(|_| Arc::new(MemStore::new())),
        on_record: Arc::new(|_| {}),
    };
    let drill = Drill::begin(&world, &plan, &settings).unwrap();
    while drill.now() < Micros::from_secs(300) {
        drill.run_until(drill.now() + Micros::from_secs(1));
        let s = drill.snapshot();
        let Some(at) = s.stages.iter().position(|st| st.status == StageStatus::Current) else { continue };
        if s.stages[at].id == "canary" {
            if s.stages[at].soaked >= Micros::from_secs(38) {
                return drill;
            }
        } else if s.phase == Phase::AwaitingOperator {
            let mut reply = drill.send(Command::Advance { stage: at }).unwrap();
            drill.run_until(drill.now() + Micros::from_ms(200));
            assert!(!matches!(reply.try_recv(), Ok(Reply::Refused(_))));
        }
    }
    panic!("the canary was not reached; now: {:?}", drill.snapshot().why);
}

#[test]
fn the_screen_in_the_docs_is_the_programs() {
    let shown = render_text(&mid_canary().snapshot(), &UiState::default(), 120, 36);
    let (file, readme) = ("docs/screens/overview.txt", read("README.md"));
    if bless() {
        let old = fs::read_to_string(at_root(file)).unwrap_or_default();
        fs::write(at_root(file), &shown).unwrap();
        if !old.is_empty() {
            fs::write(at_root("README.md"), readme.replace(&old, &shown)).unwrap();
        }
    }
    assert_eq!(read(file), shown, "the screen changed; run with TIDEGATE_BLESS=1 and look at the difference");
    assert!(
        read("README.md").contains(&format!("```text\n{shown}```\n")),
        "README.md shows another screen than {file}"
    );
}

#[test]
fn the_keys_in_the_readme_are_the_programs() {
    let mut table = String::from("| key | does |\n|---|---|\n");
    for b in BINDINGS {
        let keys: Vec<String> = b.keys.iter().map(|k| format!("`{}`", k.label())).collect();
        table += &format!("| {} | {} |\n", keys.join(" "), b.help);
    }
    let readme = read("README.md");
    assert!(readme.contains(&table), "README.md should contain\n{table}");
    let rows = readme.lines().skip_while(|l| *l != "| key | does |").take_while(|l| l.starts_with('|')).count();
    assert_eq!(rows, BINDINGS.len() + 2, "keys in README.md that nothing is bound to");
}

#[test]
fn links_in_the_docs_lead_somewhere() {
    let mut files = vec![PathBuf::from("README.md"), "CONTRIBUTING.md".into(), "CHANGELOG.md".into()];
    for entry in fs::read_dir(at_root("docs")).unwrap() {
        let name = entry.unwrap().file_name();
        files.extend(name.to_string_lossy().ends_with(".md").then(|| Path::new("docs").join(&name)));
    }
    let mut links = 0;
    for file in files {
        let text = read(&file.to_string_lossy());
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            links += 1;
            let found = at_root(&file.to_string_lossy()).with_file_name(target);
            assert!(found.exists(), "{}: {link}", file.display());
        }
    }
    assert!(links > 5, "only {links} links were found");
}
