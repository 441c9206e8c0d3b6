//! Tests against a real `mongod`: the conformance cases, the bucket function, and what happens when answers are lost.
//!
//! `TIDEGATE_TEST_MONGOD=skip` reports them as ignored. `cargo test --test mongo -- serve 3` starts a replica set of three nodes,
//! prints its connection string and keeps it until interrupted. `cargo test --release --test mongo -- demo 500000` carries so many
//! documents through a whole rollout and prints what it took.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// Real time is what these tests are about.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::future::Future;
use std::sync::{Arc, Condvar, LazyLock, Mutex};

use libtest_mimic::{Arguments, Failed, Trial};
use tidegate::cluster::mongo::Mongo;
use tidegate::runtime::Rt;
use tidegate::runtime::live::Live;
use tokio::runtime::Runtime;

#[path = "../conformance/mod.rs"]
mod conformance;
#[path = "../hostile/mod.rs"]
mod hostile;

mod answers;
mod back;
mod bench;
mod buckets;
mod canary;
mod check;
mod cleanup;
mod cli;
mod conform;
mod connecting;
mod constraints;
mod demo;
mod elsewhere;
mod explain;
mod hostile_documents;
mod in_place;
mod losses;
mod mongod;
mod observe;
mod pilot;
mod program;
mod proxy;
mod pymongo;
mod python;
mod rehearse;
mod repair;
mod replset;
mod rollout;
mod server_gate;
mod steps;
mod strand;
mod switch;
mod throttle;
mod trace;
mod watch;
mod weather;

use replset::ReplSet;

/// What a test answers.
type R = Result<(), String>;

static TOKIO: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio starts")
});
static SHARED: Mutex<Option<Result<Arc<ReplSet>, String>>> = Mutex::new(None);
/// The set of three nodes that the tests of whole rollouts share, one at a time: two cores carry no more.
static THREE: Mutex<Option<ReplSet>> = Mutex::new(None);

/// The replica set of one node that most tests share; the first who asks starts it.
fn shared() -> Result<Arc<ReplSet>, String> {
    let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    shared
        .get_or_insert_with(|| {
            let mongod = mongod::find()?;
            TOKIO.block_on(ReplSet::start(&mongod, 1)).map(Arc::new)
        })
        .clone()
}

fn live() -> Rt {
    Live::new(TOKIO.handle().clone())
}

/// The port on the shared replica set, in a connection pool of its own under this application name.
async fn connect(set: &ReplSet, app: &str) -> Result<Arc<Mongo>, String> {
    Mongo::connect(&format!("{}&appName={app}", set.uri()), live()).await.map_err(|e| e.to_string())
}

/// How many tests run at once. Those that wait for the set of three nodes do not count, so that others run beside the one that has it;
/// not more of them, for its rollouts are held to latencies.
struct Turns(Mutex<usize>, Condvar);
static TURNS: LazyLock<Turns> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    Turns(Mutex::new(cores.max(2)), Condvar::new())
});

/// The turn of one test, which ends when this is dropped.
struct Turn;

impl Turn {
    fn take() -> Turn {
        let free = TURNS.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut free = TURNS.1.wait_while(free, |n| *n == 0).unwrap_or_else(std::sync::PoisonError::into_inner);
        *free -= 1;
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TURNS.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += 1;
        TURNS.1.notify_one();
    }
}

/// Runs a test when it is its turn, and says how long a slow one took: the gate has 20 minutes.
fn timed<T>(name: &str, test: impl FnOnce() -> T) -> T {
    let _turn = Turn::take();
    let began = std::time::Instant::now();
    let out = test();
    let took = began.elapsed().as_secs();
    if took >= 5 {
        eprintln!("{name}: {took} s");
    }
    out
}

/// A test that brings what it needs.
fn on_its_own(name: &str, test: impl FnOnce() -> R + Send + 'static) -> Trial {
    let named = name.to_owned();
    Trial::test(name, move || timed(&named, test).map_err(Failed::from))
}

