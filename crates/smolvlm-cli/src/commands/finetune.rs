//! `smolvlm finetune` and `smolvlm train`: a run from its file to what was learned.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde_json::json;
use smolvlm::checkpoint::hub;
use smolvlm::{Error, Machine, Result};
use smolvlm_kernels::TrainBackend;
use smolvlm_train::data::Report;
use smolvlm_train::{
    Beginning, Evaluation, Finetune, LogLine, Override, Prepared, RunConfig, StepReport, Surroundings,
};

use crate::args::TrainingArgs;
use crate::console::{self, Console};
use crate::{plan, scenes};

/// Problems that are shown one by one.
const SHOWN: usize = 20;

pub(crate) fn finetune(args: &TrainingArgs, beginning: Beginning) -> Result<()> {
    let console = Console::new(args.quiet, false);
    let config = RunConfig::from_file_with(&args.config, &overrides(args)?).map_err(ours)?;
    let prepared = look(&config, beginning, console)?;
    tell(&prepared.report, console);
    if args.check {
        return end_of_check(&prepared.report);
    }
    let machine = prepared.machine(args.device, args.threads).map_err(ours)?;
    console.note(&machine.to_string());
    match machine {
        Machine::Cpu { backend, .. } => run(prepared, backend, args, console),
        Machine::Cuda(backend) => run(prepared, backend, args, console),
    }
}

fn run<B: TrainBackend>(prepared: Prepared, backend: B, args: &TrainingArgs, console: Console) -> Result<()> {
    let mut finetune = prepared.start(backend).map_err(ours)?;
    learn(&mut finetune, args, console)?;
    let place = finetune.write().map_err(ours)?;
    if args.json {
        let result = json!({ "steps": finetune.run.step_count(), "written": place });
        return console::print(&format!("{result}\n"));
    }
    console::print(&format!("{}\n", place.display()))
}

/// What flags say in place of the file: `--set` first, then flags of their own. Paths on the command line start where it was typed.
fn overrides(args: &TrainingArgs) -> Result<Vec<Override>> {
    let path = |path: &std::path::Path| {
        let absolute = std::path::absolute(path);
        absolute
            .map(|path| path.display().to_string())
            .map_err(|error| Error::usage(format!("{}: {error}", path.display())))
    };
    let set = args.set.iter().map(|text| Override::parse(text).map_err(|error| ours(error.at("--set"))));
    let mut all = set.collect::<Result<Vec<_>>>()?;
    let mut add = |key: &str, value: Option<serde_json::Value>| -> Result<()> {
        all.extend(value.map(|value| Override::new(key, value)).transpose().map_err(ours)?);
        Ok(())
    };
    add("model", args.model.as_ref().map(|model| json!(model)))?;
    add("data", args.data.as_deref().map(path).transpose()?.map(|path| json!(path)))?;
    add("output", args.output.as_deref().map(path).transpose()?.map(|path| json!(path)))?;
    add("steps", args.steps.map(|steps| json!(steps)))?;
    add("learning_rate", args.rate.map(|rate| json!(rate)))?;
    add("seed", args.seed.map(|seed| json!(seed)))?;
    add("dtype", args.dtype.map(|dtype| json!(plan::dtype(dtype).name())))?;
    Ok(all)
}

fn look(config: &RunConfig, beginning: Beginning, console: Console) -> Result<Prepared> {
    let mut download = console.download();
    let folder = hub::resolve(&config.model, &mut |progress| download.update(&progress))?;
    download.finish();
    let bar = console.bar(0, "checking {wide_bar:.cyan/dim} {pos}/{len} samples {eta:>4}");
    let progress = |done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    };
    let surroundings =
        Surroundings { folder: &folder, beginning, media: plan::training_media(), drawing: &scenes::drawing };
    let prepared = Prepared::new(config.clone(), &surroundings, &progress);
    bar.finish_and_clear();
    prepared.map_err(ours)
}

fn tell(report: &Report, console: Console) {
    console.note(&report.table.to_string());
    for message in report.problems.iter().take(SHOWN).flat_map(|problem| &problem.messages) {
        console.note(&format!("cannot be used: {message}"));
    }
    if report.problem_count > SHOWN {
        console.note(&format!("and {} samples more", report.problem_count - SHOWN));
    }
}

fn end_of_check(report: &Report) -> Result<()> {
    match report.problem_count {
        0 => Ok(()),
        count => Err(Error::input(format!("{count} samples cannot be used; training would skip them"))),
    }
}

fn learn<B: TrainBackend>(finetune: &mut Finetune<B>, args: &TrainingArgs, console: Console) -> Result<()> {
    let run = &mut finetune.run;
    if run.step_count() > 0 {
        console.note(&format!("going on after step {} of {}", run.step_count(), run.total_steps()));
    }
    if let Some(evaluation) = run.measure_first().map_err(ours)?.cloned() {
        console.note(&measured(0, &evaluation));
        tell_evaluation(args, 0, &evaluation)?;
    }
    let bar = console.bar(run.total_steps(), "learning {wide_bar:.cyan/dim} {pos}/{len} {msg}, {eta} left");
    bar.set_position(run.step_count());
    let (started, mut tokens) = (Instant::now(), 0);
    while let Some(report) = run.step().map_err(ours)? {
        tokens += report.tokens;
        show(&bar, &report, tokens, started.elapsed(), run.memory());
        for skipped in run.skipped() {
            bar.suspend(|| console.note(&format!("skipped: {}", skipped.message)));
        }
        let step = report.step;
        tell_line(args, &LogLine::Step(report))?;
        if let Some(evaluation) = run.evaluation() {
            bar.suspend(|| console.note(&measured(step, evaluation)));
            tell_evaluation(args, step, evaluation)?;
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn tell_evaluation(args: &TrainingArgs, step: u64, evaluation: &Evaluation) -> Result<()> {
    tell_line(args, &LogLine::Evaluation { step, evaluation: evaluation.clone() })
}

/// A line of the log on standard output, with `--json`.
fn tell_line(args: &TrainingArgs, line: &LogLine) -> Result<()> {
    if !args.json {
        return Ok(());
    }
    let line = serde_json::to_string(line).map_err(|error| Error::internal(error.to_string()))?;
    console::print(&format!("{line}\n"))
}

fn show(bar: &ProgressBar, report: &StepReport, tokens: u64, elapsed: Duration, memory: Option<u64>) {
    let speed = tokens as f64 / elapsed.as_secs_f64().max(1e-9);
    let memory = memory.map_or(String::new(), |memory| format!(", {}", console::bytes(memory)));
    bar.set_message(format!("loss {:.3}, {speed:.0} tokens/s{memory}", report.loss));
    bar.set_position(report.step);
}

/// An evaluation in a line.
fn measured(step: u64, evaluation: &Evaluation) -> String {
    let Evaluation { loss, perplexity, accuracy, samples, exact, .. } = evaluation;
    let exact = exact.map_or(String::new(), |exact| format!(", {:.1} % of answers exact", 100.0 * exact));
    let accuracy = 100.0 * accuracy;
    format!(
        "step {step}: loss {loss:.3} of {samples} samples, perplexity {perplexity:.2}, {accuracy:.1} % of tokens right{exact}"
    )
}

/// Another crate's error as this program reports it.
fn ours(error: smolvlm_train::Error) -> Error {
    Error::new(error.kind(), error.to_string()).caused_by(error)
}
