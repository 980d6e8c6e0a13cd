//! A run that is killed at any moment goes on and ends with the same weights, bit by bit.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{CACHE, folder_with, goldens, mixture, processor};
use serde_json::json;
use smolvlm::checkpoint::Checkpoint;
use smolvlm_kernels::{CpuBackend, Format};
use smolvlm_train::data::{BatchRule, ExampleMaker, ExampleRules, LoaderOptions, Samples, Schedule, ScheduleOptions};
use smolvlm_train::run::EvaluationConfig;
use smolvlm_train::{
    ErrorKind, Evaluation, Evaluator, Learner, LearnerOptions, LogLine, LoraOptions, Rates, Result, Run, RunSettings,
    StepReport, read_log,
};

/// Where the child process of the test trains, and on what.
const CHILD_FOLDER: &str = "SMOLVLM_TEST_RUN_FOLDER";
const CHILD_DATA: &str = "SMOLVLM_TEST_RUN_DATA";

fn records() -> String {
    let words = ["one", "two", "three", "four", "five", "six", "seven"];
    let records = words.iter().enumerate().map(|(i, word)| {
        let turns =
            json!([{"role": "user", "content": format!("<image>Number {i}?")}, {"role": "assistant", "content": word}]);
        json!({"messages": turns, "images": ["square_48.png"]}).to_string()
    });
    let broken = json!({"messages": [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "!"}], "images": ["no.png"]});
    records.chain([broken.to_string()]).collect::<Vec<_>>().join("\n")
}

fn settings() -> RunSettings {
    RunSettings {
        seed: 5,
        accumulation: 2,
        rates: Rates::same(3e-3),
        warmup: 2,
        save_every: 3,
        ..RunSettings::default()
    }
}

/// 8 samples in batches of 3, two batches a step, 10 epochs: 15 steps. Adapters with dropout, which must be drawn the same.
fn open(data: &Path, folder: &Path, settings: RunSettings) -> Result<Run<CpuBackend>> {
    open_as(data, folder, settings, LoraOptions { dropout: 0.3, ..LoraOptions::default() }, None)
}

/// With a format: of frozen weights, beneath the adapters.
fn open_as(
    data: &Path,
    folder: &Path,
    settings: RunSettings,
    lora: LoraOptions,
    frozen: Option<Format>,
) -> Result<Run<CpuBackend>> {
    let samples = Arc::new(Samples::open(&mixture(data), CACHE)?);
    let maker = ExampleMaker::new(samples, processor(), ExampleRules::default())?;
    let rule = BatchRule::Count { samples: 3 };
    let batches = Schedule::new(&maker, ScheduleOptions { seed: 1, shuffled: true, rule, epochs: 10, lengths: None })?;
    let checkpoint = Checkpoint::open(&goldens("checkpoint"))?;
    checkpoint.validate()?;
    let mut options = LearnerOptions { lora: Some(lora), ..LearnerOptions::default() };
    if let Some(format) = frozen {
        options.format = format;
        options.selection = Box::new(|_| false);
    }
    let learner = Learner::load(CpuBackend::new(1).expect("threads"), &checkpoint, options)?;
    Run::open(learner, maker, batches, &LoaderOptions { threads: 2, ..LoaderOptions::default() }, settings, folder)
}

fn to_the_end(run: &mut Run<CpuBackend>) -> Vec<StepReport> {
    std::iter::from_fn(|| run.step().expect("a step")).collect()
}

fn weights(run: &Run<CpuBackend>) -> Vec<u32> {
    let taped = run.learner().taped();
    let parameters = taped.parameters();
    parameters.iter().flat_map(|parameter| parameter.master(taped.inner())).map(f32::to_bits).collect()
}

/// Lines of the log without the time, which differs.
fn log(folder: &Path) -> Vec<StepReport> {
    let text = std::fs::read_to_string(folder.join("log.jsonl")).expect("a log");
    let line = |line| StepReport { seconds: 0.0, ..serde_json::from_str(line).expect("a step") };
    text.lines().map(line).collect()
}

/// What the process that is killed does; nothing when the tests run it themselves.
#[test]
fn the_process_that_is_killed() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else { return };
    let data = std::env::var_os(CHILD_DATA).expect("data");
    let mut run = open(Path::new(&data), Path::new(&folder), settings()).expect("a run");
    to_the_end(&mut run);
}

