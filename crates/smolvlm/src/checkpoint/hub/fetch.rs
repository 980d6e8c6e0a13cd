//! Fetching a model: the hub crate's listing and cache layout, our own transfers, a limit on silence, and names that stay
//! inside the cache.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::DownloadProgress;
use super::cache::{Copies, OPTIONAL, REQUIRED};
use super::faults::{self, Fault};
use super::model_id::{ModelId, is_commit};
use super::options::HubOptions;
use super::transfer::{RemoteFile, Transfer};
use crate::checkpoint::files;
use crate::checkpoint::shards::{INDEX, SINGLE, parse_index};
use crate::{Error, Result};

/// How much of a model is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Everything that running it needs.
    Model,
    /// All but the weights.
    SmallFiles,
}

/// Brings the wanted revision up to date and gives its folder.
///
/// The transfer runs on a thread of its own, because the hub crate's client has no time limit of its own: when nothing
/// arrives for `options.stall`, this function gives up and leaves that thread to its fate.
pub(super) fn fetch(
    options: &HubOptions,
    model: &ModelId,
    part: Part,
    progress: &mut dyn FnMut(DownloadProgress),
) -> Result<PathBuf> {
    let (events, received) = mpsc::channel();
    let api = client(options).map_err(|error| faults::explain(error, &model.id, options, model).error)?;
    let task = Fetch {
        options: options.clone(),
        model: model.clone(),
        part,
        api,
        transfer: Transfer::new(options.token.clone()),
        events,
    };
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
    part: Part,
    api: Api,
    transfer: Transfer,
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
    metadata: RemoteFile,
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
        if self.part == Part::Model && !offered.contains(SINGLE) && offered.contains(INDEX) {
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
        if self.part == Part::SmallFiles {
            return Ok(files);
        }
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
        let all_size = wanted.iter().map(|wanted| wanted.metadata.size).sum();
        let mut all_received = 0;
        for wanted in &wanted {
            let size = wanted.metadata.size;
            let start = DownloadProgress { file: wanted.file.clone(), received: 0, size, all_received, all_size };
            self.fetch_file(commit, wanted, &start)?;
            all_received += size;
        }
        Ok(())
    }

    /// Size and identity of `file`. File names are made of what the headers say, so they are checked first.
    fn metadata(&self, commit: &Commit, file: &str) -> Result<RemoteFile> {
        let metadata = self.persist(file, || self.transfer.metadata(&commit.remote.url(file)))?;
        let etag = metadata.etag.strip_prefix("W/").unwrap_or(&metadata.etag);
        let named =
            (1..=128).contains(&etag.len()) && etag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !named || !is_commit(&metadata.commit) || !commit.snapshot.ends_with(&metadata.commit) {
            return Err(self.foreign("an unusable etag, or another commit"));
        }
        Ok(metadata)
    }

    fn fetch_file(&self, commit: &Commit, wanted: &Wanted, start: &DownloadProgress) -> Result<()> {
        let size = start.size;
        let blob = commit.cached.blob_path(&wanted.metadata.etag);
        let pointer = commit.snapshot.join(&wanted.file);
        // The same bytes under another commit need not be fetched again.
        if length(&blob) == Some(size) && link(&blob, &pointer).is_ok() {
            return Ok(());
        }
        let url = commit.remote.url(&wanted.file);
        self.persist(&wanted.file, || {
            self.transfer.download(&url, &wanted.metadata, &blob, &mut |received| {
                let all_received = start.all_received + received;
                let step = DownloadProgress { received, all_received, ..start.clone() };
                // Nobody listens any more when the caller has given up.
                let _ = self.events.send(Event::Progress(step));
            })
        })?;
        let linked = link(&blob, &pointer);
        linked.map_err(|error| self.explain(ApiError::IoError(error), &wanted.file).error)
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
