//! `smolvlm frames`: what the model sees of a video.

use std::path::{Path, PathBuf};

use smolvlm::Compat;
use smolvlm::media::Image;
use smolvlm::media::image::ImageFile;
use smolvlm::media::source::{MediaLimits, MediaSource};

use crate::common::{Case, checkpoint, smolvlm};

fn inputs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/tiny/inputs")
}

fn clip() -> String {
    inputs().join("short_64x48_10fps_5s.mp4").display().to_string()
}

fn turned() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../smolvlm/tests/data/video/cut_turned.mp4");
    path.display().to_string()
}

/// Which frames the reference took.
fn indices_of(case: &Case) -> Vec<u64> {
    let indices = &case.json["videos"][0]["frame_indices"];
    indices.as_array().expect("indices").iter().map(|index| index.as_u64().expect("an index")).collect()
}

fn read(path: &Path) -> Image {
    let source = MediaSource::Path(path.to_owned());
    ImageFile::open(&source, &MediaLimits::default(), Compat::default()).unwrap().decode().unwrap()
}

#[test]
fn the_list_is_of_the_frames_that_run_takes() {
    let case = Case::read("video_short");
    let expected = indices_of(&case);
    let model = checkpoint();
    let json = smolvlm(["frames", &clip(), "--model", &model, "--json"]).json();
    let indices: Vec<u64> = json["frames"].as_array().unwrap().iter().map(|f| f["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, expected);
    assert_eq!(
        (json["codec"].as_str(), json["width"].as_u64(), json["frame_count"].as_u64()),
        (Some("h264"), Some(64), Some(50))
    );
    let table = smolvlm(["frames", &clip(), "--model", &model]).stdout();
    assert!(table.contains("h264 in mp4, 64×48") && table.contains(&format!("{} seen", expected.len())), "{table}");
}

#[test]
fn the_sheet_holds_every_frame_with_a_label() {
    let folder = tempfile::tempdir().unwrap();
    let sheet = folder.path().join("sheet.png");
    let path = sheet.display().to_string();
    let arguments = ["frames", &clip(), "--max-frames", "3", "--columns", "2", "--frame-width", "64", "--out", &path];
    smolvlm(arguments).stdout();
    let image = read(&sheet);
    // Two columns of 64 with gaps of 8; three lines of header, two rows of 48 with a line of text each.
    assert_eq!((image.width, image.height), (8 + 2 * 72, 8 + 3 * 18 + 8 + 2 * (48 + 18 + 8)));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    let is_ink = |x: usize, y: usize| image.rgb[(y * image.width + x) * 3] < 40;
    let label = |left: usize, top: usize| (0..16).any(|y| (0..64).any(|x| is_ink(left + x, top + 48 + y)));
    assert!(label(8, 70) && label(80, 70) && label(8, 144) && !label(80, 144));
}

#[test]
fn each_frame_is_written_as_it_enters_the_tower() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frames").display().to_string();
    let model = checkpoint();
    smolvlm(["frames", &clip(), "--model", &model, "--each", &path, "--quiet"]).stdout();
    let mut files: Vec<PathBuf> = std::fs::read_dir(&path).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let case = Case::read("video_short");
    assert_eq!(files.len(), indices_of(&case).len());
    let tile = read(&files[1]);
    assert_eq!(tile.width, tile.height);
    assert!(files[1].file_name().unwrap().to_str().unwrap().starts_with("001-frame"), "{}", files[1].display());
}

#[test]
fn a_turned_video_is_shown_upright_unless_asked_otherwise() {
    let size = |arguments: &[&str]| {
        let json = smolvlm(arguments).json();
        (json["width"].as_u64().unwrap(), json["height"].as_u64().unwrap(), json["rotation"].as_u64().unwrap())
    };
    assert_eq!(size(&["frames", &turned(), "--json"]), (46, 70, 270));
    assert_eq!(size(&["frames", &turned(), "--json", "--no-rotate"]), (70, 46, 0));
}

#[test]
fn an_animated_picture_and_a_folder_are_videos_too() {
    let gif = Path::new(env!("CARGO_MANIFEST_DIR")).join("../smolvlm/tests/data/video/animated.gif");
    let json = smolvlm(["frames", &gif.display().to_string(), "--json"]).json();
    assert_eq!((json["codec"].as_str(), json["frame_count"].as_u64()), (Some("gif"), Some(6)));
}

#[test]
fn what_cannot_be_shown_is_named() {
    smolvlm(["frames", "missing.mp4"]).fails(3, &["missing.mp4"]);
    smolvlm(["frames", &clip(), "--max-pixels", "100"]).fails(3, &["64×48", "100"]);
    smolvlm(["frames", &clip(), "--out", "no/such/folder/sheet.png"]).fails(3, &["no/such/folder/sheet.png"]);
    smolvlm(["frames", &clip(), "--columns", "0"]).fails(2, &["--columns"]);
    let many = ["frames", &clip(), "--fps", "10", "--frame-width", "4096", "--out", "never.png"];
    smolvlm(many).fails(2, &["--frame-width", "64000000 pixels"]);
    smolvlm(["frames", &clip(), "--fps", "0"]).fails(2, &["frames per second"]);
    let picture = inputs().join("square_48.png").display().to_string();
    smolvlm(["frames", &picture]).fails(3, &["is not a video"]);
}