#[test]
fn a_run_killed_three_times_ends_bit_equal_to_one_that_was_not() {
    let (folder, data) = folder_with("records.jsonl", records());
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let mut run = open(&data, &whole, settings()).expect("a run");
    let started = Instant::now();
    let reports = to_the_end(&mut run);
    let duration = started.elapsed();
    assert_eq!((reports.len() as u64, run.total_steps()), (15, 15));
    assert!(reports[14].loss < reports[0].loss, "{reports:?}");
    assert_eq!(reports[14].skipped, 10, "one sample of each epoch has no picture");
    for part in [0.35, 0.5, 0.2] {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "the_process_that_is_killed"])
            .env(CHILD_FOLDER, &killed)
            .env(CHILD_DATA, &data)
            .stdout(Stdio::null())
            .spawn()
            .expect("a process");
        std::thread::sleep(duration.mul_f64(part) + Duration::from_millis(200));
        child.kill().expect("a signal");
        child.wait().expect("its end");
    }
    let mut resumed = open(&data, &killed, settings()).expect("the same run");
    to_the_end(&mut resumed);
    assert!(weights(&run) == weights(&resumed), "the weights of both");
    assert_eq!(log(&killed), log(&whole));
}

#[test]
fn adapters_on_quantised_weights_go_on_bit_equal_with_and_without_magnitudes() {
    let (folder, data) = folder_with("records.jsonl", records());
    let plain = LoraOptions { dropout: 0.3, ..LoraOptions::default() };
    let dora = LoraOptions { dora: true, ..plain.clone() };
    for (name, lora, format) in [("q8", plain, Format::Q8), ("q4", dora, Format::Q4)] {
        let (whole, stopped) = (folder.path().join(name), folder.path().join(format!("{name} stopped")));
        let mut run = open_as(&data, &whole, settings(), lora.clone(), Some(format)).expect("a run");
        to_the_end(&mut run);
        let mut first = open_as(&data, &stopped, settings(), lora.clone(), Some(format)).expect("a run");
        (0..7).for_each(|_| assert!(first.step().expect("a step").is_some()));
        drop(first);
        let mut second = open_as(&data, &stopped, settings(), lora, Some(format)).expect("the same run");
        assert_eq!(second.step_count(), 6);
        to_the_end(&mut second);
        assert!(weights(&run) == weights(&second), "{name}");
        assert_eq!(log(&whole), log(&stopped), "{name}");
    }
    let other = LoraOptions { dropout: 0.3, alpha: 8.0, ..LoraOptions::default() };
    let error = open_as(&data, &folder.path().join("q8"), settings(), other, Some(Format::Q8)).err();
    assert!(error.expect("another alpha").to_string().contains("alpha 8, dropout 0.3 on q8"));
}

#[test]
fn a_folder_of_another_run_is_refused_and_a_finished_one_has_no_more_steps() {
    let (folder, data) = folder_with("records.jsonl", records());
    let short = RunSettings { steps: Some(2), ..settings() };
    let mut run = open(&data, folder.path(), short.clone()).expect("a run");
    assert_eq!(to_the_end(&mut run).len(), 2);
    let mut again = open(&data, folder.path(), short.clone()).expect("the same run");
    assert_eq!(again.step_count(), 2);
    assert!(again.step().expect("no step").is_none());
    assert!(weights(&run) == weights(&again), "nothing moved");
    let other = RunSettings { rates: Rates::same(1.0), ..short };
    let error = open(&data, folder.path(), other).err().expect("other rates");
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("other settings"), "{error}");
}

/// The same run, measured with all usable samples every four steps, two answers of each.
fn open_measured(data: &Path, folder: &Path) -> Run<CpuBackend> {
    let samples = Arc::new(Samples::open(&mixture(data), CACHE).expect("samples"));
    let maker = ExampleMaker::new(samples, processor(), ExampleRules::default()).expect("a maker");
    let config: EvaluationConfig =
        serde_json::from_value(json!({"data": "unused", "every": 4, "batch": 3, "generate": 2, "max_new_tokens": 5}))
            .expect("a configuration");
    let evaluator = Evaluator::new(maker, config, vec![2], 2).expect("an evaluator");
    let run = open(data, folder, settings()).expect("a run").with_evaluation(evaluator);
    run.with_events().expect("an event file")
}

/// The evaluations of the log, without the time, which differs.
fn evaluations(folder: &Path) -> Vec<(u64, Evaluation)> {
    let lines = read_log(folder).expect("a log").into_iter();
    let evaluation = |line| match line {
        LogLine::Evaluation { step, evaluation } => Some((step, Evaluation { seconds: 0.0, ..evaluation })),
        LogLine::Step(_) => None,
    };
    lines.filter_map(evaluation).collect()
}

