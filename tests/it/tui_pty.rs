//! The dashboard in a real terminal: what is drawn, and that the terminal comes back however it ends.
//!
//! The test binary starts itself again inside a pseudo-terminal; `child` is what runs there.
#![cfg(unix)]
// Helpers of tests, and of a real terminal in real time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use tidegate::snapshot::{Command, Reply, Snapshot, TraceAsk};
use tidegate::tui::UiState;
use tidegate::tui::run::{Options, Source, run};
use tidegate::tui::terminal::Screen;

use crate::fixture::canary;

const ENV: &str = "TIDEGATE_TUI_CHILD";
const ROWS: NonZeroU16 = NonZeroU16::new(36).unwrap();
const COLS: NonZeroU16 = NonZeroU16::new(120).unwrap();

struct Fixed {
    snapshot: Arc<Snapshot>,
    replies: Vec<(u64, Reply)>,
    panic: bool,
}

impl Source for Fixed {
    fn frame(&mut self, _: Duration) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }
    fn send(&mut self, id: u64, cmd: Command) {
        assert!(!self.panic, "a panic in the middle of a frame");
        assert_eq!(cmd, Command::Pause);
        self.replies.push((id, Reply::Accepted));
    }
    fn trace(&mut self, _ask: TraceAsk) -> Result<(), String> {
        Err("nobody is there".into())
    }
    fn replies(&mut self) -> Vec<(u64, Reply)> {
        std::mem::take(&mut self.replies)
    }
    fn finished(&self) -> bool {
        false
    }
}

/// Not a test by itself: runs the dashboard when the tests below start this binary again.
#[test]
fn child() {
    let Ok(result) = std::env::var(ENV) else { return };
    let (mode, file) = result.split_once(':').unwrap();
    let mut source = Fixed { snapshot: Arc::new(canary()), replies: vec![], panic: mode == "panic" };
    let options = Options::default();
    if mode == "signal" {
        let stop = Arc::clone(&options.stop);
        std::thread::spawn(move || {
            std::thread::park_timeout(Duration::from_millis(700));
            stop.store(true, Ordering::Relaxed);
        });
    }
    let exit = {
        let mut screen = Screen::take_over().unwrap();
        run(&mut screen, &mut source, &mut UiState::default(), &options)
    };
    std::fs::write(file, format!("{exit:?}")).unwrap();
}

struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    master: Option<Box<dyn MasterPty + Send>>,
    writer: Option<Box<dyn Write + Send>>,
    screen: Arc<Mutex<vt100::Parser>>,
    bytes: Receiver<Vec<u8>>,
    reading: Option<std::thread::JoinHandle<()>>,
    hang_up: Arc<AtomicBool>,
    result: tempfile::TempDir,
}

fn start(mode: &str) -> Terminal {
    let result = tempfile::tempdir().unwrap();
    // A terminal that goes away sends SIGHUP; ignoring it shows that the dashboard notices by itself.
    let mut command = CommandBuilder::new("/bin/sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", "tui_pty::child", "--nocapture"]);
    command.env(ENV, format!("{mode}:{}", result.path().join("exit").display()));
    in_terminal(command, result)
}

fn in_terminal(mut command: CommandBuilder, result: tempfile::TempDir) -> Terminal {
    let pty = native_pty_system()
        .openpty(PtySize { rows: ROWS.get(), cols: COLS.get(), pixel_width: 0, pixel_height: 0 })
        .expect("a pseudo-terminal");
    command.env("TERM", "xterm-256color");
    let child = pty.slave.spawn_command(command).unwrap();
    drop(pty.slave);
    let screen = Arc::new(Mutex::new(vt100::Parser::new(ROWS, COLS, 0)));
    let mut reader = pty.master.try_clone_reader().unwrap();
    let (tx, bytes) = channel();
    let parser = Arc::clone(&screen);
    let hang_up = Arc::new(AtomicBool::new(false));
    let hung_up = Arc::clone(&hang_up);
    let reading = std::thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while let Ok(n @ 1..) = reader.read(&mut buffer) {
            parser.lock().unwrap().process(&buffer[..n]);
            if tx.send(buffer[..n].to_vec()).is_err() || hung_up.load(Ordering::SeqCst) {
                break;
            }
        }
    });
    let writer = Some(pty.master.take_writer().unwrap());
    Terminal { child, master: Some(pty.master), writer, screen, bytes, result, reading: Some(reading), hang_up }
}

impl Terminal {
    fn wait_for(&self, what: &str) {
        self.wait(what, |screen| screen.contents().contains(what));
    }

