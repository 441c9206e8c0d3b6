//! The program itself: what it prints, where, and how it ends.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const SCENARIO: &str = r#"
schema = 1
max_length = "5m"
[brief]
title = "Small"
text = "A small shop."
[world]
plan = "plan.toml"
seed = 11
documents = 400
operations = 120
processes = 2
"#;

const PLAN: &str = concat!(
    head!("orders-small", "Orders, in small", "drill"),
    r#"[[collection]]
legacy = "shop.orders"
next = "shop.orders_v2"
steps = [{ rename = "customer.name", to = "customer_name" }, { set = "schema_version", value = 2 }]
[[stage]]
id = "copy"
do = ["create", "backfill"]
soak = "2s"
[[stage]]
id = "half"
reads = 50
writes = 50
soak = "3s"
[[stage.gate]]
metric = "lag.apply"
max = "2s"
window = "10s"
for = "2s"
"#,
    to_the_end!()
);

/// A directory with a small scenario.
fn scenario() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("scenario.toml"), SCENARIO).unwrap();
    std::fs::write(dir.path().join("plan.toml"), PLAN).unwrap();
    dir
}

fn tidegate() -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    c.env_remove("TIDEGATE_LOG").env_remove("TIDEGATE_URI").stdin(Stdio::null());
    c
}

fn run(args: &[&str]) -> Output {
    tidegate().args(args).output().unwrap()
}

fn code(o: &Output) -> i32 {
    o.status.code().unwrap()
}

fn out(o: &Output) -> String {
    String::from_utf8(o.stdout.clone()).unwrap()
}

fn err(o: &Output) -> String {
    String::from_utf8(o.stderr.clone()).unwrap()
}

fn path(dir: &Path, name: &str) -> (PathBuf, String) {
    let p = dir.join(name);
    let text = p.to_str().unwrap().to_owned();
    (p, text)
}

#[test]
fn a_headless_drill_prints_the_same_bytes_every_time_and_ends_with_its_summary() {
    let dir = scenario();
    let d = dir.path().to_str().unwrap();
    let first = run(&["drill", d, "--headless", "--json"]);
    assert_eq!(code(&first), 0, "{}{}", out(&first), err(&first));
    let second = run(&["drill", d, "--headless", "--json", "--advance", "auto"]);
    assert_eq!(out(&first), out(&second));
    let other = run(&["drill", d, "--headless", "--json", "--seed", "12"]);
    assert_ne!(out(&first), out(&other));

    let lines: Vec<Value> = out(&first).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let (summary, records) = lines.split_last().unwrap();
    for (i, r) in records.iter().enumerate() {
        assert_eq!(r["seq"], i as u64 + 1);
    }
    assert_eq!(records.last().unwrap()["kind"], "closed");
    assert_eq!(summary["kind"], "summary");
    assert_eq!(summary["outcome"], "completed");
    for count in ["lost", "stale", "stray"] {
        assert_eq!(summary["writes"][count], 0, "{count}");
    }
    assert!(summary["writes"]["acknowledged"].as_u64().unwrap() > 100);
    assert_eq!(summary["documents"]["checked_ratio"], 1.0);
    let ids: Vec<&str> = summary["stages"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["copy", "half", "full", "contract"]);
}

#[test]
fn people_get_sentences_instead_of_json() {
    let dir = scenario();
    let o = run(&["drill", dir.path().to_str().unwrap(), "--headless"]);
    let text = out(&o);
    assert_eq!(code(&o), 0, "{text}");
    assert!(text.contains("stage half entered"), "{text}");
    assert!(text.contains("completed") && text.contains(" 0 lost"), "{text}");
    assert!(!text.contains('{'), "{text}");
}

#[test]
fn keys_are_pressed_at_their_virtual_times_and_an_operator_is_waited_for() {
    let dir = scenario();
    let d = dir.path().to_str().unwrap();
    let (keys, keys_text) = path(dir.path(), "keys");
    std::fs::write(&keys, "1s advance # too early: refused\n10s advance\n40s pause\n50s continue\n").unwrap();
    let o = run(&["drill", d, "--headless", "--json", "--keys", &keys_text]);
    assert_eq!(code(&o), 4, "{}", out(&o));
    assert!(err(&o).contains("line 1: advance at 1.0s was refused"), "{}", err(&o));
    let lines: Vec<Value> = out(&o).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let start = lines[0]["at"].as_str().unwrap()[..16].to_owned();
    let at = |kind: &str| {
        let r = lines.iter().find(|r| r["kind"] == kind && r["by"] == "operator").unwrap();
        r["at"].as_str().unwrap().strip_prefix(start.as_str()).unwrap().to_owned()
    };
    assert_eq!(at("stage_passed"), ":10.000Z");
    assert_eq!(at("paused"), ":40.000Z");
    assert_eq!(at("continued"), ":50.000Z");
    let summary = lines.last().unwrap();
    assert_eq!(summary["outcome"], "needs_operator");
    // Ended half-way: each order is read from the side that owns it.
    assert_eq!(summary["writes"]["lost"], 0, "{summary}");
}

