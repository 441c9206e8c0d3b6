//! Real programs and real servers: what they are told, and how they are cut off.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate::hooks::{Attempt, Call, Hooks};
use tidegate::journal::MemStore;
use tidegate::runtime::live::Live;
use tidegate::runtime::{Group, Rt};

use super::{kinds, loaded, plan};

/// Variables that cargo sets for every test: secrets, for once.
const SECRET: &str = env!("CARGO_MANIFEST_DIR");

fn call(hook: &str) -> Call {
    let text = format!("[[hook]]\nid = \"outside\"\non = [\"pause\"]\n{hook}\n");
    let hook = plan(&text).hooks[0].clone();
    let body = json!({ "event": "pause", "filler": "x".repeat(200_000) }).to_string();
    Call { hook, on: "pause".into(), event_id: "told.7.abc.outside".into(), body, env: Vec::new() }
}

fn attempt(hook: &str) -> Attempt {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let rt: Rt = Live::new(tokio.handle().clone());
    let call = call(hook);
    let attempt = tokio.block_on(async { Hooks::live().0.call(&rt, &call).await });
    tokio.shutdown_background();
    attempt
}

fn shell(script: &str, more: &str) -> Attempt {
    attempt(&format!("command = [\"/bin/sh\", \"-c\", '''{script}''']\n{more}"))
}

#[test]
fn a_command_is_told_on_its_standard_input_and_sees_no_more_than_it_should() {
    let dir = tempfile::tempdir().unwrap();
    let told = dir.path().join("told.json");
    let script = format!("cat > {}; env; echo \"$TOKEN\" >&2", told.display());
    let a = shell(&script, "env = { TOKEN = \"t-${CARGO_MANIFEST_DIR}\" }");
    assert_eq!((a.ok, a.exit, a.outcome.as_str()), (true, Some(0), "exit code 0"));
    let body: Value = serde_json::from_str(&std::fs::read_to_string(&told).unwrap()).unwrap();
    assert_eq!(body["event"], "pause");
    assert!(
        a.output.contains("TIDEGATE_EVENT=pause") && a.output.contains("TIDEGATE_EVENT_ID=told.7.abc.outside"),
        "{}",
        a.output
    );
    assert!(a.output.contains("TOKEN=t-***") && !a.output.contains(SECRET), "{}", a.output);
    // Cargo sets many more.
    assert!(!a.output.contains("CARGO"), "{}", a.output);
}

#[test]
fn how_a_command_failed_is_kept() {
    let a = shell("echo no ticket, no rollout; exit 3", "");
    assert_eq!((a.ok, a.again, a.exit, a.output.as_str()), (false, true, Some(3), "no ticket, no rollout"));
    let a = attempt("command = [\"/nonexistent/notify\"]");
    assert!(!a.ok && !a.again && a.outcome.starts_with("it cannot be started"), "{a:?}");
    let a = shell("true", "env = { TOKEN = \"${TIDEGATE_NO_SUCH_VARIABLE}\" }");
    assert_eq!((a.ok, a.outcome.as_str()), (false, "the environment variable `TIDEGATE_NO_SUCH_VARIABLE` is not set"));
}

#[test]
fn an_endless_answer_is_cut() {
    let a = shell("i=0; while [ $i -lt 20000 ]; do echo \"line $i of many\"; i=$((i+1)); done; echo last", "");
    assert!(a.ok && a.output.ends_with("last") && a.output.starts_with('…'), "{a:?}");
    assert!(a.output.chars().count() <= 1_000);
}

/// The process is gone, or nobody has collected it yet.
fn is_dead(pid: &str) -> bool {
    match std::fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|s| s.trim_start().starts_with('Z')),
        Err(_) => true,
    }
}

#[test]
fn a_command_that_hangs_is_ended_with_everything_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let script = format!("sleep 600 & echo $! > {}; echo waiting; wait", pid.display());
    let began = Instant::now();
    let a = shell(&script, "timeout = \"2s\"");
    assert!(began.elapsed() < Duration::from_secs(60));
    assert_eq!((a.ok, a.again, a.outcome.as_str()), (false, true, "killed: it had not ended after 2.0s"));
    assert_eq!((a.exit, a.output.as_str()), (None, "waiting"));
    let pid = std::fs::read_to_string(pid).unwrap();
    let gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        is_dead(&pid)
    });
    assert!(gone || cfg!(not(target_os = "linux")), "{pid} still runs");
}

#[test]
fn what_a_command_leaves_running_is_not_waited_for() {
    let began = Instant::now();
    let a = shell("sleep 20 & echo done", "timeout = \"15s\"");
    assert_eq!((a.ok, a.output.as_str()), (true, "done"));
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
}

/// A request as a server of the test saw it.
#[derive(Clone, Debug)]
struct Request {
    line: String,
    head: String,
    body: String,
}

