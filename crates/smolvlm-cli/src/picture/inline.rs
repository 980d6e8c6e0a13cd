//! Pictures that a terminal paints itself, as kitty and iTerm2 define it.

use std::fmt::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use smolvlm::Result;
use smolvlm_scenes::{Picture, encode_png};

use crate::drawn::ours;

/// Most characters of one message (kitty's documentation of its graphics protocol).
const CHUNK: usize = 4096;

/// A PNG file (`f=100`) in pieces, painted where the cursor is, over so many columns; the terminal answers nothing (`q=2`).
pub(super) fn kitty(picture: &Picture, columns: usize) -> Result<String> {
    let data = BASE64_STANDARD.encode(encode_png(picture).map_err(ours)?);
    let mut text = String::new();
    let mut chunks = data.as_bytes().chunks(CHUNK).peekable();
    let mut keys = format!("a=T,f=100,q=2,c={columns},");
    while let Some(chunk) = chunks.next() {
        let more = u8::from(chunks.peek().is_some());
        let _ = write!(text, "\x1b_G{keys}m={more};{}\x1b\\", String::from_utf8_lossy(chunk));
        keys.clear();
    }
    Ok(text + "\n")
}

/// A PNG file inside the text.
pub(super) fn iterm(picture: &Picture, columns: usize) -> Result<String> {
    let file = encode_png(picture).map_err(ours)?;
    let data = BASE64_STANDARD.encode(&file);
    Ok(format!("\x1b]1337;File=inline=1;size={};width={columns};preserveAspectRatio=1:{data}\x07\n", file.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_chunks_but_the_last_say_that_more_come() {
        // Noise, which no file makes small.
        let noise = (0..64 * 64 * 3u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let text = kitty(&Picture { width: 64, height: 64, rgb: noise }, 20).unwrap();
        let messages: Vec<&str> = text.trim_end().split("\x1b\\").filter(|part| !part.is_empty()).collect();
        let [first, middle @ .., last] = messages.as_slice() else { panic!("{text:?}") };
        assert!(first.starts_with("\x1b_Ga=T,f=100,q=2,c=20,m=1;") && last.starts_with("\x1b_Gm=0;"));
        assert!(!middle.is_empty() && middle.iter().all(|message| message.starts_with("\x1b_Gm=1;")));
        let data: String = messages.iter().filter_map(|message| message.split(';').nth(1)).collect();
        assert!(BASE64_STANDARD.decode(data).unwrap().starts_with(b"\x89PNG"));
    }

    #[test]
    fn the_file_between_is_a_png() {
        let text = iterm(&Picture { width: 3, height: 2, rgb: vec![9; 18] }, 1).unwrap();
        let data = text.trim_end().trim_end_matches('\x07').rsplit(':').next().unwrap();
        assert!(BASE64_STANDARD.decode(data).unwrap().starts_with(b"\x89PNG"));
    }
}
