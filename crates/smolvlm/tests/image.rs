//! Still pictures against the Python reference, and against whatever bytes a file may hold.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smolvlm::Compat;
use smolvlm::media::image::ImageFile;
use smolvlm::media::source::{DecodedImage, MediaLimits, MediaSource};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/image").join(name)
}

/// Lines of `expected.txt`: file, rules, width, height, hash of the RGB bytes.
fn expected() -> Vec<(String, String, usize, usize, u64)> {
    let text = std::fs::read_to_string(fixture("expected.txt")).unwrap();
    text.lines()
        .map(|line| {
            let mut words = line.split(' ').map(str::to_owned);
            let mut next = || words.next().unwrap();
            let (name, rules) = (next(), next());
            (name, rules, next().parse().unwrap(), next().parse().unwrap(), u64::from_str_radix(&next(), 16).unwrap())
        })
        .collect()
}

fn fnv(data: &[u8]) -> u64 {
    data.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

fn open(name: &str, compat: Compat) -> ImageFile {
    ImageFile::open(&MediaSource::Path(fixture(name)), &MediaLimits::default(), compat).unwrap()
}

fn bytes(data: Vec<u8>) -> MediaSource {
    MediaSource::Bytes { name: "test".to_owned(), data: data.into() }
}

fn decoded(width: usize, height: usize, channels: usize, data: Vec<u8>) -> MediaSource {
    MediaSource::Decoded(Arc::new(DecodedImage { width, height, channels, data }))
}

#[test]
fn pixels_equal_the_references_in_every_format() {
    let expected = expected();
    assert!(expected.len() >= 100);
    for (name, rules, width, height, hash) in expected {
        for compat in match rules.as_str() {
            "torch" => [Compat::Newest, Compat::Hf523],
            _ => [Compat::Pil, Compat::Hf457],
        } {
            let file = open(&name, compat);
            assert_eq!((file.width(), file.height()), (width, height), "{name} {compat:?}");
            let image = file.decode().unwrap();
            assert_eq!(image.rgb.len(), width * height * 3);
            assert_eq!(fnv(&image.rgb), hash, "{name} {compat:?}");
        }
    }
}

#[test]
fn the_release_that_ignores_exif_leaves_pictures_as_stored() {
    let (stored, upright) = (open("orientation-6.jpg", Compat::Hf517), open("orientation-6.jpg", Compat::Newest));
    assert_eq!((stored.width(), stored.height()), (40, 20));
    assert_eq!((upright.width(), upright.height()), (20, 40));
    let (stored, upright) = (stored.decode().unwrap(), upright.decode().unwrap());
    // Orientation 6: the stored first row is seen as the last column.
    assert_eq!(stored.rgb[..3], upright.rgb[19 * 3..20 * 3]);
    assert_eq!(stored.rgb[39 * 3..40 * 3], upright.rgb[(39 * 20 + 19) * 3..]);
}

#[test]
fn truncated_pictures_are_errors_that_name_the_file() {
    for name in ["baseline-420.jpg", "progressive-420.jpg", "rgba.png", "lossy.webp", "rgb.bmp"] {
        let data = std::fs::read(fixture(name)).unwrap();
        for cut in [2, data.len() / 3, data.len() / 2] {
            let source = bytes(data[..data.len() - cut].to_vec());
            let result =
                ImageFile::open(&source, &MediaLimits::default(), Compat::Newest).and_then(|file| file.decode());
            match result {
                Err(error) => assert!(error.to_string().starts_with("test: "), "{error}"),
                // Two bytes less leave a PNG all its pixels.
                Ok(_) => assert!(cut == 2 && name.ends_with(".png"), "{name} less {cut} bytes"),
            }
        }
    }
}

#[test]
fn unknown_formats_are_named() {
    for (data, expected) in [
        (&b"\0\0\0\x20ftypavif"[..], "AVIF"),
        (b"\0\0\0\x20ftypheic", "HEIC"),
        (b"\0\0\0\x20ftypisom", "video"),
        (b"\0\0\0\x18ftypmif1", "HEIF"),
        (b"\xFF\x0A\0\0", "JPEG XL"),
        (b"\xFF\x4F\xFF\x51", "JPEG 2000"),
        (b"II\x2B\0\x08\0\0\0", "BigTIFF"),
        (b"%PDF-1.7", "PDF"),
        (b"<!DOCTYPE html>", "HTML"),
        (b"x", "not a picture"),
    ] {
        let error = ImageFile::open(&bytes(data.to_vec()), &MediaLimits::default(), Compat::Newest).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn pictures_over_the_limit_are_refused_before_decoding() {
    let limits = MediaLimits { pixels: 100, ..MediaLimits::default() };
    for name in ["baseline-420.jpg", "rgba.png", "transparent.gif", "lossy.webp", "rgb.bmp", "orientation-8.tiff"] {
        let error = ImageFile::open(&MediaSource::Path(fixture(name)), &limits, Compat::Newest).unwrap_err();
        assert!(error.to_string().contains("pixels"), "{error}");
    }
    let error = ImageFile::open(&decoded(11, 10, 1, vec![0; 110]), &limits, Compat::Newest).unwrap_err();
    assert!(error.to_string().contains("at most 100"), "{error}");
}

#[test]
fn a_header_that_promises_more_than_the_file_holds_allocates_nothing() {
    // A valid header, its size raised to the largest there is.
    let mut data = std::fs::read(fixture("progressive-420.jpg")).unwrap();
    let frame = data.windows(2).position(|pair| pair == [0xFF, 0xC2]).unwrap();
    data[frame + 5..frame + 9].copy_from_slice(&[0xFF, 0x00, 0xFF, 0x00]);
    let limits = MediaLimits { pixels: u64::MAX, ..MediaLimits::default() };
    let error = ImageFile::open(&bytes(data), &limits, Compat::Newest).unwrap().decode().unwrap_err();
    assert!(error.to_string().contains("cannot hold a picture of 65280x65280"), "{error}");
}

/// A copy of a fixture whose size fields, of the same bytes each, are replaced.
fn resized(name: &str, at: usize, field: &[u8]) -> Vec<u8> {
    let mut data = std::fs::read(fixture(name)).unwrap();
    data[at..at + field.len()].copy_from_slice(field);
    if name.ends_with(".png") {
        let sum = data[12..29].iter().fold(u32::MAX, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
        });
        data[29..33].copy_from_slice(&(!sum).to_be_bytes());
    }
    data
}

#[test]
fn the_largest_sizes_that_headers_can_say_are_refused_at_once() {
    for (name, at, field) in [
        ("rgba.png", 16, &b"\0\0\xFF\xFF\0\0\xFF\xFF"[..]),
        ("animated.gif", 6, b"\xFF\xFF\xFF\xFF"),
        ("rgb.bmp", 18, b"\xFF\xFF\0\0\xFF\xFF\0\0"),
    ] {
        let data = resized(name, at, field);
        let error = ImageFile::open(&bytes(data), &MediaLimits::default(), Compat::Newest).unwrap_err().to_string();
        assert!(error.contains("pixels") || error.contains("imits"), "{name}: {error}");
    }
}

#[test]
fn a_png_or_bmp_too_short_for_its_size_gets_no_memory() {
    for (name, at, field) in
        [("rgba.png", 16, &b"\0\0\x36\xB0\0\0\x36\xB0"[..]), ("rgb.bmp", 18, b"\xB0\x36\0\0\xB0\x36\0\0")]
    {
        let file = ImageFile::open(&bytes(resized(name, at, field)), &MediaLimits::default(), Compat::Newest).unwrap();
        let error = file.decode().unwrap_err().to_string();
        assert!(error.contains("cannot hold a picture of 14000x14000"), "{name}: {error}");
    }
}

#[test]
fn decoded_pictures_lose_their_alpha_as_each_release_does_it() {
    let rgba = decoded(2, 1, 4, vec![10, 20, 30, 0, 10, 20, 30, 128]);
    let rgb = |compat| ImageFile::open(&rgba, &MediaLimits::default(), compat).unwrap().decode().unwrap().rgb;
    for compat in [Compat::Newest, Compat::Hf523, Compat::Hf457, Compat::Pil] {
        assert_eq!(rgb(compat), [255, 255, 255, 132, 137, 142]);
    }
    assert_eq!(rgb(Compat::Hf517), [10, 20, 30, 10, 20, 30]);
    let grey = ImageFile::open(&decoded(1, 2, 1, vec![7, 9]), &MediaLimits::default(), Compat::Newest).unwrap();
    assert_eq!(grey.decode().unwrap().rgb, [7, 7, 7, 9, 9, 9]);
}

#[test]
fn decoded_pictures_of_the_wrong_shape_are_refused() {
    for source in [
        decoded(2, 2, 3, vec![0; 11]),
        decoded(1, 1, 5, vec![0; 5]),
        decoded(0, 1, 3, vec![]),
        decoded(usize::MAX, 2, 3, vec![0]),
    ] {
        ImageFile::open(&source, &MediaLimits::default(), Compat::Newest).unwrap_err();
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// Changes, removes or inserts a few bytes; the first three stay, or most mutants would be of no format.
fn mutate(data: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = 3 + random.below(data.len().saturating_sub(3).max(1));
        let at = at.min(data.len() - 1);
        match random.below(6) {
            0 => data[at] = random.below(256) as u8,
            1 => data[at] ^= 1 << random.below(8),
            2 => data[at] = [0, 0xFF, 0x7F, 0x80][random.below(4)],
            3 => data.insert(at, random.below(256) as u8),
            4 => drop(data.drain(at..(at + 1 + random.below(20)).min(data.len()))),
            _ => drop(data.splice(at..at, [0xFF, 0xC0 + random.below(0x40) as u8])),
        }
        if data.len() < 4 {
            data.resize(4, 0);
        }
    }
}

#[test]
fn mutated_files_neither_panic_nor_hang() {
    const MUTANTS: u64 = 400;
    let mut names: Vec<String> = expected().into_iter().map(|(name, ..)| name).collect();
    names.dedup();
    let limits = MediaLimits { pixels: 1 << 20, ..MediaLimits::default() };
    let mut decoded = 0;
    for name in &names {
        let original = std::fs::read(fixture(name)).unwrap();
        for seed in 0..MUTANTS {
            let mut data = original.clone();
            mutate(&mut data, &mut Random(seed));
            let start = Instant::now();
            let result = std::panic::catch_unwind(|| {
                ImageFile::open(&bytes(data), &limits, Compat::Newest).and_then(|file| {
                    let image = file.decode()?;
                    assert_eq!(image.rgb.len(), file.width() * file.height() * 3);
                    Ok(())
                })
            });
            decoded += usize::from(result.unwrap_or_else(|_| panic!("{name}, seed {seed}: panicked")).is_ok());
            assert!(start.elapsed() < Duration::from_secs(3), "{name}, seed {seed}: took {:?}", start.elapsed());
        }
    }
    // Otherwise the mutants would not get past the headers.
    assert!(decoded > names.len() * MUTANTS as usize / 10, "only {decoded} mutants decoded");
}
