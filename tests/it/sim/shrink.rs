//! Makes a failing case small: fewer and fewer mishaps, as long as it still fails. What is left is written as a scenario.

use std::path::PathBuf;

use super::case::Case;
use super::many::run;

/// Runs that making one case small may take.
const RUNS: usize = 250;

/// A case that still fails, and what is left of it.
pub struct Small {
    pub case: Case,
    /// Which of the mishaps that the seed draws.
    pub kept: Vec<usize>,
    /// How it fails.
    pub failure: String,
    pub drawn: usize,
}

/// The case of a seed, with only the mishaps that `TIDEGATE_SIM_KEEP` names, when it does.
pub fn asked_for(seed: u64) -> Case {
    let case = Case::plain(seed);
    match std::env::var("TIDEGATE_SIM_KEEP") {
        Ok(list) => case.keeping(&list.split(',').filter_map(|n| n.trim().parse().ok()).collect::<Vec<_>>()),
        Err(_) => case,
    }
}

/// The shortest list of mishaps found that still fails in the same way (Zeller and Hildebrandt's ddmin: halves, quarters, and so on
/// down to single ones); `None` when the case does not fail.
pub fn shrink(case: &Case) -> Option<Small> {
    let mut runs = 0;
    let mut fails = |kept: &[usize]| {
        runs += 1;
        if runs > RUNS { None } else { run(case.keeping(kept)).err() }
    };
    let mut kept: Vec<usize> = (0..case.mishaps.len()).collect();
    let mut failure = fails(&kept)?;
    let name = invariant(&failure);
    let mut parts = 2;
    while !kept.is_empty() {
        let size = kept.len().div_ceil(parts);
        let without = (0..kept.len()).step_by(size).find_map(|from| {
            let rest: Vec<usize> =
                kept.iter().enumerate().filter(|(i, _)| *i < from || *i >= from + size).map(|(_, k)| *k).collect();
            fails(&rest).filter(|e| invariant(e) == name).map(|e| (rest, e))
        });
        match without {
            Some((rest, e)) => {
                (kept, failure) = (rest, e);
                parts = (parts - 1).max(2);
            }
            None if size == 1 => break,
            None => parts = (parts * 2).min(kept.len()),
        }
    }
    Some(Small { case: case.keeping(&kept), kept, failure, drawn: case.mishaps.len() })
}

/// What a failure is about: `I1`, `rule 7`, and so on.
fn invariant(failure: &str) -> String {
    failure.split(':').next().unwrap_or_default().to_owned()
}

/// Writes a small case below `target/sim`, as a scenario with its plan, and says where and what it is.
pub fn write(small: &Small) -> String {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("target/sim/seed-{}", small.case.seed));
    let files = [("scenario.toml", super::scenario::text(small)), ("plan.toml", super::scenario::plan(&small.case))];
    let kept: Vec<String> = small.kept.iter().map(ToString::to_string).collect();
    let said = format!("{} of {} mishaps are enough, TIDEGATE_SIM_KEEP={}", kept.len(), small.drawn, kept.join(","));
    let written = std::fs::create_dir_all(&dir)
        .and_then(|()| files.iter().try_for_each(|(name, text)| std::fs::write(dir.join(name), text)));
    match written {
        Ok(()) => format!("{said}; written as {}", dir.display()),
        Err(e) => format!("{said}; it could not be written to {}: {e}", dir.display()),
    }
}
