//! `smolvlm bench`: each stage's speed, beside what this machine can do at most.

use std::time::Instant;

use serde_json::{Value, json};
use smolvlm::generate::{Engine, Logits, Request};
use smolvlm::{Dtype, Error, GenerateOptions, Result, SmolVlm};

use crate::args::BenchArgs;
use crate::console::{self, Console};
use crate::work::{Operations, Work};
use crate::{json as output, plan};

const MS_PER_TILE: &str = "ms per tile";

/// Seconds of the repetitions of one stage.
struct Times(Vec<f64>);

impl Times {
    /// Runs `stage` once unmeasured, then `repeat` times.
    fn measure(repeat: usize, mut stage: impl FnMut() -> Result<f64>) -> Result<Self> {
        stage()?;
        let mut times = (0..repeat.max(1)).map(|_| stage()).collect::<Result<Vec<f64>>>()?;
        times.sort_by(f64::total_cmp);
        Ok(Self(times))
    }

    fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }

    fn min(&self) -> f64 {
        self.0[0]
    }

    fn max(&self) -> f64 {
        self.0[self.0.len() - 1]
    }
}

/// One line of the table: a stage, its figure, and what an ideal program would need on this machine.
struct Figure {
    stage: String,
    unit: &'static str,
    median: f64,
    min: f64,
    max: f64,
    /// Seconds of the median, by which the work is divided.
    seconds: f64,
    work: StageWork,
}

/// What a stage must do, and so what holds it back on an ideal machine.
#[derive(Clone, Copy)]
enum StageWork {
    /// Products.
    Products(Operations),
    /// Bytes read from memory.
    Bytes(f64),
}

pub(crate) fn bench(args: &BenchArgs) -> Result<()> {
    let console = Console::new(args.model.quiet, args.model.verbose);
    let mut model = plan::load(&args.model, None, &console)?;
    check_lengths(args, model.config().text.max_positions)?;
    let work = Work::of(&model);
    let mut figures = vec![vision(&mut model, args, &work)?];
    for tokens in args.prompt_tokens.iter().copied().map(usize::from) {
        figures.push(prefill(&mut model, args, tokens, &work)?);
        figures.push(decode(&mut model, args, tokens, &work)?);
    }
    let first_token = first_token(&mut model, args)?;
    // Read before the machine's peak is measured, which takes memory of its own.
    let memory = peak_memory();
    let limits = Limits::measure(args.model.threads, model.dtype())?;
    if args.json {
        let mut value = output::setup(&model, &args.model.model);
        value["peak"] = json!({
            "flops": limits.attention,
            "int8_ops": model.dtype().format().is_quantised().then_some(limits.matrices),
            "read_bytes_per_second": limits.bandwidth,
        });
        value["figures"] = figures.iter().map(|figure| figure.json(&limits)).collect();
        value["first_token_seconds"] = json!({ "tiles": 17, "seconds": first_token });
        value["peak_memory_bytes"] = json!(memory);
        return output::print(&value);
    }
    console::print(&table(&figures, &limits, first_token, memory))
}

/// A reply that the context cuts short would be divided by tokens that never came.
fn check_lengths(args: &BenchArgs, context: usize) -> Result<()> {
    let longest = args.prompt_tokens.iter().copied().map(usize::from).max().unwrap_or_default();
    if longest.saturating_add(args.decode_tokens.max(1)) < context {
        return Ok(());
    }
    Err(Error::usage(format!(
        "--prompt-tokens {longest} and --decode-tokens {} do not fit the model's context of {context}",
        args.decode_tokens
    )))
}

/// What the machine can do at most, per second.
struct Limits {
    /// Operations of products with weights.
    matrices: f64,
    /// Operations of products in attention.
    attention: f64,
    /// Bytes read from memory.
    bandwidth: f64,
}

impl Limits {
    fn measure(threads: usize, dtype: Dtype) -> Result<Self> {
        let peak = smolvlm::measure_peak(threads)?;
        let (matrices, attention) = match dtype {
            Dtype::F32 => (peak.f32_flops, peak.f32_flops),
            Dtype::Bf16 => (peak.bf16_flops, peak.bf16_flops),
            Dtype::Q8 | Dtype::Q4 => (peak.q8_ops, peak.bf16_flops),
        };
        Ok(Self { matrices, attention, bandwidth: peak.read_bandwidth })
    }
}

