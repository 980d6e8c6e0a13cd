//! Pictures that a terminal paints itself, as kitty and iTerm2 define it.

use std::fmt::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use smolvlm::Result;
use smolvlm_scenes::{Picture, encode_png};

use crate::drawn::ours;

/// Most characters of one message (kitty's documentation of its graphics protocol).
const CHUNK: usize = 4096;

/// Pixels as they are (`f=24`), painted where the cursor is, over so many columns; the terminal answers nothing (`q=2`).
pub(super) fn kitty(picture: &Picture, columns: usize) -> String {
    let data = BASE64_STANDARD.encode(&picture.rgb);
    let mut text = String::new();
    let mut chunks = data.as_bytes().chunks(CHUNK).peekable();
    let mut first = true;
    while let Some(chunk) = chunks.next() {
        let more = u8::from(chunks.peek().is_some());
        text += "\x1b_G";
        if first {
            let _ = write!(text, "a=T,f=24,q=2,s={},v={},c={columns},", picture.width, picture.height);
        }
        first = false;
        let _ = write!(text, "m={more};{}\x1b\\", String::from_utf8_lossy(chunk));
    }
    text + "\n"
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
        let picture = Picture { width: 64, height: 64, rgb: vec![7; 64 * 64 * 3] };
        let text = kitty(&picture, 20);
        let messages: Vec<&str> = text.trim_end().split("\x1b\\").filter(|part| !part.is_empty()).collect();
        assert_eq!(messages.len(), 4);
        assert!(messages[0].starts_with("\x1b_Ga=T,f=24,q=2,s=64,v=64,c=20,m=1;"));
        assert!(messages[1].starts_with("\x1b_Gm=1;") && messages[3].starts_with("\x1b_Gm=0;"));
        let data: String = messages.iter().filter_map(|message| message.split(';').nth(1)).collect();
        assert_eq!(BASE64_STANDARD.decode(data).unwrap(), picture.rgb);
    }

    #[test]
    fn the_file_between_is_a_png() {
        let text = iterm(&Picture { width: 3, height: 2, rgb: vec![9; 18] }, 1).unwrap();
        let data = text.trim_end().trim_end_matches('\x07').rsplit(':').next().unwrap();
        assert!(BASE64_STANDARD.decode(data).unwrap().starts_with(b"\x89PNG"));
    }
}
