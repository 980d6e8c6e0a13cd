//! From a file of records to a model that learns them: loader, examples, steps.

mod common;

use std::sync::Arc;

use common::{CACHE, folder_with, goldens, mixture, processor};
use serde_json::json;
use smolvlm::checkpoint::Checkpoint;
use smolvlm_kernels::CpuBackend;
use smolvlm_train::data::{
    BatchRule, ExampleMaker, ExampleRules, Loader, LoaderOptions, Samples, Schedule, ScheduleOptions,
};
use smolvlm_train::{Example, Learner, LearnerOptions, Optimizer, OptimizerSettings, Rates};

/// Text, a picture, two pictures, and a record whose picture does not exist.
fn records() -> String {
    let records = [
        json!({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]}),
        json!({"messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A square"}],
            "images": ["square_48.png"]}),
        json!({"messages": [{"role": "user", "content": "<image><image>Same?"}, {"role": "assistant", "content": "No"}],
            "images": ["square_48.png", "wide_200x37.png"]}),
        json!({"messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "Nothing"}],
            "images": ["missing.png"]}),
    ];
    records.map(|record| record.to_string()).join("\n")
}

#[test]
fn records_of_a_file_are_learned() {
    let (_folder, path) = folder_with("records.jsonl", records());
    let samples = Arc::new(Samples::open(&mixture(&path), CACHE).expect("samples"));
    let maker = ExampleMaker::new(samples, processor(), ExampleRules::default()).expect("a maker");
    let rule = BatchRule::Count { samples: 4 };
    let options = ScheduleOptions { seed: 3, shuffled: true, rule, epochs: 12, lengths: None };
    let schedule = Schedule::new(&maker, options).expect("a schedule");
    let mut loader =
        Loader::start(maker, schedule.clone(), schedule.start(), &LoaderOptions::default()).expect("a loader");
    let checkpoint = Checkpoint::open(&goldens("checkpoint")).expect("the reference checkpoint");
    checkpoint.validate().expect("a valid checkpoint");
    let backend = CpuBackend::new(2).expect("threads");
    let mut learner = Learner::load(backend, &checkpoint, LearnerOptions::default()).expect("a learner");
    let mut optimizer = Optimizer::new(learner.taped(), OptimizerSettings::default());
    let mut losses = Vec::new();
    while let Some(batch) = loader.next_batch().expect("a batch") {
        let examples: Vec<Example> = batch.examples.into_iter().map(Example::from).collect();
        assert_eq!(examples.len(), 3, "the fourth has no picture");
        let counted: f64 = examples.iter().map(Example::counted).sum();
        losses.push(learner.learn(&examples, 1.0 / counted).expect("a step").mean());
        learner.update(&mut optimizer, Rates::same(1e-2)).expect("an update");
    }
    assert_eq!(losses.len(), 12);
    assert!(loader.skipped().iter().all(|skipped| skipped.message.contains("missing.png")), "{:?}", loader.skipped());
    assert!(losses[11] < 0.5 * losses[0], "{losses:?}");
}
