//! Batches from worker threads: the same whatever their number, gone on with exactly, without what is broken.

mod common;

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use common::{CACHE, folder_with, goldens, maker, mixture, processor};
use serde_json::json;
use smolvlm_train::data::{
    Batch, BatchRule, CheckOptions, Cursor, Drawing, Entry, ExampleMaker, ExampleRules, Lengths, Loader, LoaderOptions,
    Mixture, Order, Part, Sample, Samples, Schedule, ScheduleOptions, Showing, check,
};
use tempfile::TempDir;

const IMAGES: [&str; 6] = [
    "land_97x61.png",
    "large_150x114.png",
    "square_48.png",
    "photo_420_101x67.jpg",
    "lossy_46x34.webp",
    "tall_13x160.png",
];

/// Text, pictures, several pictures and a clip; the samples of these numbers show a file that is not there.
fn records(count: usize, broken: &[usize]) -> (TempDir, PathBuf) {
    let mut lines = String::new();
    for number in 0..count {
        let mut images = vec![IMAGES[number % IMAGES.len()]; number % 3];
        if broken.contains(&number) {
            images = vec!["not_there.png"];
        }
        let videos = if number % 11 == 10 { vec!["short_64x48_10fps_5s.mp4"] } else { vec![] };
        let answer = "word ".repeat(1 + number * 7 % 13);
        let record = json!({"messages": [{"role": "user", "content": format!("Sample {number}?")},
            {"role": "assistant", "content": answer}], "images": images, "videos": videos});
        writeln!(lines, "{record}").unwrap();
    }
    folder_with("data.jsonl", lines)
}

fn options(rule: BatchRule, epochs: u64) -> ScheduleOptions {
    ScheduleOptions { seed: 5, shuffled: true, rule, epochs, lengths: None }
}

const BY_THREE: BatchRule = BatchRule::Count { samples: 3 };

fn threads(threads: usize) -> LoaderOptions {
    LoaderOptions { threads, ..LoaderOptions::default() }
}

/// The batches from a place on, and the place after each.
fn run(maker: &ExampleMaker, schedule: &Schedule, from: Cursor, options: &LoaderOptions) -> Vec<(Batch, Cursor)> {
    let mut loader = Loader::start(maker.clone(), schedule.clone(), from, options).unwrap();
    let mut batches = Vec::new();
    while let Some(batch) = loader.next_batch().unwrap() {
        batches.push((batch, loader.cursor().clone()));
    }
    batches
}

#[test]
fn batches_do_not_depend_on_threads_or_memory() {
    let (_folder, path) = records(25, &[4, 17]);
    let maker = maker(&mixture(&path));
    let schedule = Schedule::new(&maker, options(BY_THREE, 2)).unwrap();
    let one = run(&maker, &schedule, schedule.start(), &threads(1));
    assert_eq!(one.len(), 18);
    assert_eq!(one.iter().map(|(batch, _)| batch.examples.len()).sum::<usize>(), 46);
    for options in [
        threads(2),
        threads(7),
        LoaderOptions { threads: 4, bytes: 1, examples: 256 },
        LoaderOptions { threads: 4, bytes: 1 << 30, examples: 1 },
        LoaderOptions { threads: 3, bytes: 20_000, examples: 2 },
    ] {
        assert!(run(&maker, &schedule, schedule.start(), &options) == one, "{options:?}");
    }
}

#[test]
fn every_place_is_gone_on_from_with_the_same_batches() {
    let (_folder, path) = records(17, &[0, 1, 2, 9]);
    let maker = maker(&mixture(&path));
    let found = check(&maker, &CheckOptions::default(), &|_, _| {});
    let saved = serde_json::to_string(&found.lengths).unwrap();
    assert_eq!(serde_json::from_str::<Lengths>(&saved).unwrap(), found.lengths);
    for (rule, lengths) in [
        (BY_THREE, None),
        (BatchRule::Count { samples: 1 }, None),
        (BatchRule::Grouped { samples: 3, window: 2 }, Some(found.lengths.clone())),
        (BatchRule::Packed { tokens: 250, tiles: 30, window: 8 }, Some(found.lengths)),
    ] {
        let schedule = Schedule::new(&maker, ScheduleOptions { lengths, ..options(rule, 2) }).unwrap();
        let whole = run(&maker, &schedule, schedule.start(), &threads(2));
        for (done, (_, cursor)) in whole.iter().enumerate() {
            let saved = serde_json::to_string(cursor).unwrap();
            let rest = run(&maker, &schedule, serde_json::from_str(&saved).unwrap(), &threads(3));
            let strip = |batches: &[(Batch, Cursor)]| {
                batches.iter().map(|(batch, cursor)| (batch.examples.clone(), cursor.clone())).collect::<Vec<_>>()
            };
            assert!(strip(&rest) == strip(&whole[done + 1..]), "{rule:?} after {cursor:?}");
        }
    }
}

