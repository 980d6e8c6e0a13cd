//! Names of models on the hub.

use crate::{Error, Result};

/// `owner/name` and a revision: a branch, a tag or a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelId {
    /// `owner/name`.
    pub(super) id: String,
    /// `main` unless given.
    pub(super) revision: String,
}

impl ModelId {
    /// Reads `owner/name` or `owner/name@revision`. Every part becomes a folder's name, so none may be a way out of it
    /// (the rules of `huggingface_hub.utils.validate_repo_id`).
    pub(super) fn parse(text: &str) -> Result<Self> {
        let (id, revision) = text.split_once('@').unwrap_or((text, "main"));
        let valid = match id.split_once('/') {
            Some((owner, name)) => is_part(owner) && is_part(name) && !id.contains("--"),
            None => false,
        };
        if !valid || !is_revision(revision) {
            return Err(Error::checkpoint(format!(
                "{text:?} is neither a folder nor a model on the hub (OWNER/NAME or OWNER/NAME@REVISION)"
            )));
        }
        Ok(Self { id: id.to_owned(), revision: revision.to_owned() })
    }

    /// Whether the revision names a commit, which never changes.
    pub(super) fn is_pinned(&self) -> bool {
        is_commit(&self.revision)
    }
}

/// A full Git commit hash, as the cache's snapshot folders are called.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_part(part: &str) -> bool {
    let outer = |c: char| c == '.' || c == '-';
    !part.is_empty()
        && part.len() <= 96
        && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        && !part.starts_with(outer)
        && !part.ends_with(outer)
        && !part.contains("..")
}

fn is_revision(revision: &str) -> bool {
    revision.len() <= 200 && revision.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_with_and_without_a_revision_are_read() {
        for (text, id, revision) in [
            ("HuggingFaceTB/SmolVLM2-2.2B-Instruct", "HuggingFaceTB/SmolVLM2-2.2B-Instruct", "main"),
            ("a/b@refs/pr/3", "a/b", "refs/pr/3"),
            ("a/b@v1.0", "a/b", "v1.0"),
        ] {
            assert_eq!(ModelId::parse(text).unwrap(), ModelId { id: id.into(), revision: revision.into() });
        }
        assert!(ModelId::parse(&format!("a/b@{}", "0123456789".repeat(4))).unwrap().is_pinned());
    }

    #[test]
    fn anything_that_could_leave_the_cache_is_no_id() {
        for text in [
            "",
            "a",
            "a/",
            "/b",
            "a/b/c",
            "../b",
            "a/..",
            "a/b@",
            "a/b@../x",
            "a/b@x/../y",
            "a b/c",
            "a/b--c",
            "./a",
            "~/a",
            "a/b@/x",
            "C:\\a/b",
            "a/b\u{0}",
        ] {
            let error = ModelId::parse(text).unwrap_err();
            assert!(error.to_string().contains("neither a folder nor a model on the hub"), "{text}");
        }
    }
}
