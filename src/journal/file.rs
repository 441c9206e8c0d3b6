//! The journal in a file, with its head beside it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::chain::{Head, scan};
use super::record::GENESIS;
use super::{JournalError, JournalStore, Record, lock};
use crate::runtime::{Fut, Rt};
use crate::scrub;

/// Records as JSON lines in one file, mode 0600; `FILE.head` names the last acknowledged one.
pub struct FileStore {
    rt: Rt,
    path: PathBuf,
    state: Arc<Mutex<State>>,
}

struct State {
    file: File,
    head: Head,
    /// The file's length as this store left it.
    len: u64,
    /// The file has been read, or was made by this store.
    known: bool,
    failed: bool,
    warnings: Vec<String>,
}

impl FileStore {
    /// A new journal.
    ///
    /// # Errors
    /// [`JournalError::Exists`] when the file, or the head of one, is there already; [`JournalError::InUse`] when another process is making it.
    pub fn create(path: impl Into<PathBuf>, rt: Rt) -> Result<Self, JournalError> {
        let path = path.into();
        let exists = || JournalError::Exists { path: scrub::line(&path.display().to_string()) };
        let begun = || -> Result<bool, JournalError> {
            let filled = fs::metadata(&path).is_ok_and(|m| m.len() > 0);
            Ok(filled || read_head(&head_path(&path))?.is_some_and(|h| h.seq > 0))
        };
        if begun()? {
            return Err(exists());
        }
        let file = private().append(true).read(true).create(true).open(&path);
        let file = file.map_err(|e| io_error("create", &path, &e))?;
        make_private(&file).map_err(|e| io_error("protect", &path, &e))?;
        // Before the head, which may be another's by now. Where files cannot be locked, who must hold it is told by `hold`.
        if let Err(e @ JournalError::InUse { .. }) = hold(&file, &path) {
            return Err(e);
        }
        if begun()? {
            return Err(exists());
        }
        // The head first: from now on a journal without one has lost it.
        let head = Head { seq: 0, hash: GENESIS.to_owned() };
        write_head(&path, &head)?;
        Ok(Self::over(path, rt, file, head, true))
    }

    /// An existing journal; [`JournalStore::load`] verifies it.
    ///
    /// # Errors
    /// When the file cannot be opened for reading and writing.
    pub fn open(path: impl Into<PathBuf>, rt: Rt) -> Result<Self, JournalError> {
        let path = path.into();
        let file = private().append(true).read(true).open(&path).map_err(|e| io_error("open", &path, &e))?;
        Ok(Self::over(path, rt, file, Head { seq: 0, hash: GENESIS.to_owned() }, false))
    }

    /// The existing journal at `path`, or else a new one: what follows a database.
    ///
    /// # Errors
    /// As [`FileStore::open`] and [`FileStore::create`].
    pub fn open_or_create(path: impl Into<PathBuf>, rt: Rt) -> Result<Self, JournalError> {
        let path = path.into();
        match fs::metadata(&path) {
            Ok(m) if m.len() > 0 || head_path(&path).exists() => Self::open(path, rt),
            _ => Self::create(path, rt),
        }
    }

    fn over(path: PathBuf, rt: Rt, file: File, head: Head, known: bool) -> Self {
        let state = State { file, head, len: 0, known, failed: false, warnings: Vec::new() };
        FileStore { rt, path, state: Arc::new(Mutex::new(state)) }
    }

    /// Keeps the file to this process for as long as it lives: where no lease does. Before it is read, which may cut a torn record off.
    ///
    /// # Errors
    /// [`JournalError::InUse`] when another process has it.
    pub fn hold(&self) -> Result<(), JournalError> {
        hold(&lock(&self.state).file, &self.path)
    }

    /// What loading found that a person should know, a torn tail for instance.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        lock(&self.state).warnings.clone()
    }

    /// Where the journal is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs blocking work off the executor and brings its answer back.
    async fn off<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path, &mut State) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let slot = Arc::new(Mutex::new(None));
        let (state, path, out) = (self.state.clone(), self.path.clone(), slot.clone());
        self.rt
            .blocking(Box::new(move || {
                let answer = work(&path, &mut lock(&state));
                *lock(&out) = Some(answer);
            }))
            .await;
        let answer = lock(&slot).take();
        answer.unwrap_or_else(|| Err(JournalError::Io("the work on the file was cut off".to_owned())))
    }
}

impl JournalStore for FileStore {
    fn append<'a>(&'a self, record: &'a Record) -> Fut<'a, Result<(), JournalError>> {
        Box::pin(async move {
            let (head, prev) = (Head { seq: record.seq, hash: record.hash.clone() }, record.prev.clone());
            let line = record.line();
            self.off(move |path, state| state.append(path, head, &prev, line)).await
        })
    }

