//! What servers enforce or do by themselves while documents move: TTL indexes, unique indexes, validators (DESIGN rule 11).

mod app;
mod lossy;
mod ttl;
mod unique;

use std::sync::Arc;

use tidegate::cluster::{AdminDone, AdminOp, Cluster, IndexSpec, Ns, WriteOp};
use tidegate::engine::planted::Planted;
use tidegate::plan::Plan;
use tidegate::runtime::Micros;

use super::in_place::world::World;

const LONG: Micros = Micros::from_secs(300);

fn world(seed: u64, text: &str, planted: Planted) -> World {
    let plan = Arc::new(Plan::parse(text, "constraints.toml").unwrap_or_else(|e| panic!("{}", e.render(false))));
    World::new(seed, plan, planted, 40)
}

fn next(world: &World) -> Ns {
    world.plan.collections[0].next.clone()
}

/// Asks the cluster while the world goes on.
fn ask(world: &mut World, op: AdminOp) -> AdminDone {
    let answer = Arc::new(std::sync::Mutex::new(None));
    let (cluster, told) = (world.cluster.clone(), answer.clone());
    let asking = async move { *told.lock().unwrap() = Some(cluster.admin(&op).await) };
    world.rt.spawn(tidegate::runtime::Group(70), "asking", Box::pin(asking));
    loop {
        world.step().unwrap();
        if let Some(done) = answer.lock().unwrap().take() {
            return done.unwrap();
        }
    }
}

fn index(world: &mut World, ns: &Ns, name: &str) -> IndexSpec {
    let AdminDone::Indexes(all) = ask(world, AdminOp::Indexes { ns: ns.clone() }) else { panic!() };
    all.into_iter().find(|i| i.name == name).unwrap_or_else(|| panic!("{name} is not there"))
}

fn passes(world: &mut World, span: Micros) {
    let end = world.rt.now() + span;
    while world.rt.now() < end {
        world.step().unwrap();
    }
}

/// So many soaks have begun.
fn soaks(n: usize) -> impl Fn(&World) -> bool {
    move |w| w.records("soak_began").len() >= n
}

/// To its end, and until the runner says how it ended.
fn over(world: &mut World) {
    world.until("it is over", LONG, World::is_over);
    passes(world, Micros::from_ms(200));
}

/// One write past everybody.
fn write(world: &mut World, op: WriteOp) {
    let cluster = world.cluster.clone();
    let write = async move {
        cluster.write(&op).await.unwrap();
    };
    world.rt.spawn(tidegate::runtime::Group(71), "write", Box::pin(write));
    passes(world, Micros::from_ms(40));
}
