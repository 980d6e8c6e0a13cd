//! Scalars for TensorBoard: an event file, which is a TFRecord file of `Event` messages (tensorflow/core/util/event.proto).
//!
//! A record is the length of its data (`u64`), the masked CRC-32C of these eight bytes, the data, and the masked CRC-32C of the data, all
//! little-endian (tensorflow/core/lib/io/record_writer.h).

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::log::LogLine;
use crate::optimizer::Rates;
use crate::{Error, Result};

const PREFIX: &str = "events.out.tfevents.";

/// An event file that grows by a record for each step.
pub(super) struct Events {
    path: PathBuf,
    file: File,
    rates: Rates,
}

impl Events {
    /// A new file for a run that has taken `steps`; its name sorts after those that are there. It tells TensorBoard to forget what earlier
    /// files say of later steps. `rates` are the full learning rates.
    pub(super) fn create(run: &Path, steps: u64, rates: Rates) -> Result<Self> {
        let now = seconds_now();
        let time = (now as u64).max(newest(run)?.map_or(0, |time| time + 1));
        let path = run.join(format!("{PREFIX}{time:010}.{}.{}", host(), std::process::id()));
        let failed = |error: std::io::Error| Error::input(format!("{}: {error}", path.display())).caused_by(error);
        let mut file = File::create_new(&path).map_err(failed)?;
        let version = message(&[Field::Double(1, now), Field::Bytes(3, b"brain.Event:2")]);
        let start = message(&[Field::Varint(1, SESSION_START)]);
        let start = message(&[
            Field::Double(1, now),
            Field::Varint(2, if steps == 0 { 0 } else { steps + 1 }),
            Field::Bytes(7, &start),
        ]);
        file.write_all(&[record(&version), record(&start)].concat()).map_err(failed)?;
        Ok(Self { path, file, rates })
    }

    /// Adds what a line of the log says, and `memory` in use, in bytes.
    pub(super) fn write(&mut self, line: &LogLine, memory: Option<u64>) -> Result<()> {
        let scalars = scalars(line, self.rates, memory);
        let values: Vec<Vec<u8>> = scalars
            .iter()
            .map(|(tag, value)| message(&[Field::Bytes(1, tag.as_bytes()), Field::Float(2, *value as f32)]))
            .collect();
        let summary = message(&values.iter().map(|value| Field::Bytes(1, value)).collect::<Vec<_>>());
        let event =
            message(&[Field::Double(1, seconds_now()), Field::Varint(2, line.step()), Field::Bytes(5, &summary)]);
        let written = self.file.write_all(&record(&event));
        written.map_err(|error| Error::input(format!("{}: {error}", self.path.display())).caused_by(error))
    }
}

/// `SessionLog.START`.
const SESSION_START: u64 = 1;

/// What is shown of a line of the log.
fn scalars(line: &LogLine, rates: Rates, memory: Option<u64>) -> Vec<(&'static str, f64)> {
    match line {
        LogLine::Step(report) => {
            let seconds = report.seconds.max(1e-9);
            let Rates { vision, connector, text } = rates.scaled(report.rate);
            let mut scalars = vec![
                ("train/loss", report.loss),
                ("rate/vision", vision),
                ("rate/connector", connector),
                ("rate/text", text),
                ("speed/tokens_per_second", report.tokens as f64 / seconds),
                ("speed/samples_per_second", report.examples as f64 / seconds),
            ];
            scalars.extend(report.norm.map(|norm| ("train/gradient_norm", norm)));
            scalars.extend(memory.map(|bytes| ("memory/mebibytes", bytes as f64 / f64::from(1 << 20))));
            scalars
        }
        LogLine::Evaluation { evaluation, .. } => {
            let mut scalars = vec![
                ("evaluation/loss", evaluation.loss),
                ("evaluation/perplexity", evaluation.perplexity),
                ("evaluation/token_accuracy", evaluation.accuracy),
            ];
            scalars.extend(evaluation.exact.map(|exact| ("evaluation/exact_answers", exact)));
            scalars
        }
    }
}

/// A field of a protocol buffers message: its number and its value.
enum Field<'a> {
    Varint(u64, u64),
    Double(u64, f64),
    Float(u64, f32),
    Bytes(u64, &'a [u8]),
}

