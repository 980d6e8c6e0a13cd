//! `smolvlm finetune`: a run from its file to what was learned.

use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde_json::json;
use smolvlm::checkpoint::hub;
use smolvlm::{Error, Result};
use smolvlm_train::data::Report;
use smolvlm_train::{Finetune, Prepared, RunConfig, StepReport};

use crate::args::FinetuneArgs;
use crate::console::{self, Console};
use crate::plan;

/// Problems that are shown one by one.
const SHOWN: usize = 20;

pub(crate) fn finetune(args: &FinetuneArgs) -> Result<()> {
    let console = Console::new(args.quiet, false);
    let config = RunConfig::from_file(&args.config).map_err(ours)?;
    let mut download = console.download();
    let folder = hub::resolve(&config.model, &mut |progress| download.update(&progress))?;
    download.finish();
    let prepared = look(&config, &folder, console)?;
    tell(&prepared.report, console);
    if args.check {
        return end_of_check(&prepared.report);
    }
    let mut finetune = prepared.start(args.threads).map_err(ours)?;
    learn(&mut finetune, args, console)?;
    let place = finetune.write().map_err(ours)?;
    if args.json {
        let result = json!({ "steps": finetune.run.step_count(), "written": place });
        return console::print(&format!("{result}\n"));
    }
    console::print(&format!("{}\n", place.display()))
}

fn look(config: &RunConfig, folder: &Path, console: Console) -> Result<Prepared> {
    let bar = console.bar(0, "checking {wide_bar:.cyan/dim} {pos}/{len} samples {eta:>4}");
    let progress = |done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    };
    let prepared = Prepared::new(config.clone(), folder, plan::training_media(), &progress);
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

fn learn(finetune: &mut Finetune, args: &FinetuneArgs, console: Console) -> Result<()> {
    let run = &mut finetune.run;
    if run.step_count() > 0 {
        console.note(&format!("going on after step {} of {}", run.step_count(), run.total_steps()));
    }
    let bar = console.bar(run.total_steps(), "learning {wide_bar:.cyan/dim} {pos}/{len} {msg} {eta:>4}");
    bar.set_position(run.step_count());
    let (started, mut tokens) = (Instant::now(), 0);
    while let Some(report) = run.step().map_err(ours)? {
        tokens += report.tokens;
        show(&bar, &report, tokens, started.elapsed());
        for skipped in run.skipped() {
            bar.suspend(|| console.note(&format!("skipped: {}", skipped.message)));
        }
        if args.json {
            let line = serde_json::to_string(&report).map_err(|error| Error::internal(error.to_string()))?;
            console::print(&format!("{line}\n"))?;
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn show(bar: &ProgressBar, report: &StepReport, tokens: u64, elapsed: Duration) {
    let speed = tokens as f64 / elapsed.as_secs_f64().max(1e-9);
    bar.set_message(format!("loss {:.3}, {speed:.0} tokens/s", report.loss));
    bar.set_position(report.step);
}

/// Another crate's error as this program reports it.
fn ours(error: smolvlm_train::Error) -> Error {
    Error::new(error.kind(), error.to_string()).caused_by(error)
}
