//! Samples as files, for any trainer.
//!
//! ```text
//! FOLDER/
//! ├── train.jsonl                one sample a line
//! ├── pictures/000012-0.png      by sample and place in it
//! └── clips/000013-0/0000.png    frames, numbered
//! ```
//!
//! A line has `messages` in the model card's schema (media as blocks without an address), `images` and `videos` with paths
//! from FOLDER in the order of those blocks, and beside them what an evaluation needs: `skill`, `split_tiles` (whether the
//! question needs split tiles), `fps` of each clip, and `checks` with `skill`, `class`, `key`, `most` and `chance` for each answer.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::files::{make_folder, write, write_png};
use crate::{Detail, Generator, Medium, Result, Sample};

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// The JSONL file.
    pub list: PathBuf,
    /// Samples in it.
    pub samples: usize,
}

/// Writes the samples numbered `range` into `folder`. The list comes last, so a folder with a list is whole.
///
/// # Errors
/// When a file or folder cannot be written.
pub fn export(generator: &Generator, range: Range<u64>, folder: &Path) -> Result<Exported> {
    export_samples(range.map(|index| (index, generator.sample(index))), generator.split().name(), folder)
}

/// Writes samples, each under a number of its own, into `folder`, and their list as `NAME.jsonl`, which comes last.
///
/// # Errors
/// When a file or folder cannot be written.
pub fn export_samples(samples: impl Iterator<Item = (u64, Sample)>, name: &str, folder: &Path) -> Result<Exported> {
    make_folder(folder)?;
    let mut lines = String::new();
    let mut count = 0;
    for (index, sample) in samples {
        let paths = write_media(&sample, index, folder)?;
        lines.push_str(&line(&sample, index, &paths).to_string());
        lines.push('\n');
        count += 1;
    }
    let list = folder.join(format!("{name}.jsonl"));
    write(&list, lines.as_bytes())?;
    Ok(Exported { list, samples: count })
}

/// Writes a sample's media; their paths from the folder.
fn write_media(sample: &Sample, index: u64, folder: &Path) -> Result<Vec<String>> {
    let mut paths = Vec::with_capacity(sample.media.len());
    for (place, medium) in sample.media.iter().enumerate() {
        let path = match medium {
            Medium::Picture(picture) => {
                make_folder(&folder.join("pictures"))?;
                let path = format!("pictures/{index:06}-{place}.png");
                write_png(picture, &folder.join(&path))?;
                path
            }
            Medium::Clip(clip) => {
                let path = format!("clips/{index:06}-{place}");
                make_folder(&folder.join(&path))?;
                for (number, frame) in clip.frames.iter().enumerate() {
                    write_png(frame, &folder.join(&path).join(format!("{number:04}.png")))?;
                }
                path
            }
        };
        paths.push(path);
    }
    Ok(paths)
}

/// A sample as one line of the list.
fn line(sample: &Sample, index: u64, paths: &[String]) -> Value {
    let of_kind = |clip: bool| -> Vec<&String> {
        let media = sample.media.iter().zip(paths);
        media.filter(|(medium, _)| matches!(medium, Medium::Clip(_)) == clip).map(|(_, path)| path).collect()
    };
    let rates: Vec<f64> = sample
        .media
        .iter()
        .filter_map(|medium| match medium {
            Medium::Clip(clip) => Some(clip.rate()),
            Medium::Picture(_) => None,
        })
        .collect();
    let checks: Vec<Value> = sample
        .turns
        .iter()
        .map(|turn| {
            json!({
                "skill": turn.skill.name(),
                "class": format!("{:?}", turn.check.class),
                "key": turn.check.key,
                "most": turn.check.most,
                "chance": turn.chance,
            })
        })
        .collect();
    json!({
        "id": index,
        "messages": messages(sample),
        "images": of_kind(false),
        "videos": of_kind(true),
        "fps": rates,
        "skill": sample.skill.name(),
        "split_tiles": sample.detail == Detail::Tiles,
        "checks": checks,
    })
}

/// The conversation in the model card's schema.
fn messages(sample: &Sample) -> Vec<Value> {
    let text = |text: &str| json!({"type": "text", "text": text});
    let message = |role: &str, content: Vec<Value>| json!({"role": role, "content": content});
    let mut messages: Vec<Value> = sample.system.iter().map(|system| message("system", vec![text(system)])).collect();
    for (index, turn) in sample.turns.iter().enumerate() {
        let media = if index == 0 { sample.media.as_slice() } else { &[] };
        let mut content: Vec<Value> = media
            .iter()
            .map(|medium| json!({"type": if matches!(medium, Medium::Clip(_)) { "video" } else { "image" }}))
            .collect();
        content.push(text(&turn.question));
        messages.push(message("user", content));
        messages.push(message("assistant", vec![text(&turn.answer)]));
    }
    messages
}
