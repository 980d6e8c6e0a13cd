//! Where the hub is, where its copies lie, and how patiently it is asked.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Error, Result};

/// What the environment says about the hub: the same variables, in the same order of precedence, as the Python client
/// (`huggingface_hub/constants.py`, `utils/_auth.py`).
#[derive(Clone, PartialEq, Eq)]
pub struct HubOptions {
    /// `HF_ENDPOINT`, without a final slash.
    pub endpoint: String,
    /// `HF_HUB_CACHE`, else `HF_HOME/hub`, else `XDG_CACHE_HOME/huggingface/hub`, else `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// `HF_TOKEN`, else the contents of `HF_TOKEN_PATH` or `HF_HOME/token`, where logging in puts it.
    pub token: Option<String>,
    /// `HF_HUB_OFFLINE`: use copies only.
    pub offline: bool,
    /// Ask the hub for the newest commit even when a complete copy is at hand.
    pub refresh: bool,
    /// How long nothing may arrive before a transfer is given up.
    pub stall: Duration,
    /// How often a broken transfer is taken up again.
    pub retries: u32,
    /// Pause before the first of those; doubled each time.
    pub backoff: Duration,
}

impl HubOptions {
    /// The options that the process's environment asks for.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Usage`] when `HF_ENDPOINT` is no web address, or no home folder is known.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(&|name| std::env::var_os(name), std::env::home_dir())
    }

    /// The options that the variables `get` knows ask for.
    pub(super) fn from_vars(get: &dyn Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Result<Self> {
        let path = |name: &str| get(name).filter(|value| !value.is_empty()).map(|value| expand(value, home.as_deref()));
        let text = |name: &str| get(name).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty());
        let hub_home = path("HF_HOME")
            .or_else(|| Some(path("XDG_CACHE_HOME")?.join("huggingface")))
            .or_else(|| Some(home.as_ref()?.join(".cache").join("huggingface")));
        let Some(hub_home) = hub_home else {
            return Err(Error::usage("no home folder is known: set HF_HOME to where models are to be kept"));
        };
        let cache =
            path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| hub_home.join("hub"));
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return Err(Error::usage(format!("HF_ENDPOINT is {endpoint:?}, expected an http:// or https:// address")));
        }
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| hub_home.join("token"));
        let token = text("HF_TOKEN")
            .or_else(|| text("HUGGING_FACE_HUB_TOKEN"))
            .or_else(|| std::fs::read_to_string(token_file).ok())
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic()));
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: std::path::absolute(&cache).unwrap_or(cache),
            token,
            offline: ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
                .iter()
                .any(|name| text(name).is_some_and(|v| is_true(&v))),
            refresh: false,
            stall: Duration::from_secs(60),
            retries: 4,
            backoff: Duration::from_millis(500),
        })
    }
}

/// The token is a secret.
impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "set"))
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
}

/// A leading `~` stands for the home folder, as in Python's `expanduser`.
fn expand(value: OsString, home: Option<&Path>) -> PathBuf {
    let path = PathBuf::from(value);
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(vars: &[(&str, &str)]) -> HubOptions {
        let get = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        HubOptions::from_vars(&get, Some(PathBuf::from("/home/me"))).unwrap()
    }

    #[test]
    fn the_cache_is_found_as_the_python_client_finds_it() {
        for (vars, cache) in [
            (&[][..], "/home/me/.cache/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/h")], "/h/hub"),
            (&[("HF_HOME", "~/models")], "/home/me/models/hub"),
            (&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/old"),
            (&[("HF_HUB_CACHE", "/new"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/new"),
            (&[("HF_HOME", "")], "/home/me/.cache/huggingface/hub"),
        ] {
            assert_eq!(options(vars).cache, PathBuf::from(cache), "{vars:?}");
        }
    }

    #[test]
    fn the_token_comes_from_the_variable_or_from_the_file_that_logging_in_writes() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "hf_file\n").unwrap();
        std::fs::write(dir.path().join("other"), "hf_other").unwrap();
        let (home, other) = (dir.path().to_str().unwrap(), dir.path().join("other"));
        let token = |vars: &[(&str, &str)]| options(vars).token;
        assert_eq!(token(&[("HF_HOME", home)]).as_deref(), Some("hf_file"));
        assert_eq!(
            token(&[("HF_HOME", home), ("HF_TOKEN_PATH", other.to_str().unwrap())]).as_deref(),
            Some("hf_other")
        );
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", " hf_env ")]).as_deref(), Some("hf_env"));
        assert_eq!(token(&[("HF_HOME", "/nowhere"), ("HF_TOKEN", "two\nlines")]), None);
    }

    #[test]
    fn the_endpoint_and_offline_switch_are_honoured_and_the_token_is_not_shown() {
        let options =
            options(&[("HF_ENDPOINT", "http://mirror/"), ("HF_HUB_OFFLINE", "true"), ("HF_TOKEN", "hf_secret")]);
        assert_eq!((options.endpoint.as_str(), options.offline), ("http://mirror", true));
        assert!(!format!("{options:?}").contains("secret"));
        let bad = HubOptions::from_vars(&|name| (name == "HF_ENDPOINT").then(|| "mirror".into()), Some("/".into()));
        assert!(bad.unwrap_err().to_string().contains("HF_ENDPOINT"));
    }
}