    fn load(&self) -> Fut<'_, Result<Vec<Record>, JournalError>> {
        Box::pin(async move { self.off(|path, state| state.load(path)).await })
    }
}

impl State {
    fn append(&mut self, path: &Path, head: Head, prev: &str, mut line: String) -> Result<(), JournalError> {
        if self.failed {
            return Err(JournalError::Broken);
        }
        if !self.known {
            self.load(path)?;
        }
        if head == self.head {
            return Ok(());
        }
        if head.seq != self.head.seq + 1 || prev != self.head.hash {
            return Err(JournalError::Stale { seq: head.seq });
        }
        // Until all of it is done the file's state is unknown, so a failure half-way is for good.
        self.failed = true;
        let found = self.file.metadata().map_err(|e| io_error("look at", path, &e))?.len();
        if found != self.len {
            return Err(JournalError::Stale { seq: head.seq });
        }
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|e| io_error("write to", path, &e))?;
        self.file.sync_all().map_err(|e| io_error("sync", path, &e))?;
        write_head(path, &head)?;
        self.len += line.len() as u64;
        self.head = head;
        self.failed = false;
        Ok(())
    }

    fn load(&mut self, path: &Path) -> Result<Vec<Record>, JournalError> {
        if self.failed {
            return Err(JournalError::Broken);
        }
        let mut bytes = Vec::new();
        self.file
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.file.read_to_end(&mut bytes))
            .map_err(|e| io_error("read", path, &e))?;
        let head = read_head(&head_path(path))?;
        if head.is_none() && !bytes.is_empty() {
            return Err(JournalError::Head { what: format!("{} is missing", shown(&head_path(path))) });
        }
        let scan = scan(&bytes, head.as_ref())?;
        if scan.torn {
            let text = format!(
                "cut off {} bytes of a record that was never finished, after line {}",
                bytes.len() - scan.whole,
                scan.records.len()
            );
            tracing::warn!(journal = %shown(path), "{text}");
            self.warnings.push(text);
            self.file.set_len(scan.whole as u64).map_err(|e| io_error("cut", path, &e))?;
        }
        // What was read may be in memory only; nothing is built on it before it is on disk.
        self.file.sync_all().map_err(|e| io_error("sync", path, &e))?;
        let end = scan.head();
        if head.as_ref() != Some(&end) {
            write_head(path, &end)?;
        }
        self.head = end;
        self.len = scan.whole as u64;
        self.known = true;
        Ok(scan.records)
    }
}

/// `FILE.head`.
pub(super) fn head_path(path: &Path) -> PathBuf {
    beside(path, ".head")
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The head kept beside a journal; `None` when there is none.
pub(super) fn read_head(path: &Path) -> Result<Option<Head>, JournalError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error("read", path, &e)),
    };
    let bad = || JournalError::Head { what: format!("{} does not hold a sequence number and a hash", shown(path)) };
    let head: Head = serde_json::from_str(&text).map_err(|_| bad())?;
    let hex = head.hash.len() == 64 && head.hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if hex { Ok(Some(head)) } else { Err(bad()) }
}

/// Replaces the head in one step that a crash cannot halve.
fn write_head(journal: &Path, head: &Head) -> Result<(), JournalError> {
    let (path, temp) = (head_path(journal), beside(journal, ".head.tmp"));
    let write = || -> io::Result<()> {
        let mut file = private().write(true).create(true).truncate(true).open(&temp)?;
        file.write_all(format!("{{\"seq\":{},\"hash\":\"{}\"}}\n", head.seq, head.hash).as_bytes())?;
        file.sync_all()?;
        fs::rename(&temp, &path)?;
        sync_dir(&path)
    };
    write().map_err(|e| io_error("write", &path, &e))
}

#[cfg(unix)]
fn sync_dir(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

#[cfg(not(unix))]
fn sync_dir(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// Options that make a new file readable by its owner only.
fn private() -> OpenOptions {
    #[allow(unused_mut)] // changed on unix only
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(unix)]
fn make_private(file: &File) -> io::Result<()> {
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
}

#[cfg(unix)]
fn hold(file: &File, path: &Path) -> Result<(), JournalError> {
    use rustix::fs::{FlockOperation, flock};
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(JournalError::InUse { path: shown(path) }),
        Err(e) => Err(io_error("lock", path, &e.into())),
    }
}

/// Without a lock a second writer is still found at its first record, by the file's length.
#[cfg(not(unix))]
fn hold(_file: &File, _path: &Path) -> Result<(), JournalError> {
    Ok(())
}

#[cfg(not(unix))]
fn make_private(_file: &File) -> io::Result<()> {
    Ok(())
}

fn shown(path: &Path) -> String {
    scrub::line(&path.display().to_string())
}

pub(super) fn io_error(what: &str, path: &Path, e: &io::Error) -> JournalError {
    JournalError::Io(format!("cannot {what} {}: {e}", shown(path)))
}
