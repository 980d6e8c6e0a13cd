//! A sequence's numbers do not depend on what else is in the batch, on chunks of its prompt, or on threads.

#![allow(clippy::print_stdout, reason = "a test says what it did not check")]

#[path = "golden/mod.rs"]
mod golden;

use golden::{Goldens, gpu_is_asked_for};
use smolvlm::generate::CachePlan;
use smolvlm::messages::Messages;
use smolvlm::{Device, Dtype, GenerateOptions, LoadOptions, Reply, Sampling, SmolVlm};

/// Natural logarithms of probabilities: how far apart the two best may be for a batch to decide otherwise, in bfloat16 on a GPU. The
/// tiny model's random weights make rounding felt more than trained ones do.
const BF16_MARGIN: f32 = 0.2;

/// Text, one picture, two pictures, a video, pictures late and early, short and long: eight requests of all kinds.
const MIXED: [&str; 8] = [
    "text_only",
    "image_square_48",
    "two_images_interleaved",
    "video_long_skip",
    "text_multi_turn",
    "image_text_first",
    "video_short",
    "text_short",
];

fn conversations(goldens: &Goldens) -> Vec<Messages> {
    MIXED.iter().map(|name| goldens.case(name).messages()).collect()
}

fn options() -> GenerateOptions {
    GenerateOptions { logprobs: Some(4), ..GenerateOptions::default().max_new_tokens(12) }
}

/// The bits of everything a reply says about the model's numbers.
fn bits(reply: &Reply) -> Vec<(u32, u32)> {
    let candidates = reply.logprobs.iter().flat_map(|token| std::iter::once(&token.chosen).chain(&token.top));
    candidates.map(|candidate| (candidate.id, candidate.logprob.to_bits())).collect()
}

fn replies(goldens: &Goldens, dtype: Dtype, threads: usize, chunk: Option<usize>, together: bool) -> Vec<Reply> {
    let cache = CachePlan { step_tokens: chunk, ..CachePlan::default() };
    let mut model = goldens.load_as(LoadOptions { threads, cache, ..LoadOptions::default().dtype(dtype) });
    replies_of(&mut model, &conversations(goldens), together)
}

fn replies_of(model: &mut SmolVlm, conversations: &[Messages], together: bool) -> Vec<Reply> {
    if together {
        return model.generate_batch(conversations, &options()).expect("replies");
    }
    conversations.iter().map(|messages| model.generate(messages, &options()).expect("a reply")).collect()
}

#[test]
fn eight_mixed_requests_are_bit_equal_to_their_members_alone() {
    let goldens = Goldens::committed();
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::Q8, Dtype::Q4] {
        let alone = replies(&goldens, dtype, 1, None, false);
        for (threads, chunk) in [(1, None), (2, None), (2, Some(7)), (1, Some(64)), (3, Some(1))] {
            let batch = replies(&goldens, dtype, threads, chunk, true);
            for ((name, alone), member) in MIXED.iter().zip(&alone).zip(&batch) {
                assert_eq!(alone.usage, member.usage, "{name}: another prompt in the batch");
                assert_eq!(alone.ids, member.ids, "{name}: {dtype:?}, {threads} threads, chunk {chunk:?}");
                assert!(bits(alone) == bits(member), "{name}: {dtype:?}, {threads} threads, chunk {chunk:?}");
            }
        }
    }
}

/// A GPU's library chooses its way by the number of rows: there the tokens are equal, and logits to 1e-5 of the largest.
#[test]
fn on_a_gpu_members_of_a_batch_choose_the_tokens_that_they_choose_alone() {
    if !gpu_is_asked_for() {
        return println!("not checked: SMOLVLM_TEST_CUDA is not set");
    }
    let goldens = Goldens::committed();
    let alone = on_gpu(&goldens, Dtype::F32, None, false);
    for chunk in [None, Some(7), Some(64)] {
        let together = on_gpu(&goldens, Dtype::F32, chunk, true);
        for ((name, alone), member) in MIXED.iter().zip(&alone).zip(&together) {
            assert_eq!(alone.ids, member.ids, "{name}: chunk {chunk:?}");
            for (alone, member) in alone.logprobs.iter().zip(&member.logprobs) {
                let distance = (alone.chosen.logprob - member.chosen.logprob).abs();
                assert!(distance <= 1e-5 * alone.chosen.logprob.abs().max(1.0), "{name}: {distance}");
            }
        }
    }
}

