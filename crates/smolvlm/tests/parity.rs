//! Stage by stage against the Python reference: rendered prompt, ids, pixels, vision features, logits, greedy tokens.
//!
//! The committed goldens are always checked. `a_fresh_seed_agrees_when_the_reference_is_installed` also makes new ones,
//! where Python with the reference's packages is at hand (`SMOLVLM_REFERENCE_PYTHON`, else `python3`).

#![allow(clippy::print_stdout, reason = "a test says what it did not check")]

#[path = "golden/mod.rs"]
mod golden;

use std::path::Path;
use std::process::Command;

use golden::{Case, Goldens, relative_error, relative_l2};
use smolvlm::generate::Logits;
use smolvlm::{Dtype, SmolVlm, Trace, TracedMedium};

/// What f32 sums in another order may differ by, relative to the largest number.
const F32_TOLERANCE: f32 = 1e-4;
/// Below this distance between the best and second logit, rounding may decide a greedy token.
const NEAR_TIE: f64 = 1e-3;
/// How far bf16 may be from f32, as a multiple of the reference's own distance.
const BF16_SLACK: f64 = 1.25;

fn trace(model: &mut SmolVlm, case: &Case) -> Trace {
    model.set_media_options(case.media_options()).expect("the case's overrides");
    let tokens = case.integers("/greedy/new_tokens").len().max(1);
    model.trace(&case.messages(), tokens, Logits::All).unwrap_or_else(|error| panic!("{}: {error}", case.name))
}

fn check(case: &Case, trace: &Trace) {
    let name = &case.name;
    assert_eq!(trace.prompt, case.json["expanded_prompt"].as_str().expect("a prompt"), "{name}: expanded prompt");
    assert_eq!(trace.input_ids, case.integers("/input_ids"), "{name}: ids");
    check_media(case, trace);
    if let Some(pixels) = case.u8("pixel_values_u8") {
        let expected: Vec<f32> = pixels.iter().map(|value| (f32::from(*value) - 127.5) / 127.5).collect();
        assert!(trace.pixel_values == expected, "{name}: pixels");
    }
    if let Some(features) = case.f32("image_features") {
        let error = relative_error(&trace.image_features, &features);
        assert!(error < F32_TOLERANCE, "{name}: image features differ by {error}");
    }
    let expected = case.f32("logits").expect("logits");
    let error = relative_error(&kept_rows(case, trace), &expected);
    assert!(error < F32_TOLERANCE, "{name}: logits differ by {error}");
    let margins = case.numbers("/greedy/margins");
    let sure = margins.iter().take_while(|margin| **margin >= NEAR_TIE).count();
    let tokens = case.integers("/greedy/new_tokens");
    assert_eq!(trace.generated_ids[..sure], tokens[..sure], "{name}: greedy tokens");
    if sure == tokens.len() {
        assert_eq!(trace.generated_ids, tokens, "{name}: the end");
    }
}

/// The rows of logits that the goldens keep.
fn kept_rows(case: &Case, trace: &Trace) -> Vec<f32> {
    let rows = case.i64("logits_rows").expect("rows");
    rows.iter().flat_map(|row| &trace.logits[*row as usize * trace.vocab..][..trace.vocab]).copied().collect()
}

fn check_media(case: &Case, trace: &Trace) {
    let recorded = |kind: &str| case.json[kind].as_array().expect("a list").clone();
    let (mut images, mut videos) = (recorded("images").into_iter(), recorded("videos").into_iter());
    for medium in &trace.media {
        match medium {
            TracedMedium::Image { size, grid } => {
                let image = images.next().expect("a recorded picture");
                let found = [size.0, size.1, grid.0, grid.1].map(|number| Some(number as u64));
                let expected = ["width", "height", "rows", "cols"].map(|key| image[key].as_u64());
                assert_eq!(found, expected, "{}: picture", case.name);
            }
            TracedMedium::Video { indices, timestamps, rate, duration } => {
                let video = videos.next().expect("a recorded video");
                assert_eq!(video["frame_indices"], serde_json::json!(indices), "{}: frames", case.name);
                assert_eq!(video["timestamps"], serde_json::json!(timestamps), "{}: times", case.name);
                assert_eq!((video["fps"].as_f64(), video["duration"].as_f64()), (Some(*rate), Some(*duration)));
            }
        }
    }
    assert!(images.next().is_none() && videos.next().is_none(), "{}: a medium is missing", case.name);
}

fn check_all(goldens: &Goldens) {
    let mut model = goldens.load(Dtype::F32);
    for case in goldens.cases() {
        check(&case, &trace(&mut model, &case));
    }
}

#[test]
fn every_stage_of_every_case_equals_the_reference() {
    check_all(&Goldens::committed());
}

#[test]
fn the_vision_tower_equals_the_reference_before_the_connector() {
    let goldens = Goldens::committed();
    let case = goldens.case("image_no_split");
    let expected = case.f32("vision_last_hidden_state").expect("hidden states");
    let pixels = case.u8("pixel_values_u8").expect("pixels");
    let mut model = goldens.load(Dtype::F32);
    let plane = pixels.len() / 3;
    let tile: Vec<u8> = (0..pixels.len()).map(|i| pixels[i % 3 * plane + i / 3]).collect();
    let values = model.pixel_table();
    let found = model.engine().vision_hidden(&[&tile], &values).expect("hidden states");
    let error = relative_error(&found, &expected);
    assert!(error < F32_TOLERANCE, "hidden states differ by {error}");
}

