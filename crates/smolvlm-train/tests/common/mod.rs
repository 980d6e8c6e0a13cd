//! What the tests of this crate share: the tiny checkpoint, its inputs, and files of records written on the spot.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use smolvlm::{Compat, MediaOptions, Processor};
use smolvlm_train::data::{Entry, ExampleMaker, ExampleRules, Mixture, Samples};
use tempfile::TempDir;

pub(crate) const CACHE: u64 = 1 << 24;

/// A folder of the tiny goldens.
pub(crate) fn goldens(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/tiny").join(folder)
}

/// A folder of this crate's fixtures.
pub(crate) fn fixtures(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(folder)
}

pub(crate) fn processor() -> Arc<Processor> {
    Arc::new(Processor::open(&goldens("checkpoint"), Compat::Newest, MediaOptions::default()).unwrap())
}

/// The tiny processor with another chat template.
pub(crate) fn processor_with(template: &str) -> Arc<Processor> {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json", "processor_config.json", "preprocessor_config.json"] {
        std::fs::copy(goldens("checkpoint").join(file), folder.path().join(file)).unwrap();
    }
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    Arc::new(Processor::open(folder.path(), Compat::Newest, MediaOptions::default()).unwrap())
}

/// A folder with one file.
pub(crate) fn folder_with(name: &str, content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

/// All of one file, with the goldens' pictures and clips as media.
pub(crate) fn mixture(path: &Path) -> Mixture {
    let mut mixture = Mixture::of(path);
    mixture.media_root = Some(goldens("inputs"));
    mixture
}

pub(crate) fn samples(mixture: &Mixture) -> Arc<Samples> {
    Arc::new(Samples::open(mixture, CACHE).unwrap())
}

pub(crate) fn maker(mixture: &Mixture) -> ExampleMaker {
    ExampleMaker::new(samples(mixture), processor(), ExampleRules::default()).unwrap()
}

/// An entry of a mixture with another strategy.
pub(crate) fn entry(path: &Path, sampling: &str) -> Entry {
    Entry { sampling: sampling.parse().unwrap(), ..Entry::new(path) }
}