/// In bfloat16, a GPU's sums in another order may fall to either side of a rounding: a token may then differ, but only where the two best were
/// within `BF16_MARGIN` of each other.
#[test]
fn on_a_gpu_in_bf16_only_near_ties_are_decided_otherwise_in_a_batch() {
    if !gpu_is_asked_for() {
        return println!("not checked: SMOLVLM_TEST_CUDA is not set");
    }
    let goldens = Goldens::committed();
    let alone = on_gpu(&goldens, Dtype::Bf16, None, false);
    let (mut furthest, mut others) = (0.0_f32, 0);
    for chunk in [None, Some(7), Some(64)] {
        let together = on_gpu(&goldens, Dtype::Bf16, chunk, true);
        for ((name, alone), member) in MIXED.iter().zip(&alone).zip(&together) {
            let (same, margin) = until_they_part(alone, member);
            furthest = furthest.max(same);
            others += usize::from(margin.is_some());
            let margin = margin.unwrap_or_default();
            assert!(margin < BF16_MARGIN, "{name}: chunk {chunk:?}: another token at a margin of {margin}");
        }
    }
    let exact = on_gpu(&goldens, Dtype::F32, None, false);
    let rounding = exact.iter().zip(&alone).map(|(exact, alone)| until_they_part(exact, alone).0).fold(0.0, f32::max);
    println!("{others} other tokens; up to {furthest} between batch and alone, {rounding} between bfloat16 and f32");
    assert!(furthest < BF16_MARGIN / 2.0, "log-probabilities differ by {furthest}");
}

/// How far apart log-probabilities of the same tokens are, and the first reply's margin where another is chosen.
fn until_they_part(one: &Reply, other: &Reply) -> (f32, Option<f32>) {
    let mut furthest = 0.0_f32;
    for (one, other) in one.logprobs.iter().zip(&other.logprobs) {
        if one.chosen.id != other.chosen.id {
            // What follows has another past.
            return (furthest, Some(one.top[0].logprob - one.top[1].logprob));
        }
        furthest = furthest.max((one.chosen.logprob - other.chosen.logprob).abs());
    }
    (furthest, None)
}

fn on_gpu(goldens: &Goldens, dtype: Dtype, chunk: Option<usize>, together: bool) -> Vec<Reply> {
    let cache = CachePlan { step_tokens: chunk, ..CachePlan::default() };
    let options = LoadOptions { cache, device: Device::Cuda(0), ..LoadOptions::default().dtype(dtype) };
    replies_of(&mut goldens.load_as(options), &conversations(goldens), together)
}

#[test]
fn sampled_replies_are_the_same_alone_and_in_a_batch() {
    let goldens = Goldens::committed();
    let mut model = goldens.load(Dtype::F32);
    let options = options().sampling(Sampling { seed: 5, temperature: 3.0, ..Sampling::default() });
    let conversations = [goldens.case("text_only").messages(), goldens.case("text_short").messages()];
    let batch = model.generate_batch(&conversations, &options).expect("replies");
    for (messages, member) in conversations.iter().zip(&batch) {
        assert_eq!(model.generate(messages, &options).expect("a reply").ids, member.ids);
    }
    assert_ne!(batch[0].ids, batch[1].ids);
}

#[test]
fn requests_wait_for_room_in_the_cache_and_still_get_their_replies() {
    let goldens = Goldens::committed();
    let cache = CachePlan { bytes: Some(768 * 64 * 4), ..CachePlan::default() };
    let mut small = goldens.load_as(LoadOptions { cache, ..LoadOptions::default().dtype(Dtype::F32) });
    let conversations = vec![goldens.case("text_only").messages(); 6];
    let replies = small.generate_batch(&conversations, &options()).expect("replies");
    assert_eq!(replies.len(), 6);
    assert!(replies.iter().all(|reply| reply.ids == replies[0].ids));
}
