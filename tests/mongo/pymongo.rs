//! Where the PyMongo for the tests of the Python client comes from.
//!
//! What `python3` imports by itself, if it is new enough, then `target/pymongo/`, then wheels from PyPI, fetched once into
//! `target/pymongo/` under a lock, their hashes pinned (x86-64 Linux, Python 3.9 to 3.13). Without any of these the tests fail with
//! one sentence.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::mongod::{SKIP, target};

/// Prints the directory to import from, empty where none is needed; the argument is the directory of ours.
const FIND: &str = r#"
import fcntl, os, subprocess, sys, tempfile
try:
    import pymongo
    if pymongo.version_tuple[:2] >= (4, 3):
        sys.exit(0)
except ImportError:
    pass
folder = sys.argv[1]
target = os.path.join(folder, "%d.%d" % sys.version_info[:2])
os.makedirs(folder, exist_ok=True)
with open(os.path.join(folder, ".lock"), "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not os.path.exists(target):
        with tempfile.TemporaryDirectory(dir=folder) as tmp:
            pins = os.path.join(tmp, "pins.txt")
            with open(pins, "w") as f:
                f.write("pymongo==4.10.1" + "".join(" --hash=sha256:" + h for h in "@SHA256@".split()))
            # Its one dependency is for connection strings that need DNS.
            subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
                            "--only-binary=:all:", "--require-hashes", "--target", os.path.join(tmp, "site"), "-r", pins],
                           check=True, stdout=sys.stderr)
            os.rename(os.path.join(tmp, "site"), target)
print(target)
"#;

/// Of the wheels for Python 3.9, 3.10, 3.11, 3.12 and 3.13.
const SHA256: [&str; 5] = [
    "0f56707497323150bd2ed5d63067f4ffce940d0549d4ea2dfae180deec7f9363",
    "a920fee41f7d0259f5f72c1f1eb331bc26ffbdc952846f9bd8c3b119013bb52c",
    "cec237c305fcbeef75c0bcbe9d223d1e22a6e3ba1b53b2f0b79d3d29c742b45b",
    "e5d55f2a82e5eb23795f724991cac2bffbb1c0f219c0ba3bf73a835f97f1bb2e",
    "72e2ace7456167c71cfeca7dcb47bd5dceda7db2231265b80fc625c5e8073186",
];

/// `python3` with the client and PyMongo to import, or one sentence that says why there is none.
pub fn python() -> Result<Command, String> {
    let folder = target().join("pymongo");
    let no = |why: String| {
        format!(
            "no PyMongo: python3 has none, none is in {}, and fetching one failed ({why}); install it (`pip install pymongo`), or set \
             TIDEGATE_TEST_MONGOD={SKIP} to ignore these tests",
            folder.display()
        )
    };
    let out = Command::new("python3").args(["-c", &FIND.replace("@SHA256@", &SHA256.join(" "))]).arg(&folder).output();
    let out = out.map_err(|e| no(format!("python3: {e}")))?;
    if !out.status.success() {
        let text = String::from_utf8_lossy(&out.stderr);
        return Err(no(text.lines().last().unwrap_or("python3 said nothing").to_owned()));
    }
    let found = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim());
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python");
    let path = std::env::join_paths([client, found].iter().filter(|p| !p.as_os_str().is_empty()));
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", path.map_err(|e| e.to_string())?).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(python)
}
