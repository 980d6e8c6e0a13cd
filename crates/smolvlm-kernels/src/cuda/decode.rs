//! One token of one sequence in one launch: `kernels/decode.cu`, compiled for a model's sizes.

use std::sync::Arc;

use cudarc::driver::result;

use super::CudaBackend;
use super::cache::Cache;
use super::compile::{Compiler, Source};
use super::device::{Device, Result, error};
use super::launch::{Function, Loaded, Shape, Start};
use super::memory::{Arena, Buffer};
use super::plan::{Array, Plan};
use super::tensor::{Element, Memory, Tensor, Vector, Weight};
use crate::backend::DecoderWeights;

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
/// Where the kernel's scratch memory holds the word that tells of failures, and after it the likeliest token.
const STATUS: u64 = 4;

/// A text model's weights as the kernel finds them.
pub struct Decoder {
    function: Function,
    shape: Shape,
    step: Step,
    vocab: usize,
    scratch: Buffer,
    _layers: Buffer,
    _loaded: Loaded,
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
    id: u64,
    position: u64,
    logits: u64,
    scratch: u64,
    eps: f32,
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
            id: 0,
            position: 0,
            logits: 0,
            scratch: scratch.pointer(),
            eps: text.eps,
        };
        let shape = Shape { shared, start: Start::Together, ..Shape::new((blocks as u32, 1, 1), threads) };
        let vocab = text.head.outputs;
        Ok(Some(Self { function, shape, step, vocab, scratch, _layers: layers, _loaded: loaded }))
    }

    /// Logits of the plan's one token, which is appended to the cache.
    pub(super) fn run(&self, device: &Device, arena: &Arc<Arena>, plan: &Plan, cache: &Cache) -> Tensor {
        let logits = arena.take(self.vocab * size_of::<f32>());
        let step = Step {
            cache: cache.layer(0),
            page_stride: cache.page_numbers(),
            layer_stride: cache.layer_numbers(),
            // The first is nobody's.
            pages: plan.array(Array::Pages) + size_of::<u32>() as u64,
            id: plan.array(Array::Ids),
            position: plan.array(Array::Positions),
            logits: logits.pointer(),
            ..self.step
        };
        // Safety: the structure is the kernel's; weights outlive the decoder, the plan's pages have memory, and the scratch memory is this
        // kernel's alone.
        unsafe { device.launch_struct("decoding a token", Some(self.function), self.shape, &step) };
        let largest = Some(self.scratch.pointer() + STATUS);
        Tensor { rows: 1, width: self.vocab, element: Element::F32, memory: Memory::Step(logits), largest }
    }
}

/// The token that a run left, and whether all went well.
pub(super) fn read_largest(device: &Device, pointer: u64) -> Option<u32> {
    let mut words = [0_u32; 2];
    device.bind();
    // Safety: two words of the decoder's scratch memory; the copy has ended before anything reads them.
    device.check("reading a token", unsafe { result::memcpy_dtoh_async(&mut words, pointer, device.stream) })?;
    device.synchronise("decoding a token");
    let [status, token] = words;
    if status != 0 {
        device.fail(error("CUDA: blocks of the decoding kernel waited for each other in vain"));
        return None;
    }
    Some(token)
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