#[test]
fn replies_read_as_the_references_do() {
    let goldens = Goldens::committed();
    let mut model = goldens.load(Dtype::F32);
    for name in ["text_only", "text_multi_turn", "image_land_97x61", "video_short"] {
        let case = goldens.case(name);
        model.set_media_options(case.media_options()).expect("options");
        let reply = model.generate(&case.messages(), &model.default_options()).expect("a reply");
        assert_eq!(reply.text, case.json["greedy"]["text_without_specials"].as_str().expect("text"), "{name}");
        let expected = case.numbers("/greedy/logprobs");
        let options = smolvlm::GenerateOptions { logprobs: Some(0), ..model.default_options() };
        let reply = model.generate(&case.messages(), &options).expect("a reply");
        for (found, expected) in reply.logprobs.iter().zip(expected) {
            assert!((f64::from(found.chosen.logprob) - expected).abs() < 1e-3, "{name}: {found:?} for {expected}");
        }
    }
}

/// Pixels of the goldens are exact, so what differs in bf16 is the model's arithmetic.
#[test]
fn bf16_is_no_further_from_f32_than_the_reference_allows() {
    let goldens = Goldens::committed();
    let (mut exact, mut rounded) = (goldens.load(Dtype::F32), goldens.load(Dtype::Bf16));
    let mut cases = 0;
    for case in goldens.cases() {
        let (exact, rounded) = (trace(&mut exact, &case), trace(&mut rounded, &case));
        let distance = relative_l2(&rounded.logits, &exact.logits);
        let allowed = BF16_SLACK * case.json["bf16_relative_l2"]["all_rows"].as_f64().expect("a distance");
        assert!(distance > 0.0 && distance <= allowed, "{}: {distance} where {allowed} is allowed", case.name);
        cases += 1;
    }
    assert!(cases >= 8);
}

/// Integers are the user's choice; what they cost stays within bounds that notice a broken kernel. (Random weights are
/// harder to round than trained ones: docs/cpu-speed.md has the figures.)
#[test]
fn quantised_formats_stay_near_f32() {
    let goldens = Goldens::committed();
    let mut exact = goldens.load(Dtype::F32);
    let mut distances = Vec::new();
    for (dtype, most) in [(Dtype::Q8, 0.1), (Dtype::Q4, 0.6)] {
        let mut rounded = goldens.load(dtype);
        let cases = ["text_only", "image_square_48", "video_short"].map(|name| goldens.case(name));
        let distance = cases.iter().map(|case| {
            let (exact, rounded) = (trace(&mut exact, case), trace(&mut rounded, case));
            relative_l2(&rounded.logits, &exact.logits)
        });
        let distance = distance.fold(0.0, f64::max);
        println!("{dtype:?}: logits {distance:.4} from f32");
        assert!(distance > 0.0 && distance <= most, "{dtype:?}: {distance} where {most} is allowed");
        distances.push(distance);
    }
    assert!(distances[0] < distances[1], "four bits cost more than eight: {distances:?}");
}

/// `tie_weights` of the reference ties nothing when both tensors of the pair are stored.
#[test]
fn a_stored_head_is_used_although_the_configuration_says_it_is_tied() {
    let goldens = Goldens::committed();
    let copy = tempfile::tempdir().expect("a folder");
    let folder = copy.path().join("checkpoint");
    std::fs::create_dir(&folder).expect("a folder");
    for entry in std::fs::read_dir(goldens.checkpoint()).expect("the checkpoint") {
        let path = entry.expect("a file").path();
        std::fs::copy(&path, folder.join(path.file_name().expect("a name"))).expect("a copy");
    }
    let config = std::fs::read_to_string(folder.join("config.json")).expect("a configuration");
    let mut config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    config["tie_word_embeddings"] = true.into();
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a changed configuration");
    let case = goldens.case("text_only");
    check(&case, &trace(&mut Goldens { folder: copy.path().to_owned() }.load(Dtype::F32), &case));
}

#[test]
fn a_fresh_seed_agrees_when_the_reference_is_installed() {
    let python = std::env::var("SMOLVLM_REFERENCE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let installed = Command::new(&python)
        .args([
            "-c",
            "import transformers, torchvision, torchcodec; assert transformers.__version__.startswith('5.23')",
        ])
        .output()
        .is_ok_and(|output| output.status.success());
    if !installed {
        println!("the Python reference is not installed: the committed goldens are the only check (goldens/README.md)");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let seed = std::process::id();
    println!("seed {seed}");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/make_goldens.py");
    let output = Command::new(&python)
        .arg(script)
        .args(["--seed", &seed.to_string(), "--out"])
        .arg(folder.path())
        .output()
        .expect("the script runs");
    assert!(output.status.success(), "seed {seed}: {}", String::from_utf8_lossy(&output.stderr));
    check_all(&Goldens { folder: folder.path().to_owned() });
}
