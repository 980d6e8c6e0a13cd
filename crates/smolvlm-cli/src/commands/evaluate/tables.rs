//! The report as Markdown and as JSON.

use std::fmt::Write;

use serde_json::{Value, json};
use smolvlm::Device;

use super::rows::Row;
use super::tally::Tally;
use super::{Outcome, Report, typed};
use crate::args::EvaluateArgs;

/// The tables, with what is needed to make them again.
pub(super) fn as_markdown(args: &EvaluateArgs, report: &Report) -> String {
    let mut text = format!(
        "`{}`{}: {} on {}. Drawn pictures and clips that were kept out of training, one question each, answered greedily.\n\n",
        args.model.model,
        args.model.adapter.as_ref().map_or(String::new(), |adapter| format!(" with `{}`", adapter.display())),
        report.dtype,
        report.compute
    );
    text += &skills(report);
    if !report.formats.is_empty() {
        text += "\n";
        text += &formats(report);
    }
    let per_minute = report.asked as f64 / report.took.as_secs_f64().max(1e-9) * 60.0;
    let _ = write!(text, "\n`{}` ({per_minute:.0} questions a minute)\n", command(args));
    text
}

/// A table with a line for each row.
fn skills(report: &Report) -> String {
    let baselines = report.rows.iter().any(|outcome| outcome.blank.is_some());
    let mut text = "| skill | pictures | questions | right | accuracy | 95 % interval | chance |".to_owned();
    text += if baselines { " grey picture | no picture |\n" } else { "\n" };
    text += "|---|---|---:|---:|---:|---:|---:|";
    text += if baselines { "---:|---:|\n" } else { "\n" };
    for outcome in &report.rows {
        let (name, shown) = (outcome.row.skill.name(), shown(&outcome.row));
        let tally = Tally::of(&outcome.answers);
        text += &line(&format!("`{name}`"), shown, tally, outcome.chance, outcome.blank.zip(outcome.unseen));
    }
    if counted(report).count() > 1 {
        let tally = overall(report, |outcome| Some(Tally::of(&outcome.answers))).unwrap_or_default();
        let both = overall(report, |outcome| outcome.blank).zip(overall(report, |outcome| outcome.unseen));
        text += &line("all", "", tally, mean_chance(report), both);
    }
    text
}

fn line(name: &str, shown: &str, tally: Tally, chance: f64, baselines: Option<(Tally, Tally)>) -> String {
    let (low, high) = tally.interval();
    let mut text = format!(
        "| {name} | {shown} | {} | {} | {} | {} to {} | {} |",
        tally.of,
        tally.right,
        percent(tally.accuracy()),
        percent(low),
        percent(high),
        percent(chance)
    );
    if let Some((blank, unseen)) = baselines {
        let _ = write!(text, " {} | {} |", percent(blank.accuracy()), percent(unseen.accuracy()));
    }
    text + "\n"
}

/// Accuracies by number format, side by side.
fn formats(report: &Report) -> String {
    let mut text = "| skill | pictures |".to_owned();
    report.formats.iter().for_each(|format| text += &format!(" {} |", format.dtype));
    text += "\n|---|---|";
    report.formats.iter().for_each(|_| text += "---:|");
    text += "\n";
    for (place, Outcome { row, .. }) in report.rows.iter().enumerate() {
        let _ = write!(text, "| `{}` | {} |", row.skill.name(), shown(row));
        for format in &report.formats {
            let _ = write!(text, " {} |", percent(format.rows[place].accuracy()));
        }
        text += "\n";
    }
    if counted(report).count() > 1 {
        text += "| all | |";
        for format in &report.formats {
            let _ = write!(text, " {} |", percent(overall_of(report, &format.rows).accuracy()));
        }
        text += "\n";
    }
    text
}

