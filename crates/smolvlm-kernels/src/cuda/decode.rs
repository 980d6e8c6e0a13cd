//! One token of one sequence in one launch: `kernels/decode.cu`, compiled for a model's sizes.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::CUdeviceptr;

use super::CudaBackend;
use super::cache::Cache;
use super::compile::{Compiler, Source};
use super::device::{Device, Result, error};
use super::launch::{Function, Loaded, Shape};
use super::memory::{Buffer, Pinned};
use super::plan::Plan;
use super::tensor::{Element, Memory, Tensor, Vector, Weight};
use crate::backend::{DecoderWeights, PAGE_TOKENS};

const SOURCE: Source = Source {
    name: "decode",
    files: &[
        include_str!("kernels/tensor_core.cuh"),
        include_str!("kernels/decode_layout.cuh"),
        include_str!("kernels/decode_products.cuh"),
        include_str!("kernels/decode_attention.cuh"),
        include_str!("kernels/decode.cu"),
    ],
};

/// The generation whose bulk copies the kernel uses.
const OLDEST_CAPABILITY: (u32, u32) = (9, 0);
/// Answers that launches leave on the host: one is read while the next is computed.
const ANSWERS: usize = 4;
/// What the kernel adds to a token when it failed.
const FAILED: u32 = 1 << 31;
/// Looks at an answer between two questions to the driver whether the launch has ended.
const LOOKS: usize = 1 << 14;

/// A text model that computes a token in one launch. While the host reads a token, the launch that continues with it is already
/// under way: it takes its token from the one before.
pub struct Decoder(Arc<Runner>);

/// The kernel with a model's weights as it finds them.
struct Runner {
    device: Arc<Device>,
    function: Function,
    shape: Shape,
    step: Step,
    vocab: usize,
    /// Positions that have angles.
    positions: usize,
    answers: Pinned,
    run: Mutex<Run>,
    _scratch: Buffer,
    _layers: Buffer,
    _loaded: Loaded,
}

/// What was started last.
struct Run {
    /// Of the last launch.
    number: u32,
    /// What the last launch for the host was given.
    place: Place,
    /// The sequence's pages, on the host and on the device.
    pages: Vec<u32>,
    pages_there: Buffer,
    /// The token that was read last.
    chosen: Option<u32>,
    /// The launch after that one, if it is under way.
    ahead: Option<Launch>,
    /// Memory for logits, used again when nobody holds it.
    logits: Vec<Arc<Buffer>>,
}

/// Where a token goes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    cache: CUdeviceptr,
    page_stride: u64,
    layer_stride: u64,
    position: u32,
    /// Steps of other kinds before it: after another, the cache may hold something else.
    steps: u64,
}

/// A launch whose results will come.
struct Launch {
    number: u32,
    logits: Arc<Buffer>,
}

/// The likeliest token of a launch, which the host can wait for.
pub(super) struct Choice {
    runner: Arc<Runner>,
    number: u32,
}

/// As `decode_layout.cuh` declares it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Layer {
    norm1: u64,
    qkv: u64,
    out: u64,
    norm2: u64,
    gate_up: u64,
    down: u64,
}

/// As `decode_layout.cuh` declares it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Step {
    layers: u64,
    final_norm: u64,
    head: u64,
    embedding: u64,
    cos: u64,
    sin: u64,
    cache: u64,
    page_stride: u64,
    layer_stride: u64,
    pages: u64,
    logits: u64,
    scratch: u64,
    answer: u64,
    eps: f32,
    position: u32,
    id: u32,
    follows: u32,
    number: u32,
}

