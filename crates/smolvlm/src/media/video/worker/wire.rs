//! Requests and messages as bytes. Both sides are this release; still, every length is checked before it is believed.
//!
//! A unit is a kind (1 byte), a length (8 bytes, little-endian) and that many bytes: text in JSON, numbers that must not
//! change as they are.

use std::io::{Error as IoError, ErrorKind as IoKind, Read, Result, Write};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Job, Message, Request};
use crate::media::source::{MediaLimits, Opened};
use crate::media::video::StreamFacts;
use crate::media::{Frame, Image};
use crate::{Error, ErrorKind};

/// The longest text and list that is read: times of 4 million frames.
const MAX_TEXT: u64 = 64 << 20;
const FRAME_HEADER: usize = 24;

pub(super) fn write_request(out: &mut impl Write, request: &Request) -> Result<()> {
    match request {
        Request::Open(job) => {
            let limits = &job.limits;
            let path = match &job.opened {
                Opened::File(path) => Some(path.to_str().ok_or_else(|| invalid("a name that is not UTF-8"))?),
                Opened::Bytes(_) => None,
            };
            let text = json!({
                "name": job.name, "path": path, "as_coded": job.as_coded, "pixels": limits.pixels,
                "file_bytes": limits.file_bytes, "memory": limits.decode_memory,
                "patience": limits.decode_timeout.as_millis() as u64,
            });
            unit(out, b'O', text.to_string().as_bytes())?;
            match &job.opened {
                Opened::Bytes(bytes) => unit(out, b'B', bytes),
                Opened::File(_) => Ok(()),
            }
        }
        Request::Read(indices) => unit(out, b'R', &numbers(indices.iter().map(|&index| index as u64))),
    }
}

/// The next request; none at the end. The limit of memory in it takes hold before anything is decoded.
pub(super) fn read_request(input: &mut impl Read) -> Result<Option<Request>> {
    let Some((kind, payload)) = read_unit(input, MAX_TEXT)? else { return Ok(None) };
    match kind {
        b'O' => {
            let text: Value = serde_json::from_slice(&payload).map_err(|_| invalid("a request that is no JSON"))?;
            let number = |key: &str| text[key].as_u64().ok_or_else(|| invalid("a request without a limit"));
            let limits = MediaLimits {
                pixels: number("pixels")?,
                file_bytes: number("file_bytes")?,
                decode_memory: number("memory")?,
                decode_timeout: Duration::from_millis(number("patience")?),
                ..MediaLimits::default()
            };
            limit_memory(limits.decode_memory);
            let opened = match text["path"].as_str() {
                Some(path) => Opened::File(path.into()),
                None => match read_unit(input, limits.file_bytes)? {
                    Some((b'B', bytes)) => Opened::Bytes(bytes.into()),
                    _ => return Err(invalid("a request without its file")),
                },
            };
            let name = text["name"].as_str().unwrap_or_default().to_owned();
            let as_coded = text["as_coded"].as_bool().unwrap_or(false);
            Ok(Some(Request::Open(Job { name, opened, limits, as_coded })))
        }
        b'R' => Ok(Some(Request::Read(read_numbers(&payload).map(|index| index as usize).collect()))),
        _ => Err(invalid("a request of an unknown kind")),
    }
}

/// Private memory only: file mappings and the program itself do not count.
pub(in super::super) fn limit_memory(bytes: u64) {
    #[cfg(unix)]
    {
        // Where the system has no such limit, the parent's other limits stay.
        let _ = rlimit::setrlimit(rlimit::Resource::DATA, bytes, bytes);
    }
    #[cfg(not(unix))]
    let _ = bytes;
}