/// A server that gives each request the next answer, and the last one for ever; an empty one is no answer at all.
struct Server {
    url: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn answering(answers: &'static [&'static str]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let all = seen.clone();
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(request) = read(&mut stream) else { continue };
                let mut seen = all.lock().unwrap();
                let answer = answers[seen.len().min(answers.len() - 1)];
                seen.push(request);
                match answer {
                    "" => silent.push(stream),
                    // A client that has gone away is not this test's.
                    answer => drop(stream.write_all(answer.as_bytes())),
                }
            }
        });
        Server { url, seen }
    }

    fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut head) = (String::new(), String::new());
    reader.read_line(&mut line).ok()?;
    while !head.ends_with("\r\n\r\n") && head != "\r\n" {
        reader.read_line(&mut head).ok().filter(|n| *n > 0)?;
    }
    let length =
        head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { line, head, body: String::from_utf8(body).unwrap() })
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nseen";
const BUSY: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy";

#[test]
fn a_webhook_is_a_post_with_the_event_as_its_body() {
    let server = Server::answering(&[OK]);
    let a = attempt(&format!(
        "url = \"{}/hooks/${{CARGO_PKG_NAME}}?v=1\"\nheaders = {{ Authorization = \"Bearer ${{CARGO_MANIFEST_DIR}}\" }}",
        server.url
    ));
    assert_eq!((a.ok, a.status, a.output.as_str()), (true, Some(200), "seen"), "{a:?}");
    let seen = server.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].line, "POST /hooks/tidegate?v=1 HTTP/1.1\r\n");
    let head = seen[0].head.to_ascii_lowercase();
    assert!(head.contains("content-type: application/json"), "{head}");
    assert!(head.contains("idempotency-key: told.7.abc.outside"), "{head}");
    assert!(seen[0].head.contains(&format!("Bearer {SECRET}")), "{head}");
    let body: Value = serde_json::from_str(&seen[0].body).unwrap();
    assert_eq!(body["event"], "pause");
}

#[test]
fn what_a_webhook_answers_is_judged_by_its_status() {
    let answers: [(&'static [&'static str], bool, u16); 4] = [
        (&[BUSY], true, 500),
        (&["HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"], true, 429),
        (&["HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"], false, 404),
        (
            &["HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"],
            false,
            302,
        ),
    ];
    for (answer, again, status) in answers {
        let server = Server::answering(answer);
        let a = attempt(&format!("url = \"{}/\"", server.url));
        assert_eq!((a.ok, a.again, a.status), (false, again, Some(status)), "{a:?}");
        assert_eq!(server.seen().len(), 1, "not asked again, nor elsewhere");
    }
}

#[test]
fn a_webhook_that_does_not_answer_is_let_go_and_named_without_its_secrets() {
    let silent = Server::answering(&[""]);
    let began = Instant::now();
    let a = attempt(&format!("url = \"{}/\"\ntimeout = \"1s\"", silent.url));
    assert_eq!((a.ok, a.again, a.outcome.as_str()), (false, true, "no answer within 1.0s"), "{a:?}");
    assert!(began.elapsed() < Duration::from_secs(30));
    // Nobody listens there.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let a = attempt(&format!("url = \"http://{gone}/${{CARGO_MANIFEST_DIR}}\""));
    assert!(!a.ok && a.again && !a.outcome.contains(SECRET), "{a:?}");
    let a = attempt("url = \"${CARGO_MANIFEST_DIR}\"");
    assert_eq!(a.outcome, "what the variables make up is no `http://` or `https://` URL");
}

#[test]
fn a_rollout_calls_a_script_and_a_server_that_answers_the_second_time() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("told.jsonl");
    let server = Server::answering(&[BUSY, OK]);
    let hooks = format!(
        "[[hook]]\nid = \"log\"\n{all}\nrequired = true\ncommand = [\"/bin/sh\", \"-c\", '''cat >> {log}; echo >> {log}''']\n\
         [[hook]]\nid = \"page\"\non = [\"completed\"]\nurl = \"{url}/page\"\n",
        all = super::ALL,
        log = log.display(),
        url = server.url
    );
    let plan = plan(&hooks);
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let rt: Rt = Live::new(tokio.handle().clone());
    let journal = MemStore::new();
    let cluster = loaded(&rt, &plan, 20);
    let engine = tokio.block_on(super::start(rt, cluster, &journal, &plan, Group(1), Hooks::live()));
    let began = Instant::now();
    while engine.ended().is_none() {
        assert!(began.elapsed() < Duration::from_secs(120), "{:?}", kinds(&journal.records()));
        std::thread::sleep(Duration::from_millis(50));
    }
    tokio.shutdown_background();
    let told: Vec<Value> =
        std::fs::read_to_string(&log).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let events: Vec<&str> = told.iter().map(|t| t["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["stage_begin", "stage_passed", "stage_begin", "stage_passed", "completed"]);
    let seen = server.seen();
    assert_eq!(seen.len(), 2, "once more after the 500");
    assert_eq!(seen[0].body, seen[1].body, "the same, under the same id");
    let page = journal.records().into_iter().find(|r| r.kind == "hook_settled" && r.body["hook"] == "page").unwrap();
    assert_eq!(
        (&page.body["ok"], &page.body["attempts"], &page.body["status"]),
        (&true.into(), &2.into(), &200.into())
    );
}
