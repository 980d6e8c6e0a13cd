//! From what a user calls a model to a folder with its files.

mod cache;
mod faults;
mod fetch;
mod model_id;
mod options;
#[cfg(test)]
mod tests;
mod transfer;

use std::path::{Path, PathBuf};

pub use self::options::HubOptions;

use self::cache::Copies;
use self::fetch::Part;
use self::model_id::ModelId;
use crate::{Error, Result};

/// How far a download has come. Counts include what an earlier, interrupted run had fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadProgress {
    /// The file being fetched.
    pub file: String,
    /// Its bytes that have arrived.
    pub received: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes of all files that have arrived.
    pub all_received: u64,
    /// Size of all files that this run fetches, in bytes.
    pub all_size: u64,
}

/// [`resolve_with`] the options of the environment.
///
/// # Errors
/// Those of [`resolve_with`] and [`HubOptions::from_env`].
pub fn resolve(model: &str, progress: &mut dyn FnMut(DownloadProgress)) -> Result<PathBuf> {
    if let Some(folder) = folder(model)? {
        return Ok(folder);
    }
    resolve_with(model, &HubOptions::from_env()?, progress)
}

/// The folder of `model`: a folder is itself; `OWNER/NAME` or `OWNER/NAME@REVISION` is that model's snapshot in the
/// hub's standard cache, fetched first if it is not there. A complete copy is used without asking the hub, unless
/// `options.refresh` is set. A broken download goes on where it stopped, in this run and in the next.
///
/// # Errors
/// [`crate::ErrorKind::Network`] when the hub cannot be reached, refuses, or must not be asked, with what to do instead;
/// [`crate::ErrorKind::Checkpoint`] when `model` is no name of a model, the hub has no weights that can be read, or the
/// cache cannot be written.
pub fn resolve_with(model: &str, options: &HubOptions, progress: &mut dyn FnMut(DownloadProgress)) -> Result<PathBuf> {
    if let Some(folder) = folder(model)? {
        return Ok(folder);
    }
    let model = ModelId::parse(model)?;
    let copies = Copies::new(options, &model);
    let usable = copies.snapshot().filter(|snapshot| cache::missing(snapshot).is_empty());
    match usable {
        Some(snapshot) if options.offline || (!options.refresh && cache::is_whole(&snapshot)) => Ok(snapshot),
        None if options.offline => Err(faults::offline(&copies, options, &model)),
        // A copy that can be run is better than none.
        Some(snapshot) if !options.refresh => {
            Ok(fetch::fetch(options, &model, Part::Model, progress).unwrap_or(snapshot))
        }
        _ => fetch::fetch(options, &model, Part::Model, progress),
    }
}

/// As [`resolve`], but content with the small files that say how pictures and videos become tiles: no weights are fetched.
///
/// # Errors
/// Those of [`resolve`].
pub fn resolve_processor(model: &str, progress: &mut dyn FnMut(DownloadProgress)) -> Result<PathBuf> {
    if let Some(folder) = folder(model)? {
        return Ok(folder);
    }
    let options = HubOptions::from_env()?;
    let model = ModelId::parse(model)?;
    let copies = Copies::new(&options, &model);
    match copies.snapshot().filter(|snapshot| cache::has_processor(snapshot)) {
        Some(snapshot) => Ok(snapshot),
        None if options.offline => Err(faults::offline(&copies, &options, &model)),
        None => fetch::fetch(&options, &model, Part::SmallFiles, progress),
    }
}

/// `model` itself when it is a folder.
fn folder(model: &str) -> Result<Option<PathBuf>> {
    let path = Path::new(model);
    if path.is_file() {
        let error = format!("{model}: expected a folder or a model on the hub, found a file: give the folder it is in");
        return Err(Error::checkpoint(error));
    }
    Ok(path.is_dir().then(|| path.to_owned()))
}
