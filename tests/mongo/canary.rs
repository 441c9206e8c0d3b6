//! The password of every test's connection string must be seen nowhere: it is looked for in everything the programs print and leave
//! behind, in what is on their screens, and in the control databases; a suite that finds it fails. The ways to fail are tried on purpose.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use libtest_mimic::Trial;
use mongodb::bson::{RawDocumentBuf, doc};

use super::program::{Place, Program};
use super::replset::{ESCAPED, PASSWORD, ReplSet};
use super::{R, TOKIO, on_its_own, on_shared};

/// What is looked for: the part of the password that needs no escaping, so that half of it is found too.
fn needle() -> &'static str {
    let ends = PASSWORD.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    &PASSWORD[..ends.unwrap_or(PASSWORD.len())]
}

/// Where it was found.
static LEAKS: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// Bytes looked through.
static BYTES: AtomicU64 = AtomicU64::new(0);

fn holds(bytes: &[u8]) -> bool {
    BYTES.fetch_add(bytes.len() as u64, Ordering::SeqCst);
    String::from_utf8_lossy(bytes).contains(needle())
}

/// Notes a leak; the suite fails at its end.
pub fn look(what: &str, bytes: &[u8]) {
    if holds(bytes) {
        LEAKS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(what.to_owned());
    }
}

/// The files below a directory that hold it.
fn files_with_it(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with_it(&path));
        } else if std::fs::read(&path).is_ok_and(|bytes| holds(&bytes)) {
            found.push(path.display().to_string());
        }
    }
    found
}

/// A directory that programs leave files in, looked through before it goes.
pub struct Dir(tempfile::TempDir);

impl Dir {
    pub fn new() -> Result<Dir, String> {
        tempfile::Builder::new().prefix("tidegate-rollout-").tempdir().map(Dir).map_err(|e| e.to_string())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let found = files_with_it(self.path());
        LEAKS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(found);
    }
}

/// Looks through the control database of a set that is about to end.
pub fn look_in_database(set: &ReplSet) {
    let uri = format!("{}&serverSelectionTimeoutMS=3000", set.uri());
    let look = async {
        let db = mongodb::Client::with_uri_str(&uri).await?.database("tidegate");
        for name in db.list_collection_names().await? {
            let mut all = db.collection::<RawDocumentBuf>(&name).find(doc! {}).await?;
            while all.advance().await? {
                look(&format!("tidegate.{name}"), all.current().as_bytes());
            }
        }
        Ok::<_, mongodb::error::Error>(())
    };
    let within = async { tokio::time::timeout(Duration::from_secs(60), look).await };
    // A set may end inside a test's own future, where nothing may block.
    let looked = std::thread::scope(|s| s.spawn(|| TOKIO.block_on(within)).join());
    if !matches!(looked, Ok(Ok(Ok(())))) && set.is_whole() {
        let what = format!("(perhaps) the control database of {}: {looked:?}", set.dir().display());
        LEAKS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(what);
    }
}

/// The leaks of the whole run, at its end.
pub fn verdict() -> R {
    let leaks = LEAKS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    eprintln!("looked for the password of the tests in {} KiB", BYTES.load(Ordering::SeqCst) / 1_024);
    if leaks.is_empty() { Ok(()) } else { Err(format!("the password of the tests is in\n  {}", leaks.join("\n  "))) }
}

pub fn trials() -> Vec<Trial> {
    vec![
        on_its_own("canary::a_file_with_the_password_is_found", || {
            let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
            let below = dir.path().join("below");
            std::fs::create_dir(&below).map_err(|e| e.to_string())?;
            for (name, text) in
                [("a", format!("half of it: {}", needle())), ("b", ESCAPED.to_owned()), ("c", "no".to_owned())]
            {
                std::fs::write(below.join(name), text).map_err(|e| e.to_string())?;
            }
            match files_with_it(dir.path()).len() {
                2 => Ok(()),
                n => Err(format!("found in {n} files")),
            }
        }),
        on_shared("canary::no_failure_tells_the_password", |set| async move {
            tokio::task::spawn_blocking(move || failures(&set)).await.map_err(|e| e.to_string())?
        }),
        on_shared("canary::no_mistake_in_a_plan_tells_the_password", |set| async move {
            tokio::task::spawn_blocking(move || mistakes(&set)).await.map_err(|e| e.to_string())?
        }),
    ]
}

const PLAN: &str = r#"schema = 1
[plan]
id = "orders-v2"
[cluster]
URI
environment = "test"
[route]
mode = "route"
[[collection]]
legacy = "shop.orders"
next = "shop.orders_v2"
steps = [{ set = "schema_version", value = 2 }]
[[stage]]
id = "copy"
do = ["create", "backfill"]
"#;

/// Every command that connects, as it is asked for by a person and by a program.
const COMMANDS: [(&str, &[&str]); 21] = [
    ("check", &[]),
    ("check", &["--json"]),
    ("rehearse", &[]),
    ("rehearse", &["--json"]),
    ("run", &["--headless"]),
    ("run", &["--headless", "--json"]),
    ("resume", &["--headless"]),
    ("resume", &["--headless", "--json", "--take-over", "--reason", "x"]),
    ("watch", &["--headless"]),
    ("watch", &["--headless", "--json"]),
    ("watch", &["--ask", "pause"]),
    ("status", &[]),
    ("status", &["--json"]),
    ("verify", &["--json"]),
    ("amend", &["--reason", "x"]),
    ("repair", &["--json"]),
    ("rollback", &["--headless"]),
    ("rollback", &["--explain"]),
    ("cleanup", &[]),
    ("workload", &["--json"]),
    ("workload", &[]),
];

