//! Preprocessing against tables from the Python reference; `data/preprocess/make.py` made them.

use serde_json::Value;
use smolvlm::media::Image;
use smolvlm::preprocess::geometry::{Size, fit_frame, fit_longest_edge, fit_tiles};
use smolvlm::preprocess::resample::{Arithmetic, Filter, Resampler};
use smolvlm::preprocess::sampling::SamplingRule;
use smolvlm::preprocess::{Overrides, Preprocessor, Settings};
use smolvlm::{Compat, ErrorKind};

fn table(name: &str) -> Vec<Value> {
    let tables: Value = serde_json::from_str(include_str!("data/preprocess/tables.json")).unwrap();
    tables[name].as_array().unwrap().clone()
}

fn int(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn ints(row: &Value) -> Vec<usize> {
    row.as_array().unwrap().iter().map(int).collect()
}

/// The pictures of `make.py`.
fn picture(width: usize, height: usize, seed: usize) -> Image {
    let value = |index: usize| {
        if seed.is_multiple_of(2) {
            let mut v = (index as u64 * 2_654_435_761 + seed as u64 * 40_503) & 0xffff_ffff;
            v ^= v >> 15;
            v = (v * 2_246_822_519) & 0xffff_ffff;
            (v ^ (v >> 13)) as u8
        } else {
            let (x, y, channel) = (index / 3 % width, index / 3 / width, index % 3);
            ((x * 3 + y * 5 + channel * 50 + seed) ^ ((x * y) >> 6)) as u8
        }
    };
    Image { width, height, rgb: (0..width * height * 3).map(value).collect() }
}

fn crc32(bytes: &[u8]) -> usize {
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    let table: Vec<u32> = (0..256).map(|byte| (0..8).fold(byte, |crc, _| step(crc))).collect();
    !bytes.iter().fold(u32::MAX, |crc, &byte| (crc >> 8) ^ table[(crc as u8 ^ byte) as usize]) as usize
}

fn preprocessor(config: &str, compat: Compat, overrides: Overrides) -> Preprocessor {
    let config = serde_json::from_str(config).unwrap();
    Preprocessor::new(Settings::from_files(None, Some(&config), None).unwrap(), compat, overrides).unwrap()
}

#[test]
fn sizes_equal_the_reference() {
    for row in table("geometry") {
        let n = ints(&row);
        let source = Size::new(n[2], n[3]);
        let fitted = fit_longest_edge(source, n[0]);
        assert_eq!(fitted, Size::new(n[4], n[5]), "first resize of {row}");
        assert_eq!(fit_tiles(fitted, n[1]), Size::new(n[6], n[7]), "second resize of {row}");
        assert_eq!(fit_frame(source, n[0]), Size::new(n[8], n[9]), "frame of {row}");
    }
}

#[test]
fn sampled_frames_equal_the_reference() {
    for row in table("sampling") {
        let number = |index: usize| row[index].as_f64().unwrap();
        let rule = SamplingRule { max_frames: int(&row[3]), fps: number(4), skip_seconds: number(5) };
        assert_eq!(rule.indices(int(&row[0]), number(1), number(2)), ints(&row[6]), "{row}");
    }
}

#[test]
fn resized_pixels_equal_pillow_and_torch() {
    for row in table("resample") {
        let n = ints(&row);
        let image = picture(n[0], n[1], n[2]);
        let columns = [Arithmetic::Pillow, Arithmetic::Torch]
            .into_iter()
            .flat_map(|arithmetic| [Filter::Bicubic, Filter::Lanczos].map(|filter| Resampler { filter, arithmetic }));
        for (resampler, &expected) in columns.zip(&n[5..]) {
            let resized = resampler.resize(&image, Size::new(n[3], n[4]));
            assert_eq!(crc32(&resized.rgb), expected, "{resampler:?} of {n:?}");
        }
    }
}

#[test]
fn tiles_and_frames_equal_the_reference_under_every_release() {
    for row in table("pipeline") {
        let config = format!(
            r#"{{"size": {{"longest_edge": {}}}, "max_image_size": {{"longest_edge": {}}}}}"#,
            row["edge"], row["tile"]
        );
        let image = picture(int(&row["size"][0]), int(&row["size"][1]), int(&row["seed"]));
        for (compat, stills, frame) in [
            (Compat::Newest, "hf523", "frame_hf523"),
            (Compat::Hf523, "hf523", "frame_hf523"),
            (Compat::Hf517, "hf517", "frame_hf517"),
            (Compat::Hf457, "pil", "frame_hf517"),
            (Compat::Pil, "pil", "frame_hf523"),
        ] {
            let frames = preprocessor(&config, compat, Overrides::default());
            assert_eq!(crc32(&frames.frame_tile(&image).unwrap().rgb), int(&row[frame]), "{compat:?} {config}");
            for (split, suffix, grid) in [(true, "", "grid"), (false, "_whole", "no_grid")] {
                let overrides = Overrides { split_images: Some(split), ..Overrides::default() };
                let preprocessor = preprocessor(&config, compat, overrides);
                let plan = preprocessor.plan_image(image.width, image.height).unwrap();
                assert_eq!(ints(&row[grid]), [plan.rows, plan.cols]);
                let tiles = preprocessor.image_tiles(&image, &plan).unwrap();
                assert_eq!(tiles.len(), plan.tile_count());
                let sums: Vec<usize> = tiles.iter().map(|tile| crc32(&tile.rgb)).collect();
                assert_eq!(sums, ints(&row[format!("{stills}{suffix}")]), "{compat:?} {stills}{suffix} {config}");
            }
        }
    }
}

/// The published preprocessor_config.json of the 256M and 500M models.
const PUBLISHED: &str = r#"{
    "do_convert_rgb": true, "do_image_splitting": true, "do_normalize": true, "do_pad": true, "do_rescale": true,
    "do_resize": true, "image_mean": [0.5, 0.5, 0.5], "image_processor_type": "SmolVLMImageProcessor",
    "image_std": [0.5, 0.5, 0.5], "max_image_size": {"longest_edge": 512}, "processor_class": "SmolVLMProcessor",
    "resample": 1, "rescale_factor": 0.00392156862745098, "size": {"longest_edge": 2048},
    "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 512}}}"#;

fn settings(processor: &str, image: Option<&str>, video: Option<&str>) -> smolvlm::Result<Settings> {
    let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let (processor, image, video) = (parse(processor), image.map(parse), video.map(parse));
    Settings::from_files(Some(&processor), image.as_ref(), video.as_ref())
}

#[test]
fn the_published_video_size_is_overridden_by_the_image_size() {
    let published = settings(r#"{"image_seq_len": 64}"#, Some(PUBLISHED), None).unwrap();
    assert_eq!((published.image_seq_len, published.video.longest_edge, published.video.tile_size), (64, 2048, 512));
    assert_eq!((published.max_frames, published.fps, published.split_images), (64, 1.0, true));
}

#[test]
fn nested_settings_come_before_the_older_files() {
    let nested = r#"{"image_seq_len": 4,
        "image_processor": {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 24}, "resample": 3},
        "video_processor": {"size": {"longest_edge": 48}, "max_image_size": {"longest_edge": 24}, "num_frames": 8, "fps": 2}}"#;
    let found = settings(nested, Some(PUBLISHED), Some("{}")).unwrap();
    assert_eq!((found.image.longest_edge, found.image.filter), (96, Filter::Bicubic));
    assert_eq!((found.video.longest_edge, found.max_frames, found.fps), (48, 8, 2.0));
}

