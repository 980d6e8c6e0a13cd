//! The copies on this machine, in the layout that all clients of the hub share:
//! `models--OWNER--NAME/{blobs,refs,snapshots/COMMIT}`.

use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::super::files;
use super::super::shards::{INDEX, SINGLE, parse_index};
use super::model_id::{ModelId, is_commit};
use super::options::HubOptions;

/// Without these there is no model to run.
pub(super) const REQUIRED: &[&str] = &["config.json", "tokenizer.json"];

/// Small files that a model may come with, read when they are there.
pub(super) const OPTIONAL: &[&str] = &[
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
    "chat_template.jinja",
];

/// One model's folder in the cache.
pub(super) struct Copies<'a> {
    options: &'a HubOptions,
    model: &'a ModelId,
}

impl<'a> Copies<'a> {
    pub(super) fn new(options: &'a HubOptions, model: &'a ModelId) -> Self {
        Self { options, model }
    }

    /// `models--OWNER--NAME` in the cache.
    pub(super) fn folder(&self) -> PathBuf {
        self.options.cache.join(format!("models--{}", self.model.id.replace('/', "--")))
    }

    /// The hub crate's handle on that folder at `revision`.
    pub(super) fn repo(&self, revision: &str) -> CacheRepo {
        let repo = Repo::with_revision(self.model.id.clone(), RepoType::Model, revision.to_owned());
        Cache::new(self.options.cache.clone()).repo(repo)
    }

    /// Where the files of `commit` are, or will be.
    pub(super) fn snapshot_of(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    /// Where the files of the wanted revision are, if it has ever been fetched.
    pub(super) fn snapshot(&self) -> Option<PathBuf> {
        let commit = if self.model.is_pinned() {
            self.model.revision.clone()
        } else {
            files::read_text(&self.folder().join("refs"), &self.model.revision).ok()??.trim().to_owned()
        };
        let snapshot = self.snapshot_of(&commit);
        (is_commit(&commit) && snapshot.is_dir()).then_some(snapshot)
    }

    /// Remembers which commit the revision was.
    pub(super) fn remember(&self, commit: &str) -> std::io::Result<()> {
        if self.model.is_pinned() { Ok(()) } else { self.repo(&self.model.revision).create_ref(commit) }
    }
}

/// The files that `snapshot` lacks to be a model at all. Dangling links count as missing.
pub(super) fn missing(snapshot: &Path) -> Vec<String> {
    let lacks = |file: &str| !snapshot.join(file).exists();
    let mut missing: Vec<String> = REQUIRED.iter().filter(|file| lacks(file)).map(|file| (*file).to_owned()).collect();
    if !lacks(SINGLE) {
        return missing;
    }
    match files::read_json(snapshot, INDEX).ok().flatten().and_then(|index| parse_index(&index).ok()) {
        Some(index) => {
            let mut shards: Vec<String> = index.into_values().filter(|file| lacks(file)).collect();
            shards.sort_unstable();
            shards.dedup();
            missing.extend(shards);
        }
        None => missing.push(format!("{SINGLE} (or {INDEX} and every file it names)")),
    }
    missing
}

/// Whether `snapshot` also has the small files that every published model comes with. A copy made by a program that
/// wanted the weights only lacks them, and would silently run with other stop tokens and image sizes.
pub(super) fn is_whole(snapshot: &Path) -> bool {
    snapshot.join("generation_config.json").exists() && has_processor(snapshot)
}

/// Whether `snapshot` says how pictures and videos become tiles.
pub(super) fn has_processor(snapshot: &Path) -> bool {
    ["preprocessor_config.json", "processor_config.json"].iter().any(|file| snapshot.join(file).exists())
}