/// A message in the wire format of protocol buffers.
fn message(fields: &[Field<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        match field {
            Field::Varint(number, value) => {
                varint(&mut bytes, number << 3);
                varint(&mut bytes, *value);
            }
            Field::Double(number, value) => {
                varint(&mut bytes, number << 3 | 1);
                bytes.extend(value.to_le_bytes());
            }
            Field::Bytes(number, value) => {
                varint(&mut bytes, number << 3 | 2);
                varint(&mut bytes, value.len() as u64);
                bytes.extend(*value);
            }
            Field::Float(number, value) => {
                varint(&mut bytes, number << 3 | 5);
                bytes.extend(value.to_le_bytes());
            }
        }
    }
    bytes
}

fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// A TFRecord.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

/// The checksum as TFRecord stores it: turned and shifted, so that data with checksums inside have others outside.
fn masked(bytes: &[u8]) -> [u8; 4] {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// CRC-32C (Castagnoli), reflected.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| (crc >> 8) ^ TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize])
}

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// The time in the newest event file's name.
fn newest(run: &Path) -> Result<Option<u64>> {
    let failed = |error: std::io::Error| Error::input(format!("{}: {error}", run.display())).caused_by(error);
    let mut newest = None;
    for entry in fs::read_dir(run).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let time = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('.').next()?.parse().ok());
        newest = newest.max(time);
    }
    Ok(newest)
}

fn seconds_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// This machine's name, as a part of a file's name.
fn host() -> String {
    let read = fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    let name: String =
        read.unwrap_or_default().trim().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StepReport;

    /// RFC 3720, appendix B.4, and the checksum that everyone states for these nine digits.
    #[test]
    fn checksums_are_castagnolis() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    /// Written by TensorBoard's own `RecordWriter` for this message.
    #[test]
    fn a_record_has_the_bytes_of_tensorboards_writer() {
        let version = message(&[Field::Double(1, 1.5), Field::Bytes(3, b"brain.Event:2")]);
        assert_eq!(version, b"\x09\x00\x00\x00\x00\x00\x00\xf8\x3f\x1a\x0dbrain.Event:2");
        assert_eq!(record(&version), RECORD);
        let scalar = message(&[Field::Bytes(1, b"loss"), Field::Float(2, 0.5)]);
        assert_eq!(scalar, b"\x0a\x04loss\x15\x00\x00\x00\x3f");
        assert_eq!(message(&[Field::Varint(2, 300)]), b"\x10\xac\x02");
    }

    const RECORD: &[u8] = b"\x18\x00\x00\x00\x00\x00\x00\x00\xa3\x7f\x4b\x22\x09\x00\x00\x00\x00\x00\x00\xf8\x3f\x1a\x0dbrain.Event:2\x2a\x28\x64\x6c";

    /// The records of a file, their checksums compared.
    fn records(bytes: &[u8]) -> Vec<Vec<u8>> {
        let (mut rest, mut found) = (bytes, Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(rest[8..12], masked(&rest[..8]));
            let data = &rest[12..12 + length];
            assert_eq!(rest[12 + length..16 + length], masked(data));
            found.push(data.to_vec());
            rest = &rest[16 + length..];
        }
        found
    }

    #[test]
    fn a_resumed_run_writes_a_later_file_that_restarts_after_its_steps() {
        let folder = tempfile::tempdir().unwrap();
        let report = StepReport { step: 7, loss: 0.5, norm: None, seconds: 2.0, ..StepReport::default() };
        for steps in [0, 6] {
            let mut events = Events::create(folder.path(), steps, Rates::same(1.0)).unwrap();
            events.write(&LogLine::Step(report.clone()), Some(1 << 20)).unwrap();
        }
        let mut files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert_eq!(files.len(), 2);
        let found = records(&fs::read(&files[1]).unwrap());
        assert_eq!(found.len(), 3);
        // After the time: step 7, and a session log (field 7) that says START.
        assert_eq!(found[1][9..], *b"\x10\x07\x3a\x02\x08\x01");
        assert_eq!(found[2][9..11], *b"\x10\x07");
        assert!(found[2].windows(18).any(|bytes| bytes == b"\x0a\x0atrain/loss\x15\x00\x00\x00\x3f\x0a"));
    }
}