impl Decoder {
    /// None for sizes and formats that the kernel is not made for.
    ///
    /// # Errors
    /// When the kernel does not compile.
    pub(super) fn new(
        device: &Arc<Device>,
        compiler: &Compiler,
        text: &DecoderWeights<'_, CudaBackend>,
    ) -> Result<Option<Self>> {
        let (hidden, mlp) = (text.head.inputs, text.layers.first().map_or(0, |layer| layer.down.inputs));
        let outputs = (text.heads + 2 * text.kv_heads) * text.head_dim;
        let blocks = (device.info.multiprocessors as usize).min(outputs);
        let suits = device.info.capability >= OLDEST_CAPABILITY
            && text.head.element == Element::Bf16
            && [16, 32, 64].contains(&text.head_dim)
            && text.heads.is_multiple_of(text.kv_heads)
            && text.heads / text.kv_heads <= 8
            && hidden.is_multiple_of(16)
            && mlp.is_multiple_of(16)
            && mlp > 0
            && text.kv_heads <= blocks;
        if !suits {
            return Ok(None);
        }
        let defines = [
            ("HIDDEN", hidden),
            ("HEADS", text.heads),
            ("KV_HEADS", text.kv_heads),
            ("HEAD_DIM", text.head_dim),
            ("MLP", mlp),
            ("LAYERS", text.layers.len()),
            ("VOCAB", text.head.outputs),
            ("BLOCKS", blocks),
            ("SHARED_LIMIT", device.shared_memory),
        ];
        let defines = defines.map(|(name, value)| format!("{name}={value}"));
        let loaded = Loaded::new(device, compiler, SOURCE, &defines)?;
        let missing = || error("CUDA: the decoding kernel lacks what it declares");
        let function = loaded.function("decode_step").ok_or_else(missing)?;
        let constant = |name| loaded.constant(name).ok_or_else(missing);
        let (scratch, shared, threads) =
            (constant("decode_scratch_bytes")?, constant("decode_shared_bytes")?, constant("decode_threads")?);
        let scratch = Buffer::of(device, &vec![0_u8; scratch as usize]);
        let layers = Buffer::of(device, &layers_of(text));
        let step = Step {
            layers: layers.pointer(),
            final_norm: text.norm.f32.pointer(),
            head: text.head.data.pointer(),
            embedding: text.embeddings.data.pointer(),
            cos: text.rope.cos.f32.pointer(),
            sin: text.rope.sin.f32.pointer(),
            cache: 0,
            page_stride: 0,
            layer_stride: 0,
            pages: 0,
            logits: 0,
            scratch: scratch.pointer(),
            answer: 0,
            eps: text.eps,
            position: 0,
            id: 0,
            follows: 0,
            number: 0,
        };
        let shape = Shape { shared, ..Shape::new((blocks as u32, 1, 1), threads).early() };
        let run = Run {
            number: 0,
            place: Place { cache: 0, page_stride: 0, layer_stride: 0, position: 0, steps: 0 },
            pages: Vec::new(),
            pages_there: Buffer::new(device, 0),
            chosen: None,
            ahead: None,
            logits: Vec::new(),
        };
        Ok(Some(Self(Arc::new(Runner {
            device: device.clone(),
            function,
            shape,
            step,
            vocab: text.head.outputs,
            positions: text.rope.cos.f32.bytes() / (size_of::<f32>() * text.head_dim / 2),
            answers: Pinned::new(device, ANSWERS * size_of::<u64>()),
            run: Mutex::new(run),
            _scratch: scratch,
            _layers: layers,
            _loaded: loaded,
        }))))
    }

    /// Logits of the plan's one token, which is appended to the cache.
    pub(super) fn run(&self, plan: &Plan, cache: &Cache, steps: u64) -> Tensor {
        let runner = &self.0;
        let (id, pages) = (plan.batch.ids[0], &plan.batch.pages);
        let place = Place {
            cache: cache.layer(0),
            page_stride: cache.page_numbers(),
            layer_stride: cache.layer_numbers(),
            position: plan.batch.segments[0].start as u32,
            steps,
        };
        let mut run = runner.lock();
        let expected = Place { position: run.place.position.wrapping_add(1), ..run.place };
        let continues = place == expected && run.chosen == Some(id) && run.pages == *pages;
        let launch = match run.ahead.take() {
            Some(ahead) if continues => ahead,
            _ => {
                runner.hand_over(&mut run, pages);
                runner.launch(&mut run, place, Some(id))
            }
        };
        (run.place, run.chosen) = (place, None);
        let choice = Some(Choice { runner: runner.clone(), number: launch.number });
        Tensor { rows: 1, width: runner.vocab, element: Element::F32, memory: Memory::Shared(launch.logits), choice }
    }
}

