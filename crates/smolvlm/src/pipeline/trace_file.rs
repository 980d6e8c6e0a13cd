//! Traces as safetensors files.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};

use super::{Trace, TracedMedium};
use crate::{Error, Result};

/// One tensor's name, type, shape and bytes.
type Stored = (String, Dtype, Vec<usize>, Vec<u8>);

impl Trace {
    /// Writes traces beside `path` and renames the file when it is whole. With `numbered`, the tensors of trace `i` are
    /// prefixed `i.`; so are its metadata.
    ///
    /// # Errors
    /// [`Input`](crate::ErrorKind::Input) when the file cannot be written.
    pub fn write(traces: &[Self], path: &Path, numbered: bool) -> Result<()> {
        let mut tensors: Vec<Stored> = Vec::new();
        let mut metadata = HashMap::from([("format".to_owned(), "smolvlm-trace".to_owned())]);
        for (i, trace) in traces.iter().enumerate() {
            let prefix = if numbered { format!("{i}.") } else { String::new() };
            tensors.extend(trace.tensors(&prefix));
            metadata.extend(trace.metadata(&prefix));
        }
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            TensorView::new(*dtype, shape.clone(), bytes).map(|view| (name.as_str(), view))
        });
        let views: Vec<_> = views.collect::<Result<_, _>>().map_err(|error| Error::internal(error.to_string()))?;
        let problem = |error: &dyn std::fmt::Display| {
            Error::input(format!("{}: the trace cannot be written: {error}", path.display()))
        };
        let mut beside = path.as_os_str().to_owned();
        beside.push(".part");
        let written = safetensors::serialize_to_file(views, Some(metadata), Path::new(&beside));
        let written = written.map_err(|error| problem(&error));
        let written = written.and_then(|()| std::fs::rename(&beside, path).map_err(|error| problem(&error)));
        if written.is_err() {
            // It may not have come to exist.
            let _ = std::fs::remove_file(&beside);
        }
        written
    }

    fn tensors(&self, prefix: &str) -> Vec<Stored> {
        let name = |name: &str| format!("{prefix}{name}");
        let ids = |ids: &[u32]| ids.iter().flat_map(|id| i64::from(*id).to_le_bytes()).collect::<Vec<u8>>();
        let floats = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let (length, generated) = (self.input_ids.len(), self.generated_ids.len());
        let mut tensors = vec![
            (name("input_ids"), Dtype::I64, vec![length], ids(&self.input_ids)),
            (name("generated_ids"), Dtype::I64, vec![generated], ids(&self.generated_ids)),
        ];
        if self.tiles > 0 {
            let shape = vec![self.tiles, 3, self.tile_size, self.tile_size];
            tensors.push((name("pixel_values"), Dtype::F32, shape, floats(&self.pixel_values)));
            let shape = vec![self.image_features.len() / self.hidden, self.hidden];
            tensors.push((name("image_features"), Dtype::F32, shape, floats(&self.image_features)));
        }
        if !self.logits.is_empty() {
            let shape = vec![self.logits.len() / self.vocab, self.vocab];
            tensors.push((name("logits"), Dtype::F32, shape, floats(&self.logits)));
        }
        tensors
    }

    fn metadata(&self, prefix: &str) -> Vec<(String, String)> {
        let videos = || self.media.iter().filter_map(TracedMedium::video);
        let list = |values: Vec<serde_json::Value>| serde_json::Value::from(values).to_string();
        vec![
            (format!("{prefix}expanded_prompt"), self.prompt.clone()),
            (format!("{prefix}frame_indices"), list(videos().map(|(indices, _)| indices.into()).collect())),
            (format!("{prefix}timestamps"), list(videos().map(|(_, times)| times.into()).collect())),
        ]
    }
}

impl TracedMedium {
    /// A video's frame indices and times.
    fn video(&self) -> Option<(&[usize], &[f64])> {
        match self {
            Self::Video { indices, timestamps, .. } => Some((indices, timestamps)),
            Self::Image { .. } => None,
        }
    }
}
