//! A replica set of real `mongod`s on loopback, in a temporary directory, gone when dropped.
//!
//! A small shell process holds the other end of a pipe: when the process that started the set dies, however it dies, it kills every
//! node and removes the directory. Needs nothing but the driver and tempfile, so that benches and demonstrations can use it too.

use std::future::Future;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mongodb::Client;
use mongodb::bson::{Bson, Document, doc};

/// Everything is killed with SIGKILL, which also ends a node that was stopped with SIGSTOP.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP
read -r _
for f in "$1"/*.pid; do [ -f "$f" ] && kill -9 "$(cat "$f")" 2>/dev/null; done
sleep 0.2
rm -rf "$1"
"#;

/// One `mongod`.
struct Node {
    port: u16,
    /// What everybody calls it, the other nodes too: its own port, or that of what stands before it.
    known_as: u16,
    child: Option<Child>,
}

/// A running replica set.
pub struct ReplSet {
    dir: tempfile::TempDir,
    mongod: std::path::PathBuf,
    nodes: Vec<Node>,
    watchdog: Child,
    /// Gigabytes of cache, and megabytes of oplog, of every node.
    cache_gb: &'static str,
    oplog_mb: &'static str,
    /// More arguments of every node.
    more: Vec<String>,
}

const NAME: &str = "rs0";

/// The user that every connection string names. Without authorization a server lets everybody do everything, but whoever names a user must
/// be that user.
const USER: &str = "canary";
/// The password of every user; nothing that a program prints or leaves behind may hold it.
pub const PASSWORD: &str = "s3cret-canary-7f3a@/:%";
/// The same as a connection string has it.
pub const ESCAPED: &str = "s3cret-canary-7f3a%40%2F%3A%25";

/// What is done with a set before it ends.
pub static BEFORE_END: OnceLock<fn(&ReplSet)> = OnceLock::new();

impl ReplSet {
    /// Starts `n` nodes and waits for a primary.
    pub async fn start(mongod: &Path, n: usize) -> Result<ReplSet, String> {
        ReplSet::make(mongod, n)?.started().await
    }

    /// As [`ReplSet::start`], with so many gigabytes of cache a node, and an oplog that holds more than the data.
    pub async fn start_with_cache(mongod: &Path, n: usize, cache_gb: &'static str) -> Result<ReplSet, String> {
        let mut set = ReplSet::make(mongod, n)?;
        set.cache_gb = cache_gb;
        set.oplog_mb = "4096";
        set.started().await
    }

    async fn started(mut self) -> Result<ReplSet, String> {
        self.begin().await?;
        let primary = self.wait_for_primary(Duration::from_secs(20)).await?;
        self.add_user(&self.direct(primary).await?, USER).await?;
        Ok(self)
    }

    /// As [`ReplSet::start`], and everybody knows each node by the port that `before` answers for the one it listens on.
    pub async fn start_behind<F>(mongod: &Path, n: usize, before: impl Fn(u16) -> F) -> Result<ReplSet, String>
    where
        F: Future<Output = Result<u16, String>>,
    {
        let mut set = ReplSet::make(mongod, n)?;
        for node in &mut set.nodes {
            node.known_as = before(node.port).await?;
        }
        set.started().await
    }

    /// Starts a single node with authorization on; its users `root` and [`USER`] may do everything.
    pub async fn start_locked(mongod: &Path) -> Result<ReplSet, String> {
        use std::os::unix::fs::PermissionsExt;
        let mut set = ReplSet::make(mongod, 1)?;
        let key = set.dir.path().join("key");
        std::fs::write(&key, "0123456789abcdef").map_err(|e| e.to_string())?;
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).map_err(|e| e.to_string())?;
        set.more = vec!["--auth".into(), "--keyFile".into(), key.display().to_string()];
        set.begin().await?;
        // The first user may be made by anybody on the same machine; the next ones by that user.
        set.add_user(&set.direct(0).await?, "root").await?;
        let root = Client::with_uri_str(set.uri_of("root")).await.map_err(|e| e.to_string())?;
        set.add_user(&root, USER).await?;
        Ok(set)
    }

    async fn add_user(&self, by: &Client, name: &str) -> Result<(), String> {
        let user = doc! {
            "createUser": name, "pwd": PASSWORD, "roles": ["root"], "writeConcern": { "w": "majority" },
        };
        by.database("admin").run_command(user).await.map(drop).map_err(|e| e.to_string())
    }

    async fn begin(&mut self) -> Result<(), String> {
        for i in 0..self.nodes.len() {
            self.run(i)?;
        }
        self.initiate().await
    }

    fn make(mongod: &Path, n: usize) -> Result<ReplSet, String> {
        let dir = tempfile::Builder::new().prefix("tidegate-mongod-").tempdir().map_err(|e| e.to_string())?;
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "sh"])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A group of its own: what ends the tests' group must not end the watchdog first.
            .process_group(0)
            .spawn()
            .map_err(|e| format!("sh: {e}"))?;
        // All ports are held until all are chosen, so that they differ.
        let held: Vec<TcpListener> =
            (0..n).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
        let ports: Vec<u16> = held
            .iter()
            .map(|l| l.local_addr().map(|a| a.port()))
            .collect::<Result<_, _>>()
            .map_err(|e| e.to_string())?;
        drop(held);
        let nodes = ports.into_iter().map(|port| Node { port, known_as: port, child: None }).collect();
        Ok(ReplSet {
            dir,
            mongod: mongod.to_owned(),
            nodes,
            watchdog,
            cache_gb: "0.25",
            oplog_mb: "256",
            more: Vec::new(),
        })
    }

    /// The connection string.
    pub fn uri(&self) -> String {
        self.uri_of(USER)
    }

    /// The connection string of a user of `admin`, whose password is [`PASSWORD`].
    pub fn uri_of(&self, user: &str) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|n| format!("127.0.0.1:{}", n.known_as)).collect();
        format!("mongodb://{user}:{ESCAPED}@{}/?replicaSet={NAME}&authSource=admin", hosts.join(","))
    }

    /// The directory of the set. A process whose pid stands in a `.pid` file there is killed together with the nodes.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// True while no node has been killed.
    pub fn is_whole(&self) -> bool {
        self.nodes.iter().all(|n| n.child.is_some())
    }

    /// Starts a node again after [`ReplSet::kill`].
    pub fn run(&mut self, i: usize) -> Result<(), String> {
        let port = self.nodes[i].port;
        let data = self.dir.path().join(format!("node{i}"));
        std::fs::create_dir_all(&data).map_err(|e| e.to_string())?;
        let child = Command::new(&self.mongod)
            .arg("--dbpath")
            .arg(&data)
            .arg("--logpath")
            .arg(self.dir.path().join(format!("node{i}.log")))
            .args(["--port", &port.to_string(), "--bind_ip", "127.0.0.1", "--nounixsocket", "--replSet", NAME])
            .args(["--wiredTigerCacheSizeGB", self.cache_gb, "--oplogSize", self.oplog_mb, "--logappend"])
            .args(["--setParameter", "diagnosticDataCollectionEnabled=false"])
            // Seconds between two looks for what has expired.
            .args(["--setParameter", "ttlMonitorSleepSecs=1"])
            // Every connection of every test logs in.
            .args(["--setParameter", "scramSHA256IterationCount=5000"])
            // Failpoints: the only honest way to see what becomes of a lost answer.
            .args(["--setParameter", "enableTestCommands=1"])
            .args(&self.more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("{}: {e}", self.mongod.display()))?;
        std::fs::write(self.pid_file(i), child.id().to_string()).map_err(|e| e.to_string())?;
        self.nodes[i].child = Some(child);
        Ok(())
    }

    fn pid_file(&self, i: usize) -> std::path::PathBuf {
        self.dir.path().join(format!("node{i}.pid"))
    }

    /// A client that talks to one node, whatever its state.
    pub async fn direct(&self, i: usize) -> Result<Client, String> {
        let uri = format!(
            "mongodb://127.0.0.1:{}/?directConnection=true&serverSelectionTimeoutMS=1000&connectTimeoutMS=1000",
            self.nodes[i].port
        );
        Client::with_uri_str(uri).await.map_err(|e| e.to_string())
    }

    async fn initiate(&mut self) -> Result<(), String> {
        let members: Vec<Bson> = (0..self.nodes.len())
            .map(|i| doc! { "_id": i as i32, "host": format!("127.0.0.1:{}", self.nodes[i].known_as) }.into())
            .collect();
        let config = doc! {
            "_id": NAME, "members": members,
            "settings": { "electionTimeoutMillis": 2_000, "heartbeatIntervalMillis": 300, "heartbeatTimeoutSecs": 2 },
        };
        let began = Instant::now();
        loop {
            if let Some(status) = self.nodes[0].child.as_mut().and_then(|c| c.try_wait().ok().flatten()) {
                return Err(format!("mongod ended at once ({status}): {}", self.last_log_line(0)));
            }
            let client = self.direct(0).await?;
            let r = client.database("admin").run_command(doc! { "replSetInitiate": config.clone() }).await;
            match r {
                Ok(_) => break,
                Err(e) if began.elapsed() > Duration::from_secs(40) => return Err(format!("replSetInitiate: {e}")),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        self.wait_for_primary(Duration::from_secs(60)).await.map(drop)
    }

    fn last_log_line(&self, i: usize) -> String {
        let text = std::fs::read_to_string(self.dir.path().join(format!("node{i}.log"))).unwrap_or_default();
        text.lines().last().unwrap_or("no log").to_owned()
    }

    /// The index of the primary, once there is one.
    pub async fn wait_for_primary(&self, within: Duration) -> Result<usize, String> {
        let began = Instant::now();
        loop {
            for (i, node) in self.nodes.iter().enumerate() {
                if node.child.is_none() {
                    continue;
                }
                let asked = self.command(i, doc! { "hello": 1 });
                if let Ok(Ok(d)) = tokio::time::timeout(Duration::from_secs(1), asked).await
                    && d.get_bool("isWritablePrimary").unwrap_or(false)
                {
                    return Ok(i);
                }
            }
            if began.elapsed() > within {
                return Err(format!("no primary within {within:?}"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Runs an admin command on one node.
    pub async fn command(&self, i: usize, command: Document) -> Result<Document, String> {
        let client = self.direct(i).await?;
        client.database("admin").run_command(command).await.map_err(|e| e.to_string())
    }

    /// Makes the primary step down for `secs` seconds; answers which node it was.
    pub async fn step_down(&self, secs: i32) -> Result<usize, String> {
        let i = self.wait_for_primary(Duration::from_secs(20)).await?;
        self.command(i, doc! { "replSetStepDown": secs, "secondaryCatchUpPeriodSecs": 1, "force": true }).await?;
        Ok(i)
    }

    /// SIGKILL.
    pub fn kill(&mut self, i: usize) {
        if let Some(mut child) = self.nodes[i].child.take() {
            let _ = child.kill();
            let _ = child.wait();
            let _ = std::fs::remove_file(self.pid_file(i));
        }
    }

    /// SIGSTOP: the node stands still, its connections stay open.
    pub fn freeze(&self, i: usize) -> Result<(), String> {
        self.signal(i, "-STOP")
    }

    /// SIGCONT.
    pub fn thaw(&self, i: usize) -> Result<(), String> {
        self.signal(i, "-CONT")
    }

    fn signal(&self, i: usize, signal: &str) -> Result<(), String> {
        let pid = self.nodes[i].child.as_ref().ok_or("the node does not run")?.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status().map_err(|e| e.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("kill {signal} {pid} failed")) }
    }
}

impl Drop for ReplSet {
    fn drop(&mut self) {
        if let Some(look) = BEFORE_END.get() {
            look(self);
        }
        for i in 0..self.nodes.len() {
            self.kill(i);
        }
        // The end of its input is what the watchdog waits for; a newline will do.
        if let Some(mut pipe) = self.watchdog.stdin.take() {
            let _ = pipe.write_all(b"\n");
        }
        let _ = self.watchdog.wait();
    }
}
