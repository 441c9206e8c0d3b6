//! The way back by the real program on a replica set of three nodes, under an application that writes all the time.

use std::time::Duration;

use libtest_mimic::Trial;
use mongodb::bson::doc;
use serde_json::Value;

use super::program::{Place, Program, until};
use super::replset::ReplSet;
use super::rollout::{PLAN, journals_agree};
use super::{R, TOKIO, on_one_and_three, on_three};

const LONG: Duration = Duration::from_secs(150);

pub fn trials() -> Vec<Trial> {
    let mut all = vec![
        on_three("back::everything_comes_back_at_once_after_all_writes_have_moved", hard_from_full),
        on_three("back::a_range_goes_back_alone_and_everything_after_it", range_then_all),
        on_three("back::a_rollback_while_the_primary_steps_down_loses_nothing", under_a_stepdown),
    ];
    all.extend(on_one_and_three("back::a_soft_rollback_from_half_steps_down_and_loses_nothing", soft_from_half));
    all
}

/// The plan with a stage that soaks until somebody acts.
pub fn soaks_in(stage: &'static str) -> impl Fn(String) -> String {
    move |plan| {
        let at = plan.find(&format!("id = \"{stage}\"")).map_or(plan.len(), |p| p);
        let (head, tail) = plan.split_at(at);
        format!("{head}{}", tail.replacen("soak = \"2s\"", "soak = \"10m\"", 1))
    }
}

pub fn soaks(run: &mut Program, stage: &str) -> R {
    until(&format!("{stage} soaks"), LONG, || {
        let entered = run.prints(|l| l["kind"] == "stage_entered" && l["body"]["id"] == stage)?;
        let Some(at) = entered.and_then(|l| l["seq"].as_i64()) else { return Ok(None) };
        run.prints(|l| l["kind"] == "soak_began" && l["seq"].as_i64().unwrap_or(0) > at)
    })
    .map(drop)
}

/// The summary of a rollback that lost nothing.
pub fn rolled_back(back: &Program) -> R {
    let sum = back.summary()?;
    let found = |what: &str| Err(format!("{what}: {sum}; {}", back.tail()));
    if sum["outcome"] != "rolled_back" {
        return found("the outcome");
    }
    for (part, n) in [("writes", "lost"), ("writes", "stale"), ("writes", "stray"), ("documents", "missing")] {
        if sum[part][n] != 0 {
            return found(n);
        }
    }
    if sum["documents"]["extra"] != 0 || sum["documents"]["differing"] != 0 {
        return found("both sides differ");
    }
    Ok(())
}

/// The summaries of a rollback that lost nothing.
pub fn came_back(back: &Program, app: &mut Program) -> R {
    rolled_back(back)?;
    app.ends_with(0, Duration::from_secs(60))?;
    let app = app.summary()?;
    if app["lost"] != 0 || app["stale"] != 0 || app["acknowledged"].as_u64().unwrap_or(0) < 100 {
        return Err(format!("the application: {app}"));
    }
    Ok(())
}

/// Legacy is the collection in use; next is sealed, kept, and an empty view stands under its name.
pub fn is_at_rest(set: &ReplSet, id: &str) -> R {
    TOKIO.block_on(async {
        let client = mongodb::Client::with_uri_str(set.uri()).await.map_err(|e| e.to_string())?;
        let db = client.database(id);
        let kept = format!("orders_v2.isolated.{id}");
        let mut counts = [0; 3];
        for (n, name) in counts.iter_mut().zip(["orders", "orders_v2", &kept]) {
            let all = db.collection::<mongodb::bson::Document>(name);
            *n = all.count_documents(doc! {}).await.map_err(|e| e.to_string())?;
        }
        let [legacy, next, isolated] = counts;
        if legacy == 0 || next != 0 || isolated == 0 {
            return Err(format!("{legacy} in legacy, {next} under next's name, {isolated} kept"));
        }
        let late = doc! { "_id": "late" };
        let late = db.collection::<mongodb::bson::Document>(&kept).insert_one(late).await;
        let view = db.collection::<mongodb::bson::Document>("orders_v2").insert_one(doc! { "_id": "late" }).await;
        let route = client.database("tidegate").collection::<mongodb::bson::Document>("routes");
        let route = route.find_one(doc! { "_id": id }).await.map_err(|e| e.to_string())?.ok_or("no route")?;
        let on_next =
            route.get_i32("reads_next_below").unwrap_or(-1) + route.get_i32("writes_next_below").unwrap_or(-1);
        match (late.is_err(), view.is_err(), on_next) {
            (true, true, 0) => Ok(()),
            found => Err(format!("a late write was not refused, or the route is not back: {found:?}")),
        }
    })
}

pub fn goes_back(place: &Place, name: &str, more: &[&str]) -> Result<Program, String> {
    let journal = format!("{name}.jsonl");
    let mut args = vec!["--headless", "--json", "--journal", &journal, "--as", name];
    args.extend(more);
    place.start(name, "rollback", &args)
}

