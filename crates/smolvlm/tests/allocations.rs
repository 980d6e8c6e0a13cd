//! Decoding allocates nothing but a page of keys and values every 64 tokens.

#[path = "golden/mod.rs"]
mod golden;

use allocation_counter::measure;
use golden::Goldens;
use smolvlm::generate::{Logits, Request};
use smolvlm::{Dtype, GenerateOptions, LoadOptions};

const PAGE: usize = 64;

#[test]
fn a_decoding_step_allocates_nothing_but_a_new_page() {
    let goldens = Goldens::committed();
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::Q8, Dtype::Q4] {
        // One thread, because allocations are counted on this one.
        let mut model = goldens.load_as(LoadOptions { threads: 1, ..LoadOptions::default().dtype(dtype) });
        let options = GenerateOptions { ignore_end: true, ..GenerateOptions::default().max_new_tokens(3 * PAGE) };
        let ids: Vec<u32> = (5..25).collect();
        let prompt = ids.len();
        for _ in 0..2 {
            let request =
                Request { ids: ids.clone(), options: options.clone(), logits: Logits::None, ..Request::default() };
            model.engine().submit(request).expect("a sequence");
        }
        let mut outputs = Vec::new();
        // The prompt, and a token more: every buffer has been used once.
        (0..2).for_each(|_| model.engine().step(&mut outputs).expect("a step"));
        for cached in prompt + 1..prompt + 2 * PAGE {
            let allocations = measure(|| model.engine().step(&mut outputs).expect("a step")).count_total;
            assert_eq!(outputs.len(), 2, "both sequences go on");
            let new_pages = if cached % PAGE == 0 { 2 } else { 0 };
            assert_eq!(allocations, new_pages, "{dtype:?}: with {cached} tokens in the cache");
        }
    }
}