/// A program that must end, must not succeed, must say something, and must not tell.
fn fails_quietly(mut program: Program, what: &str) -> R {
    let code = program.wait(Duration::from_secs(60))?;
    let said = program.said();
    if said.contains(needle()) {
        return Err(format!("{what} tells it: {said}"));
    }
    if code == 0 || said.trim().is_empty() { Err(format!("{what}: ended with {code}: {said}")) } else { Ok(()) }
}

/// Nobody there, nobody let in, and strings that are none.
fn failures(set: &ReplSet) -> R {
    let (n, there) = (needle(), set.uri());
    let quick = "serverSelectionTimeoutMS=300&connectTimeoutMS=300";
    let uris = [
        format!("mongodb://canary:{ESCAPED}@127.0.0.1:1/?replicaSet=rs0&{quick}"),
        // It begins like the right one.
        format!("{}&{quick}", there.replace(ESCAPED, &format!("{n}-wrong"))),
        format!("{there}&authMechanism=MONGODB-AWS&authMechanismProperties=AWS_SESSION_TOKEN:{n}&{quick}"),
        format!("mongodb://canary:{ESCAPED}@127.0.0.1:port/"),
        format!("mongodb://canary:{n}@@/:127.0.0.1:1/?{quick}"),
        format!("mongodb://canary:{n}%ZZ@127.0.0.1:1/?{quick}"),
        format!("mongodb://canary:{ESCAPED}@127.0.0.1:1/?tls=maybe"),
        format!(
            "mongodb://127.0.0.1:1/?tls=true&tlsCertificateKeyFile=/nowhere&tlsCertificateKeyFilePassword={n}&{quick}"
        ),
        format!("mongo://canary:{ESCAPED}@127.0.0.1:1/"),
        format!("canary:{ESCAPED}@127.0.0.1:1"),
        format!("mongodb://canary:{ESCAPED}"),
    ];
    let mut place = Place::new(set, "canary", PLAN, |p| p.replace("URI", "uri = \"${TIDEGATE_URI}\""))?;
    place.logs_everything();
    for (i, uri) in uris.iter().enumerate() {
        place.connects_as(uri.clone());
        let begin = |(j, (command, args)): (usize, &(&str, &[&str]))| {
            let program = place.start(&format!("{i}-{j}"), command, args)?;
            Ok((program, format!("{command} {args:?} with string {i}")))
        };
        let begun = COMMANDS.iter().enumerate().map(begin).collect::<Result<Vec<_>, String>>()?;
        begun.into_iter().try_for_each(|(program, what)| fails_quietly(program, &what))?;
    }
    Ok(())
}

/// A password in the plan itself is refused; the lines that are shown do not hold it.
fn mistakes(set: &ReplSet) -> R {
    let n = needle();
    let lines = [
        format!("uri = \"mongodb://user:{n}@h/\""),
        format!("uri = \"${{TIDEGATE_URI}}\"\nnext_uri = \"mongodb+srv://user:{n}@h/\""),
        format!("uri = \"mongodb://user:{n}@h/"),
        format!("uri = 'mongodb://user:{n}@h/' x"),
        format!("uri = \"mongodb://user:{n}@h/\" # mongodb://user:{n}@h/\nenvironmnt = 5"),
        format!("uri = \"\"\"mongodb://user:\\\n{n}@h/\"\"\""),
        format!("uri = \"\"\"\nmongodb://user:\n{n}@h/\"\"\""),
        format!("urii = \"mongodb://user:{n}@h/\""),
        format!("uri = [\"mongodb://user:{n}@h/\"]"),
        format!("uri = {{ is = \"mongodb://user:{n}@h/\" }}"),
        format!("uri = \"mongodb://user:{n}\\u0040h/\""),
        format!("uri = \"mongodb\\u003a//user:{n}@h/\""),
        format!("uri = \"user:{n}@h\""),
        format!("uri = \"mongodb://h/?tlsCertificateKeyFilePassword={n}\""),
        format!("uri = \"mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:{n}\""),
        format!("uri = \"mongodb://${{USER}}:{n}@h/\""),
    ];
    let mut begun = Vec::new();
    let mut places = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let place = Place::new(set, "canary", PLAN, |p| p.replace("URI", line))?;
        for (j, (command, args)) in [
            ("check", &["--offline"][..]),
            ("check", &["--offline", "--json"]),
            ("run", &["--headless", "--json"]),
            ("status", &[]),
        ]
        .into_iter()
        .enumerate()
        {
            begun.push((place.start(&format!("{i}-{j}"), command, args)?, format!("{command} {args:?} on {line:?}")));
        }
        places.push(place);
    }
    let told: Vec<String> = begun.into_iter().filter_map(|(p, what)| fails_quietly(p, &what).err()).collect();
    // These hold it because the test has written it there.
    places.iter().try_for_each(|p| std::fs::remove_file(&p.plan)).map_err(|e| e.to_string())?;
    if told.is_empty() { Ok(()) } else { Err(told.join("\n\n")) }
}
