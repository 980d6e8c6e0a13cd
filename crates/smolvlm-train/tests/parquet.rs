//! Parquet files as `datasets` writes them (tests/data/parquet/make_parquet.py), and damaged ones.

mod common;

use common::{CACHE, fixtures, folder_with, goldens, maker, mixture, samples};
use smolvlm::media::source::MediaSource;
use smolvlm::messages::Content;
use smolvlm_train::data::{CheckOptions, Mixture, Order, SampleRef, Samples, check};

fn sample(sample: u32) -> SampleRef {
    SampleRef { dataset: 0, sample }
}

#[test]
fn messages_with_embedded_pictures_become_examples() {
    let maker = maker(&mixture(&fixtures("parquet/messages.parquet")));
    let samples = maker.samples().clone();
    assert_eq!(samples.len(), 5);
    let square = std::fs::read(goldens("inputs/square_48.png")).unwrap();
    let first = samples.read(sample(0)).unwrap();
    let Content::Image(MediaSource::Bytes { name, data }) = &first.messages.0[0].content[0] else {
        panic!("{first:?}")
    };
    assert_eq!((name.as_str(), &data[..]), ("embedded file square_48.png", square.as_slice()));
    // By index, none, and by name below the media root.
    let names =
        |at: u32| samples.read(sample(at)).unwrap().messages.images().map(MediaSource::name).collect::<Vec<_>>();
    assert_eq!(names(1), ["embedded file thin_3x90.png", "embedded file square_48.png"]);
    assert_eq!(names(2), Vec::<String>::new());
    assert!(names(3)[0].ends_with("inputs/square_48.png"));
    // A picture in the table and the same one beside it give the same tiles.
    assert_eq!(maker.make(sample(0)).unwrap().pixels, maker.make(sample(3)).unwrap().pixels);
    assert_eq!(check(&maker, &CheckOptions::default(), &|_, _| {}).problem_count, 0);
}

#[test]
fn every_compression_is_read() {
    for (compression, rows) in [("zstd", 7), ("gzip", 2), ("lz4", 2), ("none", 2)] {
        let samples = samples(&mixture(&fixtures(&format!("parquet/conversations_{compression}.parquet"))));
        assert_eq!(samples.len(), rows, "{compression}");
        for at in 0..rows as u32 {
            let messages = samples.read(sample(at)).unwrap();
            assert_eq!(messages.messages.0[0].content[1], Content::text(format!("Number {at}?")), "{compression}");
            assert_eq!(messages.messages.0[1].content[0], Content::text(format!("It is {at}.")), "{compression}");
        }
    }
}

#[test]
fn a_cache_too_small_for_two_row_groups_changes_nothing() {
    let mixture = mixture(&fixtures("parquet/conversations_zstd.parquet"));
    let (small, large) = (Samples::open(&mixture, 0).unwrap(), Samples::open(&mixture, CACHE).unwrap());
    for at in [0, 6, 1, 5, 2, 4, 3, 0] {
        assert_eq!(small.read(sample(at)).unwrap(), large.read(sample(at)).unwrap());
    }
}

#[test]
fn an_epoch_reads_row_groups_one_after_another_a_few_at_a_time() {
    // 40 copies of a file with three row groups: 120 groups, of which the order keeps eight open at a time.
    let folder = tempfile::tempdir().unwrap();
    for copy in 0..40 {
        let name = format!("train-{copy:05}.parquet");
        std::fs::copy(fixtures("parquet/conversations_zstd.parquet"), folder.path().join(name)).unwrap();
    }
    let samples = Samples::open(&Mixture::of(folder.path()), CACHE).unwrap();
    assert_eq!(samples.len(), 280);
    let order = Order::new(&samples, 3, true).unwrap().epoch(&samples, 0);
    let mut seen: Vec<u32> = order.iter().map(|sample| sample.sample).collect();
    let group = |sample: u32| sample / 7 * 3 + sample % 7 / 3;
    let switches = seen.windows(2).filter(|pair| group(pair[0]) != group(pair[1])).count();
    assert!(switches > 150, "the rows of eight groups are mixed");
    for start in (0..seen.len() - 30).step_by(10) {
        let mut groups: Vec<u32> = seen[start..start + 10].iter().map(|sample| group(*sample)).collect();
        groups.sort_unstable();
        groups.dedup();
        assert!(groups.len() <= 16, "ten neighbours come from at most two lots of eight groups");
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..280).collect::<Vec<_>>());
}

#[test]
fn damaged_files_are_errors() {
    let whole = std::fs::read(fixtures("parquet/messages.parquet")).unwrap();
    let open = |bytes: &[u8]| {
        let (_folder, path) = folder_with("x.parquet", bytes);
        let samples = Samples::open(&mixture(&path), CACHE)?;
        samples.iter().map(|sample| samples.read(sample)).collect::<smolvlm_train::Result<Vec<_>>>()
    };
    assert_eq!(open(&whole).unwrap().len(), 5);
    for length in (4..whole.len()).step_by(97) {
        let error = open(&whole[..length]).unwrap_err().to_string();
        assert!(error.contains("x.parquet: not readable as parquet"), "{length}: {error}");
    }
    // Bytes changed one at a time: an error or other content, but no panic that gets out.
    let mut broken = 0;
    for at in (0..whole.len()).step_by(61) {
        for flip in [0xff, 0x10] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            broken += usize::from(open(&bytes).is_err());
        }
    }
    assert!(broken > 20, "{broken}");
}

#[test]
fn a_table_without_conversations_names_its_columns() {
    // The schema of a file is found in its footer, so a renamed column is a change of five bytes there.
    let mut bytes = std::fs::read(fixtures("parquet/messages.parquet")).unwrap();
    let name = b"messages";
    let places: Vec<usize> = (0..bytes.len() - name.len()).filter(|at| &bytes[*at..*at + name.len()] == name).collect();
    for at in places {
        bytes[at..at + name.len()].copy_from_slice(b"massages");
    }
    let (_folder, path) = folder_with("x.parquet", bytes);
    let error = Samples::open(&mixture(&path), CACHE).unwrap_err().to_string();
    assert!(error.contains("expected one of the columns") && error.contains("found id, massages, images"), "{error}");
}