#[test]
fn a_place_of_other_data_or_rules_is_refused() {
    let (_folder, path) = records(9, &[]);
    let place = |mixture: &Mixture, rules: ExampleRules, options: ScheduleOptions| {
        let maker = ExampleMaker::new(common::samples(mixture), processor(), rules).unwrap();
        let schedule = Schedule::new(&maker, options).unwrap();
        (schedule.start(), schedule)
    };
    let plain = || options(BY_THREE, 2);
    let (start, schedule) = place(&mixture(&path), ExampleRules::default(), plain());
    assert!(schedule.check(&start).is_ok());
    // More epochs of the same are the same sequence.
    assert_eq!(place(&mixture(&path), ExampleRules::default(), options(BY_THREE, 9)).0, start);
    let mut others = vec![
        place(&mixture(&path), ExampleRules { max_tokens: 50, ..ExampleRules::default() }, plain()),
        place(&mixture(&path), ExampleRules::default(), options(BatchRule::Count { samples: 4 }, 2)),
        place(&mixture(&path), ExampleRules::default(), ScheduleOptions { seed: 6, ..plain() }),
        place(&mixture(&path), ExampleRules::default(), ScheduleOptions { shuffled: false, ..plain() }),
    ];
    let mut less = mixture(&path);
    less.datasets[0].sampling = "first:8".parse().unwrap();
    others.push(place(&less, ExampleRules::default(), plain()));
    let changed = std::fs::read_to_string(&path).unwrap().replace("Sample 3?", "Sample 4?");
    std::fs::write(&path, changed).unwrap();
    others.push(place(&mixture(&path), ExampleRules::default(), plain()));
    for (other, _) in others {
        assert_eq!(schedule.check(&other).unwrap_err().kind(), smolvlm_train::ErrorKind::Usage);
    }
}

#[test]
fn broken_samples_are_left_out_counted_and_named() {
    let (_folder, path) = records(9, &[3, 4, 5, 8]);
    let maker = maker(&mixture(&path));
    let schedule = Schedule::new(&maker, ScheduleOptions { shuffled: false, ..options(BY_THREE, 1) }).unwrap();
    let mut loader = Loader::start(maker, schedule.clone(), schedule.start(), &threads(2)).unwrap();
    let first = loader.next_batch().unwrap().unwrap();
    assert_eq!((first.index, first.examples.len(), first.skipped.len()), (0, 3, 0));
    assert!(first.examples[2].name.ends_with("data.jsonl: record 3"), "{}", first.examples[2].name);
    // The second batch has nothing in it; what it lost is told with the third.
    let third = loader.next_batch().unwrap().unwrap();
    assert_eq!((third.index, third.examples.len(), third.skipped.len()), (2, 2, 4));
    for (skipped, record) in third.skipped.iter().zip([4, 5, 6, 9]) {
        let message = &skipped.message;
        assert!(
            message.contains(&format!("data.jsonl: record {record}: ")) && message.contains("not_there.png"),
            "{message}"
        );
    }
    assert!(loader.next_batch().unwrap().is_none());
    assert_eq!((loader.cursor().samples, loader.cursor().skipped, loader.skipped().len()), (5, 4, 4));
}

#[test]
fn data_without_one_usable_sample_is_an_error() {
    let (_folder, path) = records(4, &[0, 1, 2, 3]);
    let maker = maker(&mixture(&path));
    let schedule = Schedule::new(&maker, options(BY_THREE, 1_000_000)).unwrap();
    let mut loader = Loader::start(maker.clone(), schedule.clone(), schedule.start(), &threads(2)).unwrap();
    let error = loader.next_batch().unwrap_err().to_string();
    assert!(error.contains("not one sample of epoch 0") && error.contains("not_there.png"), "{error}");
    let lengths = Some(check(&maker, &CheckOptions::default(), &|_, _| {}).lengths);
    assert!(Schedule::new(&maker, ScheduleOptions { lengths, ..options(BY_THREE, 1) }).is_err());
}

