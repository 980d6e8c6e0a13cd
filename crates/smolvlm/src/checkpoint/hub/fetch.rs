//! Fetching a model through the hub crate, and what that crate leaves to its callers: a limit on silence, a size check,
//! taking up broken transfers, and names that stay inside the cache.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo, Metadata};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::DownloadProgress;
use super::cache::{Copies, OPTIONAL, REQUIRED};
use super::faults::{self, Fault};
use super::model_id::{ModelId, is_commit};
use super::options::HubOptions;
use crate::checkpoint::files;
use crate::checkpoint::shards::{INDEX, SINGLE, parse_index};
use crate::{Error, Result};

/// Brings the wanted revision up to date and gives its folder.
///
/// The transfer runs on a thread of its own, because the hub crate's client has no time limit of its own: when nothing
/// arrives for `options.stall`, this function gives up and leaves that thread to its fate.
pub(super) fn fetch(
    options: &HubOptions,
    model: &ModelId,
    progress: &mut dyn FnMut(DownloadProgress),
) -> Result<PathBuf> {
    let (events, received) = mpsc::channel();
    let api = client(options).map_err(|error| faults::explain(error, &model.id, options, model).error)?;
    let task = Fetch { options: options.clone(), model: model.clone(), api, events };
    let worker = thread::spawn(move || task.run());
    loop {
        match received.recv_timeout(options.stall) {
            Ok(Event::Progress(step)) => progress(step),
            Ok(Event::Alive) => {}
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let (endpoint, seconds) = (&options.endpoint, options.stall.as_secs());
                let message = format!("{}: nothing came from {endpoint} for {seconds} s; try again to go on", model.id);
                return Err(Error::network(message));
            }
        }
    }
    let failed = |_| Error::network(format!("{}: {} sent what its client cannot read", model.id, options.endpoint));
    worker.join().map_err(failed)?
}

fn client(options: &HubOptions) -> Result<Api, ApiError> {
    ApiBuilder::from_cache(Cache::new(options.cache.clone()))
        .with_endpoint(options.endpoint.clone())
        .with_token(options.token.clone())
        .with_progress(false)
        // Its own retries do not know how much of a file is on disk.
        .with_retries(0)
        .with_user_agent("smolvlm", env!("CARGO_PKG_VERSION"))
        .build()
}

/// What the worker tells.
enum Event {
    /// A request was answered.
    Alive,
    Progress(DownloadProgress),
}

struct Fetch {
    options: HubOptions,
    model: ModelId,
    api: Api,
    events: Sender<Event>,
}

/// One commit on the hub and in the cache.
struct Commit {
    remote: ApiRepo,
    cached: CacheRepo,
    snapshot: PathBuf,
}

/// A file to fetch.
struct Wanted {
    file: String,
    metadata: Metadata,
}

impl Fetch {
    fn run(self) -> Result<PathBuf> {
        let copies = Copies::new(&self.options, &self.model);
        let (hash, offered) = self.listing()?;
        let commit = Commit {
            remote: self.api.repo(Repo::with_revision(self.model.id.clone(), RepoType::Model, hash.clone())),
            cached: copies.repo(&hash),
            snapshot: copies.snapshot_of(&hash),
        };
        if !offered.contains(SINGLE) && offered.contains(INDEX) {
            self.fetch_all(&commit, vec![INDEX.to_owned()])?;
        }
        let files = self.files(&offered, &commit.snapshot)?;
        self.fetch_all(&commit, files)?;
        // The hub crate noted the commit as a revision of its own, which other clients do not.
        let _ = std::fs::remove_file(copies.folder().join("refs").join(&hash));
        let remembered = copies.remember(&hash);
        remembered.map_err(|error| self.explain(ApiError::IoError(error), &self.model.id).error)?;
        Ok(commit.snapshot)
    }

    /// The commit that the revision stands for, and the files in it.
    fn listing(&self) -> Result<(String, HashSet<String>)> {
        let ModelId { id, revision } = &self.model;
        let repo = self.api.repo(Repo::with_revision(id.clone(), RepoType::Model, revision.clone()));
        let info = self.persist(id, || repo.info())?;
        if !is_commit(&info.sha) {
            return Err(self.foreign("no commit"));
        }
        Ok((info.sha, info.siblings.into_iter().map(|file| file.rfilename).collect()))
    }

    /// The files of the model, out of those `offered`.
    fn files(&self, offered: &HashSet<String>, snapshot: &Path) -> Result<Vec<String>> {
        let ModelId { id, revision } = &self.model;
        let mut files: Vec<String> = REQUIRED.iter().chain(OPTIONAL).map(|file| (*file).to_owned()).collect();
        files.retain(|file| offered.contains(file));
        if offered.contains(SINGLE) {
            files.push(SINGLE.to_owned());
        } else if let Some(index) = files::read_json(snapshot, INDEX)? {
            let mut shards: Vec<String> = parse_index(&index)?.into_values().collect();
            shards.sort_unstable();
            shards.dedup();
            files.extend(shards);
        } else {
            return Err(Error::checkpoint(format!(
                "{id}@{revision}: expected {SINGLE} or {INDEX} on the hub, found neither"
            )));
        }
        Ok(files)
    }

