use std::fs;
use std::path::Path;

use serde_json::json;
use smolvlm_kernels::{
    Backend, CacheShape, CpuBackend, FeatureRow, Format, ReferenceBackend, Segment, TileBatch, TokenBatch,
};

use super::*;
use crate::checkpoint::testing::Tiny;
use crate::checkpoint::{StoredDtype, memory_estimate};
use crate::model::Model;
use crate::{Compat, ErrorKind};

/// A checkpoint whose sizes divide nothing evenly, in a folder.
fn tiny(dtype: StoredDtype, tied: bool) -> (tempfile::TempDir, Checkpoint) {
    let mut tiny = Tiny::new(dtype);
    if tied {
        tiny.config["tie_word_embeddings"] = json!(true);
        tiny.tensors.retain(|tensor| tensor.name != "lm_head.weight");
    }
    let folder = tempfile::tempdir().unwrap();
    tiny.write(folder.path());
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    (folder, checkpoint)
}

fn packed(source: &Checkpoint, out: &Path, dtype: Dtype, file_bytes: u64) -> Checkpoint {
    let options = QuantizeOptions { threads: 1, file_bytes, ..QuantizeOptions::new(dtype) };
    let written = quantize(source, out, &options, &mut |_| {}).unwrap();
    assert_eq!(written.folder, out);
    let checkpoint = Checkpoint::open(out).unwrap();
    checkpoint.validate().unwrap();
    checkpoint
}

/// The bits of the logits of three tokens, the second of which shows a picture.
fn logits<B: Backend>(backend: &B, checkpoint: &Checkpoint, format: Format) -> Vec<u32> {
    let model = Model::load(backend, checkpoint, format, Compat::default()).unwrap();
    let (text, size) = (&model.config().text, model.config().vision.image_size);
    let mut plan = backend.plan();
    let tile: Vec<u8> = (0..size * size * 3).map(|i| (i * 37 % 251) as u8).collect();
    let pixel_values = [std::array::from_fn(|value| value as f32 / 127.5 - 1.0); 3];
    let batch = TileBatch { size, tiles: &[&tile], pixel_values: &pixel_values };
    let features = model.image_features(backend, &mut plan, batch).unwrap();
    let (layers, kv_heads, head_dim) = (text.layers, text.kv_heads, text.head_dim);
    let shape = CacheShape { layers, kv_heads, head_dim, pages: 1, format: format.of_attention() };
    let tokens = TokenBatch {
        ids: vec![5, 30, 7],
        segments: vec![Segment { rows: 0..3, start: 0, pages: 0..1 }],
        pages: vec![0],
        features: vec![FeatureRow { row: 1, source: 0, index: 2 }],
        outputs: vec![0, 2],
    };
    let mut cache = backend.cache(shape);
    backend.fill_tokens(&mut plan, &mut cache, &tokens);
    let out = model.text().forward(backend, &plan, &mut cache, &[&features]).unwrap();
    backend.download(&out).iter().map(|value| value.to_bits()).collect()
}

#[test]
fn logits_are_those_of_the_original_to_the_bit_on_every_backend() {
    let cpu = CpuBackend::new(2).unwrap();
    for (stored, tied) in [(StoredDtype::F32, false), (StoredDtype::Bf16, true), (StoredDtype::F16, true)] {
        let (_folder, source) = tiny(stored, tied);
        for dtype in Format::ALL.map(Dtype::from) {
            let format = dtype.format();
            let out = tempfile::tempdir().unwrap();
            let packed = packed(&source, &out.path().join("out"), dtype, u64::MAX);
            assert_eq!((packed.packed_as(), packed.head_is_tied()), (Some(format), tied));
            assert_eq!(packed.weight_bytes(), memory_estimate(packed.config(), format).weights);
            let expected = logits(&cpu, &source, format);
            assert!(expected.iter().all(|bits| f32::from_bits(*bits).is_finite()));
            assert_eq!(logits(&cpu, &packed, format), expected, "{dtype:?} of {stored}");
            let expected = logits(&ReferenceBackend, &source, format);
            assert_eq!(logits(&ReferenceBackend, &packed, format), expected, "{dtype:?} of {stored}, reference");
        }
    }
}

#[test]
fn several_files_hold_what_one_holds() {
    let (_folder, source) = tiny(StoredDtype::F32, false);
    let out = tempfile::tempdir().unwrap();
    let one = packed(&source, &out.path().join("one"), Dtype::Q8, u64::MAX);
    let many = packed(&source, &out.path().join("many"), Dtype::Q8, 5_000);
    let files = || fs::read_dir(many.dir()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(files().filter(|file| file.ends_with(".safetensors")).count() > 3);
    assert!(files().any(|file| file == "model.safetensors.index.json"));
    let cpu = CpuBackend::new(1).unwrap();
    assert_eq!(logits(&cpu, &many, Format::Q8), logits(&cpu, &one, Format::Q8));

    let first = files().find(|file| file.starts_with("model-00001")).unwrap();
    let other = packed(&source, &out.path().join("other"), Dtype::Bf16, 5_000);
    let theirs = fs::read_dir(other.dir()).unwrap().map(|entry| entry.unwrap().path());
    let theirs = theirs.filter(|path| path.to_string_lossy().contains("model-00001")).collect::<Vec<_>>();
    fs::copy(&theirs[0], many.dir().join(first)).unwrap();
    let message = Checkpoint::open(many.dir()).expect_err("a file of another format").to_string();
    assert!(message.contains("packed in another way than those of model-00001"), "{message}");
}

#[test]
fn packed_weights_are_used_in_their_own_format_only_and_not_packed_again() {
    let (_folder, source) = tiny(StoredDtype::F32, false);
    let out = tempfile::tempdir().unwrap();
    let packed = packed(&source, &out.path().join("out"), Dtype::Q8, u64::MAX);
    let error = Model::load(&ReferenceBackend, &packed, Format::F32, Compat::default()).err().expect("another format");
    assert_eq!(error.kind(), ErrorKind::Usage);
    let options = QuantizeOptions::new(Dtype::Q8);
    let error = quantize(&packed, &out.path().join("again"), &options, &mut |_| {}).expect_err("packed");
    assert!(error.to_string().contains("is packed as q8 already"), "{error}");
    assert!(!out.path().join("again").exists());
}

#[test]
fn progress_counts_every_byte() {
    let (_folder, source) = tiny(StoredDtype::F32, false);
    let out = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    let options = QuantizeOptions::new(Dtype::Q4);
    let written = quantize(&source, &out.path().join("out"), &options, &mut |progress| seen.push(progress)).unwrap();
    assert!(seen.is_sorted_by_key(|progress| progress.done));
    let last = seen.last().unwrap();
    assert_eq!(last.done, last.total);
    assert_eq!(fs::metadata(written.folder.join("model.safetensors")).unwrap().len(), written.weight_bytes);
    assert_eq!(written.copied_files, ["config.json", "tokenizer.json"]);
}

#[test]
fn a_failure_leaves_nothing_behind() {
    let (folder, source) = tiny(StoredDtype::F32, false);
    let out = tempfile::tempdir().unwrap();
    // The weights are open; without its configuration, the new folder is no checkpoint.
    fs::remove_file(folder.path().join("config.json")).unwrap();
    let options = QuantizeOptions::new(Dtype::F32);
    let error = quantize(&source, &out.path().join("out"), &options, &mut |_| {}).expect_err("no config.json");
    assert!(error.to_string().contains("config.json"), "{error}");
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}