pub(super) fn write_message(out: &mut impl Write, message: &Message) -> Result<()> {
    match message {
        Message::Opened(facts, times) => {
            let text = json!({
                "name": facts.name, "codec": facts.codec, "container": facts.container, "width": facts.width,
                "height": facts.height, "rotation": facts.rotation, "constant": facts.constant_rate,
                "picked": facts.picked,
            });
            unit(out, b'F', text.to_string().as_bytes())?;
            let floats = [facts.average_rate, facts.duration].into_iter().chain(times.iter().copied());
            unit(out, b'T', &numbers(floats.map(f64::to_bits)))
        }
        Message::Frame(frame) => {
            let Frame { index, time, image } = frame;
            let sizes = (image.width as u64) << 32 | image.height as u64;
            let header = numbers([*index as u64, time.to_bits(), sizes]);
            out.write_all(b"I")?;
            out.write_all(&((header.len() + image.rgb.len()) as u64).to_le_bytes())?;
            out.write_all(&header)?;
            out.write_all(&image.rgb)
        }
        Message::Done => unit(out, b'D', &[]),
        Message::Failed(error) => {
            let kind = ErrorKind::ALL.iter().position(|kind| *kind == error.kind()).unwrap_or_default();
            unit(out, b'E', &[&[kind as u8][..], error.to_string().as_bytes()].concat())
        }
    }
}

/// The next message; none at the end.
pub(super) fn read_message(input: &mut impl Read, max_pixels: u64) -> Result<Option<Message>> {
    let limit = max_pixels.saturating_mul(3).saturating_add(FRAME_HEADER as u64).max(MAX_TEXT);
    let Some((kind, mut payload)) = read_unit(input, limit)? else { return Ok(None) };
    Ok(Some(match kind {
        b'F' => {
            let text: Value = serde_json::from_slice(&payload).map_err(|_| invalid("facts that are no JSON"))?;
            let Some((b'T', floats)) = read_unit(input, MAX_TEXT)? else { return Err(invalid("facts without times")) };
            let mut floats = read_numbers(&floats).map(f64::from_bits);
            let (Some(average_rate), Some(duration)) = (floats.next(), floats.next()) else {
                return Err(invalid("facts without a rate"));
            };
            let times: Vec<f64> = floats.collect();
            Message::Opened(facts(&text, average_rate, duration, times.len()), times)
        }
        b'I' => {
            let header: Vec<u64> = read_numbers(payload.get(..FRAME_HEADER).unwrap_or_default()).collect();
            let &[index, time, sizes] = header.as_slice() else { return Err(invalid("a frame without a header")) };
            let (width, height) = ((sizes >> 32) as usize, (sizes & 0xFFFF_FFFF) as usize);
            payload.drain(..FRAME_HEADER);
            if width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3)) != Some(payload.len()) {
                return Err(invalid("a frame of another size than it says"));
            }
            let image = Image { width, height, rgb: payload };
            Message::Frame(Frame { index: index as usize, time: f64::from_bits(time), image })
        }
        b'D' => Message::Done,
        b'E' => {
            let kind = payload.first().and_then(|&kind| ErrorKind::ALL.get(usize::from(kind)));
            let text = String::from_utf8_lossy(payload.get(1..).unwrap_or_default()).into_owned();
            Message::Failed(Error::new(kind.copied().unwrap_or(ErrorKind::Internal), text))
        }
        _ => return Err(invalid("a message of an unknown kind")),
    }))
}

fn facts(text: &Value, average_rate: f64, duration: f64, frame_count: usize) -> StreamFacts {
    let string = |key: &str| text[key].as_str().unwrap_or_default().to_owned();
    let number = |key: &str| text[key].as_u64().unwrap_or_default();
    StreamFacts {
        name: string("name"),
        codec: string("codec"),
        container: string("container"),
        width: number("width") as usize,
        height: number("height") as usize,
        frame_count,
        average_rate,
        duration,
        rotation: number("rotation") as u16,
        constant_rate: text["constant"].as_bool().unwrap_or(false),
        picked: text["picked"].as_bool().unwrap_or(false),
    }
}

fn unit(out: &mut impl Write, kind: u8, payload: &[u8]) -> Result<()> {
    out.write_all(&[kind])?;
    out.write_all(&(payload.len() as u64).to_le_bytes())?;
    out.write_all(payload)
}

