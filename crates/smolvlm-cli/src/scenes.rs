//! Drawn samples as training data: the settings under `scenes` in a run's file.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use smolvlm::Messages;
use smolvlm::media::source::{DecodedImage, DecodedVideo, MediaSource};
use smolvlm::messages::Content;
use smolvlm_scenes::{Detail, Generator, Medium, Mixture, Picture, Skill, Split};
use smolvlm_train::data::{Drawing, Sample, Showing};
use smolvlm_train::{Error, Result};

/// Settings of drawn samples.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ScenesConfig {
    /// What they are drawn from.
    seed: u64,
    /// `train`, or `held`: what is kept out of it.
    split: SplitConfig,
    /// Weights of skills in place of those of the default mixture.
    mixture: BTreeMap<String, f32>,
    /// Share of samples whose pictures are split into tiles although one tile shows what they ask for.
    tiles: f64,
    /// Whether the others are brought to a tile by a single resize, which is faster and nearly the same.
    direct: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SplitConfig {
    Train,
    Held,
}

impl Default for ScenesConfig {
    fn default() -> Self {
        Self { seed: 0, split: SplitConfig::Train, mixture: BTreeMap::new(), tiles: 0.0, direct: false }
    }
}

/// Opens an entry's `scenes`.
///
/// # Errors
/// An input error that names the setting.
pub(crate) fn drawing(settings: &Value) -> Result<Arc<dyn Drawing>> {
    let settings = if settings.is_null() { &Value::Object(serde_json::Map::new()) } else { settings };
    let config = ScenesConfig::deserialize(settings);
    let config = config.map_err(|error| Error::input(format!("`scenes`: {error}")).caused_by(error))?;
    Ok(Arc::new(Scenes::new(config)?))
}

/// Samples of a generator.
#[derive(Debug)]
struct Scenes {
    generator: Generator,
    config: ScenesConfig,
}

impl Scenes {
    fn new(config: ScenesConfig) -> Result<Self> {
        if !(0.0..=1.0).contains(&config.tiles) {
            return Err(Error::input(format!("`scenes.tiles`: expected a share from 0 to 1, found {}", config.tiles)));
        }
        let split = match config.split {
            SplitConfig::Train => Split::Train,
            SplitConfig::Held => Split::Held,
        };
        let generator = Generator::new(config.seed, split, mixture(&config.mixture)?);
        Ok(Self { generator, config })
    }

    /// How the pictures of a sample are shown.
    fn showing(&self, detail: Detail, number: u64) -> Showing {
        if detail == Detail::Tiles || share_of(self.config.seed, number) < self.config.tiles {
            return Showing::Split;
        }
        if self.config.direct { Showing::Direct } else { Showing::Whole }
    }
}

/// The default mixture with these weights in place of its own.
fn mixture(weights: &BTreeMap<String, f32>) -> Result<Mixture> {
    for name in weights.keys() {
        if Skill::from_name(name).is_none() {
            let known: Vec<&str> = Skill::ALL.iter().map(|skill| skill.name()).collect();
            return Err(Error::input(format!(
                "`scenes.mixture`: expected one of {}, found {name:?}",
                known.join(", ")
            )));
        }
    }
    let defaults: BTreeMap<Skill, f32> = Mixture::default().weights().collect();
    let weight = |skill: &Skill| {
        let given = weights.get(skill.name()).or_else(|| defaults.get(skill));
        (*skill, given.copied().unwrap_or(0.0))
    };
    Mixture::new(Skill::ALL.iter().map(weight))
        .map_err(|error| Error::input(format!("`scenes`: {error}")).caused_by(error))
}