impl StageWork {
    /// Seconds that the work takes at the machine's peak.
    fn floor(self, limits: &Limits) -> f64 {
        match self {
            Self::Products(work) => work.matrices / limits.matrices + work.attention / limits.attention,
            Self::Bytes(bytes) => bytes / limits.bandwidth,
        }
    }

    /// What was reached in so many seconds, for people.
    fn rate(self, seconds: f64) -> String {
        match self {
            Self::Products(work) => format!("{:.0} GFLOP/s", (work.matrices + work.attention) / seconds / 1e9),
            Self::Bytes(bytes) => format!("{:.1} GB/s", bytes / seconds / 1e9),
        }
    }

    fn per_second(self, seconds: f64) -> Value {
        match self {
            Self::Products(work) => json!({ "flops": (work.matrices + work.attention) / seconds }),
            Self::Bytes(bytes) => json!({ "read_bytes_per_second": bytes / seconds }),
        }
    }
}

fn vision(model: &mut SmolVlm, args: &BenchArgs, work: &Work) -> Result<Figure> {
    let values = model.pixel_table();
    let size = model.config().vision.image_size;
    let tiles: Vec<Vec<u8>> = (0..args.tiles.max(1)).map(|i| noise(size * size * 3, i as u64)).collect();
    let tiles: Vec<&[u8]> = tiles.iter().map(Vec::as_slice).collect();
    let times = Times::measure(args.repeat, || {
        let started = Instant::now();
        model.engine().encode(&tiles, &values)?;
        Ok(started.elapsed().as_secs_f64() / tiles.len() as f64)
    })?;
    Ok(Figure {
        stage: "vision".to_owned(),
        unit: MS_PER_TILE,
        median: times.median() * 1e3,
        min: times.min() * 1e3,
        max: times.max() * 1e3,
        seconds: times.median(),
        work: StageWork::Products(work.vision),
    })
}

fn prefill(model: &mut SmolVlm, args: &BenchArgs, tokens: usize, work: &Work) -> Result<Figure> {
    let times = Times::measure(args.repeat, || Ok(run(model, tokens, 1)?.0))?;
    Ok(Figure {
        stage: format!("prefill of {tokens}"),
        unit: "tokens/s",
        median: tokens as f64 / times.median(),
        min: tokens as f64 / times.max(),
        max: tokens as f64 / times.min(),
        seconds: times.median(),
        work: StageWork::Products(work.prefill(tokens)),
    })
}

fn decode(model: &mut SmolVlm, args: &BenchArgs, tokens: usize, work: &Work) -> Result<Figure> {
    let count = args.decode_tokens.max(1);
    let times = Times::measure(args.repeat, || Ok(run(model, tokens, count + 1)?.1 / count as f64))?;
    let bytes = work.decode_bytes(tokens + count / 2);
    Ok(Figure {
        stage: format!("decode after {tokens}"),
        unit: "tokens/s",
        median: 1.0 / times.median(),
        min: 1.0 / times.max(),
        max: 1.0 / times.min(),
        seconds: times.median(),
        work: StageWork::Bytes(bytes),
    })
}

/// Seconds from pixels of a 17-tile picture to the first token of its answer.
fn first_token(model: &mut SmolVlm, args: &BenchArgs) -> Result<f64> {
    const TILES: usize = 17;
    const WORDS: usize = 60;
    let values = model.pixel_table();
    let size = model.config().vision.image_size;
    let tiles: Vec<Vec<u8>> = (0..TILES).map(|i| noise(size * size * 3, i as u64)).collect();
    let tiles: Vec<&[u8]> = tiles.iter().map(Vec::as_slice).collect();
    let image_token = model.config().image_token_id;
    let image_tokens = TILES * model.config().tokens_per_tile();
    let times = Times::measure(args.repeat.min(2), || {
        let started = Instant::now();
        let mut features = Vec::new();
        for tiles in tiles.chunks(2) {
            features.extend(model.engine().encode(tiles, &values)?);
        }
        let ids = [vec![image_token; image_tokens], words(model, WORDS)].concat();
        generate(model.engine(), Request { ids, features, options: exactly(1), logits: Logits::None })?;
        Ok(started.elapsed().as_secs_f64())
    })?;
    Ok(times.median())
}

