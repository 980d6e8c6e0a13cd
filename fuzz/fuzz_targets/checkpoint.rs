//! Any bytes as the files of a checkpoint: sizes, weights in one file or in shards, how to generate, how pictures become tiles.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smolvlm::checkpoint::Checkpoint;

/// Every file that is read, but the tokenizer's and the template's, which have a target of their own.
const FILES: [&str; 6] = [
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
];

fuzz_target!(|contents: [Option<&[u8]>; 6]| {
    let Ok(folder) = tempfile::tempdir() else { return };
    for (name, content) in FILES.iter().zip(contents) {
        let Some(content) = content else { continue };
        if std::fs::write(folder.path().join(name), content).is_err() {
            return;
        }
    }
    if let Ok(checkpoint) = Checkpoint::open(folder.path()) {
        let _ = checkpoint.validate();
    }
    let _ = smolvlm::processor_settings(folder.path());
});