    fn fetch_all(&self, commit: &Commit, files: Vec<String>) -> Result<()> {
        let mut wanted = Vec::new();
        for file in files {
            if !commit.snapshot.join(&file).exists() {
                let metadata = self.metadata(commit, &file)?;
                wanted.push(Wanted { file, metadata });
            }
        }
        let all_size = wanted.iter().map(|wanted| wanted.metadata.size() as u64).sum();
        let mut all_received = 0;
        for wanted in &wanted {
            let size = wanted.metadata.size() as u64;
            let start = DownloadProgress { file: wanted.file.clone(), received: 0, size, all_received, all_size };
            self.fetch_file(commit, wanted, &start)?;
            all_received += size;
        }
        Ok(())
    }

    /// Size and identity of `file`. The hub crate makes file names of what the headers say, so they are checked here.
    fn metadata(&self, commit: &Commit, file: &str) -> Result<Metadata> {
        let metadata = self.persist(file, || self.api.metadata(&commit.remote.url(file)))?;
        let etag = metadata.etag();
        let etag = etag.strip_prefix("W/").unwrap_or(etag);
        let named =
            (1..=128).contains(&etag.len()) && etag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !named || !is_commit(metadata.commit_hash()) || !commit.snapshot.ends_with(metadata.commit_hash()) {
            return Err(self.foreign("an unusable etag, or another commit"));
        }
        Ok(metadata)
    }

    fn fetch_file(&self, commit: &Commit, wanted: &Wanted, start: &DownloadProgress) -> Result<()> {
        let size = start.size;
        let blob = commit.cached.blob_path(wanted.metadata.etag());
        let pointer = commit.snapshot.join(&wanted.file);
        // The same bytes under another commit need not be fetched again.
        if length(&blob) == Some(size) && link(&blob, &pointer).is_ok() {
            return Ok(());
        }
        self.persist(&wanted.file, || {
            // Asking for what follows the last byte would be refused for ever.
            let part = blob.with_extension("part");
            if length(&part).is_some_and(|part| part >= size) {
                std::fs::remove_file(&part)?;
            }
            if pointer.is_symlink() {
                std::fs::remove_file(&pointer)?;
            }
            let reporter = Reporter { events: self.events.clone(), before: start.all_received, step: start.clone() };
            commit.remote.download_with_progress(&wanted.file, reporter)?;
            let found = length(&blob);
            if found == Some(size) {
                return Ok(());
            }
            // A server that ignores `Range` sends the whole file after the part.
            let _ = (std::fs::remove_file(&pointer), std::fs::remove_file(&blob));
            let message = format!("expected {size} bytes, got {}", found.unwrap_or(0));
            Err(ApiError::IoError(std::io::Error::new(std::io::ErrorKind::InvalidData, message)))
        })
    }

    /// Repeats `request` while its failures are of the passing kind.
    fn persist<T>(&self, what: &str, mut request: impl FnMut() -> Result<T, ApiError>) -> Result<T> {
        let mut attempt = 0;
        loop {
            let result = request();
            let _ = self.events.send(Event::Alive);
            match result.map_err(|error| self.explain(error, what)) {
                Ok(value) => return Ok(value),
                Err(fault) if !fault.passing || attempt == self.options.retries => return Err(fault.error),
                Err(_) => thread::sleep(self.options.backoff * (1 << attempt.min(6))),
            }
            attempt += 1;
        }
    }

    fn explain(&self, error: ApiError, what: &str) -> Fault {
        faults::explain(error, what, &self.options, &self.model)
    }

    fn foreign(&self, found: &str) -> Error {
        let endpoint = &self.options.endpoint;
        Error::network(format!(
            "{}: {endpoint} answers as no model hub does ({found}); check HF_ENDPOINT",
            self.model.id
        ))
    }
}

fn length(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|found| found.len())
}

/// Makes `pointer`, in `FOLDER/snapshots/COMMIT`, stand for `blob`, in `FOLDER/blobs`, as the hub's clients do.
fn link(blob: &Path, pointer: &Path) -> std::io::Result<()> {
    if let Some(snapshot) = pointer.parent() {
        std::fs::create_dir_all(snapshot)?;
    }
    if pointer.is_symlink() {
        std::fs::remove_file(pointer)?;
    }
    #[cfg(unix)]
    {
        let folder = pointer.ancestors().nth(3).unwrap_or(Path::new(""));
        let inside = blob.strip_prefix(folder).map_err(std::io::Error::other)?;
        std::os::unix::fs::symlink(Path::new("../..").join(inside), pointer)
    }
    #[cfg(not(unix))]
    {
        std::fs::copy(blob, pointer).map(|_| ())
    }
}

/// Passes on what the hub crate reports.
struct Reporter {
    events: Sender<Event>,
    /// Bytes of the files before this one.
    before: u64,
    step: DownloadProgress,
}

impl Progress for Reporter {
    fn init(&mut self, _size: usize, _filename: &str) {
        self.step.received = 0;
    }

    fn update(&mut self, size: usize) {
        self.step.received += size as u64;
        self.step.all_received = self.before + self.step.received;
        // Nobody listens any more when the caller has given up.
        let _ = self.events.send(Event::Progress(self.step.clone()));
    }

    fn finish(&mut self) {}
}
