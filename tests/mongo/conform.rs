//! Every conformance case on a real server, each in its own database, and random histories.

use libtest_mimic::Trial;

use super::{conformance, connect, live, on_shared};

pub fn trials() -> Vec<Trial> {
    let mut all = Vec::new();
    for (name, case) in conformance::cases() {
        all.push(on_shared(&format!("conformance::{name}"), move |set| async move {
            let db = connect(&set, name).await?;
            case(live(), db, name.to_owned()).await
        }));
    }
    all
}