fn hard_from_full(set: &ReplSet) -> R {
    let place = Place::new(set, "backhard", PLAN, soaks_in("full"))?;
    let mut app = place.application(3_000, &[])?;
    let mut run = place.run("first", "first.jsonl")?;
    soaks(&mut run, "full")?;
    // From another terminal, while the runner is healthy: only by saying why.
    let mut refused = goes_back(&place, "asked", &["--hard"])?;
    refused.ends_with(1, Duration::from_secs(30))?;
    let take = ["--hard", "--take-over", "--reason", "orders are slow"];
    let mut back = goes_back(&place, "back", &take)?;
    back.ends_with(3, LONG)?;
    run.ends_with(1, Duration::from_secs(30))?;
    came_back(&back, &mut app)?;
    is_at_rest(set, &place.id)?;
    journals_agree(&place, "back.jsonl")
}

fn soft_from_half(set: &ReplSet) -> R {
    let place = Place::new(set, "backsoft", PLAN, soaks_in("half"))?;
    let mut app = place.application(3_000, &[])?;
    let mut run = place.run("first", "first.jsonl")?;
    soaks(&mut run, "half")?;
    run.signal("TERM")?;
    run.ends_with(4, Duration::from_secs(30))?;
    let mut back = goes_back(&place, "back", &[])?;
    back.ends_with(3, LONG)?;
    came_back(&back, &mut app)?;
    let below: Vec<i64> = back
        .lines()
        .iter()
        .filter(|l| l["kind"] == "route_settled")
        .filter_map(|l| l["body"]["writes_next_below"].as_i64())
        .collect();
    if !below.is_sorted_by(|a, b| a >= b) || !below.contains(&52) {
        return Err(format!("it did not go back stage by stage: {below:?}"));
    }
    is_at_rest(set, &place.id)?;
    journals_agree(&place, "back.jsonl")
}

fn range_then_all(set: &ReplSet) -> R {
    let place = Place::new(set, "backrange", PLAN, soaks_in("half"))?;
    let mut app = place.application(3_000, &[])?;
    let mut run = place.run("first", "first.jsonl")?;
    soaks(&mut run, "half")?;
    run.signal("TERM")?;
    run.ends_with(4, Duration::from_secs(30))?;
    let mut odd = goes_back(&place, "odd", &["--range", "700.."])?;
    odd.ends_with(1, Duration::from_secs(60))?;
    let mut back = goes_back(&place, "range", &["--range", "200..", "--exit-when-needed"])?;
    back.ends_with(4, LONG)?;
    let route = TOKIO.block_on(async {
        let client = mongodb::Client::with_uri_str(set.uri()).await.map_err(|e| e.to_string())?;
        let routes = client.database("tidegate").collection::<mongodb::bson::Document>("routes");
        routes.find_one(doc! { "_id": &place.id }).await.map_err(|e| e.to_string())?.ok_or("no route".to_owned())
    })?;
    let below = ["writes_next_below", "reads_next_below"].map(|f| route.get_i32(f).unwrap_or(-1));
    if below != [200, 200] || !back.lines().iter().any(|l| l["kind"] == "returned" && l["body"]["id"] == "canary") {
        return Err(format!("{below:?}; {}", back.tail()));
    }
    let mut all = goes_back(&place, "all", &["--hard"])?;
    all.ends_with(3, LONG)?;
    came_back(&all, &mut app)?;
    is_at_rest(set, &place.id)
}

fn under_a_stepdown(set: &ReplSet) -> R {
    let place = Place::new(set, "backstep", PLAN, soaks_in("full"))?;
    let mut app = place.application(3_000, &[])?;
    let mut run = place.run("first", "first.jsonl")?;
    soaks(&mut run, "full")?;
    run.signal("TERM")?;
    run.ends_with(4, Duration::from_secs(30))?;
    let mut back = goes_back(&place, "back", &["--hard"])?;
    until("it goes back", LONG, || back.prints(|l: &Value| l["kind"] == "rollback_began"))?;
    for _ in 0..3 {
        step_down(set);
        std::thread::sleep(Duration::from_millis(2_500));
    }
    back.ends_with(3, LONG)?;
    came_back(&back, &mut app)?;
    is_at_rest(set, &place.id)
}

/// The primary steps down; the connection that asked for it may break over it.
fn step_down(set: &ReplSet) {
    TOKIO.block_on(async {
        if let Ok(client) = mongodb::Client::with_uri_str(set.uri()).await {
            let command = doc! { "replSetStepDown": 5, "secondaryCatchUpPeriodSecs": 4 };
            let said = client.database("admin").run_command(command).await;
            eprintln!("step down: {:?}", said.map_err(|e| e.to_string()));
        }
    });
}

/// After contract there is no way back, neither by the program nor by hand.
pub fn finished_is_not_rolled_back(place: &Place) -> R {
    let mut back = goes_back(place, "back", &["--hard"])?;
    back.ends_with(1, Duration::from_secs(30))?;
    if !back.stderr().contains("is finished; its journal is closed") {
        return Err(back.tail());
    }
    let mut asked = place.start("asked", "rollback", &["--explain"])?;
    asked.ends_with(1, Duration::from_secs(30))?;
    if asked.stderr().contains("past the point of no return") { Ok(()) } else { Err(asked.tail()) }
}