/// Seconds of the prompt and of the tokens after the first.
fn run(model: &mut SmolVlm, tokens: usize, new_tokens: usize) -> Result<(f64, f64)> {
    let ids = words(model, tokens);
    generate(model.engine(), Request { ids, features: Vec::new(), options: exactly(new_tokens), logits: Logits::None })
}

fn exactly(new_tokens: usize) -> GenerateOptions {
    GenerateOptions { ignore_end: true, ..GenerateOptions::default().max_new_tokens(new_tokens) }
}

fn generate(engine: &mut dyn Engine, request: Request) -> Result<(f64, f64)> {
    let sequence = engine.submit(request)?;
    let started = Instant::now();
    let (mut first, mut outputs) = (None, Vec::new());
    loop {
        engine.step(&mut outputs)?;
        let Some(output) = outputs.iter().find(|output| output.sequence == sequence) else { continue };
        if output.token.is_some() && first.is_none() {
            first = Some(started.elapsed().as_secs_f64());
        }
        if output.finish.is_some() {
            let prompt = first.unwrap_or_default();
            return Ok((prompt, started.elapsed().as_secs_f64() - prompt));
        }
    }
}

/// Ordinary tokens, no two neighbours alike.
fn words(model: &SmolVlm, count: usize) -> Vec<u32> {
    let image_token = model.config().image_token_id as usize;
    let usable = image_token.clamp(2, 40_000);
    (0..count).map(|i| (i * 7919 % (usable - 1)) as u32 + 1).map(|id| id % usable as u32).collect()
}

/// Pixels that no branch can predict (a multiplicative generator; its quality does not matter).
fn noise(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// The most memory this process ever held, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes << 10)
}

impl Figure {
    /// The figure of an ideal program, in the same unit.
    fn floor(&self, limits: &Limits) -> f64 {
        if self.unit == MS_PER_TILE { self.median * self.share(limits) } else { self.median / self.share(limits) }
    }

    /// Of the machine's peak.
    fn share(&self, limits: &Limits) -> f64 {
        self.work.floor(limits) / self.seconds
    }

    fn json(&self, limits: &Limits) -> Value {
        json!({
            "stage": self.stage, "unit": self.unit, "median": self.median, "min": self.min, "max": self.max,
            "floor": self.floor(limits), "share_of_floor": self.share(limits), "reached": self.work.per_second(self.seconds),
        })
    }
}

fn table(figures: &[Figure], limits: &Limits, first_token: f64, memory: Option<u64>) -> String {
    let mut text = format!(
        "peak of this machine: {:.0} GFLOP/s in matrices, {:.0} in attention, {:.1} GB/s read from memory\n\n\
         {:20} {:>10} {:>10} {:>10} {:>10}  {:12} {:>14} {}\n",
        limits.matrices / 1e9,
        limits.attention / 1e9,
        limits.bandwidth / 1e9,
        "stage",
        "median",
        "min",
        "max",
        "floor",
        "unit",
        "reached",
        "share of the floor"
    );
    for figure in figures {
        let Figure { stage, unit, median, min, max, .. } = figure;
        let (floor, share, rate) =
            (figure.floor(limits), 100.0 * figure.share(limits), figure.work.rate(figure.seconds));
        text += &format!(
            "{stage:20} {median:10.1} {min:10.1} {max:10.1} {floor:10.1}  {unit:12} {rate:>14} {share:.0} %\n"
        );
    }
    text += &format!("\npicture of 17 tiles to first token: {first_token:.2} s\n");
    if let Some(memory) = memory {
        text += &format!("peak memory of this process: {}\n", console::bytes(memory));
    }
    text
}