/// A number from 0 to below 1 that belongs to a sample (the finaliser of SplitMix64).
fn share_of(seed: u64, number: u64) -> f64 {
    let mut code = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number;
    code = (code ^ (code >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    code = (code ^ (code >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((code ^ (code >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

impl Drawing for Scenes {
    fn sample(&self, number: u64) -> Result<Sample> {
        let drawn = self.generator.sample(number);
        let showing = self.showing(drawn.detail, number);
        let mut messages = Messages::new();
        if let Some(system) = drawn.system {
            messages = messages.system(system);
        }
        let mut media: Vec<Content> = drawn.media.into_iter().map(content).collect();
        for turn in drawn.turns {
            media.push(Content::Text(turn.question));
            messages = messages.user(std::mem::take(&mut media)).assistant(turn.answer);
        }
        Ok(Sample { messages, showing })
    }

    fn identity(&self) -> String {
        format!("{:?}", self.config)
    }
}

fn content(medium: Medium) -> Content {
    match medium {
        Medium::Picture(picture) => Content::Image(MediaSource::Decoded(decoded(picture))),
        Medium::Clip(clip) => {
            let rate = clip.rate();
            let frames = clip.frames.into_iter().map(decoded).collect();
            Content::Video(MediaSource::DecodedVideo(Arc::new(DecodedVideo { frames, rate })))
        }
    }
}

fn decoded(picture: Picture) -> Arc<DecodedImage> {
    Arc::new(DecodedImage { width: picture.width, height: picture.height, channels: 3, data: picture.rgb })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_read_and_mistakes_named() {
        assert!(drawing(&Value::Null).is_ok());
        assert!(
            drawing(&json!({"seed": 3, "split": "held", "tiles": 0.5, "mixture": {"word": 9, "caption": 0}})).is_ok()
        );
        for (settings, expected) in [
            (json!({"sed": 1}), "sed"),
            (json!({"tiles": 2}), "`scenes.tiles`: expected a share from 0 to 1, found 2"),
            (json!({"mixture": {"words": 1}}), "found \"words\""),
            (json!({"mixture": {"word": -1}}), "word"),
            (json!({"split": "test"}), "test"),
        ] {
            let error = drawing(&settings).expect_err("a mistake").to_string();
            assert!(error.contains(expected), "{settings}: {error}");
        }
    }

    #[test]
    fn a_sample_depends_on_its_number_alone_and_the_share_is_split() {
        let open = |tiles: f64| drawing(&json!({"seed": 5, "tiles": tiles})).expect("scenes");
        let half = open(0.5);
        assert_eq!(half.sample(77).expect("drawn"), open(0.5).sample(77).expect("drawn"));
        let split = |source: &Arc<dyn Drawing>| {
            (0..400).filter(|number| source.sample(*number).expect("drawn").showing == Showing::Split).count()
        };
        // Samples of small text, one in nineteen, are split in any case.
        assert!((5..60).contains(&split(&open(0.0))) && (170..270).contains(&split(&half)), "{}", split(&half));
        assert_eq!(split(&open(1.0)), 400);
    }

    /// `SMOLVLM_SECONDS=10 cargo test --release -p smolvlm-cli scenes -- --ignored --nocapture`: drawn, preprocessed and tokenised
    /// samples a second, in batches of 384 as a device takes them, by worker threads and by the share of split samples.
    #[test]
    #[ignore = "measures"]
    #[allow(clippy::print_stdout, reason = "a measurement shows its result")]
    fn samples_a_second() {
        let folder = tempfile::tempdir().expect("a folder");
        let tokenizer = smolvlm_scenes::train_tokenizer(1, 20_000).expect("a tokenizer");
        smolvlm_scenes::write_model_folder(&tokenizer, folder.path()).expect("written");
        let seconds = std::env::var("SMOLVLM_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4.0);
        println!(
            "{:>7} {:>6} {:>6} {:>10} {:>10} {:>10} {:>24}",
            "threads", "tiles", "direct", "samples/s", "tokens/s", "tiles/s", "samples/s of a processor"
        );
        for (threads, tiles, direct) in
            [(1, 0.0, true), (2, 0.0, true), (1, 0.0, false), (1, 0.1, true), (1, 1.0, false)]
        {
            measure(folder.path(), threads, (tiles, direct), seconds);
        }
    }

    #[allow(clippy::print_stdout, reason = "a measurement shows its result")]
    fn measure(folder: &std::path::Path, threads: usize, (tiles, direct): (f64, bool), seconds: f64) {
        use smolvlm_train::data::{
            BatchRule, ExampleMaker, ExampleRules, Loader, LoaderOptions, Mixture, Part, Samples, Schedule,
            ScheduleOptions,
        };
        let entry = format!("datasets: [{{scenes: {{seed: 1, tiles: {tiles}, direct: {direct}}}}}]");
        let mixture = Mixture::from_yaml(&entry).expect("a mixture");
        let samples = Arc::new(Samples::open_with(&mixture, 0, &drawing, Part::All).expect("samples"));
        let media = crate::plan::training_media();
        let processor = smolvlm::Processor::open(folder, smolvlm::Compat::default(), media).expect("a processor");
        let maker = ExampleMaker::new(samples, Arc::new(processor), ExampleRules::default()).expect("a maker");
        let rule = BatchRule::Count { samples: 384 };
        let options = ScheduleOptions { seed: 0, shuffled: true, rule, epochs: 1000, lengths: None };
        let schedule = Schedule::new(&maker, options).expect("a schedule");
        let (start, ahead) = (schedule.start(), LoaderOptions { threads, ..LoaderOptions::default() });
        let mut loader = Loader::start(maker, schedule, start, &ahead).expect("a loader");
        loader.next_batch().expect("a batch");
        let (started, mut sums, before) = (std::time::Instant::now(), [0; 3], processor_seconds());
        while started.elapsed().as_secs_f64() < seconds {
            let batch = loader.next_batch().expect("a batch").expect("one more");
            assert!(batch.skipped.is_empty(), "{:?}", batch.skipped.first());
            for example in &batch.examples {
                for (sum, more) in sums.iter_mut().zip([1, example.ids.len(), example.tiles()]) {
                    *sum += more;
                }
            }
        }
        let [samples, tokens, shown] = sums.map(|sum| sum as f64 / started.elapsed().as_secs_f64());
        // What one processor would make if no other program ran on it.
        let alone = sums[0] as f64 / (processor_seconds() - before).max(1e-9);
        println!("{threads:>7} {tiles:>6} {direct:>6} {samples:>10.0} {tokens:>10.0} {shown:>10.0} {alone:>24.0}");
    }

    /// Time that this process has computed, on all threads; in hundredths of a second.
    fn processor_seconds() -> f64 {
        let text = std::fs::read_to_string("/proc/self/stat").expect("a Linux machine");
        let fields = text.rsplit(')').next().expect("fields").split_whitespace().skip(11).take(2);
        fields.map(|ticks| ticks.parse::<f64>().expect("ticks") / 100.0).sum()
    }
}