#[test]
fn absent_fields_have_the_library_s_defaults() {
    let defaults = settings("{}", Some("{}"), None).unwrap();
    assert_eq!((defaults.image_seq_len, defaults.image.longest_edge, defaults.image.tile_size), (169, 1456, 364));
    assert_eq!((defaults.image.filter, defaults.max_frames, defaults.fps), (Filter::Lanczos, 64, 1.0));
}

#[test]
fn broken_settings_are_errors_that_name_file_and_field() {
    for (config, named) in [
        (r#"{"resample": 2}"#, "`resample`: expected 1 (Lanczos) or 3 (bicubic), found 2"),
        (r#"{"size": {"longest_edge": 0}}"#, "`size`"),
        (r#"{"size": {"height": 5, "width": 5}}"#, "`size`"),
        (r#"{"size": {"longest_edge": 1e30}}"#, "`size`"),
        (r#"{"max_image_size": {"longest_edge": 4097}}"#, "`max_image_size`"),
        (r#"{"max_image_size": 7}"#, "`max_image_size`"),
        (r#"{"image_std": [0.5, 0, 0.5]}"#, "`image_std`"),
        (r#"{"image_mean": [0.5, 0.5]}"#, "`image_mean`"),
        (r#"{"rescale_factor": -1}"#, "`rescale_factor`"),
        (r#"{"do_resize": false}"#, "`do_resize`"),
        (r#"{"video_sampling": {"fps": 0}}"#, "`fps`"),
        (r#"{"video_sampling": {"max_frames": -1}}"#, "`max_frames`"),
        (r#"{"video_sampling": []}"#, "`video_sampling`"),
    ] {
        let error = settings("{}", Some(config), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Checkpoint);
        assert!(error.to_string().starts_with(&format!("preprocessor_config.json: {named}")), "{config}: {error}");
    }
    assert!(settings("{}", None, None).is_err());
    assert!(settings("[]", Some("{}"), None).is_err());
}

#[test]
fn the_caller_s_switches_win_and_are_checked() {
    let wishes = Overrides { split_images: Some(false), longest_edge: Some(384), max_frames: Some(5), fps: Some(2.0) };
    let preprocessor = preprocessor(PUBLISHED, Compat::Newest, wishes);
    let plan = preprocessor.plan_image(640, 480).unwrap();
    assert_eq!((plan.fitted, plan.tile_count()), (Size::new(384, 288), 1));
    assert_eq!(
        (preprocessor.settings().video.longest_edge, preprocessor.sample_frames(100, 10.0, 10.0).len()),
        (384, 5)
    );
    for wishes in [
        Overrides { longest_edge: Some(0), ..Overrides::default() },
        Overrides { max_frames: Some(usize::MAX), ..Overrides::default() },
        Overrides { fps: Some(f64::NAN), ..Overrides::default() },
    ] {
        let settings = settings("{}", Some(PUBLISHED), None).unwrap();
        assert_eq!(Preprocessor::new(settings, Compat::Newest, wishes).unwrap_err().kind(), ErrorKind::Usage);
    }
}

#[test]
fn published_grids_have_five_to_seventeen_tiles() {
    let preprocessor = preprocessor(PUBLISHED, Compat::Newest, Overrides::default());
    for ((width, height), grid) in [
        ((640, 480), (3, 4)),
        ((1920, 1080), (3, 4)),
        ((480, 640), (4, 3)),
        ((512, 512), (4, 4)),
        ((61, 97), (4, 3)),
        ((1000, 333), (2, 4)),
        ((5000, 1), (1, 4)),
    ] {
        let plan = preprocessor.plan_image(width, height).unwrap();
        assert_eq!((plan.rows, plan.cols), grid, "{width}×{height}");
        assert_eq!(plan.tile_count(), grid.0 * grid.1 + 1);
    }
}

#[test]
fn the_video_formula_is_torchvision_s_also_where_images_use_pillow_s() {
    let pil = preprocessor(PUBLISHED, Compat::Pil, Overrides::default());
    let newest = preprocessor(PUBLISHED, Compat::Newest, Overrides::default());
    assert_eq!(pil.frame_pixel_table(), newest.pixel_table());
    assert_ne!(pil.pixel_table(), newest.pixel_table());
}

#[test]
fn impossible_pictures_are_input_errors() {
    let preprocessor = preprocessor(PUBLISHED, Compat::Newest, Overrides::default());
    for (width, height) in [(0, 5), (5, 0), (1 << 30, 1), (usize::MAX, usize::MAX)] {
        assert_eq!(preprocessor.plan_image(width, height).unwrap_err().kind(), ErrorKind::Input);
    }
    let plan = preprocessor.plan_image(4, 4).unwrap();
    let torn = Image { width: 4, height: 4, rgb: vec![0; 47] };
    assert_eq!(preprocessor.image_tiles(&torn, &plan).unwrap_err().kind(), ErrorKind::Input);
    assert_eq!(preprocessor.frame_tile(&torn).unwrap_err().kind(), ErrorKind::Input);
}

#[test]
fn a_config_that_asks_for_thousands_of_tiles_is_refused() {
    let config = r#"{"size": {"longest_edge": 4096}, "max_image_size": {"longest_edge": 1}}"#;
    let error = preprocessor(config, Compat::Newest, Overrides::default()).plan_image(100, 100).unwrap_err();
    assert!(error.to_string().contains("16777217 tiles"), "{error}");
}
