//! Finding where records begin and end in JSON text, without keeping it.

use std::io::BufRead;

use sha2::{Digest, Sha256};

use super::MAX_RECORDS;
use crate::{Error, Result};

/// Where a record lies in its file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u64,
    /// `u32::MAX` for all that are as long or longer, which are not read.
    pub(super) len: u32,
}

/// The records of a file and a digest of all its bytes.
pub(super) struct Scanned {
    pub(super) spans: Vec<Span>,
    pub(super) digest: [u8; 32],
    /// Bytes in all.
    pub(super) bytes: u64,
}

/// Finds the elements of a JSON list, or, where the text does not begin with `[`, its lines.
///
/// Only brackets and strings are looked at: what an element holds is judged when it is read.
///
/// # Errors
/// An input error for a list that does not end, or goes on after its end; for what cannot be read.
pub(super) fn scan(mut reader: impl BufRead) -> Result<Scanned> {
    let mut scanner = Scanner::default();
    let mut hash = Sha256::new();
    loop {
        let piece = reader.fill_buf();
        let piece = piece.map_err(|error| Error::input(format!("cannot be read: {error}")).caused_by(error))?;
        if piece.is_empty() {
            break;
        }
        hash.update(piece);
        scanner.take(piece)?;
        let read = piece.len();
        reader.consume(read);
    }
    let bytes = scanner.offset;
    Ok(Scanned { spans: scanner.finish()?, digest: hash.finalize().into(), bytes })
}

/// What is known after the bytes so far.
#[derive(Default)]
struct Scanner {
    offset: u64,
    layout: Layout,
    spans: Vec<Span>,
    /// First and last byte of the record that is being read, white space left out.
    record: Option<(u64, u64)>,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Nothing but white space was seen.
    #[default]
    Unknown,
    Lines,
    List,
    /// After the list's closing bracket.
    Ended,
}

/// The mark that some editors write at the beginning of UTF-8 text.
const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

impl Scanner {
    fn take(&mut self, piece: &[u8]) -> Result<()> {
        for &byte in piece {
            match self.layout {
                Layout::Unknown => self.begin(byte)?,
                Layout::Lines => self.line_byte(byte)?,
                Layout::List => self.list_byte(byte)?,
                Layout::Ended if byte.is_ascii_whitespace() => {}
                Layout::Ended => {
                    let at = self.offset;
                    return Err(Error::input(format!("byte {at}: the list has ended and something follows")));
                }
            }
            self.offset += 1;
        }
        Ok(())
    }

    fn begin(&mut self, byte: u8) -> Result<()> {
        let mark = usize::try_from(self.offset).ok().and_then(|at| BYTE_ORDER_MARK.get(at)) == Some(&byte);
        if byte.is_ascii_whitespace() || mark {
            return Ok(());
        }
        if byte == b'[' {
            self.layout = Layout::List;
            return Ok(());
        }
        self.layout = Layout::Lines;
        self.line_byte(byte)
    }

    fn line_byte(&mut self, byte: u8) -> Result<()> {
        if byte == b'\n' {
            return self.end_record();
        }
        self.extend_record(byte);
        Ok(())
    }

    fn list_byte(&mut self, byte: u8) -> Result<()> {
        if self.in_string {
            self.in_string = self.escaped || byte != b'"';
            self.escaped = byte == b'\\' && !self.escaped;
            self.extend_record(byte);
            return Ok(());
        }
        match byte {
            b',' if self.depth == 0 => return self.end_record(),
            b']' if self.depth == 0 => {
                self.layout = Layout::Ended;
                return self.end_record();
            }
            b'"' => self.in_string = true,
            b'[' | b'{' => self.depth += 1,
            b']' | b'}' => {
                let at = self.offset;
                self.depth = self
                    .depth
                    .checked_sub(1)
                    .ok_or_else(|| Error::input(format!("byte {at}: a bracket is closed that was not opened")))?;
            }
            _ => {}
        }
        self.extend_record(byte);
        Ok(())
    }

    fn extend_record(&mut self, byte: u8) {
        if byte.is_ascii_whitespace() && !self.in_string {
            return;
        }
        let at = self.offset;
        self.record.get_or_insert((at, at)).1 = at;
    }

    fn end_record(&mut self) -> Result<()> {
        let Some((start, last)) = self.record.take() else { return Ok(()) };
        if self.spans.len() == MAX_RECORDS {
            return Err(Error::input(format!("more than {MAX_RECORDS} records")));
        }
        self.spans.push(Span { start, len: u32::try_from(last + 1 - start).unwrap_or(u32::MAX) });
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Span>> {
        match self.layout {
            Layout::List => {
                let found = self.spans.len() + usize::from(self.record.is_some());
                Err(Error::input(format!(
                    "the list does not end: expected ] after byte {}, in record {found}; the file is cut off",
                    self.offset
                )))
            }
            Layout::Unknown => Err(Error::input("the file is empty")),
            Layout::Lines | Layout::Ended => {
                self.end_record()?;
                if self.spans.is_empty() { Err(Error::input("the file holds no records")) } else { Ok(self.spans) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    /// The records' texts, read in pieces of `piece` bytes.
    fn records(text: &str, piece: usize) -> Result<Vec<String>> {
        let scanned = scan(BufReader::with_capacity(piece, text.as_bytes()))?;
        let record = |span: &Span| text[span.start as usize..span.start as usize + span.len as usize].to_owned();
        Ok(scanned.spans.iter().map(record).collect())
    }

    #[test]
    fn lines_are_records_and_blank_ones_are_not() {
        for piece in [1, 3, 4096] {
            let found = records("\u{feff}{\"a\": 1}\r\n\n  \n  {\"b\": \"[\"}", piece).unwrap();
            assert_eq!(found, ["{\"a\": 1}", "{\"b\": \"[\"}"]);
        }
    }

    #[test]
    fn elements_of_a_list_are_records_whatever_their_strings_hold() {
        let text = " [ {\"a\": \"],}\\\"[\", \"b\": [1, {}]} ,\n{\"c\": \"\\\\\"}, 3 ] \n";
        for piece in [1, 2, 7, 4096] {
            let found = records(text, piece).unwrap();
            assert_eq!(found, ["{\"a\": \"],}\\\"[\", \"b\": [1, {}]}", "{\"c\": \"\\\\\"}", "3"]);
        }
    }

    #[test]
    fn broken_files_say_where_they_break() {
        for (text, message) in [
            ("", "empty"),
            (" \n ", "empty"),
            ("[]", "no records"),
            ("[{\"a\": 1}, {\"b\"", "in record 2"),
            ("[1, \"a]", "cut off"),
            ("[1]]", "byte 3"),
            ("[1] {}", "byte 4"),
            ("[}]", "byte 1: a bracket"),
        ] {
            let error = records(text, 16).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn the_digest_is_of_all_bytes() {
        let digest = |text: &str| scan(text.as_bytes()).unwrap().digest;
        assert_eq!(digest("{}\n{}"), digest("{}\n{}"));
        assert_ne!(digest("{}\n{}"), digest("{}\n{} "));
    }
}