    fn wait(&self, what: &str, until: impl Fn(&vt100::Screen) -> bool) {
        let begun = Instant::now();
        while !until(self.screen.lock().unwrap().screen()) {
            let seen = self.screen.lock().unwrap().screen().contents();
            assert!(begun.elapsed() < Duration::from_secs(20), "waited for {what:?}, the screen is\n{seen}");
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    fn keys(&mut self, keys: &str) {
        let writer = self.writer.as_mut().unwrap();
        writer.write_all(keys.as_bytes()).unwrap();
        writer.flush().unwrap();
    }

    fn ended_within(&mut self, limit: Duration) -> String {
        let begun = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            if begun.elapsed() > limit {
                let _ = self.child.kill();
                panic!("still running after {limit:?}");
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        let path: &Path = self.result.path();
        std::fs::read_to_string(path.join("exit")).unwrap_or_default()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

#[test]
fn a_key_reaches_the_engine_and_its_answer_the_screen_and_leaving_gives_the_terminal_back() {
    let mut t = start("run");
    t.wait_for("GATES worst first");
    t.wait_for("HURT");
    // Pasted text does not run; typed keys do.
    t.keys("\u{1b}[200~PAq\u{1b}[201~");
    t.wait_for("pasted text is ignored");
    t.keys("P");
    t.wait_for("PAUSE requested -> accepted");
    t.keys("q");
    t.wait_for("LEAVE?");
    t.keys("d");
    assert_eq!(t.ended_within(Duration::from_secs(5)), "Ok(Detached)");
    t.wait("the first screen", |s| !s.alternate_screen() && !s.hide_cursor() && !s.bracketed_paste());
}

#[test]
fn frames_are_whole_and_nothing_is_written_while_nothing_changes() {
    let t = start("run");
    t.wait_for("no way back after contract!");
    let mut seen = Vec::new();
    while let Ok(bytes) = t.bytes.recv_timeout(Duration::from_millis(600)) {
        seen.extend(bytes);
        assert!(seen.len() < 200_000, "it never stops writing");
    }
    let count = |mark: &[u8]| seen.windows(mark.len()).filter(|w| *w == mark).count();
    assert!(count(b"\x1b[?2026h") >= 1);
    assert_eq!(count(b"\x1b[?2026h"), count(b"\x1b[?2026l"));
}

#[test]
fn a_panic_gives_the_terminal_back_first() {
    let mut t = start("panic");
    t.wait_for("GATES worst first");
    t.keys("P");
    t.ended_within(Duration::from_secs(10));
    t.wait_for("a panic in the middle of a frame");
    t.wait("the first screen", |s| !s.alternate_screen() && !s.hide_cursor());
}

#[test]
fn a_signal_ends_it() {
    let mut t = start("signal");
    assert_eq!(t.ended_within(Duration::from_secs(10)), "Ok(Signal)");
    t.wait("the first screen", |s| !s.alternate_screen() && !s.hide_cursor());
}

#[test]
fn a_terminal_that_goes_away_ends_it_within_two_seconds() {
    let mut t = start("run");
    t.wait_for("GATES worst first");
    // The reading thread holds the terminal open too, until it has read once more.
    t.hang_up.store(true, Ordering::SeqCst);
    t.keys("?");
    t.reading.take().unwrap().join().unwrap();
    t.writer = None;
    t.master = None;
    assert_eq!(t.ended_within(Duration::from_secs(2)), "Ok(TerminalGone)");
}

#[test]
fn what_was_typed_before_the_question_could_be_seen_is_no_answer_to_it() {
    let mut t = start("run");
    t.wait_for("GATES worst first");
    // As a paste into a terminal that does not mark pastes.
    t.keys("RRRR\rRRRR\r");
    t.wait_for("ROLL BACK?");
    // The engine of this test takes nothing but a pause.
    t.keys("P");
    t.wait_for("PAUSE requested -> accepted");
    t.keys("q");
    t.wait_for("LEAVE?");
    t.keys("d");
    assert_eq!(t.ended_within(Duration::from_secs(5)), "Ok(Detached)");
}

/// Two stages, few documents.
const PLAN: &str = r#"
schema = 1
plan = { id = "orders-small", title = "Orders, in small" }
cluster = { environment = "drill" }
route = { mode = "route" }
[[collection]]
legacy = "shop.orders"
next = "shop.orders_v2"
steps = [{ set = "schema_version", value = 2 }]
[[stage]]
id = "copy"
do = ["create", "backfill"]
[[stage]]
id = "half"
reads = 50
writes = 50
soak = "10m"
"#;

const SCENARIO: &str = r#"
schema = 1
brief = { title = "Small", text = "A small shop." }
world = { plan = "plan.toml", seed = 11, documents = 400, operations = 120, processes = 2 }
"#;

#[test]
fn a_drill_is_rolled_back_from_the_keyboard() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("scenario.toml"), SCENARIO).unwrap();
    std::fs::write(dir.path().join("plan.toml"), PLAN).unwrap();
    let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["drill", dir.path().to_str().unwrap(), "--speed", "20", "--advance", "auto"]);
    command.env_remove("NO_COLOR");
    command.env("LC_ALL", "C.UTF-8");
    let mut t = in_terminal(command, dir);
    t.wait_for("soak ");
    t.wait_for("HALF reads 50% writes 50%");
    t.keys("R");
    t.wait_for("ROLL BACK?");
    t.wait_for("shop.orders_v2.isolated.orders-small");
    t.keys("\r");
    t.wait_for("ROLLBACK soft requested -> accepted -> begun");
    t.wait_for("CAME TO REST");
    t.wait_for("ROLLED BACK");
    t.wait_for("applications read and write shop.orders ");
    t.wait_for("shop.orders_v2.isolated.orders-small is next");
    t.keys("q");
    t.ended_within(Duration::from_secs(10));
    t.wait("the first screen", |s| !s.alternate_screen() && !s.hide_cursor());
}