impl Runner {
    fn lock(&self) -> MutexGuard<'_, Run> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings a sequence's pages to the device; a sequence's `p` is page `p + 1` there.
    fn hand_over(&self, run: &mut Run, pages: &[u32]) {
        if run.pages == pages {
            return;
        }
        run.pages.clear();
        run.pages.extend_from_slice(pages);
        let there: Vec<u32> = pages.iter().map(|page| page + 1).collect();
        if run.pages_there.bytes() < size_of_val(&there[..]) {
            run.pages_there = Buffer::new(&self.device, size_of_val(&there[..]).next_power_of_two());
        }
        run.pages_there.write(&there);
    }

    /// Starts the kernel with a token, or with the one that the launch before chooses.
    fn launch(&self, run: &mut Run, place: Place, id: Option<u32>) -> Launch {
        self.device.bind();
        // Zero is what the answers hold at first.
        run.number = run.number.wrapping_add(1).max(1);
        let logits = self.room_for_logits(run);
        let step = Step {
            cache: place.cache,
            page_stride: place.page_stride,
            layer_stride: place.layer_stride,
            pages: run.pages_there.pointer(),
            logits: logits.pointer(),
            answer: self.answers.pointer() + (run.number as usize % ANSWERS * size_of::<u64>()) as u64,
            position: place.position,
            id: id.unwrap_or(0),
            follows: u32::from(id.is_none()),
            number: run.number,
            ..self.step
        };
        // Safety: the structure is the kernel's; weights outlive the decoder, the sequence's pages have memory, the scratch memory is this
        // kernel's alone, and the device may write to pinned memory.
        unsafe { self.device.launch_struct("decoding a token", Some(self.function), self.shape, &step) };
        Launch { number: run.number, logits }
    }

    /// Memory that nobody reads any more. Launches follow each other, so one that was dropped may still be written.
    fn room_for_logits(&self, run: &mut Run) -> Arc<Buffer> {
        if let Some(free) = run.logits.iter().find(|logits| Arc::strong_count(logits) == 1) {
            return free.clone();
        }
        let logits = Arc::new(Buffer::new(&self.device, self.vocab * size_of::<f32>()));
        run.logits.push(logits.clone());
        logits
    }

    /// Starts the launch after the last one, unless it would leave the sequence's pages or positions.
    fn run_ahead(&self, run: &mut Run) {
        let place = Place { position: run.place.position + 1, ..run.place };
        let room = (run.pages.len() * PAGE_TOKENS).min(self.positions);
        if (place.position as usize) < room {
            run.ahead = Some(self.launch(run, place, None));
        }
    }

    /// Waits for what a launch chose.
    fn answer(&self, number: u32) -> Option<u32> {
        let answers = self.answers.words();
        let answer = answers.get(number as usize % ANSWERS)?;
        let arrived = || {
            let word = answer.load(Ordering::Acquire);
            ((word >> 32) as u32 == number).then_some(word as u32)
        };
        loop {
            if self.device.has_failed() {
                return None;
            }
            for _ in 0..LOOKS {
                if let Some(token) = arrived() {
                    return Some(token);
                }
                std::hint::spin_loop();
            }
            if self.device.has_ended("decoding a token")? {
                return arrived();
            }
        }
    }
}

impl Choice {
    /// The likeliest token; 0 after a failure, which the device keeps. `steps`: how many of another kind there were so far.
    pub(super) fn wait(&self, steps: u64) -> u32 {
        let runner = &self.runner;
        let mut run = runner.lock();
        if run.number == self.number && run.place.steps == steps {
            runner.run_ahead(&mut run);
        }
        let answer = runner.answer(self.number);
        match answer {
            Some(token) if token & FAILED == 0 => {
                run.chosen = Some(token);
                token
            }
            Some(_) => {
                runner.device.fail(error("CUDA: blocks of the decoding kernel waited for each other in vain"));
                0
            }
            None => {
                runner.device.fail(error("CUDA: the decoding kernel ended without an answer"));
                0
            }
        }
    }
}

fn layers_of(text: &DecoderWeights<'_, CudaBackend>) -> Vec<Layer> {
    let (vector, weight) = (|vector: &Vector| vector.f32.pointer(), |weight: &Weight| weight.data.pointer());
    let layers = text.layers.iter();
    layers
        .map(|layer| Layer {
            norm1: vector(layer.norm1),
            qkv: weight(layer.qkv),
            out: weight(layer.out),
            norm2: vector(layer.norm2),
            gate_up: weight(layer.gate_up),
            down: weight(layer.down),
        })
        .collect()
}
