//! What the Python reference recorded under `goldens/tiny` (its README names every field).

use std::path::PathBuf;

use serde_json::Value;

use super::command::{Smolvlm, smolvlm};
use super::safetensors::Safetensors;

/// A conversation and everything recorded of it.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) json: Value,
}

fn tiny() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../goldens/tiny").canonicalize().expect("the goldens")
}

/// The reference checkpoint's folder.
pub(crate) fn checkpoint() -> String {
    tiny().join("checkpoint").display().to_string()
}

/// A file or folder of what training recorded.
pub(crate) fn training(name: &str) -> PathBuf {
    tiny().join("training").join(name)
}

/// The path of a picture or video.
pub(crate) fn input(file: &str) -> String {
    tiny().join("inputs").join(file).display().to_string()
}

/// Every single conversation whose pictures were given as files.
pub(crate) fn cases() -> Vec<Case> {
    let entries = std::fs::read_dir(tiny().join("cases")).expect("the cases");
    let files = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    let mut names: Vec<String> = files.filter_map(|file| Some(file.strip_suffix(".safetensors")?.to_owned())).collect();
    names.sort();
    let mut cases: Vec<Case> = names.iter().map(|name| Case::read(name)).collect();
    cases.retain(|case| case.json["decoded_images"] == false);
    assert!(cases.len() >= 20, "only {} cases", cases.len());
    cases
}

impl Case {
    pub(crate) fn read(name: &str) -> Self {
        let text = std::fs::read_to_string(tiny().join(format!("cases/{name}.json"))).expect("a case");
        Self { name: name.to_owned(), json: serde_json::from_str(&text).expect("JSON") }
    }

    pub(crate) fn tensors(&self) -> Safetensors {
        Safetensors::read(&tiny().join(format!("cases/{}.safetensors", self.name)))
    }

    /// The conversation, its files by absolute paths.
    pub(crate) fn messages(&self) -> Value {
        let folder = tiny().join("inputs").display().to_string();
        let text = self.json["messages"].to_string().replace("../inputs", &folder);
        serde_json::from_str(&text).expect("JSON")
    }

    /// The greedy reply without special tokens.
    pub(crate) fn text(&self) -> &str {
        self.json["greedy"]["text_without_specials"].as_str().expect("a text")
    }

    /// What `run` prints of it.
    pub(crate) fn printed(&self) -> String {
        format!("{}\n", self.text().trim_start())
    }

    /// The greedy reply's tokens.
    pub(crate) fn new_tokens(&self) -> &Value {
        &self.json["greedy"]["new_tokens"]
    }

    /// What the reference's caller overrode, as flags.
    pub(crate) fn flags(&self) -> Vec<String> {
        let given = &self.json["processor_kwargs"];
        let mut flags = Vec::new();
        if given["do_image_splitting"] == false {
            flags.push("--no-split".to_owned());
        }
        let values = [("--longest-edge", &given["size"]["longest_edge"]), ("--max-frames", &given["num_frames"])];
        for (flag, value) in values.into_iter().chain([("--fps", &given["fps"])]) {
            if !value.is_null() {
                flags.extend([flag.to_owned(), value.to_string()]);
            }
        }
        flags
    }
}

/// `run` on the reference checkpoint in f32, on the processor.
pub(crate) fn run(arguments: &[&str]) -> Smolvlm {
    on_checkpoint("run").args(arguments)
}

/// A command on the reference checkpoint in f32, on the processor.
pub(crate) fn on_checkpoint(command: &str) -> Smolvlm {
    smolvlm([command, "--model", &checkpoint(), "--dtype", "f32", "--device", "cpu"])
}
