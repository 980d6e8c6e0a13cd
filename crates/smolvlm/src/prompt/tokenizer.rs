//! Text to token ids and back, by the checkpoint's `tokenizer.json`.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use tokenizers::{DecoderWrapper, Tokenizer};

use super::stream::TextStream;
use crate::{Error, Result};

/// What is read first, because `DecoderWrapper::deserialize` of the tokenizers crate panics on a decoder that is not JSON.
#[derive(Deserialize)]
struct DecoderIsJson {
    #[serde(rename = "decoder")]
    _decoder: Option<serde_json::Value>,
}

/// A byte-level BPE tokenizer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PromptTokenizer {
    inner: Arc<Tokenizer>,
}

impl PromptTokenizer {
    /// The tokenizer in the file `tokenizer.json`; its truncation and padding, if any, are ignored as in the reference.
    ///
    /// # Errors
    /// A checkpoint error when the file cannot be read or is not a byte-level BPE tokenizer.
    pub fn from_file(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|error| {
            Error::checkpoint(format!("cannot read the tokenizer: {error}")).at(path.display()).caused_by(error)
        })?;
        Self::from_bytes(&bytes).map_err(|error| error.at(path.display()))
    }

    /// The tokenizer in the content of a `tokenizer.json`.
    ///
    /// # Errors
    /// As [`Self::from_file`].
    pub fn from_bytes(json: &[u8]) -> Result<Self> {
        let _: DecoderIsJson = serde_json::from_slice(json)
            .map_err(|error| Error::checkpoint(format!("not a tokenizer: {error}")).caused_by(error))?;
        let mut tokenizer = Tokenizer::from_bytes(json)
            .map_err(|error| Error::checkpoint(format!("not a tokenizer: {error}")).caused_by(error))?;
        if !matches!(tokenizer.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            return Err(Error::checkpoint("`decoder`: expected type ByteLevel, as in every SmolVLM2 tokenizer"));
        }
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|error| Error::checkpoint(format!("`truncation`: {error}")).caused_by(error))?;
        Ok(Self { inner: Arc::new(tokenizer) })
    }

    /// Token ids of `text`. Special tokens written in it are recognised, none are added.
    ///
    /// # Errors
    /// An input error when the tokenizer has no way to spell the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false);
        let encoding = encoding.map_err(|error| Error::input(format!("cannot tokenise: {error}")).caused_by(error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// For each byte range of `text`, in order, the range of `ids` (its [`encode`](Self::encode)) that touches it.
    ///
    /// Each token stands for bytes that are known, so places are exact whatever a token joins or splits.
    ///
    /// # Errors
    /// A checkpoint error when the tokenizer changes the text, so that its tokens do not spell it.
    pub fn tokens_of(&self, ids: &[u32], text: &str, spans: &[Range<usize>]) -> Result<Vec<Range<usize>>> {
        let mut ends = Vec::with_capacity(ids.len());
        let mut rest = text.as_bytes();
        for &id in ids {
            rest = rest.strip_prefix(self.bytes_of(id, false).as_slice()).ok_or_else(changes_text)?;
            ends.push(text.len() - rest.len());
        }
        if !rest.is_empty() {
            return Err(changes_text());
        }
        let tokens = |span: &Range<usize>| {
            let first = ends.partition_point(|end| *end <= span.start);
            // The token that reaches the span's end is the last one that touches it.
            let last = ends.partition_point(|end| *end < span.end) + 1;
            if span.is_empty() { first..first } else { first..last.min(ids.len()) }
        };
        Ok(spans.iter().map(tokens).collect())
    }

    /// The text of token ids, with U+FFFD where they are not UTF-8; ids without a token give nothing.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.bytes_of(id, skip_special)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A decoder of ids as they come.
    pub fn stream(&self, skip_special: bool) -> TextStream {
        TextStream::new(self.clone(), skip_special)
    }

    /// The id of a token, special ones included.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The bytes of one token: nothing for an unknown id, or for a special token that is to be skipped.
    pub(super) fn bytes_of(&self, id: u32, skip_special: bool) -> Vec<u8> {
        let Some(token) = self.inner.id_to_token(id) else { return Vec::new() };
        if skip_special && self.inner.get_added_vocabulary().is_special_token(&token) {
            return Vec::new();
        }
        // As the library's byte-level decoder: a token with a foreign character stands for itself.
        let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
        bytes.unwrap_or_else(|| token.into_bytes())
    }
}

fn changes_text() -> Error {
    Error::checkpoint(
        "the tokenizer changes the text (a normaliser, or tokens that take white space along), so answers cannot be \
         located in it: learn from whole sequences",
    )
}

/// The byte that a character of a byte-level vocabulary stands for: printable ones for themselves, the others, in order,
/// for U+0100 and up (`bytes_to_unicode` of GPT-2).
fn byte_of(character: char) -> Option<u8> {
    const SHIFTED_LOW: u32 = 0x21; // 0x00..=0x20
    const SHIFTED_MIDDLE: u32 = SHIFTED_LOW + 0x22; // 0x7f..=0xa0
    let code = u32::from(character);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100.. => match code - 0x100 {
            shifted @ 0..SHIFTED_LOW => shifted,
            shifted @ SHIFTED_LOW..SHIFTED_MIDDLE => shifted - SHIFTED_LOW + 0x7f,
            SHIFTED_MIDDLE => 0xad,
            _ => return None,
        },
        _ => return None,
    };
    u8::try_from(byte).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_exactly_one_character() {
        let mut seen: Vec<u8> = (0..0x200).filter_map(char::from_u32).filter_map(byte_of).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
        assert_eq!((byte_of('Ġ'), byte_of('Ċ'), byte_of('a')), (Some(b' '), Some(b'\n'), Some(b'a')));
    }

    #[test]
    fn a_file_that_is_no_tokenizer_is_a_checkpoint_error() {
        for bytes in [&b""[..], b"{}", b"[1, 2]", b"\xff\xfe"] {
            assert_eq!(PromptTokenizer::from_bytes(bytes).unwrap_err().kind(), crate::ErrorKind::Checkpoint);
        }
    }
}
