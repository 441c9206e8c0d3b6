//! The real program in processes of its own, and a place with a plan, a database and journals for one rollout.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mongodb::bson::doc;
use serde_json::Value;

use super::canary::Dir;
use super::replset::ReplSet;

/// What an application does in a second, unless a test says otherwise: more on two cores beside three servers, with a driver that is not
/// optimised, and it waits for itself.
const OPS: &str = "160";
/// How often it is looked whether something has come about.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Waits until `done` answers, at most so long; the error says what was waited for.
pub fn until<T>(
    what: &str,
    within: Duration,
    mut done: impl FnMut() -> Result<Option<T>, String>,
) -> Result<T, String> {
    let began = Instant::now();
    loop {
        if let Some(t) = done()? {
            return Ok(t);
        }
        if began.elapsed() > within {
            return Err(format!("{what}: not within {within:?}"));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A directory with a plan, for a rollout of its own on a replica set: its own plan id, its own database.
pub struct Place {
    dir: Dir,
    set_dir: PathBuf,
    uri: String,
    next_uri: Option<String>,
    /// What their logs hold.
    log_level: &'static str,
    /// The rollout's id, which is also the name of its database.
    pub id: String,
    /// The plan.
    pub plan: PathBuf,
}

impl Place {
    /// Writes the plan down; `adapt` may change its text.
    pub fn new(set: &ReplSet, id: &str, plan: &str, adapt: impl Fn(String) -> String) -> Result<Place, String> {
        let dir = Dir::new()?;
        let text =
            plan.replace("id = \"orders-v2\"", &format!("id = \"{id}\"")).replace("\"shop.", &format!("\"{id}."));
        let path = dir.path().join("plan.toml");
        std::fs::write(&path, adapt(text)).map_err(|e| e.to_string())?;
        Ok(Place {
            dir,
            set_dir: set.dir().to_owned(),
            uri: set.uri(),
            next_uri: None,
            log_level: "info",
            id: id.to_owned(),
            plan: path,
        })
    }

    /// What is started from here on connects with this string.
    pub fn connects_as(&mut self, uri: String) {
        self.uri = uri;
    }

    /// Whatever can be logged is, from here on.
    pub fn logs_everything(&mut self) {
        self.log_level = "trace";
    }

    /// The same with next on another replica set.
    pub fn with_next(self, set: &ReplSet) -> Place {
        Place { next_uri: Some(set.uri()), ..self }
    }

    /// The same rollout from another working copy: an empty directory that holds nothing but the plan, and another home.
    pub fn elsewhere(&self) -> Result<Place, String> {
        let dir = Dir::new()?;
        let plan = dir.path().join("plan.toml");
        std::fs::copy(&self.plan, &plan).map_err(|e| e.to_string())?;
        let (set_dir, uri, next_uri) = (self.set_dir.clone(), self.uri.clone(), self.next_uri.clone());
        Ok(Place { dir, set_dir, uri, next_uri, log_level: self.log_level, id: self.id.clone(), plan })
    }

    /// A file here.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts `tidegate COMMAND PLAN ARGS…`.
    pub fn start(&self, name: &str, command: &str, args: &[&str]) -> Result<Program, String> {
        self.spawn(name, Command::new(env!("CARGO_BIN_EXE_tidegate")).arg(command).arg(&self.plan).args(args))
    }

    /// Starts any other program here.
    pub fn spawn(&self, name: &str, command: &mut Command) -> Result<Program, String> {
        let (out, err) = (self.file(&format!("{name}.out")), self.file(&format!("{name}.err")));
        let open = |p: &Path| File::create(p).map_err(|e| format!("{}: {e}", p.display()));
        let child = command
            .current_dir(self.dir.path())
            .env("HOME", self.dir.path())
            .env("XDG_CONFIG_HOME", self.file("config"))
            .env("TIDEGATE_URI", &self.uri)
            .env("TIDEGATE_LOG", self.file(&format!("{name}.log")))
            .env("RUST_LOG", self.log_level)
            .envs(self.next_uri.iter().map(|u| ("TIDEGATE_NEXT_URI", u)))
            .stdin(Stdio::null())
            .stdout(open(&out)?)
            .stderr(open(&err)?)
            .spawn()
            .map_err(|e| format!("{name}: {e}"))?;
        let pid_file = self.set_dir.join(format!("{}-{}.pid", self.id, child.id()));
        std::fs::write(&pid_file, child.id().to_string()).map_err(|e| e.to_string())?;
        Ok(Program { name: name.to_owned(), child, out, err, pid_file, ended: None })
    }

    /// Starts the application and waits until it follows the route.
    pub fn application(&self, documents: u64, more: &[&str]) -> Result<Program, String> {
        let documents = documents.to_string();
        let mut args = vec!["--documents", &documents, "--until-finished", "--json"];
        args.extend(more);
        if !more.contains(&"--ops") {
            args.extend(["--ops", OPS]);
        }
        let mut app = self.start("application", "workload", &args)?;
        until("the application follows the route", Duration::from_secs(600), || app.says("follow the route"))?;
        Ok(app)
    }

    /// Starts `run`, headless, with this local journal.
    pub fn run(&self, name: &str, journal: &str) -> Result<Program, String> {
        self.start(name, "run", &["--headless", "--json", "--advance", "auto", "--journal", journal, "--as", name])
    }

    /// Starts `resume` likewise.
    pub fn resume(&self, name: &str, journal: &str, more: &[&str]) -> Result<Program, String> {
        let mut args = vec!["--headless", "--json", "--journal", journal, "--as", name];
        args.extend(more);
        self.start(name, "resume", &args)
    }

    /// The lines of the journal that the database keeps.
    pub async fn journal_in_database(&self) -> Result<Vec<String>, String> {
        let client = mongodb::Client::with_uri_str(&self.uri).await.map_err(|e| e.to_string())?;
        let journal = client.database("tidegate").collection::<mongodb::bson::Document>("journal");
        let found = journal.find(doc! { "_id.rollout": &self.id }).sort(doc! { "_id.seq": 1 }).await;
        let mut found = found.map_err(|e| e.to_string())?;
        let mut lines = Vec::new();
        while found.advance().await.map_err(|e| e.to_string())? {
            lines.push(
                found.deserialize_current().map_err(|e| e.to_string())?.get_str("line").unwrap_or("?").to_owned(),
            );
        }
        Ok(lines)
    }
}

/// A running program, `tidegate` as a rule; killed when dropped.
pub struct Program {
    name: String,
    child: Child,
    out: PathBuf,
    err: PathBuf,
    pid_file: PathBuf,
    ended: Option<i32>,
}

impl Program {
    /// The whole lines of its standard output that are JSON.
    pub fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.out).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
    }

    /// Its standard error.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(&self.err).unwrap_or_default()
    }

    /// All that it said.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap_or_default() + &self.stderr()
    }

    /// What it said, for a failed test.
    pub fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.out).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(12)..].join("\n  ");
        format!("{}: stderr: {}\n  stdout ends in\n  {last}", self.name, self.stderr().trim())
    }

    /// For [`until`]: whether its standard error holds this text. An error once it has ended.
    pub fn says(&mut self, text: &str) -> Result<Option<()>, String> {
        if self.stderr().contains(text) {
            return Ok(Some(()));
        }
        self.running().map(|()| None)
    }

    /// For [`until`]: the first line for which `wanted` holds. An error once it has ended.
    pub fn prints(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Option<Value>, String> {
        let ended = self.running();
        match self.lines().into_iter().find(|l| wanted(l)) {
            Some(line) => Ok(Some(line)),
            None => ended.map(|()| None),
        }
    }

    /// An error once it has ended.
    pub fn running(&mut self) -> Result<(), String> {
        match self.poll()? {
            None => Ok(()),
            Some(code) => Err(format!("ended with {code}; {}", self.tail())),
        }
    }

    fn poll(&mut self) -> Result<Option<i32>, String> {
        if self.ended.is_none()
            && let Some(status) = self.child.try_wait().map_err(|e| e.to_string())?
        {
            // Reaped: the number may belong to another process from here.
            let _ = std::fs::remove_file(&self.pid_file);
            self.ended = Some(status.code().unwrap_or(-1));
        }
        Ok(self.ended)
    }

    /// Its exit code, once it has ended.
    pub fn wait(&mut self, within: Duration) -> Result<i32, String> {
        let name = self.name.clone();
        let waited = until(&format!("{name} ends"), within, || self.poll());
        waited.map_err(|e| format!("{e}; {}", self.tail()))
    }

    /// As [`Program::wait`], and the code must be this one.
    pub fn ends_with(&mut self, code: i32, within: Duration) -> Result<(), String> {
        let found = self.wait(within)?;
        if found == code { Ok(()) } else { Err(format!("ended with {found}, not {code}; {}", self.tail())) }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name.
    pub fn signal(&self, signal: &str) -> Result<(), String> {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([&format!("-{signal}"), &pid]).status().map_err(|e| e.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("kill -{signal} {pid} failed")) }
    }

    /// SIGKILL. False when it had ended by itself.
    pub fn kill(&mut self) -> Result<bool, String> {
        if self.poll()?.is_some() {
            return Ok(false);
        }
        self.child.kill().map_err(|e| e.to_string())?;
        let status = self.child.wait().map_err(|e| e.to_string())?;
        let _ = std::fs::remove_file(&self.pid_file);
        self.ended = Some(status.code().unwrap_or(-1));
        Ok(status.code().is_none())
    }

    /// The summary it ended with.
    pub fn summary(&self) -> Result<Value, String> {
        let last = self.lines().pop().filter(|l| l["kind"] == "summary" || l["kind"] == "workload");
        last.ok_or_else(|| format!("no summary; {}", self.tail()))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // A failed test leaves it running; there is nobody to tell of an error.
        let _ = self.kill();
    }
}