#[test]
fn the_scripts_of_ebb_go_back_or_leave_it_to_somebody_else() {
    for (script, expected, outcome) in [("good", 3, "rolled_back"), ("bad", 4, "needs_operator")] {
        let keys = format!("{}/scenarios/ebb/{script}.keys", env!("CARGO_MANIFEST_DIR"));
        let o = run(&["drill", "ebb", "--headless", "--json", "--keys", &keys]);
        let summary: Value = serde_json::from_str(out(&o).lines().last().unwrap()).unwrap();
        assert_eq!((code(&o), summary["outcome"].as_str()), (expected, Some(outcome)), "{script}: {}", err(&o));
        assert_eq!(err(&o), "", "{script}: nothing was refused");
        assert_eq!(summary["writes"]["lost"], 0, "{script}: {summary}");
        let paused = out(&o).lines().any(|l| l.contains("\"kind\":\"paused\"") && l.contains("trigger"));
        assert!(paused, "{script}: the trigger was to pause");
    }
}

#[test]
fn a_mistake_in_a_keys_file_has_line_and_column() {
    let dir = scenario();
    let (keys, text) = path(dir.path(), "keys.txt");
    std::fs::write(&keys, "# on watch\n6m12s advance\n  8m paus\n").unwrap();
    let o = run(&["drill", "first-watch", "--headless", "--keys", &text]);
    assert_eq!(code(&o), 2);
    assert!(err(&o).contains(&format!("{text}:3:6: `paus` is not a command; did you mean `pause`")), "{}", err(&o));
    assert!(out(&o).is_empty());
}

#[test]
fn a_plan_is_checked_without_a_cluster() {
    let dir = scenario();
    let (plan, text) = path(dir.path(), "plan.toml");
    let good = run(&["check", &text, "--offline"]);
    assert_eq!(code(&good), 0);
    assert!(out(&good).contains("no mistakes"), "{}", out(&good));
    let json: Value = serde_json::from_slice(&run(&["check", &text, "--offline", "--json"]).stdout).unwrap();
    assert_eq!((&json["ok"], &json["stages"][1]["id"]), (&true.into(), &"half".into()));

    let lossy = "{ convert = \"total\", from = \"string\", to = \"int\", lossy = true }";
    let step = "{ set = \"schema_version\", value = 2 }";
    assert!(PLAN.contains(step));
    std::fs::write(&plan, PLAN.replace(step, lossy)).unwrap();
    let named = run(&["check", &text, "--offline"]);
    let line = "convert total string -> int: lossy: loses how the number was written (leading zeros, a plus sign, an exponent); \
                its originals are kept in tidegate.undo";
    assert!(out(&named).contains(line), "{}", out(&named));
    let json: Value = serde_json::from_slice(&run(&["check", &text, "--offline", "--json"]).stdout).unwrap();
    assert_eq!(json["collections"][0]["class"], "lossy");

    std::fs::write(&plan, PLAN.replace("writes = 50", "writs = 50")).unwrap();
    let bad = run(&["check", &text, "--offline"]);
    assert_eq!(code(&bad), 2);
    assert!(out(&bad).is_empty());
    assert!(
        err(&bad).contains(&format!("{text}:21:1")) && err(&bad).contains("did you mean `writes`"),
        "{}",
        err(&bad)
    );
    let json: Value = serde_json::from_slice(&run(&["check", &text, "--offline", "--json"]).stdout).unwrap();
    assert_eq!((&json["ok"], &json["mistakes"][0]["line"]), (&false.into(), &21.into()));
}

#[test]
fn every_broken_plan_ends_with_2_and_its_diagnostic() {
    for (name, path) in super::plan::broken_plans() {
        let mut command = tidegate();
        let o = command.current_dir(path.parent().unwrap()).args(["check", &name, "--offline"]).output().unwrap();
        assert_eq!((code(&o), out(&o)), (2, String::new()), "{name}");
        assert_eq!(err(&o), std::fs::read_to_string(path.with_extension("txt")).unwrap(), "{name}");
    }
}

