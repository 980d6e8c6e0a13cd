//! What to tell a user when the hub does not give what was asked for.

use std::io;

use hf_hub::api::sync::ApiError;

use super::cache::{self, Copies, OPTIONAL, REQUIRED};
use super::model_id::ModelId;
use super::options::HubOptions;
use crate::checkpoint::shards::{INDEX, SINGLE};
use crate::{Error, ErrorKind};

/// A failure, and whether trying again may help.
pub(super) struct Fault {
    pub(super) error: Error,
    pub(super) passing: bool,
}

/// The model must not be fetched and is not here.
pub(super) fn offline(copies: &Copies<'_>, options: &HubOptions, model: &ModelId) -> Error {
    let here = match copies.snapshot() {
        Some(snapshot) => format!("its copy in {} lacks {}", snapshot.display(), cache::missing(&snapshot).join(", ")),
        None => format!("there is no copy of it in {}", options.cache.display()),
    };
    let ModelId { id, revision } = model;
    Error::network(format!("{id}@{revision}: HF_HUB_OFFLINE is set and {here}.\n{}", by_hand(options, model)))
}

/// How to do without the network.
fn by_hand(options: &HubOptions, model: &ModelId) -> String {
    let ModelId { id, revision } = model;
    let folder = id.rsplit('/').next().unwrap_or(id);
    format!(
        "Without network, either fetch these files of {endpoint}/{id}/tree/{revision} into a folder, and pass it as \
         --model {folder}:\n  {required}, {SINGLE} (or {INDEX} and every file it names);\n  as far as they exist: \
         {optional}\nor copy the folder models--{cached} from the cache of a machine that has it into {cache}",
        endpoint = options.endpoint,
        required = REQUIRED.join(", "),
        optional = OPTIONAL.join(", "),
        cached = id.replace('/', "--"),
        cache = options.cache.display(),
    )
}

/// What `error`, met while asking for `what`, means.
pub(super) fn explain(error: ApiError, what: &str, options: &HubOptions, model: &ModelId) -> Fault {
    let fault = |kind, message: String, passing| Fault { error: Error::new(kind, message), passing };
    let (endpoint, ModelId { id, revision }) = (&options.endpoint, model);
    let mut fault = match &error {
        ApiError::RequestError(request) => match &**request {
            ureq::Error::StatusCode(code) => return refused(*code, what, options, model),
            ureq::Error::Io(error) if error.kind() != io::ErrorKind::ConnectionRefused => {
                fault(ErrorKind::Network, format!("{what}: the transfer from {endpoint} broke: {error}"), true)
            }
            other => {
                let message = format!("{id}@{revision}: cannot reach {endpoint}: {other}\n{}", by_hand(options, model));
                fault(ErrorKind::Network, message, false)
            }
        },
        ApiError::IoError(error) if is_local(error) => {
            let cache = options.cache.display();
            let message =
                format!("{what}: cannot write to {cache}: {error}; make room, or set HF_HOME to another folder");
            fault(ErrorKind::Checkpoint, message, false)
        }
        ApiError::IoError(error) => {
            fault(ErrorKind::Network, format!("{what}: the transfer from {endpoint} broke: {error}"), true)
        }
        ApiError::LockAcquisition(lock) => {
            let message = format!("{what}: another process is fetching it ({} is locked); wait for it", lock.display());
            fault(ErrorKind::Network, message, true)
        }
        other => {
            let message =
                format!("{what}: {endpoint} does not answer as a model hub does ({other}); check HF_ENDPOINT");
            fault(ErrorKind::Network, message, false)
        }
    };
    fault.error = fault.error.caused_by(error);
    fault
}

/// The hub answered with a status other than success.
fn refused(code: u16, what: &str, options: &HubOptions, model: &ModelId) -> Fault {
    let (endpoint, ModelId { id, revision }) = (&options.endpoint, model);
    let token = if options.token.is_some() { "the token in use does not grant access" } else { "no token is set" };
    let message = match code {
        // The hub also answers 401 for a model that does not exist, so as not to tell which private ones do.
        401 | 403 => format!(
            "{id}: {endpoint} refuses access (status {code}; {token}). If the model is gated, accept its licence at \
             {endpoint}/{id} and set HF_TOKEN to a token of that account; if it should be public, check the spelling: \
             there is no folder of that name here, and perhaps no such model"
        ),
        404 => format!(
            "{what}: {endpoint} has no such model, revision or file (status 404): check the id {id} and the revision \
             {revision}; there is no folder of that name here either"
        ),
        429 => format!("{what}: {endpoint} asks to slow down (status 429): try again later, or set HF_TOKEN"),
        _ => format!("{what}: {endpoint} answered with status {code}"),
    };
    Fault { error: Error::network(message), passing: code == 429 || code >= 500 }
}

/// Whether this is the disk's doing and not the network's.
fn is_local(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem, StorageFull};
    let disk = [AlreadyExists, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem, StorageFull];
    disk.contains(&error.kind())
}