/// The report for machines, every question with its reply.
pub(super) fn as_json(args: &EvaluateArgs, report: &Report) -> Value {
    let rows = report.rows.iter().map(|outcome| {
        let mut value = place(&outcome.row);
        merge(&mut value, counts(Tally::of(&outcome.answers)));
        value["chance"] = json!(outcome.chance);
        value["blank"] = outcome.blank.map(counts).into();
        value["unseen"] = outcome.unseen.map(counts).into();
        value
    });
    let formats = report.formats.iter().map(|format| {
        let rows = report.rows.iter().zip(&format.rows).map(|(outcome, tally)| {
            let mut value = place(&outcome.row);
            merge(&mut value, counts(*tally));
            value
        });
        json!({
            "dtype": format.dtype,
            "skills": rows.collect::<Vec<_>>(),
            "overall": counts(overall_of(report, &format.rows)),
        })
    });
    let questions = report.rows.iter().flat_map(|outcome| {
        outcome.answers.iter().map(|answer| {
            json!({
                "id": answer.id,
                "skill": answer.skill.name(),
                "tiles": outcome.row.tiles.name(),
                "question": answer.question,
                "expected": answer.expected,
                "reply": answer.reply,
                "ids": answer.ids,
                "right": answer.right,
            })
        })
    });
    let mut overall = counts(overall(report, |outcome| Some(Tally::of(&outcome.answers))).unwrap_or_default());
    overall["chance"] = json!(mean_chance(report));
    let mut value = report.setup.clone();
    merge(
        &mut value,
        json!({
            "data": "scenes",
            "split": "held",
            "seed": args.seed,
            "samples": args.samples,
            "max_new_tokens": args.max_new_tokens,
            "command": command(args),
            "asked": report.asked,
            "seconds": report.took.as_secs_f64(),
            "skills": rows.collect::<Vec<_>>(),
            "overall": overall,
            "formats": formats.collect::<Vec<_>>(),
            "questions": questions.collect::<Vec<_>>(),
        }),
    );
    value
}

/// What was asked, to be typed again: all that changes an answer.
fn command(args: &EvaluateArgs) -> String {
    let mut text = format!("smolvlm evaluate scenes --model {} --samples {}", args.model.model, args.samples);
    let _ = write!(text, " --seed {} --max-new-tokens {}", args.seed, args.max_new_tokens);
    if let Some(dtype) = args.model.dtype {
        let _ = write!(text, " --dtype {}", typed(dtype));
    }
    if let Some(adapter) = &args.model.adapter {
        let _ = write!(text, " --adapter {}", adapter.display());
    }
    if args.model.device != Device::Auto {
        let _ = write!(text, " --device {}", args.model.device);
    }
    if let Some(release) = args.model.compat {
        let _ = write!(text, " --compat {release:?}");
    }
    for (given, flag) in [(args.split, "--split"), (args.no_split, "--no-split"), (args.no_baselines, "--no-baselines")]
    {
        if given {
            let _ = write!(text, " {flag}");
        }
    }
    let mut list = |flag: &str, names: Vec<&str>| {
        if !names.is_empty() {
            let _ = write!(text, " {flag} {}", names.join(","));
        }
    };
    list("--skill", args.skill.iter().map(|skill| skill.name()).collect());
    list("--compare-formats", args.compare_formats.iter().map(|dtype| typed(*dtype)).collect());
    text
}

fn shown(row: &Row) -> &'static str {
    if row.skill.is_video() { "frames" } else { row.tiles.name() }
}

fn place(row: &Row) -> Value {
    json!({ "skill": row.skill.name(), "tiles": row.tiles.name(), "counts": row.counts })
}

fn counts(tally: Tally) -> Value {
    let (low, high) = tally.interval();
    json!({ "right": tally.right, "questions": tally.of, "accuracy": tally.accuracy(), "interval": [low, high] })
}

fn merge(value: &mut Value, more: Value) {
    if let (Some(object), Value::Object(more)) = (value.as_object_mut(), more) {
        object.extend(more);
    }
}

fn counted(report: &Report) -> impl Iterator<Item = &Outcome> {
    report.rows.iter().filter(|outcome| outcome.row.counts)
}

/// The rows that count, together; nothing where one has none.
fn overall(report: &Report, of: impl Fn(&Outcome) -> Option<Tally>) -> Option<Tally> {
    counted(report).map(of).collect::<Option<Vec<_>>>().map(|tallies| Tally::sum(tallies.into_iter()))
}

fn overall_of(report: &Report, rows: &[Tally]) -> Tally {
    let counted = report.rows.iter().zip(rows).filter(|(outcome, _)| outcome.row.counts);
    Tally::sum(counted.map(|(_, tally)| *tally))
}

fn mean_chance(report: &Report) -> f64 {
    counted(report).map(|outcome| outcome.chance).sum::<f64>() / counted(report).count().max(1) as f64
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