#[test]
fn a_journal_that_was_changed_is_told_with_its_line() {
    let dir = scenario();
    let (journal, text) = path(dir.path(), "journal.jsonl");
    let o = run(&["drill", dir.path().to_str().unwrap(), "--headless", "--journal", &text]);
    assert_eq!(code(&o), 0, "{}", err(&o));
    let good = run(&["journal", "verify", &text]);
    assert_eq!(code(&good), 0, "{}", err(&good));
    assert!(out(&good).contains("intact, closed"), "{}", out(&good));
    let shown = run(&["journal", "show", &text, "--json"]);
    assert_eq!(shown.stdout, std::fs::read(&journal).unwrap());

    let again = run(&["drill", dir.path().to_str().unwrap(), "--headless", "--journal", &text]);
    assert_eq!(code(&again), 1);
    assert!(err(&again).contains("exists already"), "{}", err(&again));

    let mut bytes = std::fs::read(&journal).unwrap();
    let third = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(1).unwrap().0 + 12;
    bytes[third] ^= 1;
    std::fs::write(&journal, bytes).unwrap();
    let bad = run(&["journal", "verify", &text]);
    assert_eq!(code(&bad), 1);
    assert!(err(&bad).contains("damaged at line 3"), "{}", err(&bad));
}

#[test]
fn what_comes_with_it_is_listed() {
    let o = run(&["scenarios"]);
    assert_eq!(code(&o), 0);
    for id in ["first-watch", "spring-tide", "ebb"] {
        assert!(out(&o).lines().any(|l| l.starts_with(id)), "{}", out(&o));
    }
    let json: Value = serde_json::from_str(out(&run(&["scenarios", "--json"])).lines().next().unwrap()).unwrap();
    assert_eq!(json["id"], "first-watch");
    assert!(out(&run(&["themes"])).contains("dark (default)"));
}

#[test]
fn bad_usage_ends_with_2_and_a_sentence() {
    for args in [
        &["drill", "--frobnicate"][..],
        &["drill", "first-wach"],
        &["drill", "--speed", "0"],
        &["run"],
        &["run", "no-such-plan.toml"],
        &["resume", "plan.toml", "--take-over"],
        &["check", "plan.toml"],
        &["journal"],
        &["nonsense"],
        &[],
    ] {
        let o = run(args);
        assert_eq!(code(&o), 2, "{args:?}: {}", err(&o));
        assert!(!err(&o).is_empty() && out(&o).is_empty(), "{args:?}");
        assert!(!err(&o).contains("panicked"), "{args:?}: {}", err(&o));
    }
    assert!(err(&run(&["drill", "first-wach"])).contains("did you mean `first-watch`"));
}

#[test]
fn no_secret_is_told_when_a_cluster_cannot_be_reached() {
    let dir = scenario();
    let (plan, text) = path(dir.path(), "plan.toml");
    std::fs::write(&plan, PLAN.replace("environment = \"drill\"", "uri = \"${TIDEGATE_URI}\"")).unwrap();
    let o = tidegate().args(["run", &text, "--headless"]).current_dir(dir.path()).output().unwrap();
    assert_eq!(code(&o), 2);
    assert!(err(&o).contains("`TIDEGATE_URI` is not set"), "{}", err(&o));
    for command in ["run", "verify", "workload"] {
        let o = tidegate()
            .args([command, text.as_str(), "--json"])
            .env("TIDEGATE_URI", "mongodb://me:s3cr%40t@127.0.0.1:1/?serverSelectionTimeoutMS=200")
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert_eq!(code(&o), 1, "{command}: {}", err(&o));
        assert!(err(&o).contains("no primary answers"), "{command}: {}", err(&o));
        assert!(!(err(&o) + &out(&o)).contains("s3cr"), "{command}: {}", err(&o));
    }
    let o = tidegate()
        .args(["check", text.as_str()])
        .env("TIDEGATE_URI", "mongodb://me:s3cr%40t@127.0.0.1:1/?serverSelectionTimeoutMS=200")
        .output()
        .unwrap();
    assert_eq!(code(&o), 4, "{}", err(&o));
    let said = out(&o);
    assert!(said.contains("FAIL     reachable: the cluster") && said.contains("no primary answers"), "{said}");
    assert!(said.trim_end().ends_with("could not be made."), "{said}");
    assert!(!(err(&o) + &said).contains("s3cr"), "{said}");
}

