//! Text from token ids as they come, in whole characters.

use super::tokenizer::PromptTokenizer;

/// Decodes one id at a time and holds back the bytes of an unfinished character.
///
/// All pieces joined are what [`PromptTokenizer::decode`] gives for all ids, U+FFFD for invalid bytes included.
#[derive(Debug, Clone)]
pub struct TextStream {
    tokenizer: PromptTokenizer,
    skip_special: bool,
    unfinished: Utf8Stream,
}

impl TextStream {
    pub(super) fn new(tokenizer: PromptTokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, unfinished: Utf8Stream::default() }
    }

    /// The text that is certain after one more id; often empty inside a character.
    pub fn push(&mut self, id: u32) -> String {
        self.unfinished.push(&self.tokenizer.bytes_of(id, self.skip_special))
    }

    /// What was held back: U+FFFD if the ids ended inside a character, else nothing.
    pub fn finish(&mut self) -> String {
        self.unfinished.finish()
    }
}

/// Lossy UTF-8 decoding of bytes in pieces.
#[derive(Debug, Clone, Default)]
struct Utf8Stream {
    held: Vec<u8>,
}

impl Utf8Stream {
    fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let certain = self.held.len() - unfinished_length(&self.held);
        let text = String::from_utf8_lossy(&self.held[..certain]).into_owned();
        self.held.drain(..certain);
        text
    }

    fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }
}

/// Bytes at the end that more bytes could still complete to a character.
fn unfinished_length(bytes: &[u8]) -> usize {
    let last = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    match std::str::from_utf8(last) {
        Err(error) if error.error_len().is_none() => last.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(bytes: &[u8], size: usize) -> Vec<String> {
        let mut stream = Utf8Stream::default();
        let mut pieces: Vec<String> = bytes.chunks(size).map(|piece| stream.push(piece)).collect();
        pieces.push(stream.finish());
        pieces
    }

    #[test]
    fn a_character_appears_whole_with_its_last_byte() {
        assert_eq!(pieces("é🙂".as_bytes(), 1), ["", "é", "", "", "", "🙂", ""]);
    }

    #[test]
    fn invalid_bytes_appear_at_once_and_unfinished_ones_at_the_end() {
        assert_eq!(pieces(b"a\xffb", 1), ["a", "\u{fffd}", "b", ""]);
        assert_eq!(pieces(b"\xf0\x9f\x99", 1), ["", "", "", "\u{fffd}"]);
        assert_eq!(pieces(b"\xf0\x9fx", 1), ["", "", "\u{fffd}x", ""]);
    }

    #[test]
    fn joined_pieces_equal_decoding_at_once() {
        use rand::{Rng, SeedableRng};
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(5);
        let alphabet = [b'a', 0x80, 0x9f, 0xbf, 0xc2, 0xe0, 0xe4, 0xed, 0xf0, 0xf4, 0xff];
        for _ in 0..2000 {
            let bytes: Vec<u8> = (0..12).map(|_| alphabet[random.next_u32() as usize % alphabet.len()]).collect();
            for size in 1..4 {
                assert_eq!(pieces(&bytes, size).concat(), String::from_utf8_lossy(&bytes), "{bytes:x?} by {size}");
            }
        }
    }
}
