//! `smolvlm bench`: each stage's speed, beside what this machine can do at most.

mod answer;

use std::collections::HashSet;
use std::time::Instant;

use serde_json::{Value, json};
use smolvlm::generate::{Engine, Features, Logits, Request};
use smolvlm::{Ceilings, Error, GenerateOptions, ProcessMemory, Result, SmolVlm};

use answer::{Answer, picture, video};

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
    work: Operations,
}

pub(crate) fn bench(args: &BenchArgs) -> Result<()> {
    let console = Console::new(args.model.quiet, args.model.verbose);
    let mut model = plan::load(&args.model, None, &console)?;
    check_lengths(args, model.config().text.max_positions)?;
    let work = Work::of(&model);
    let mut figures = vision(&mut model, args, &work)?;
    for tokens in args.prompt_tokens.iter().copied().map(usize::from) {
        figures.push(prefill(&mut model, args, tokens, &work)?);
        figures.push(decode(&mut model, args, tokens, &work)?);
    }
    for sequences in args.sequences.iter().copied().map(usize::from) {
        figures.push(decode_many(&mut model, args, sequences, &work)?);
    }
    let answers = [picture(&mut model, args)?, video(&mut model, args)?];
    // Read before the machine's peak is measured, which takes memory of its own.
    let memory = Memory {
        process: ProcessMemory::read().map(|memory| memory.peak),
        device: model.engine().most_device_memory(),
    };
    let limits = model.engine().measure_ceilings()?;
    if args.json {
        let mut value = output::setup(&model, &args.model);
        value["peak"] = json!({
            "flops": limits.attention,
            "int8_ops": model.dtype().format().is_quantised().then_some(limits.matrices),
            "read_bytes_per_second": limits.memory,
        });
        value["figures"] = figures.iter().map(|figure| figure.json(&limits)).collect();
        value["answers"] = answers.iter().map(Answer::json).collect();
        value["peak_memory_bytes"] = json!(memory.process);
        value["peak_device_memory_bytes"] = json!(memory.device);
        return output::print(&value);
    }
    console::print(&table(&figures, &limits, &answers, &memory))
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

/// From bytes in memory to features where the text model reads them; on a device also to numbers in the machine's memory.
fn vision(model: &mut SmolVlm, args: &BenchArgs, work: &Work) -> Result<Vec<Figure>> {
    let on_a_device = model.engine().most_device_memory().is_some();
    let figure = |stage: &str, times: Times| Figure {
        stage: stage.to_owned(),
        unit: MS_PER_TILE,
        median: times.median() * 1e3,
        min: times.min() * 1e3,
        max: times.max() * 1e3,
        seconds: times.median(),
        work: work.vision,
    };
    let mut figures = vec![figure("vision", encode(model, args, false)?)];
    if on_a_device {
        figures.push(figure("vision, to the host", encode(model, args, true)?));
    }
    Ok(figures)
}

/// Seconds a tile.
fn encode(model: &mut SmolVlm, args: &BenchArgs, download: bool) -> Result<Times> {
    let values = model.pixel_table();
    let size = model.config().vision.image_size;
    let tiles: Vec<Vec<u8>> = (0..args.tiles.max(1)).map(|i| noise(size * size * 3, i as u64)).collect();
    let tiles: Vec<&[u8]> = tiles.iter().map(Vec::as_slice).collect();
    Times::measure(args.repeat, || {
        let started = Instant::now();
        let features = model.engine().encode(&tiles, &values)?;
        if download {
            model.engine().download(&features)?;
        } else {
            model.engine().wait()?;
        }
        Ok(started.elapsed().as_secs_f64() / tiles.len() as f64)
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
        work: work.prefill(tokens),
    })
}

fn decode(model: &mut SmolVlm, args: &BenchArgs, tokens: usize, work: &Work) -> Result<Figure> {
    let count = args.decode_tokens.max(1);
    let times = Times::measure(args.repeat, || Ok(run(model, tokens, count + 1)?.1 / count as f64))?;
    Ok(Figure {
        stage: format!("decode after {tokens}"),
        unit: "tokens/s",
        median: 1.0 / times.median(),
        min: 1.0 / times.max(),
        max: 1.0 / times.min(),
        seconds: times.median(),
        work: work.decode(1, tokens + count / 2),
    })
}

/// Decoding of many sequences together, each after a prompt of 104 tokens: tokens of all of them per second.
fn decode_many(model: &mut SmolVlm, args: &BenchArgs, sequences: usize, work: &Work) -> Result<Figure> {
    const PROMPT: usize = 104;
    let count = args.decode_tokens.max(1);
    let ids = words(model, PROMPT);
    let times = Times::measure(args.repeat, || {
        let engine = model.engine();
        for _ in 0..sequences {
            let options = exactly(count + 1);
            engine.submit(Request {
                ids: ids.clone(),
                features: Features::default(),
                options,
                logits: Logits::None,
            })?;
        }
        // Prompts may take several steps, in which those that are through go on: what counts is what comes after the last
        // sequence's first token.
        let (mut begun, mut before, mut tokens) = (HashSet::new(), 0, 0);
        let (mut started, mut outputs) = (Instant::now(), Vec::new());
        while tokens < sequences * (count + 1) {
            engine.step(&mut outputs)?;
            let chosen = outputs.iter().filter(|output| output.token.is_some());
            tokens += chosen.clone().count();
            if begun.len() < sequences {
                begun.extend(chosen.map(|output| output.sequence));
                (started, before) = (Instant::now(), tokens);
            }
        }
        Ok(started.elapsed().as_secs_f64() / (tokens - before).max(1) as f64)
    })?;
    Ok(Figure {
        stage: format!("decode of {sequences} after {PROMPT}"),
        unit: "tokens/s",
        median: 1.0 / times.median(),
        min: 1.0 / times.max(),
        max: 1.0 / times.min(),
        seconds: times.median() * sequences as f64,
        work: work.decode(sequences, PROMPT + count / 2),
    })
}

/// Seconds of the prompt and of the tokens after the first.
fn run(model: &mut SmolVlm, tokens: usize, new_tokens: usize) -> Result<(f64, f64)> {
    let ids = words(model, tokens);
    generate(
        model.engine(),
        Request { ids, features: Features::default(), options: exactly(new_tokens), logits: Logits::None },
    )
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

impl Figure {
    /// The figure of an ideal program, in the same unit.
    fn floor(&self, limits: &Ceilings) -> f64 {
        if self.unit == MS_PER_TILE { self.median * self.share(limits) } else { self.median / self.share(limits) }
    }

    /// Of the machine's peak.
    fn share(&self, limits: &Ceilings) -> f64 {
        self.work.floor(limits) / self.seconds
    }

    /// What was reached of whatever holds the stage back.
    fn reached(&self, limits: &Ceilings) -> Value {
        let Operations { matrices, attention, bytes } = self.work;
        if self.work.is_bound_by_memory(limits) {
            json!({ "read_bytes_per_second": bytes / self.seconds })
        } else {
            json!({ "flops": (matrices + attention) / self.seconds })
        }
    }

    /// The same for people.
    fn rate(&self, limits: &Ceilings) -> String {
        let Operations { matrices, attention, bytes } = self.work;
        if self.work.is_bound_by_memory(limits) {
            format!("{:.1} GB/s", bytes / self.seconds / 1e9)
        } else {
            format!("{:.0} GFLOP/s", (matrices + attention) / self.seconds / 1e9)
        }
    }

    fn json(&self, limits: &Ceilings) -> Value {
        json!({
            "stage": self.stage, "unit": self.unit, "median": self.median, "min": self.min, "max": self.max,
            "floor": self.floor(limits), "share_of_floor": self.share(limits), "reached": self.reached(limits),
        })
    }
}

/// The most bytes ever held.
struct Memory {
    process: Option<u64>,
    device: Option<u64>,
}

/// Ten columns; small numbers keep three digits.
fn number(value: f64) -> String {
    if value < 10.0 { format!("{value:10.3}") } else { format!("{value:10.1}") }
}

fn table(figures: &[Figure], limits: &Ceilings, answers: &[Answer], memory: &Memory) -> String {
    let mut text = format!(
        "peak of this machine: {:.0} GFLOP/s in matrices, {:.0} in attention, {:.1} GB/s of memory\n\n\
         {:24} {:>10} {:>10} {:>10} {:>10}  {:12} {:>14} {}\n",
        limits.matrices / 1e9,
        limits.attention / 1e9,
        limits.memory / 1e9,
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
        let (floor, share, rate) = (figure.floor(limits), 100.0 * figure.share(limits), figure.rate(limits));
        text += &format!(
            "{stage:24} {} {} {} {}  {unit:12} {rate:>14} {share:.0} %\n",
            number(*median),
            number(*min),
            number(*max),
            number(floor)
        );
    }
    text.push('\n');
    for Answer { what, tiles, new_tokens, first_token, last_token } in answers {
        text += &format!(
            "{what} of {tiles} tiles: first token after {:.1} ms, {new_tokens} tokens after {:.1} ms\n",
            1e3 * first_token,
            1e3 * last_token
        );
    }
    if let Some(process) = memory.process {
        text += &format!("peak memory of this process: {}\n", console::bytes(process));
    }
    if let Some(device) = memory.device {
        text += &format!("peak memory on the device: {}\n", console::bytes(device));
    }
    text
}
