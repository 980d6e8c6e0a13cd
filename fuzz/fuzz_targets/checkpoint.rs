//! Any bytes as each file of a checkpoint: config.json, the header of model.safetensors, preprocessor_config.json.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smolvlm::checkpoint::Checkpoint;

fuzz_target!(|files: (&[u8], &[u8], &[u8])| {
    let Ok(folder) = tempfile::tempdir() else { return };
    let (config, weights, processor) = files;
    let names = [("config.json", config), ("model.safetensors", weights), ("preprocessor_config.json", processor)];
    for (name, data) in names {
        if std::fs::write(folder.path().join(name), data).is_err() {
            return;
        }
    }
    if let Ok(checkpoint) = Checkpoint::open(folder.path()) {
        let _ = checkpoint.validate();
    }
    let _ = smolvlm::processor_settings(folder.path());
});