/// A test on the shared replica set.
fn on_shared<F>(name: &str, test: impl FnOnce(Arc<ReplSet>) -> F + Send + 'static) -> Trial
where
    F: Future<Output = R> + Send + 'static,
{
    let named = name.to_owned();
    Trial::test(name, move || {
        let set = shared()?;
        timed(&named, || TOKIO.block_on(test(set))).map_err(Failed::from)
    })
}

/// A test on the replica set of three nodes, which it has to itself.
fn on_three(name: &str, test: impl FnOnce(&ReplSet) -> R + Send + 'static) -> Trial {
    let named = name.to_owned();
    Trial::test(name, move || {
        let mut three = THREE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if three.is_none() {
            let mongod = mongod::find()?;
            *three = Some(TOKIO.block_on(ReplSet::start(&mongod, 3))?);
        }
        match &*three {
            Some(set) => timed(&named, || test(set)).map_err(Failed::from),
            None => Err("no set of three nodes".into()),
        }
    })
}

/// A whole rollout that asks for nothing but a replica set: in the gate on the one of a single node, one such test at a time, and, being
/// long, again on three nodes.
fn on_one_and_three(name: &str, test: fn(&ReplSet) -> R) -> [Trial; 2] {
    static ONE: Mutex<()> = Mutex::new(());
    let named = name.to_owned();
    let one = Trial::test(name, move || {
        let _alone = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let set = shared()?;
        timed(&named, || test(&set)).map_err(Failed::from)
    });
    [one, on_three(&format!("{name}, on three nodes"), test).with_ignored_flag(true)]
}

fn serve(n: usize) -> R {
    let mongod = mongod::find()?;
    TOKIO.block_on(async {
        let set = ReplSet::start(&mongod, n).await?;
        println!("{}", set.uri());
        eprintln!("{} nodes; Ctrl-C ends them", set.len());
        tokio::signal::ctrl_c().await.map_err(|e| e.to_string())
    })
}

/// Minutes each, and beside one of their kind that is not: `.ci/long` runs them (`cargo test --test mongo -- --ignored`), with the twins
/// on three nodes of [`on_one_and_three`].
const LONG: &[&str] = &[
    "back::a_range_goes_back_alone_and_everything_after_it",
    "check::exactly_the_printed_role_is_enough",
    "cleanup::a_plan_that_was_rolled_back_runs_again_under_its_own_id",
    "constraints::what_expires_is_unique_or_lost_comes_back_whole",
    "elsewhere::a_rollout_killed_twice_is_taken_over_from_empty_directories_under_traffic",
    "explain::a_rollout_that_has_moved_nothing_is_brought_back_too",
    "explain::the_printed_commands_bring_documents_back_from_another_cluster",
    "explain::the_printed_commands_bring_half_a_rollout_back",
    "hostile::a_thousand_documents_go_there_and_back_or_are_listed",
    "hostile::ten_thousand_documents_go_there_and_back_or_are_listed",
    "in_place::20_000_documents_come_back_byte_for_byte_while_one_in_twenty_is_edited",
    "in_place::a_runner_killed_there_and_back_restores_every_document",
    "observe::a_script_migrates_20_000_orders_and_a_read_only_user_sees_it_through",
    "pilot::a_cohort_back_alone_comes_back_with_everybody",
    "python::two_processes_in_python_come_to_contract_through_a_stepdown",
    "server_gate::a_completed_rollout_restores_the_validators",
    "server_gate::the_way_back_by_hand_restores_the_validators",
    "strand::next_killed_left_behind_and_salvaged_loses_nothing_but_listed_conflicts",
    "switch::an_application_in_node_goes_by_the_flag_file_and_loses_nothing",
    "watch::a_user_who_may_only_read_looks_on_and_is_refused",
    "weather::fifty_kills_ten_elections_and_a_bad_line_lose_nothing",
];

fn main() {
    let raw: Vec<String> = std::env::args().collect();
    if raw.get(1).is_some_and(|a| a == "serve") {
        let n = raw.get(2).and_then(|n| n.parse().ok()).unwrap_or(3);
        if let Err(e) = serve(n) {
            eprintln!("{e}");
            std::process::exit(1);
        }
        return;
    }
    if raw.get(1).is_some_and(|a| a == "demo") {
        let documents = raw.get(2).and_then(|n| n.parse().ok()).unwrap_or(50_000);
        if let Err(e) = demo::run(documents) {
            eprintln!("{e}");
            std::process::exit(1);
        }
        return;
    }
    if raw.get(1).is_some_and(|a| a == "bench") {
        let documents = raw.get(2).and_then(|n| n.parse().ok()).unwrap_or(50_000);
        if let Err(e) = bench::run(documents, raw.get(3..).unwrap_or_default()) {
            eprintln!("{e}");
            std::process::exit(1);
        }
        return;
    }
    let mut args = Arguments::from_args();
    // As many as may wait for the set of three nodes, and some that do not; how many run at once is another matter.
    args.test_threads.get_or_insert(48);
    let mut trials = conform::trials();
    trials.extend(answers::trials());
    trials.extend(back::trials());
    trials.extend(buckets::trials());
    trials.extend(canary::trials());
    trials.extend(check::trials());
    trials.extend(cleanup::trials());
    trials.extend(cli::trials());
    trials.extend(connecting::trials());
    trials.extend(constraints::trials());
    trials.extend(elsewhere::trials());
    trials.extend(explain::trials());
    trials.extend(hostile_documents::trials());
    trials.extend(in_place::trials());
    trials.extend(losses::trials());
    trials.extend(observe::trials());
    trials.extend(pilot::trials());
    trials.extend(rehearse::trials());
    trials.extend(python::trials());
    trials.extend(repair::trials());
    trials.extend(rollout::trials());
    trials.extend(server_gate::trials());
    trials.extend(steps::trials());
    trials.extend(strand::trials());
    trials.extend(switch::trials());
    trials.extend(throttle::trials());
    trials.extend(trace::trials());
    trials.extend(watch::trials());
    trials.extend(weather::trials());
    let skip = mongod::skipped();
    let later = |t: &Trial| LONG.contains(&t.name());
    let trials = trials.into_iter().map(|t| if skip || later(&t) { t.with_ignored_flag(true) } else { t }).collect();
    let _ = replset::BEFORE_END.set(canary::look_in_database);
    let conclusion = libtest_mimic::run(&args, trials);
    drop(SHARED.lock().map(|mut s| s.take()));
    drop(THREE.lock().map(|mut s| s.take()));
    if !args.list
        && let Err(leaks) = canary::verdict()
    {
        eprintln!("{leaks}");
        std::process::exit(101);
    }
    conclusion.exit();
}
