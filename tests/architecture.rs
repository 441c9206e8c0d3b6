//! Imports run downwards only, and a few rooms may name less than their rank allows. docs/architecture.md says why.
//!
//! The sources are read as tokens, without comments and strings; paths in `use` trees are spelt out and `super` is resolved. Every rule
//! has a snippet below that breaks it: a rule that cannot fail proves nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;

/// Highest first; a room names rooms below it, and itself.
const ROOMS: [&str; 17] = [
    "cli",
    "tui",
    "drill",
    "workload",
    "engine",
    "rollout",
    "gate",
    "metrics",
    "journal",
    "transform",
    "hooks",
    "plan",
    "snapshot",
    "route",
    "cluster",
    "runtime",
    "scrub",
];

/// Outside src/runtime, these read a clock, each because a person waits there: the terminal's frames, and how much of a frame's time
/// a paced drill may use up.
const CLOCK_READERS: [&str; 2] = ["tui/run.rs", "cli/pace.rs"];

/// What the dashboard may name of the rooms below it; `None` is all of one.
const TUI_NAMES: [(&str, Option<&[&str]>); 5] = [
    ("snapshot", None),
    ("scrub", None),
    ("runtime", Some(&["Micros"])),
    ("route", Some(&["Side", "Bucket", "BUCKETS"])),
    ("metrics", Some(&["axis"])),
];

/// The pure core has no clock, no tasks and no way out.
const NOT_IN_ROLLOUT: [&str; 10] = [
    "tokio",
    "futures_util",
    "std::fs",
    "std::io",
    "std::env",
    "std::net",
    "std::process",
    "std::thread",
    "std::time",
    "std::future",
];

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    /// `::`
    Sep,
    Other(char),
}

