//! Decoded pixels and tiles against the reference's digests.

#[path = "golden/mod.rs"]
mod golden;

use golden::{Goldens, as_release};
use sha2::{Digest, Sha256};
use smolvlm::Compat;
use smolvlm::generate::Logits;
use smolvlm::media::image::ImageFile;
use smolvlm::media::source::{MediaLimits, MediaSource};

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_kind_of_picture_decodes_to_the_references_pixels() {
    let goldens = Goldens::committed();
    let text = std::fs::read_to_string(goldens.folder.join("extras/images.json")).expect("the table");
    let table: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
    assert!(table.len() >= 20);
    for row in &table {
        let name = row["file"].as_str().expect("a name");
        let source = MediaSource::Path(goldens.folder.join("inputs").join(name));
        let file = ImageFile::open(&source, &MediaLimits::default(), Compat::Newest).expect("a header");
        let image = file.decode().expect("pixels");
        assert_eq!(serde_json::json!([image.width, image.height]), serde_json::json!([row["width"], row["height"]]));
        assert_eq!(digest(&image.rgb), row["rgb_sha256"].as_str().expect("a digest"), "{name}");
    }
}

/// The Pillow backend's own digests; every other file of the goldens was made by torchvision's.
#[test]
fn the_pillow_release_gives_pillows_tiles() {
    let goldens = Goldens::committed();
    let mut model = goldens.load_as(as_release(Compat::Pil));
    let mut pictures = 0;
    for case in goldens.cases() {
        let images = case.json["images"].as_array().expect("a list").clone();
        // Pillow loads the colours below transparent pixels of a palette otherwise than the loader the digest was made with.
        if images.is_empty() || case.json["decoded_images"] == true || case.name.contains("transparent") {
            continue;
        }
        model.set_media_options(case.media_options()).expect("options");
        let trace = model.trace(&case.messages(), 1, Logits::None).expect("a trace");
        let values: Vec<u8> = trace.pixel_values.iter().map(|value| (value * 127.5 + 127.5).round() as u8).collect();
        let plane = 3 * trace.tile_size * trace.tile_size;
        let mut first = 0;
        for image in images {
            let grid = ["rows", "cols"].map(|key| image[key].as_u64().expect("a count") as usize);
            let length = (grid[0] * grid[1] + 1) * plane;
            let found = digest(&values[first..first + length]);
            assert_eq!(found, image["pil_u8_sha256"].as_str().expect("a digest"), "{} {}", case.name, image["path"]);
            first += length;
            pictures += 1;
        }
    }
    assert!(pictures >= 10);
}
