//! Trained weights as a checkpoint.

use smolvlm::checkpoint::{Checkpoint, StoredDtype};
use smolvlm_kernels::{CpuBackend, Format};
use smolvlm_train::{Learner, LearnerOptions, Optimizer, OptimizerSettings, Rates, save_checkpoint};

use crate::goldens::{Batch, checkpoint, learner};

fn open(folder: &std::path::Path) -> Checkpoint {
    let checkpoint = Checkpoint::open(folder).expect("a checkpoint");
    checkpoint.validate().expect("a valid checkpoint");
    checkpoint
}

#[test]
fn a_saved_model_loses_what_the_learner_loses() {
    let batch = Batch::read("two_images");
    let mut trained = learner(2, LearnerOptions::default());
    let mut optimizer = Optimizer::new(trained.taped(), OptimizerSettings::default());
    trained.learn(&batch.examples, 0.05).expect("a step");
    trained.update(&mut optimizer, Rates::same(1e-3)).expect("an update");
    let expected = trained.evaluate(&batch.examples).expect("a loss").mean();
    assert!((expected - batch.loss()).abs() > 0.1, "it learned something");
    let folder = tempfile::tempdir().expect("a folder");
    for (name, dtype, tolerance) in [("f32", None, 0.0), ("bf16", Some(StoredDtype::Bf16), 0.1)] {
        let place = folder.path().join(name);
        save_checkpoint(&checkpoint(), trained.taped(), &place, dtype).expect("saved");
        let saved = open(&place);
        assert_eq!(saved.stored_dtype(), Some(dtype.unwrap_or(StoredDtype::F32)));
        assert!(place.join("tokenizer.json").is_file() && place.join("chat_template.json").is_file());
        let backend = CpuBackend::new(2).expect("threads");
        let mut again = Learner::load(backend, &saved, LearnerOptions::default()).expect("the saved model");
        let found = again.evaluate(&batch.examples).expect("a loss").mean();
        assert!((found - expected).abs() <= tolerance, "{name}: {found} for {expected}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("the folder").collect();
    assert_eq!(left.len(), 2, "nothing is left beside them");
}

/// What does not learn is copied byte by byte, beside a model that computes in another format.
#[test]
fn tensors_that_do_not_learn_keep_their_bytes() {
    let batch = Batch::read("image");
    let selection = Box::new(|name: &str| name.starts_with("model.connector."));
    let mut trained = learner(2, LearnerOptions { selection, format: Format::Bf16, ..LearnerOptions::default() });
    let mut optimizer = Optimizer::new(trained.taped(), OptimizerSettings::default());
    trained.learn(&batch.examples, 0.05).expect("a step");
    trained.update(&mut optimizer, Rates::same(1e-3)).expect("an update");
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("saved");
    save_checkpoint(&checkpoint(), trained.taped(), &place, None).expect("saved");
    let (before, after) = (checkpoint(), open(&place));
    for name in before.tensor_names() {
        let (before, after) = (before.tensor(name).expect("a tensor"), after.tensor(name).expect("a tensor"));
        assert_eq!(before.bytes == after.bytes, !name.starts_with("model.connector."), "{name}");
    }
}

#[test]
fn a_folder_that_holds_something_is_left_alone() {
    let trained = learner(1, LearnerOptions::default());
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("mine"), "mine").expect("a file");
    let error = save_checkpoint(&checkpoint(), trained.taped(), folder.path(), None).expect_err("a full folder");
    assert!(error.to_string().contains("is not empty"), "{error}");
    assert!(folder.path().join("mine").is_file());
}