/// The tokens with their lines, without comments, strings, characters and lifetimes.
fn tokens(source: &str) -> Vec<(usize, Token)> {
    let chars: Vec<char> = source.chars().collect();
    let (mut out, mut i, mut line) = (Vec::new(), 0, 1);
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    while i < chars.len() {
        let (c, begin) = (at(i), i);
        let mut token = None;
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            loop {
                match (at(i), at(i + 1)) {
                    ('/', '*') => (depth, i) = (depth + 1, i + 2),
                    ('*', '/') => (depth, i) = (depth - 1, i + 2),
                    _ => i += 1,
                }
                if depth == 0 || i >= chars.len() {
                    break;
                }
            }
        } else if let Some(end) = raw_string(&chars, i) {
            i = end;
        } else if c == '"' || (matches!(c, 'b' | 'c') && at(i + 1) == '"') {
            i += if c == '"' { 1 } else { 2 };
            while i < chars.len() && at(i) != '"' {
                i += if at(i) == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if c == '\'' {
            // A character ends in a quote; a lifetime does not.
            if at(i + 1) == '\\' {
                i += 3;
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            } else {
                i += if at(i + 2) == '\'' { 3 } else { 1 };
            }
        } else if c.is_alphanumeric() || c == '_' {
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            token = Some(Token::Word(chars[begin..i].iter().collect()));
        } else if c == ':' && at(i + 1) == ':' {
            i += 2;
            token = Some(Token::Sep);
        } else {
            i += 1;
            token = (!c.is_whitespace()).then_some(Token::Other(c));
        }
        out.extend(token.map(|t| (line, t)));
        line += chars[begin..i.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    out
}

/// The end of a raw string that begins here.
fn raw_string(chars: &[char], begin: usize) -> Option<usize> {
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut i = begin;
    if matches!(at(i), 'b' | 'c') {
        i += 1;
    }
    if at(i) != 'r' || (begin > 0 && (at(begin - 1).is_alphanumeric() || at(begin - 1) == '_')) {
        return None;
    }
    i += 1;
    let hashes = (i..).take_while(|n| at(*n) == '#').count();
    i += hashes;
    if at(i) != '"' {
        return None;
    }
    i += 1;
    while i < chars.len() && !(at(i) == '"' && (1..=hashes).all(|n| at(i + n) == '#')) {
        i += 1;
    }
    Some(i + 1 + hashes)
}

/// One path as the source names it, from the crate's root or from an extern crate.
#[derive(Debug)]
struct Named {
    line: usize,
    path: Vec<String>,
    /// In a `#[cfg(test)]` module, or a file of tests.
    in_test: bool,
}

impl Named {
    fn starts(&self, with: &str) -> bool {
        with.split("::").eq(self.path.iter().map(String::as_str).take(with.split("::").count()))
    }

    /// The room and what is named of it.
    fn room(&self) -> Option<(&str, &[String])> {
        match self.path.as_slice() {
            [first, room, rest @ ..] if first == "crate" => Some((room, rest)),
            _ => None,
        }
    }
}

/// The module a file is, from the crate's root.
fn module_of(file: &str) -> Vec<String> {
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    std::iter::once("crate").chain(stem.split('/')).map(str::to_owned).collect()
}

fn names(file: &str, tokens: &[(usize, Token)]) -> Vec<Named> {
    let file_of_tests = file.ends_with("/tests.rs");
    let mut out = Vec::new();
    // Inline modules around the current token: (depth of its braces, it is one of tests).
    let mut module = module_of(file);
    let mut inside: Vec<(usize, bool)> = Vec::new();
    let (mut depth, mut i, mut test_ahead) = (0, 0, false);
    let word = |i: usize| match tokens.get(i) {
        Some((_, Token::Word(w))) => Some(w.as_str()),
        _ => None,
    };
    let is = |i: usize, t: &Token| tokens.get(i).is_some_and(|(_, x)| x == t);
    while i < tokens.len() {
        match &tokens[i].1 {
            Token::Other('{') => depth += 1,
            Token::Other('}') => {
                if inside.last().is_some_and(|(d, _)| *d == depth) {
                    inside.pop();
                    module.pop();
                }
                depth -= 1;
            }
            Token::Other('#') if word(i + 2) == Some("cfg") && word(i + 4) == Some("test") => test_ahead = true,
            Token::Other(';') => test_ahead = false,
            Token::Word(w) if w == "mod" && is(i + 2, &Token::Other('{')) => {
                depth += 1;
                inside.push((depth, test_ahead));
                test_ahead = false;
                module.push(word(i + 1).unwrap_or("?").to_owned());
                i += 2;
            }
            Token::Word(w) if !w.starts_with(|c: char| c.is_ascii_digit()) => {
                let mut found = Vec::new();
                let end = tree(tokens, i, &mut Vec::new(), &mut found);
                let imported = i > 0 && word(i - 1) == Some("use");
                let in_test = file_of_tests || inside.iter().any(|(_, test)| *test);
                for path in found.into_iter().filter(|p| p.len() > 1 || imported) {
                    let path = resolved(path, &module);
                    out.push(Named { line: tokens[i].0, path, in_test });
                }
                i = end.max(i + 1);
                continue;
            }
            _ => {}
        }
        i += 1;
    }
    out
}

/// Collects the paths of the path or `use` tree that begins at `i`, and answers where it ends.
fn tree(tokens: &[(usize, Token)], mut i: usize, before: &mut Vec<String>, out: &mut Vec<Vec<String>>) -> usize {
    let kept = before.len();
    loop {
        match tokens.get(i).map(|(_, t)| t) {
            Some(Token::Word(w)) => before.push(w.clone()),
            Some(Token::Other('*')) if before.len() > kept => before.push("*".into()),
            Some(Token::Other('{')) if !before.is_empty() => {
                i += 1;
                while !matches!(tokens.get(i).map(|(_, t)| t), None | Some(Token::Other('}'))) {
                    let next = tree(tokens, i, before, out);
                    i = next.max(i + 1);
                    while !matches!(tokens.get(i).map(|(_, t)| t), None | Some(Token::Other(',' | '}'))) {
                        i += 1; // `as name`
                    }
                    if matches!(tokens.get(i).map(|(_, t)| t), Some(Token::Other(','))) {
                        i += 1;
                    }
                }
                before.truncate(kept);
                return i + 1;
            }
            _ => break,
        }
        i += 1;
        if tokens.get(i).map(|(_, t)| t) != Some(&Token::Sep) {
            break;
        }
        i += 1;
    }
    if before.len() > kept {
        out.push(before.clone());
    }
    before.truncate(kept);
    i
}

/// `super` and `self` spelt out.
fn resolved(path: Vec<String>, module: &[String]) -> Vec<String> {
    let supers = path.iter().take_while(|s| *s == "super").count();
    if supers > 0 {
        let up = module.len().saturating_sub(supers).max(1);
        return module[..up].iter().cloned().chain(path.into_iter().skip(supers)).collect();
    }
    match path.first().map(String::as_str) {
        Some("self") => {
            let supers = path.iter().skip(1).take_while(|s| *s == "super").count();
            let up = module.len().saturating_sub(supers).max(1);
            module[..up].iter().cloned().chain(path.into_iter().skip(1 + supers)).collect()
        }
        Some("tidegate") => std::iter::once("crate".to_owned()).chain(path.into_iter().skip(1)).collect(),
        _ => path,
    }
}

fn rank(room: &str) -> Option<usize> {
    ROOMS.iter().position(|r| *r == room)
}

/// What one file breaks, a line each. `file` is relative to src/.
fn broken(file: &str, source: &str) -> Vec<String> {
    let tokens = tokens(source);
    let room = file.split('/').next().unwrap_or_default().trim_end_matches(".rs");
    if matches!(room, "lib" | "main") {
        return Vec::new();
    }
    let Some(mine) = rank(room) else {
        return vec![format!("{file}: {room} is no room; give it a rank in tests/architecture.rs")];
    };
    let mut out = Vec::new();
    for named in names(file, &tokens) {
        for why in rules(file, room, mine, &named) {
            out.push(format!("{file}:{}: {}: {why}", named.line, named.path.join("::")));
        }
    }
    for (line, token) in &tokens {
        let Token::Word(word) = token else { continue };
        let clock = matches!(word.as_str(), "Instant" | "SystemTime");
        if clock && room != "runtime" && !CLOCK_READERS.contains(&file) {
            out.push(format!("{file}:{line}: {word}: only src/runtime knows the clock"));
        }
        if room == "rollout" && matches!(word.as_str(), "async" | "await") {
            out.push(format!("{file}:{line}: {word}: the core is not async"));
        }
    }
    out
}

fn rules(file: &str, room: &str, mine: usize, named: &Named) -> Vec<&'static str> {
    let mut out = Vec::new();
    let mut forbid = |broken: bool, why| {
        if broken {
            out.push(why);
        }
    };
    if let Some((other, what)) = named.room() {
        let what = what.first().map(String::as_str);
        forbid(rank(other).is_some_and(|theirs| theirs < mine), "imports run downwards");
        if room == "tui" && other != "tui" && rank(other).is_some() {
            let allowed = TUI_NAMES.iter().find(|(name, _)| *name == other).is_some_and(|(_, only)| match only {
                None => true,
                Some(only) => what.is_some_and(|w| only.contains(&w)),
            });
            forbid(!allowed, "the dashboard knows the snapshot and little else");
        }
        if room == "workload" {
            forbid(
                matches!(other, "engine" | "rollout" | "transform" | "tui"),
                "the application knows nothing of who migrates it",
            );
            let theirs = other == "route" && matches!(what, Some("bucket" | "bucket_of" | "hash64" | "*") | None);
            forbid(theirs && !named.in_test, "the application has bucket code of its own");
        }
        if room == "rollout" && other == "runtime" {
            forbid(what != Some("Micros"), "the core takes neither time nor tasks");
        }
        if room == "engine" && other == "cluster" {
            forbid(matches!(what, Some("mongo" | "embedded" | "*")), "the engine knows the port only");
        }
        if room == "drill" && other == "cluster" {
            forbid(matches!(what, Some("mongo" | "*")), "a drill touches no real server");
        }
    }
    forbid(
        named.starts("mongodb") && !file.starts_with("cluster/mongo/") && file != "cluster/mongo.rs",
        "only cluster/mongo knows the driver",
    );
    let out_there = named.starts("ureq") || named.starts("tokio::process") || named.starts("std::process::Command");
    // A rollout is handed over to another process of this very program.
    let itself = file == "cli/hand_over.rs" && named.starts("std::process::Command");
    forbid(out_there && room != "hooks" && !itself, "only src/hooks calls programs and servers");
    if room == "rollout" {
        forbid(NOT_IN_ROLLOUT.iter().any(|p| named.starts(p)), "the core is pure");
    }
    if matches!(room, "drill" | "rollout" | "engine") {
        forbid(named.starts("std::net") || named.starts("tokio::net"), "no sockets here");
    }
    if room == "engine" {
        let whole = named.path.len() == 2 || named.path.get(2).is_some_and(|s| matches!(s.as_str(), "*" | "self"));
        forbid(named.starts("std::time") && whole, "the engine takes its time from `Runtime`");
        forbid(named.starts("tokio::time"), "the engine takes its time from `Runtime`");
    }
    out
}

/// Every file below src/, relative to it.
fn sources(dir: &Path, below: &str, out: &mut Vec<(String, String)>) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap()).collect();
    entries.sort_by_key(|e| e.file_name());
    for entry in entries {
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            sources(&entry.path(), &format!("{name}/"), out);
        } else if name.ends_with(".rs") {
            out.push((name, fs::read_to_string(entry.path()).unwrap()));
        }
    }
}