#[test]
fn the_role_for_a_plan_is_printed_without_a_cluster() {
    let dir = scenario();
    let (plan, text) = path(dir.path(), "plan.toml");
    std::fs::write(&plan, PLAN).unwrap();
    let o = run(&["check", &text, "--role"]);
    assert_eq!(code(&o), 0, "{}", err(&o));
    assert!(out(&o).starts_with("// on legacy's cluster\ndb.getSiblingDB(\"admin\").runCommand({"), "{}", out(&o));
    let json: Value = serde_json::from_str(&out(&run(&["check", &text, "--role", "--json"]))).unwrap();
    assert!(json["command"]["privileges"].as_array().is_some_and(|p| p.len() > 4), "{json}");
    // Without a cluster in the plan there is nothing to look at.
    let o = run(&["check", &text]);
    assert!(code(&o) == 2 && err(&o).contains("the plan says no cluster"), "{}", err(&o));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let dir = scenario();
    let mut child = tidegate()
        .args(["drill", dir.path().to_str().unwrap(), "--headless", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut byte = [0];
    child.stdout.take().unwrap().read_exact(&mut byte).unwrap();
    let o = child.wait_with_output().unwrap();
    assert_eq!(err(&o), "");
    assert_eq!(code(&o), 0);
}

#[test]
fn a_blocked_standard_output_stopped_the_rollout() {
    let dir = scenario();
    let (journal, text) = path(dir.path(), "journal.jsonl");
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    // A pipe that is all but full: the first records do not fit, and nobody reads.
    let filler = vec![b'\n'; 65_536 - 100];
    writer.write_all(&filler).unwrap();
    let mut child = tidegate()
        .args(["drill", dir.path().to_str().unwrap(), "--headless", "--json", "--journal", &text])
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let began = std::time::Instant::now();
    while !std::fs::read_to_string(&journal).unwrap_or_default().contains("\"kind\":\"closed\"") {
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "the rollout stands still");
        assert!(child.try_wait().unwrap().is_none(), "it ended with its output unread");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let mut printed = String::new();
    reader.read_to_string(&mut printed).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let (records, summary) = printed.trim().rsplit_once('\n').unwrap();
    assert_eq!(records, std::fs::read_to_string(&journal).unwrap().trim());
    assert!(summary.contains("\"kind\":\"summary\""), "{summary}");
}

#[test]
fn logs_go_to_a_file_and_nowhere_else() {
    let dir = scenario();
    let (log, text) = path(dir.path(), "log");
    let o = tidegate().args(["scenarios"]).env("TIDEGATE_LOG", &text).output().unwrap();
    assert_eq!((code(&o), err(&o)), (0, String::new()));
    assert!(log.exists());
    let o = tidegate().args(["scenarios"]).env("TIDEGATE_LOG", dir.path()).output().unwrap();
    assert_eq!(code(&o), 2);
    assert!(err(&o).contains("TIDEGATE_LOG"), "{}", err(&o));
}

/// The dashboard in a terminal of its own.
#[cfg(unix)]
mod terminal {
    use std::num::NonZero;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

    use super::*;

    struct Pty {
        master: Box<dyn MasterPty + Send>,
        child: Box<dyn Child + Send + Sync>,
        keys: Box<dyn Write + Send>,
        screen: Arc<Mutex<vt100::Parser>>,
    }

    fn size(rows: u16, cols: u16) -> PtySize {
        PtySize { rows, cols, pixel_width: 0, pixel_height: 0 }
    }

    fn cells(n: u16) -> NonZero<u16> {
        NonZero::new(n).unwrap()
    }

    impl Pty {
        fn start(args: &[&str]) -> Pty {
            let pair = native_pty_system().openpty(size(36, 120)).unwrap();
            let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_tidegate"));
            command.args(args);
            command.env("TERM", "xterm-256color");
            command.env("LC_ALL", "C.UTF-8");
            command.env_remove("NO_COLOR");
            let child = pair.slave.spawn_command(command).unwrap();
            drop(pair.slave);
            let mut reader = pair.master.try_clone_reader().unwrap();
            let keys = pair.master.take_writer().unwrap();
            let screen = Arc::new(Mutex::new(vt100::Parser::new(cells(36), cells(120), 0)));
            let seen = screen.clone();
            std::thread::spawn(move || {
                let mut bytes = [0; 65_536];
                while let Ok(n @ 1..) = reader.read(&mut bytes) {
                    seen.lock().unwrap().process(&bytes[..n]);
                }
            });
            Pty { master: pair.master, child, keys, screen }
        }

        fn text(&self) -> String {
            self.screen.lock().unwrap().screen().contents()
        }

        fn wait_for(&self, what: &str, holds: impl Fn(&str) -> bool) -> String {
            let began = Instant::now();
            loop {
                let text = self.text();
                if holds(&text) {
                    return text;
                }
                assert!(began.elapsed() < Duration::from_secs(40), "never saw {what}:\n{text}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }

        fn press(&mut self, keys: &str) {
            self.keys.write_all(keys.as_bytes()).unwrap();
            self.keys.flush().unwrap();
        }

        fn resize(&self, rows: u16, cols: u16) {
            self.screen.lock().unwrap().screen_mut().set_size(cells(rows), cells(cols));
            self.master.resize(size(rows, cols)).unwrap();
        }

        fn wait(&mut self) -> u32 {
            let began = Instant::now();
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status.exit_code();
                }
                assert!(began.elapsed() < Duration::from_secs(40), "it does not end:\n{}", self.text());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    impl Drop for Pty {
        fn drop(&mut self) {
            let _ = self.child.kill();
        }
    }

    #[test]
    fn a_drill_is_watched_paused_continued_and_left() {
        let dir = scenario();
        let mut pty = Pty::start(&["drill", dir.path().to_str().unwrap(), "--theme", "light"]);
        let first = pty.wait_for("the plan", |t| t.contains("orders-small"));
        assert!(pty.screen.lock().unwrap().screen().alternate_screen());
        pty.wait_for("a screen that moves", |t| t != first && t.contains("orders-small"));

        // From here on nothing is journalled but what the keys do, so that none of it scrolls away unseen.
        pty.wait_for("the soak", |t| t.contains("gates are watched"));

        pty.press("P");
        pty.wait_for("the pause", |t| t.contains("PAUSED"));
        pty.press("C");
        pty.wait_for("the question", |t| t.contains("CONTINUE?"));
        pty.press("\r");
        pty.wait_for("it going on", |t| !t.contains("CONTINUE?") && t.contains("continued"));

        pty.press("A");
        pty.wait_for("the question", |t| t.contains("ADVANCE?"));
        pty.press("\u{1b}");
        pty.wait_for("no question", |t| !t.contains("ADVANCE?"));

        pty.resize(1, 1);
        std::thread::sleep(Duration::from_millis(300));
        pty.resize(36, 120);
        pty.wait_for("the plan again", |t| t.contains("orders-small"));

        pty.press("q");
        pty.wait_for("the question", |t| t.contains("END THE DRILL?"));
        pty.press("y");
        assert_eq!(pty.wait(), 0);
        let text = pty.wait_for("the last line", |t| t.contains("(seed 11)"));
        assert!(text.contains("left in stage copy") && text.contains(" 0 lost"), "{text}");
        assert!(!text.contains("panicked"), "{text}");
        let screen = pty.screen.lock().unwrap();
        assert!(!screen.screen().alternate_screen() && !screen.screen().hide_cursor());
    }

    #[test]
    fn a_signal_gives_the_terminal_back() {
        let dir = scenario();
        let mut pty = Pty::start(&["drill", dir.path().to_str().unwrap()]);
        pty.wait_for("the plan", |t| t.contains("orders-small"));
        let pid = pty.child.process_id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert_eq!(pty.wait(), 4);
        pty.wait_for("the last line", |t| t.contains("(seed 11)"));
        let screen = pty.screen.lock().unwrap();
        assert!(!screen.screen().alternate_screen() && !screen.screen().hide_cursor());
    }
}

#[test]
fn a_key_to_trace_may_begin_with_a_minus_and_must_be_one() {
    let dir = scenario();
    let (_, plan) = path(dir.path(), "plan.toml");
    for key in ["-5", "-", "{\"a\":1}", "A-17"] {
        let o = run(&["trace", &plan, key, "--json"]);
        // As far as the plan: it names no cluster.
        assert_eq!((code(&o), err(&o).contains("the plan says no cluster")), (2, true), "{key}: {}", err(&o));
    }
    for key in ["", "  "] {
        let o = run(&["trace", &plan, key]);
        assert_eq!((code(&o), err(&o).contains("a key is wanted")), (2, true), "{}", err(&o));
    }
    let o = run(&["trace", &plan]);
    assert_eq!((code(&o), err(&o).contains("<KEY>")), (2, true), "{}", err(&o));
}
