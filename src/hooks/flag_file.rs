//! The flag file on disk: readers see the old one or the new one, never a part, and never an older one again.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use serde_json::Value;

use crate::scrub;

/// Puts the file there, unless what is there is newer or somebody else's. The error says why not.
pub(super) fn replace(path: &Path, set: &str, epoch: i64, text: &[u8]) -> Result<(), String> {
    let said = |e: std::io::Error| scrub::line(&e.to_string());
    let _alone = alone(path).map_err(said)?;
    let there = read(path)?;
    let whose = there["metadata"]["flagSetId"].as_str().unwrap_or("");
    if whose != set {
        return Err(format!("it is no flag file of this plan (`{}`)", scrub::short(whose, 80)));
    }
    if let Some(newer) = there["metadata"]["epoch"].as_i64().filter(|there| *there > epoch) {
        return Err(format!("it says what route {newer} means already: another runner has written it"));
    }
    put(path, epoch, text).map_err(said)
}

/// What is there. The file is made before the rollout: where it is missing, no application would read it either.
fn read(path: &Path) -> Result<Value, String> {
    match std::fs::read(path) {
        Ok(there) => serde_json::from_slice(&there).map_err(|_| "what is there is no flag file".to_owned()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err("it is not there: is it the right directory? `tidegate_flags.mjs init` makes it".to_owned())
        }
        Err(e) => Err(scrub::line(&e.to_string())),
    }
}

/// Nobody else looks and writes at the same time: held until it is dropped.
fn alone(path: &Path) -> std::io::Result<File> {
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(beside(path, "lock"))?;
    #[cfg(unix)]
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    Ok(lock)
}

fn beside(path: &Path, what: &str) -> std::path::PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{what}"));
    path.with_file_name(name)
}

fn put(path: &Path, epoch: i64, text: &[u8]) -> std::io::Result<()> {
    let new = beside(path, &format!("{}.{epoch}.new", std::process::id()));
    let mut file = File::create(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    // The name, too, is there after a power cut.
    #[cfg(unix)]
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    fn file(set: &str, epoch: i64) -> Vec<u8> {
        serde_json::json!({ "metadata": { "flagSetId": set, "epoch": epoch } }).to_string().into_bytes()
    }

    #[test]
    fn an_older_flag_file_or_one_of_another_plan_never_takes_the_place_of_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flags.json");
        let put = |set: &str, epoch| replace(&path, set, epoch, &file(set, epoch));
        assert!(put("tidegate/a", 1).unwrap_err().contains("not there"), "nobody would read it");
        std::fs::write(&path, file("tidegate/a", 0)).unwrap();
        assert_eq!((put("tidegate/a", 3), put("tidegate/a", 3), put("tidegate/a", 5)), (Ok(()), Ok(()), Ok(())));
        assert!(put("tidegate/a", 4).unwrap_err().contains("route 5"));
        assert!(put("tidegate/b", 9).unwrap_err().contains("`tidegate/a`"));
        assert_eq!(std::fs::read(&path).unwrap(), file("tidegate/a", 5));
        std::fs::write(&path, "{").unwrap();
        assert!(put("tidegate/a", 6).unwrap_err().contains("no flag file"));
        let missing = dir.path().join("not there").join("flags.json");
        assert!(replace(&missing, "tidegate/a", 1, b"{}").is_err());
    }
}