fn all_sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut files);
    files
}

#[test]
fn imports_run_downwards() {
    let files = all_sources();
    assert!(files.len() > 50, "only {} files were found", files.len());
    let found: Vec<String> = files.iter().flat_map(|(file, source)| broken(file, source)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_import_is_overlooked() {
    for (file, source) in all_sources() {
        let tokens = tokens(&source);
        let seen: Vec<usize> = names(&file, &tokens).iter().map(|n| n.line).collect();
        for (number, line) in source.lines().enumerate().map(|(n, l)| (n + 1, l.trim_start())) {
            if line.starts_with("use ") || line.starts_with("pub use ") {
                assert!(seen.contains(&number), "{file}:{number}: {line}");
            }
        }
    }
}

#[test]
fn every_room_has_a_rank_and_a_line_in_the_map() {
    let (_, lib) = all_sources().into_iter().find(|(file, _)| file == "lib.rs").expect("src/lib.rs");
    let mut declared: Vec<&str> = lib.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    declared.sort_unstable();
    let mut rooms = ROOMS.to_vec();
    rooms.sort_unstable();
    assert_eq!(declared, rooms);
    let map = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md")).unwrap();
    for room in ROOMS {
        assert!(map.contains(&format!("| `{room}` |")), "docs/architecture.md says nothing of {room}");
    }
}

#[test]
fn every_rule_can_fail() {
    for (file, source, why) in [
        ("route/mod.rs", "use crate::engine::Engine;", "downwards"),
        ("route/client.rs", "fn f() { let x = crate::engine::start(); }", "downwards"),
        ("plan/types.rs", "use crate::{cluster::Ns, gate::{self, Gate}};", "downwards"),
        ("cluster/mongo/read.rs", "use super::super::super::engine::Engine;", "downwards"),
        ("cluster/mod.rs", "mod a { mod b { use super::super::super::plan::Plan; } }", "downwards"),
        ("scrub.rs", "pub use crate::runtime::*;", "downwards"),
        ("runtime/mod.rs", "use tidegate::cluster::Key;", "downwards"),
        ("attic/mod.rs", "", "no room"),
        ("tui/app.rs", "use crate::engine::Engine;", "the snapshot and little else"),
        ("tui/app.rs", "use crate::journal::Record;", "the snapshot and little else"),
        ("tui/app.rs", "use crate::runtime::{Micros, Rt};", "the snapshot and little else"),
        ("tui/app.rs", "use crate::route;", "the snapshot and little else"),
        ("tui/widgets/lag.rs", "use crate::metrics::Metrics;", "the snapshot and little else"),
        ("workload/mod.rs", "use crate::engine::Engine;", "who migrates it"),
        ("workload/mod.rs", "use crate::rollout::State;", "who migrates it"),
        ("workload/mod.rs", "fn f() { crate::transform::apply() }", "who migrates it"),
        ("workload/lane.rs", "use crate::route::{Side, bucket_of};", "bucket code of its own"),
        ("workload/lane.rs", "use crate::route::*;", "bucket code of its own"),
        ("workload/lane.rs", "use crate::route; fn f() { route::bucket_of(k) }", "bucket code of its own"),
        ("rollout/state.rs", "use tokio::sync::mpsc;", "pure"),
        ("rollout/state.rs", "use std::{collections::BTreeMap, fs};", "pure"),
        ("rollout/state.rs", "use crate::runtime::Rt;", "neither time nor tasks"),
        ("rollout/state.rs", "async fn decide() {}", "not async"),
        ("engine/mod.rs", "use crate::cluster::embedded::Embedded;", "the port only"),
        ("engine/mod.rs", "use crate::cluster::mongo::Mongo;", "the port only"),
        ("engine/mod.rs", "use std::time::{Duration, Instant};", "knows the clock"),
        ("engine/mod.rs", "use std::time;", "its time from"),
        ("engine/mod.rs", "use tokio::time::sleep;", "its time from"),
        ("engine/mod.rs", "use mongodb::Client;", "knows the driver"),
        ("cli/run.rs", "fn f() -> mongodb::error::Error { todo!() }", "knows the driver"),
        ("cli/run.rs", "use mongodb as db;", "knows the driver"),
        ("cli/run.rs", "fn f() { SystemTime::now(); }", "knows the clock"),
        ("drill/mod.rs", "use crate::cluster::{Db, mongo};", "no real server"),
        ("drill/mod.rs", "use std::net::TcpListener;", "no sockets"),
        ("engine/hooks.rs", "use tokio::process::Command;", "programs and servers"),
        ("cli/run.rs", "fn f() { ureq::post(url) }", "programs and servers"),
        ("engine/mod.rs", "use tokio::net::TcpStream;", "no sockets"),
        ("rollout/mod.rs", "use std::net::IpAddr;", "no sockets"),
    ] {
        let found = broken(file, source);
        assert!(found.iter().any(|f| f.contains(why)), "{file}: {source}\nfound: {found:?}");
    }
}

#[test]
fn what_is_allowed_breaks_no_rule() {
    for (file, source) in [
        ("scrub.rs", "// use crate::engine::Engine;\n/* crate::cli /* nested */ crate::tui */"),
        (
            "scrub.rs",
            r##"const A: &str = "crate::cli"; const B: &str = r#"use "crate::cli""#; const C: char = '"'; //"##,
        ),
        ("scrub.rs", r"const A: char = '\''; fn f<'a>(x: &'a str) {} // crate::cli"),
        ("engine/mod.rs", "use crate::cluster::{Db, Key}; use super::rollout::State; use std::time::Duration;"),
        ("engine/tail.rs", "use super::ctx::Ctx; use self::x::Y;"),
        ("tui/mod.rs", "use crate::{snapshot::Snapshot, runtime::Micros, metrics::axis::top, route::{Side, BUCKETS}};"),
        ("workload/bucket.rs", "use crate::route::Side;\n#[cfg(test)]\nmod tests { use crate::route::bucket_of; }"),
        ("cluster/mongo/read.rs", "use mongodb::Client;"),
        ("runtime/live.rs", "use std::time::{Instant, SystemTime};"),
        ("hooks/command.rs", "use tokio::process::Command;"),
        ("tui/run.rs", "use std::time::{Duration, Instant};"),
    ] {
        assert_eq!(broken(file, source), [""; 0], "{file}: {source}");
    }
}

#[test]
fn lines_are_counted_through_strings_and_comments() {
    let source = "/* a\n b */\nconst A: &str = \"x\ny\";\nuse crate::engine::Engine;\n";
    assert_eq!(broken("route/mod.rs", source), ["route/mod.rs:5: crate::engine::Engine: imports run downwards"]);
}