#[test]
fn dropping_a_loader_ends_its_threads() {
    let (_folder, path) = records(60, &[]);
    let samples = Arc::new(Samples::open(&mixture(&path), CACHE).unwrap());
    for taken in [0, 1, 5] {
        let maker = ExampleMaker::new(samples.clone(), processor(), ExampleRules::default()).unwrap();
        let schedule = Schedule::new(&maker, options(BY_THREE, 1000)).unwrap();
        let start = schedule.start();
        let options = LoaderOptions { threads: 4, bytes: 40_000, examples: 5 };
        let mut loader = Loader::start(maker, schedule, start, &options).unwrap();
        for _ in 0..taken {
            loader.next_batch().unwrap();
        }
        drop(loader);
        // Every worker held on to the samples.
        assert_eq!(Arc::strong_count(&samples), 1, "after {taken}");
    }
}

#[test]
fn memory_ahead_stays_below_its_bound() {
    let (_folder, path) = records(40, &[]);
    let maker = maker(&mixture(&path));
    let schedule = Schedule::new(&maker, options(BY_THREE, 1)).unwrap();
    let peak = |bytes| {
        let options = LoaderOptions { threads: 4, bytes, examples: 256 };
        let mut loader = Loader::start(maker.clone(), schedule.clone(), schedule.start(), &options).unwrap();
        while loader.next_batch().unwrap().is_some() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        loader.peak_bytes()
    };
    // The largest example alone: two pictures of 150 × 114 pixels in 17 tiles each, or so.
    let (alone, all) = (peak(0), peak(1 << 30));
    assert!(alone > 50_000 && all > 4 * alone, "{alone} {all}");
    assert!(peak(2 * alone) <= 2 * alone);
}

#[test]
fn each_epoch_shows_every_sample_once_in_another_order() {
    let (_folder, path) = records(50, &[]);
    let samples = Samples::open(&mixture(&path), CACHE).unwrap();
    let order = Order::new(&samples, 1, true).unwrap();
    let epochs: Vec<Vec<u32>> =
        (0..3).map(|epoch| order.epoch(&samples, epoch).iter().map(|sample| sample.sample).collect()).collect();
    for epoch in &epochs {
        let mut sorted = epoch.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    }
    assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
    assert_eq!(order.epoch(&samples, 1), Order::new(&samples, 1, true).unwrap().epoch(&samples, 1));
    let plain = Order::new(&samples, 1, false).unwrap().epoch(&samples, 4);
    assert!(plain.iter().enumerate().all(|(at, sample)| sample.sample as usize == at));
}

#[test]
fn weighted_entries_share_an_epoch_and_take_turns_through_all_their_samples() {
    let ((_one, large), (_two, small)) = (records(40, &[]), records(3, &[]));
    let entry = |path: &PathBuf, weight| Entry { weight: Some(weight), ..Entry::new(path) };
    let mixture = Mixture {
        media_root: Some(goldens("inputs")),
        samples_per_epoch: Some(20),
        seed: 0,
        datasets: vec![entry(&large, 0.1), entry(&small, 0.3)],
    };
    let samples = Samples::open(&mixture, CACHE).unwrap();
    let order = Order::new(&samples, 9, true).unwrap();
    assert_eq!((order.shares(), samples.epoch_len()), (&[5, 15][..], 20));
    let mut times = [vec![0; 40], vec![0; 3]];
    for epoch in 0..8 {
        let drawn = order.epoch(&samples, epoch);
        assert_eq!(drawn.len(), 20);
        drawn.iter().for_each(|sample| times[sample.dataset as usize][sample.sample as usize] += 1);
    }
    // Eight epochs take 40 of the 40, and 120 of the three: each as often as its neighbours.
    assert_eq!(times, [vec![1; 40], vec![40; 3]]);
}

/// Sample `n` asks for `n`, with a picture of that shade; every ninth cannot be drawn.
#[derive(Debug)]
struct Numbers;