#[test]
fn measuring_changes_no_bit_of_a_run_and_goes_on_with_it() {
    let (folder, data) = folder_with("records.jsonl", records());
    let place = |name: &str| folder.path().join(name);
    let mut plain = open(&data, &place("plain"), settings()).expect("a run");
    let steps = to_the_end(&mut plain);
    let mut measured = open_measured(&data, &place("measured"));
    assert!(measured.measure_first().expect("figures").is_some());
    assert_eq!(to_the_end(&mut measured).len(), steps.len());
    assert!(weights(&plain) == weights(&measured), "the weights of both");
    let found = evaluations(&place("measured"));
    assert_eq!(found.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [0, 4, 8, 12, 15]);
    for (_, evaluation) in &found {
        assert_eq!((evaluation.samples, evaluation.skipped, evaluation.generated), (7, 1, Some(2)));
        assert!((evaluation.perplexity.ln() - evaluation.loss).abs() < 1e-9 && evaluation.accuracy <= 1.0);
    }
    assert!(found[4].1.loss < found[0].1.loss && found[4].1.accuracy >= found[0].1.accuracy, "{found:?}");
    let answers = std::fs::read_to_string(place("measured").join("evaluation/step-15.jsonl")).expect("answers");
    let answer: serde_json::Value = serde_json::from_str(answers.lines().next().expect("one")).expect("JSON");
    assert_eq!((answers.lines().count(), &answer["expected"]), (2, &json!("one")));
    assert!(answer["prompt"].as_str().is_some_and(|prompt| prompt.contains("Number 0?")), "{answer}");
    assert!(std::fs::read_to_string(place("measured").join("loss.svg")).is_ok_and(|text| text.contains("evaluation")));

    // Stopped after the ninth step, past the place of the sixth; then gone on with.
    let mut stopped = open_measured(&data, &place("stopped"));
    stopped.measure_first().expect("figures");
    (0..9).for_each(|_| assert!(stopped.step().expect("a step").is_some()));
    stopped.step().expect("the tenth, which is forgotten");
    drop(stopped);
    let mut resumed = open_measured(&data, &place("stopped"));
    assert!(resumed.measure_first().expect("nothing").is_none());
    to_the_end(&mut resumed);
    assert_eq!(evaluations(&place("stopped")), found);
    let files = std::fs::read_dir(place("stopped")).expect("a folder").flatten();
    assert_eq!(files.filter(|file| file.file_name().to_string_lossy().contains("tfevents")).count(), 2);
}

#[test]
fn the_loss_of_an_evaluation_is_the_mean_over_all_its_tokens_whatever_the_batch() {
    let (folder, data) = folder_with("records.jsonl", records());
    let mut run = open(&data, folder.path(), settings()).expect("a run");
    run.step().expect("a step");
    let checkpoint = Checkpoint::open(&goldens("checkpoint")).expect("a checkpoint");
    let mut learner =
        Learner::load(CpuBackend::new(1).expect("threads"), &checkpoint, LearnerOptions::default()).expect("a learner");
    let measure = |learner: &mut Learner<CpuBackend>, batch: usize| {
        let samples = Arc::new(Samples::open(&mixture(&data), CACHE).expect("samples"));
        let maker = ExampleMaker::new(samples, processor(), ExampleRules::default()).expect("a maker");
        let config = serde_json::from_value(json!({"data": "unused", "batch": batch})).expect("a configuration");
        let evaluator = Evaluator::new(maker, config, vec![2], 1).expect("an evaluator");
        evaluator.measure(learner, 0, folder.path()).expect("figures")
    };
    let (one, all) = (measure(&mut learner, 1), measure(&mut learner, 8));
    assert_eq!((one.tokens, one.accuracy), (all.tokens, all.accuracy));
    // Sums of a few dozen numbers in f64, in another order.
    assert!((one.loss - all.loss).abs() < 1e-12 * all.loss, "{one:?} {all:?}");
    let maker = common::maker(&mixture(&data));
    let examples: Vec<_> =
        maker.samples().iter().filter_map(|sample| maker.make(sample).ok()).map(Into::into).collect();
    let whole = learner.evaluate(&examples).expect("a loss");
    assert!((whole.mean() - all.loss).abs() < 1e-12 * all.loss);
}
