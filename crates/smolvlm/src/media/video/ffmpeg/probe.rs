//! What `ffprobe` says of a file's video stream.

use serde::Deserialize;

use super::super::timeline::{Packet, TimeBase};
use super::process::{Tool, Tools};
use super::{InputFile, input_arguments};
use crate::{Error, Result};

/// The most that is read of ffprobe's answer: some 70 bytes per packet, so 38 hours at 30 frames per second.
const MAX_ANSWER: usize = 512 << 20;

/// The facts of a stream before its timeline is made.
pub(super) struct Probed {
    pub(super) codec: String,
    pub(super) container: String,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) base: TimeBase,
    /// Clockwise degrees to the upright picture.
    pub(super) rotation: u16,
    pub(super) packets: Vec<Packet>,
}

/// Asks ffprobe for the first video stream and all its packets.
pub(super) fn probe(file: &InputFile, tools: &Tools) -> Result<Probed> {
    const ENTRIES: &str = "packet=pts,dts,duration,flags:format=format_name\
                           :stream=codec_name,width,height,time_base:stream_side_data=rotation:stream_tags=";
    let mut arguments = input_arguments(file);
    let wanted = ["-select_streams", "v:0", "-show_packets", "-show_entries", ENTRIES, "-of", "json=compact=1"];
    arguments.extend(wanted.map(str::to_owned));
    let answer = Tool::start("ffprobe", &arguments, tools)?.read_all(MAX_ANSWER)?;
    let answer: Answer = serde_json::from_slice(&answer)
        .map_err(|error| Error::input(format!("ffprobe's answer is not understood: {error}")).caused_by(error))?;
    answer.into_probed()
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    packets: Vec<AnswerPacket>,
    #[serde(default)]
    streams: Vec<AnswerStream>,
    format: Option<AnswerFormat>,
}

#[derive(Deserialize)]
struct AnswerPacket {
    pts: Option<i64>,
    dts: Option<i64>,
    duration: Option<i64>,
    #[serde(default)]
    flags: String,
}

#[derive(Deserialize)]
struct AnswerStream {
    #[serde(default)]
    codec_name: String,
    #[serde(default)]
    width: usize,
    #[serde(default)]
    height: usize,
    time_base: String,
    #[serde(default)]
    side_data_list: Vec<AnswerSideData>,
}

#[derive(Deserialize)]
struct AnswerSideData {
    rotation: Option<f64>,
}

#[derive(Deserialize)]
struct AnswerFormat {
    #[serde(default)]
    format_name: String,
}

impl Answer {
    fn into_probed(self) -> Result<Probed> {
        let Some(stream) = self.streams.into_iter().next() else {
            return Err(Error::input("holds no video stream that ffprobe knows"));
        };
        let base = time_base(&stream.time_base)
            .ok_or_else(|| Error::input(format!("ffprobe gives the time base `{}`", stream.time_base)))?;
        let turn = stream.side_data_list.iter().find_map(|data| data.rotation).unwrap_or(0.0);
        Ok(Probed {
            codec: stream.codec_name,
            container: self.format.map(|format| format.format_name).unwrap_or_default(),
            width: stream.width,
            height: stream.height,
            base,
            // ffprobe counts against the clock.
            rotation: ((-turn / 90.0).round() as i32).rem_euclid(4) as u16 * 90,
            packets: packets(&self.packets),
        })
    }
}

/// A raw stream says nothing of times: then each packet follows the one before.
fn packets(answers: &[AnswerPacket]) -> Vec<Packet> {
    let mut packets: Vec<Packet> = answers.iter().map(AnswerPacket::to_packet).collect();
    if answers.iter().all(|answer| answer.pts.or(answer.dts).is_none()) {
        let mut now = 0i64;
        for packet in &mut packets {
            packet.pts = now;
            now = now.saturating_add(packet.duration.max(1));
        }
    }
    packets
}

impl AnswerPacket {
    /// torchcodec's `getPtsOrDts`, and its leaving out of packets with the discard flag.
    fn to_packet(&self) -> Packet {
        Packet {
            offset: 0,
            size: 0,
            pts: self.pts.or(self.dts).unwrap_or(0),
            duration: self.duration.unwrap_or(0),
            sync: self.flags.starts_with('K'),
            shown: !self.flags.contains('D'),
        }
    }
}

fn time_base(text: &str) -> Option<TimeBase> {
    let (numerator, denominator) = text.split_once('/')?;
    let base = TimeBase { numerator: numerator.parse().ok()?, denominator: denominator.parse().ok()? };
    (base.numerator > 0 && base.denominator > 0).then_some(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probed(packets: &str) -> Vec<Packet> {
        let answer = format!(
            r#"{{"packets":[{packets}],"streams":[{{"codec_name":"h264","width":4,"height":2,"time_base":"1/100"}}]}}"#
        );
        serde_json::from_str::<Answer>(&answer).unwrap().into_probed().unwrap().packets
    }

    #[test]
    fn packets_without_any_time_follow_one_another() {
        let found = probed(r#"{"duration":4,"flags":"K__"},{"duration":4},{"duration":4}"#);
        assert_eq!(found.iter().map(|packet| packet.pts).collect::<Vec<_>>(), [0, 4, 8]);
    }

    #[test]
    fn times_that_are_there_are_kept() {
        let found = probed(r#"{"dts":0,"duration":1},{"pts":2,"dts":1},{"dts":2,"flags":"_D"}"#);
        assert_eq!(
            found.iter().map(|packet| (packet.pts, packet.shown)).collect::<Vec<_>>(),
            [(0, true), (2, true), (2, false)]
        );
    }
}