impl Drawing for Numbers {
    fn sample(&self, number: u64) -> smolvlm_train::Result<Sample> {
        if number % 9 == 8 {
            return Err(smolvlm_train::Error::input("no picture of that"));
        }
        let data = vec![(number % 251) as u8; 30 * 20 * 3];
        let picture = smolvlm::media::source::DecodedImage { width: 30, height: 20, channels: 3, data };
        let picture = smolvlm::media::source::MediaSource::Decoded(Arc::new(picture));
        let question = [smolvlm::Content::image(picture), smolvlm::Content::text("Which number?")];
        let messages = smolvlm::Messages::new().user(question).assistant(format!("It is {number}."));
        let showings = [Showing::Whole, Showing::Split, Showing::Direct];
        Ok(Sample { messages, showing: showings[number as usize % 3] })
    }

    fn identity(&self) -> String {
        "numbers".to_owned()
    }
}

fn drawn_maker(text: &str) -> ExampleMaker {
    let mixture = Mixture::from_yaml(text).unwrap();
    let samples = Samples::open_with(&mixture, CACHE, &|_| Ok(Arc::new(Numbers)), Part::All).unwrap();
    ExampleMaker::new(Arc::new(samples), processor(), ExampleRules::default()).unwrap()
}

#[test]
fn drawn_samples_are_new_in_every_epoch_the_same_on_any_threads_and_gone_on_with() {
    let maker = drawn_maker("datasets: [{scenes: {}, cap: 10}]");
    let report = check(&maker, &CheckOptions::default(), &|_, _| {});
    assert_eq!((report.problem_count, report.lengths.of(maker.samples().iter().next().unwrap())), (1, None));
    let lengths = Some(report.lengths);
    let schedule = Schedule::new(&maker, ScheduleOptions { lengths, ..options(BY_THREE, 3) }).unwrap();
    let whole = run(&maker, &schedule, schedule.start(), &threads(1));
    let numbers: Vec<String> =
        whole.iter().flat_map(|(batch, _)| &batch.examples).map(|example| example.name.clone()).collect();
    let expected = (0..30).filter(|number| number % 9 != 8).map(|number| format!("scenes: sample {number}"));
    assert_eq!(numbers, expected.collect::<Vec<_>>());
    let tiles = |number: usize| whole[number / 3].0.examples[number % 3].tiles();
    assert!(tiles(0) == 1 && tiles(1) > 1 && tiles(2) == 1, "whole, split, direct");
    for options in [threads(5), LoaderOptions { threads: 3, bytes: 1, examples: 2 }] {
        assert!(run(&maker, &schedule, schedule.start(), &options) == whole, "{options:?}");
    }
    let rest = run(&maker, &schedule, whole[4].1.clone(), &threads(2));
    assert_eq!(rest.len(), whole.len() - 5);
    assert!(rest.iter().zip(&whole[5..]).all(|(a, b)| a.0.examples == b.0.examples && a.1 == b.1));
}

#[test]
fn drawn_samples_mix_with_files_by_weight_and_have_no_lengths_to_group_by() {
    let (_folder, path) = records(6, &[]);
    let text = format!(
        "media_root: {}\nsamples_per_epoch: 12\ndatasets: [{{scenes: {{}}, weight: 2}}, {{path: {}, weight: 1}}]",
        goldens("inputs").display(),
        path.display()
    );
    let maker = drawn_maker(&text);
    let order = Order::new(maker.samples(), 3, true).unwrap();
    for epoch in 0..3 {
        let drawn = order.epoch(maker.samples(), epoch);
        let numbers: Vec<u32> = drawn.iter().filter(|sample| sample.dataset == 0).map(|sample| sample.sample).collect();
        assert_eq!(numbers, (epoch as u32 * 8..epoch as u32 * 8 + 8).collect::<Vec<_>>());
    }
    let grouped = options(BatchRule::Grouped { samples: 2, window: 2 }, 1);
    let lengths = Some(check(&maker, &CheckOptions::default(), &|_, _| {}).lengths);
    let error = Schedule::new(&maker, ScheduleOptions { lengths, ..grouped }).unwrap_err();
    assert!(error.to_string().contains("by count"), "{error}");
}
