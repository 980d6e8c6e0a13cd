//! A model over a backend that learns answers as it does over the backend alone.

use smolvlm::Compat;
use smolvlm::generate::{CachePlan, Engine, Generator, Request, StepOutput};
use smolvlm::model::Model;
use smolvlm_kernels::{Backend, CpuBackend, Format};
use smolvlm_train::{Recompute, Taped};

use crate::goldens::{checkpoint, json};

/// Tokens and their logits of a text prompt.
fn answer<B: Backend>(backend: B, ids: &[u32], format: Format) -> Vec<u32> {
    let model = Model::load(&backend, &checkpoint(), format, Compat::Newest).expect("a model");
    let ends = checkpoint().generation().eos_ids.clone();
    let mut engine = Generator::new(backend, model, ends, CachePlan::default());
    let options = smolvlm::GenerateOptions { max_new_tokens: 20, ..smolvlm::GenerateOptions::default() };
    engine.submit(Request { ids: ids.to_vec(), options, ..Request::default() }).expect("a request that fits");
    let (mut outputs, mut tokens) = (Vec::<StepOutput>::new(), Vec::new());
    loop {
        outputs.clear();
        engine.step(&mut outputs).expect("a step");
        if outputs.is_empty() {
            return tokens;
        }
        tokens.extend(outputs.iter().filter_map(|output| output.token));
    }
}

#[test]
fn a_model_that_can_learn_answers_as_the_reference_does() {
    let case = json("cases/text_only.json");
    let list = |pointer: &str| -> Vec<u32> {
        let list = case.pointer(pointer).and_then(serde_json::Value::as_array).expect("ids");
        list.iter().map(|id| id.as_u64().expect("an id") as u32).collect()
    };
    let ids = list("/input_ids");
    let cpu = || CpuBackend::new(2).expect("threads");
    for format in [Format::F32, Format::Bf16] {
        let taped = Taped::new(cpu(), Box::new(|_| true), Recompute::Nothing);
        let found = answer(taped, &ids, format);
        assert_eq!(found, answer(cpu(), &ids, format), "{format:?}");
        if format == Format::F32 {
            assert_eq!(found, list("/greedy/new_tokens"));
        }
    }
}
