//! `smolvlm evaluate`: questions whose answers are known, asked and counted.

mod ask;
mod rows;
mod tables;
mod tally;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use smolvlm::{Dtype, Error, Result, SmolVlm};
use smolvlm_scenes::{Generator, Mixture, Skill, Split, export_samples};

use crate::args::{DataArg, DtypeArg, EvaluateArgs, ModelArgs};
use crate::console::{self, Console};
use crate::drawn::{View, ours};
use crate::{files, json, plan};
use ask::{Answer, Asker};
use rows::Row;
use tally::Tally;

/// All that was found out.
struct Report {
    rows: Vec<Outcome>,
    formats: Vec<FormatOutcome>,
    /// What answered: model, adapter, number format, machine.
    setup: Value,
    dtype: &'static str,
    compute: String,
    /// Of the questions of `rows`, all views.
    asked: usize,
    took: Duration,
}

/// One row, in the format that was chosen.
struct Outcome {
    row: Row,
    answers: Vec<Answer>,
    /// Mean of what the questions' texts alone give away.
    chance: f64,
    blank: Option<Tally>,
    unseen: Option<Tally>,
}

/// The same questions in another number format.
struct FormatOutcome {
    dtype: &'static str,
    rows: Vec<Tally>,
}

pub(crate) fn evaluate(args: &EvaluateArgs) -> Result<()> {
    let console = Console::new(args.model.quiet, args.model.verbose);
    let DataArg::Scenes = args.data;
    let rows = rows::rows(args);
    if let Some(folder) = &args.export {
        export(args, folder)?;
    }
    let report = measure(args, rows, console)?;
    if let Some(folder) = &args.out {
        write(args, &report, folder)?;
    }
    if args.json {
        return json::print(&tables::as_json(args, &report));
    }
    console::print(&tables::as_markdown(args, &report))
}

/// Where the questions of a skill come from.
fn generator(args: &EvaluateArgs, skill: Skill) -> Generator {
    Generator::new(args.seed, Split::Held, Mixture::only(skill))
}

/// Writes what is asked, each sample once, under the number that the report has as `id`.
fn export(args: &EvaluateArgs, folder: &Path) -> Result<()> {
    let skills = rows::skills(args);
    let samples = skills.iter().enumerate().flat_map(|(place, &skill)| {
        let generator = generator(args, skill);
        (0..u64::from(args.samples.get())).map(move |index| (rows::id(args, place, index), generator.sample(index)))
    });
    export_samples(samples, Split::Held.name(), folder).map_err(ours)?;
    Ok(())
}

fn measure(args: &EvaluateArgs, rows: Vec<Row>, console: Console) -> Result<Report> {
    let mut model = load(&args.model, console)?;
    let dtype = model.dtype();
    let (setup, compute) = (json::setup(&model, &args.model), model.compute().to_owned());
    let views = if args.no_baselines { vec![View::Seen] } else { vec![View::Seen, View::Blank, View::Unseen] };
    let others: Vec<DtypeArg> =
        args.compare_formats.iter().copied().filter(|other| plan::dtype(*other) != dtype).collect();
    let asked = rows.len() * views.len() * args.samples.get() as usize;
    let total = asked + rows.len() * others.len() * args.samples.get() as usize;
    let bar = console.bar(total as u64, "asking   {wide_bar:.cyan/dim} {pos}/{len} {msg} {eta:>4}");

    let started = Instant::now();
    let mut outcomes = Vec::with_capacity(rows.len());
    for row in rows {
        let mut asker = Asker { model: &mut model, args, bar: &bar };
        let answers = asker.ask(&row, View::Seen)?;
        let chance = answers.iter().map(|answer| answer.chance).sum::<f64>() / answers.len().max(1) as f64;
        let mut baseline =
            |view| views.contains(&view).then(|| asker.ask(&row, view).map(|a| Tally::of(&a))).transpose();
        let (blank, unseen) = (baseline(View::Blank)?, baseline(View::Unseen)?);
        outcomes.push(Outcome { row, answers, chance, blank, unseen });
    }
    let took = started.elapsed();
    drop(model);

    let mut formats = Vec::new();
    for &format in &args.compare_formats {
        let chosen = plan::dtype(format);
        let tallies = if chosen == dtype {
            outcomes.iter().map(|outcome| Tally::of(&outcome.answers)).collect()
        } else {
            in_format(args, format, &outcomes, &bar, console)?
        };
        formats.push(FormatOutcome { dtype: chosen.name(), rows: tallies });
    }
    bar.finish_and_clear();
    Ok(Report { rows: outcomes, formats, setup, dtype: dtype.name(), compute, asked, took })
}

/// The same rows in another number format.
fn in_format(
    args: &EvaluateArgs,
    format: DtypeArg,
    outcomes: &[Outcome],
    bar: &indicatif::ProgressBar,
    console: Console,
) -> Result<Vec<Tally>> {
    let mut model = bar.suspend(|| load(&ModelArgs { dtype: Some(format), ..args.model.clone() }, console))?;
    let mut asker = Asker { model: &mut model, args, bar };
    outcomes.iter().map(|outcome| asker.ask(&outcome.row, View::Seen).map(|answers| Tally::of(&answers))).collect()
}

/// The model; its own progress would hide that of the questions.
fn load(args: &ModelArgs, console: Console) -> Result<SmolVlm> {
    let mut model = plan::load(args, None, &console)?;
    model.on_progress(Box::new(|_| {}));
    Ok(model)
}

fn write(args: &EvaluateArgs, report: &Report, folder: &Path) -> Result<()> {
    files::make_folder(folder)?;
    let json = serde_json::to_string_pretty(&tables::as_json(args, report));
    let json = json.map_err(|error| Error::internal(error.to_string()))?;
    files::write(&folder.join("report.json"), (json + "\n").as_bytes())?;
    files::write(&folder.join("report.md"), tables::as_markdown(args, report).as_bytes())
}

/// A number format as it is typed.
fn typed(dtype: DtypeArg) -> &'static str {
    Dtype::name(plan::dtype(dtype))
}
