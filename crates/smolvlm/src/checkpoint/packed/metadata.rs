//! What a packed file says about itself.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use smolvlm_kernels::Format;
use smolvlm_kernels::packed::GEOMETRY;

use super::plan::Planned;
use crate::Result;
use crate::checkpoint::fields::{Fields, brief};
use crate::checkpoint::problems::Problems;

/// The value of `format` in a packed file's metadata.
const METADATA_FORMAT: &str = "smolvlm-packed";
/// The metadata that holds the JSON.
const METADATA_KEY: &str = "smolvlm_packed";
/// What this engine writes and reads.
const VERSION: usize = 1;

/// How a checkpoint is packed.
#[derive(Debug)]
pub(in crate::checkpoint) struct Packing {
    pub(in crate::checkpoint) dtype: Format,
    pub(in crate::checkpoint) tied_head: bool,
    /// What the files say about each matrix.
    pub(in crate::checkpoint) matrices: Map<String, Value>,
}

impl Packing {
    /// What the metadata of `file` says; nothing of a file that is not packed.
    pub(in crate::checkpoint) fn read(file: &str, metadata: &HashMap<String, String>) -> Result<Option<Self>> {
        let says_so = metadata.get("format").is_some_and(|format| format == METADATA_FORMAT);
        let text = metadata.get(METADATA_KEY).map(String::as_str);
        if text.is_none() && !says_so {
            return Ok(None);
        }
        let (problems, place) = (Problems::default(), format!("{METADATA_KEY}."));
        let json = serde_json::from_str(text.unwrap_or_default()).unwrap_or_else(|error| {
            problems.add(format!("{METADATA_KEY} is not JSON: {error}"));
            Value::Null
        });
        let packing = parse(&Fields::new(&place, Some(&json), &problems), &problems);
        let what = format!("{file}: packed weights that cannot be read (pack the original with `smolvlm quantize`)");
        problems.into_result(&what)?;
        Ok(packing)
    }

    /// Adds what another file of the same checkpoint says; false when it is packed otherwise.
    pub(in crate::checkpoint) fn join(&mut self, other: Self) -> bool {
        let same = self.dtype == other.dtype && self.tied_head == other.tied_head;
        self.matrices.extend(other.matrices);
        same
    }
}

/// Nothing when the version is not ours, since the other fields mean nothing then, or a field is not there.
fn parse(fields: &Fields<'_>, problems: &Problems) -> Option<Packing> {
    let required = |key: &str, expected: &str| {
        let value = fields.get(key);
        if value.is_none() {
            fields.wrong(key, expected, "nothing");
        }
        value
    };
    let version = required("version", &VERSION.to_string())?;
    if version.as_u64() != Some(VERSION as u64) {
        fields.wrong("version", &VERSION.to_string(), &brief(Some(version)));
        return None;
    }
    let layout = Fields::new("smolvlm_packed.layout.", required("layout", "an object"), problems);
    for (name, ours) in GEOMETRY {
        if layout.get(name).and_then(Value::as_u64) != Some(ours as u64) {
            layout.wrong(name, &ours.to_string(), &brief(layout.get(name)));
        }
    }
    let dtype = required("dtype", "\"f32\", \"bf16\", \"q8\" or \"q4\"")?;
    let format = dtype.as_str().and_then(Format::named);
    if format.is_none() {
        fields.wrong("dtype", "\"f32\", \"bf16\", \"q8\" or \"q4\"", &brief(Some(dtype)));
    }
    let matrices = required("matrices", "an object")?;
    if !matrices.is_object() {
        fields.wrong("matrices", "an object", &brief(Some(matrices)));
    }
    let (dtype, matrices) = (format?, matrices.as_object()?.clone());
    Some(Packing { dtype, tied_head: fields.flag("tied_head", false), matrices })
}

/// A matrix as the metadata describes it.
pub(super) fn describe(planned: &Planned) -> Value {
    let rows: Vec<usize> = planned.parts.iter().map(|part| part.rows()).collect();
    json!({
        "arrangement": planned.arrangement.name(),
        "format": planned.format.name(),
        "rows": rows,
        "inputs": planned.shape().inputs,
    })
}

/// What a packed file is to say about itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Description {
    pub(crate) dtype: Format,
    pub(crate) tied_head: bool,
}

impl Description {
    /// The metadata of a file that holds `matrices`.
    pub(crate) fn metadata<'a>(&self, matrices: impl Iterator<Item = &'a Planned>) -> Value {
        let layout: Map<String, Value> =
            GEOMETRY.iter().map(|(name, size)| ((*name).to_owned(), json!(size))).collect();
        let matrices: Map<String, Value> = matrices.map(|planned| (planned.name.clone(), describe(planned))).collect();
        let packing = json!({
            "version": VERSION, "dtype": self.dtype.name(), "tied_head": self.tied_head, "layout": layout,
            "matrices": matrices,
        });
        json!({ "format": METADATA_FORMAT, METADATA_KEY: packing.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Description = Description { dtype: Format::Q8, tied_head: true };

    /// The metadata of a file without matrices, its JSON changed.
    fn changed(change: impl FnOnce(&mut Value)) -> HashMap<String, String> {
        let metadata = FINE.metadata(std::iter::empty());
        let mut json = serde_json::from_str(metadata[METADATA_KEY].as_str().expect("JSON")).expect("JSON");
        change(&mut json);
        HashMap::from([(METADATA_KEY.to_owned(), json.to_string())])
    }

    #[test]
    fn what_is_written_is_read_and_other_files_are_not_packed() {
        let packing = Packing::read("f", &changed(|_| {})).expect("valid").expect("packed");
        assert_eq!((packing.dtype, packing.tied_head), (Format::Q8, true));
        let published = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        assert!(Packing::read("f", &published).expect("valid").is_none());
        assert!(Packing::read("f", &HashMap::new()).expect("valid").is_none());
    }

    #[test]
    fn another_version_layout_or_type_is_named_with_what_was_expected_and_what_to_do() {
        type Change = fn(&mut Value);
        let changes: [(Change, &str); 8] = [
            (|json| json["version"] = 2.into(), "smolvlm_packed.version: expected 1, found 2"),
            (|json| json["version"] = Value::Null, "smolvlm_packed.version: expected 1, found nothing"),
            (|json| json["layout"]["outputs_per_panel"] = 64.into(), "layout.outputs_per_panel: expected 32, found 64"),
            (|json| json["layout"] = 1.into(), "smolvlm_packed.layout: expected a JSON object, found 1"),
            (|json| json["dtype"] = "q3".into(), "dtype: expected \"f32\", \"bf16\", \"q8\" or \"q4\", found \"q3\""),
            (|json| json["matrices"] = Value::Null, "matrices: expected an object, found nothing"),
            (|json| json["tied_head"] = 3.into(), "tied_head: expected true or false, found 3"),
            (|json| *json = Value::from(3), "smolvlm_packed: expected a JSON object, found 3"),
        ];
        for (change, part) in changes {
            let message = Packing::read("w.safetensors", &changed(change)).expect_err(part).to_string();
            for part in [part, "w.safetensors: ", "pack the original with `smolvlm quantize`"] {
                assert!(message.contains(part), "{part}: {message}");
            }
        }
        let nothing = HashMap::from([("format".to_owned(), METADATA_FORMAT.to_owned())]);
        assert!(Packing::read("f", &nothing).expect_err("no JSON").to_string().contains("smolvlm_packed is not JSON"));
    }
}