fn read_unit(input: &mut impl Read, limit: u64) -> Result<Option<(u8, Vec<u8>)>> {
    let mut kind = [0];
    if input.read(&mut kind)? == 0 {
        return Ok(None);
    }
    let mut length = [0; 8];
    input.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > limit {
        return Err(invalid("a unit above its limit"));
    }
    let mut payload = Vec::with_capacity(length as usize);
    input.take(length).read_to_end(&mut payload)?;
    if payload.len() as u64 != length {
        return Err(IoKind::UnexpectedEof.into());
    }
    Ok(Some((kind[0], payload)))
}

fn numbers(values: impl IntoIterator<Item = u64>) -> Vec<u8> {
    values.into_iter().flat_map(u64::to_le_bytes).collect()
}

fn read_numbers(payload: &[u8]) -> impl Iterator<Item = u64> {
    payload.as_chunks().0.iter().map(|&bytes| u64::from_le_bytes(bytes))
}

fn invalid(what: &'static str) -> IoError {
    IoError::new(IoKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(message: &Message, max_pixels: u64) -> Result<Option<Message>> {
        let mut bytes = Vec::new();
        write_message(&mut bytes, message).unwrap();
        read_message(&mut bytes.as_slice(), max_pixels)
    }

    #[test]
    fn messages_come_through_unchanged() {
        let image = Image { width: 2, height: 1, rgb: vec![1, 2, 3, 4, 5, 6] };
        let frame = Frame { index: 7, time: 0.1 + 0.2, image };
        let Some(Message::Frame(seen)) = through(&Message::Frame(frame.clone()), 10).unwrap() else { panic!() };
        assert_eq!(seen, frame);
        let Some(Message::Failed(seen)) = through(&Message::Failed(Error::usage("wrong")), 10).unwrap() else {
            panic!()
        };
        assert_eq!((seen.kind(), seen.to_string().as_str()), (ErrorKind::Usage, "wrong"));
        let facts = facts(&json!({"name": "a", "codec": "h264", "width": 3, "rotation": 90}), 1.0 / 3.0, 2.5, 2);
        let Some(Message::Opened(seen, times)) = through(&Message::Opened(facts.clone(), vec![0.1, 0.7]), 10).unwrap()
        else {
            panic!()
        };
        assert_eq!((seen, times), (facts, vec![0.1, 0.7]));
    }

    #[test]
    fn lengths_that_are_not_backed_are_refused() {
        let huge = [&[b'I'][..], &u64::MAX.to_le_bytes()].concat();
        assert!(read_message(&mut huge.as_slice(), 10).is_err());
        let cut = [&[b'I'][..], &100u64.to_le_bytes(), &[0; 50]].concat();
        assert!(read_message(&mut cut.as_slice(), 10).is_err());
        let mut lying = Vec::new();
        unit(&mut lying, b'I', &[&numbers([0, 0, 5 << 32 | 5])[..], &[0; 3]].concat()).unwrap();
        assert!(read_message(&mut lying.as_slice(), 10).is_err());
    }

    #[test]
    fn requests_come_through_with_their_limits() {
        let limits = MediaLimits { pixels: 77, ..MediaLimits::default() };
        let job = Job { name: "clip".to_owned(), opened: Opened::Bytes([1, 2, 3][..].into()), limits, as_coded: true };
        let mut bytes = Vec::new();
        // What the limit of memory does is left to the tests of the program: it cannot be taken back.
        write_request(&mut bytes, &Request::Read(vec![3, 9])).unwrap();
        let Some(Request::Read(indices)) = read_request(&mut bytes.as_slice()).unwrap() else { panic!() };
        assert_eq!(indices, [3, 9]);
        bytes.clear();
        write_request(&mut bytes, &Request::Open(job)).unwrap();
        assert!(bytes.windows(11).any(|part| part == b"\"pixels\":77"));
    }
}
