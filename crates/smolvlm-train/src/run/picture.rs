//! The curve of a run's losses, as a picture that is read on light and on dark ground.

mod axis;

use std::fmt::Write;
use std::path::Path;

use self::axis::Axis;
use super::log::{LogLine, read_log};
use crate::Result;
use crate::files::write_whole;

const FILE: &str = "loss.svg";

/// The whole picture and the plot in it, in pixels.
const SIZE: (f64, f64) = (880.0, 440.0);
const LEFT: f64 = 64.0;
const RIGHT: f64 = 804.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 384.0;

/// Points that a curve has at most: two for each pixel across.
const POINTS: usize = 1480;

/// Steps over which the bold curve takes its mean, as parts of all.
const SMOOTHING: f64 = 40.0;

const STYLE: &str = "\
text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif;fill:#57606a}\
.title{font-size:15px;font-weight:600;fill:#1f2328}.grid{stroke:#d0d7de;stroke-width:1}.axis{stroke:#8c959f;stroke-width:1}\
.raw,.smooth,.held,.rate{fill:none;stroke-linejoin:round;stroke-linecap:round}\
.raw{stroke:#0969da;stroke-width:1;opacity:.28}.smooth{stroke:#0969da;stroke-width:2.25}\
.held{stroke:#d1570a;stroke-width:2}.dot{fill:#d1570a}.rate{stroke:#8250df;stroke-width:1.25;stroke-dasharray:2 4;opacity:.9}\
.ground{fill:#fff}\
@media (prefers-color-scheme:dark){text{fill:#9198a1}.title{fill:#f0f6fc}.grid{stroke:#2b323b}.axis{stroke:#656c76}\
.raw,.smooth{stroke:#58a6ff}.held{stroke:#f0883e}.dot{fill:#f0883e}.rate{stroke:#b392f0}.ground{fill:#0d1117}}";

/// Writes `loss.svg` into a run's folder from its log; nothing while there is no step.
///
/// # Errors
/// An input error when the log cannot be read or the picture not be written.
pub fn draw_loss(run: &Path) -> Result<()> {
    let Some(text) = picture(&read_log(run)?) else { return Ok(()) };
    write_whole(&run.join(FILE), &text)
}

/// What is drawn: `(step, value)`.
#[derive(Default)]
struct Curves {
    losses: Vec<(f64, f64)>,
    rates: Vec<(f64, f64)>,
    held: Vec<(f64, f64)>,
}

impl Curves {
    /// Values that are no numbers are left out.
    fn of(log: &[LogLine]) -> Self {
        let mut curves = Self::default();
        let add = |curve: &mut Vec<(f64, f64)>, step: u64, value: f64| {
            if value.is_finite() {
                curve.push((step as f64, value));
            }
        };
        for line in log {
            match line {
                LogLine::Step(report) => {
                    add(&mut curves.losses, report.step, report.loss);
                    add(&mut curves.rates, report.step, report.rate);
                }
                LogLine::Evaluation { step, evaluation } => add(&mut curves.held, *step, evaluation.loss),
            }
        }
        curves
    }
}

/// The picture of a log; none of one without steps.
fn picture(log: &[LogLine]) -> Option<String> {
    let curves = Curves::of(log);
    let last = curves.losses.last()?;
    let smooth = smoothed(&curves.losses);
    let steps = Axis::counts(last.0, (LEFT, RIGHT));
    let seen = [&smooth, &curves.held].into_iter().flatten().map(|(_, loss)| *loss);
    let losses = Axis::fitting(seen, (BOTTOM, TOP));
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" role=\"img\">\n\
         <title>Loss over {2} steps</title>\n<style>{STYLE}</style>\n\
         <clipPath id=\"plot\"><rect x=\"{LEFT}\" y=\"{TOP}\" width=\"{3}\" height=\"{4}\"/></clipPath>\n\
         <rect class=\"ground\" width=\"{0}\" height=\"{1}\" rx=\"8\"/>\n",
        SIZE.0,
        SIZE.1,
        last.0,
        RIGHT - LEFT,
        BOTTOM - TOP,
    );
    text += &grid(&steps, &losses);
    text += "<g clip-path=\"url(#plot)\">\n";
    let rates = Axis::between(0.0, 1.0, (BOTTOM, TOP));
    for (class, curve, axis) in [
        ("rate", &curves.rates, &rates),
        ("raw", &curves.losses, &losses),
        ("smooth", &smooth, &losses),
        ("held", &curves.held, &losses),
    ] {
        text += &line(class, curve, &steps, axis);
    }
    text += "</g>\n";
    text += &dots(&curves.held, &steps, &losses);
    text += &legend(&curves, &smooth);
    text += "</svg>\n";
    Some(text)
}

/// Lines at round numbers with the numbers beside them; parts of the learning rate on the right.
fn grid(steps: &Axis, losses: &Axis) -> String {
    let mut text = String::new();
    for (at, label) in losses.ticks() {
        let _ = writeln!(
            text,
            "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{RIGHT}\"/><text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT - 8.0,
            at + 4.5
        );
    }
    for (at, label) in steps.ticks() {
        let _ = writeln!(
            text,
            "<path class=\"axis\" d=\"M{at:.1} {BOTTOM}v5\"/><text x=\"{at:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{label}</text>",
            BOTTOM + 20.0
        );
    }
    for (share, label) in [(0.0, "0"), (0.5, "½"), (1.0, "full")] {
        let at = BOTTOM + (TOP - BOTTOM) * share;
        let _ = writeln!(text, "<text x=\"{:.0}\" y=\"{:.1}\">{label}</text>", RIGHT + 8.0, at + 4.5);
    }
    let (middle, below) = ((LEFT + RIGHT) / 2.0, BOTTOM + 42.0);
    let _ = writeln!(
        text,
        "<path class=\"axis\" d=\"M{LEFT} {BOTTOM}H{RIGHT}\"/><text x=\"{middle}\" y=\"{below}\" text-anchor=\"middle\">step</text>\
         <text transform=\"translate(18 {0}) rotate(-90)\" text-anchor=\"middle\">loss, nats per token</text>\
         <text transform=\"translate(864 {0}) rotate(-90)\" text-anchor=\"middle\">learning rate</text>",
        (TOP + BOTTOM) / 2.0
    );
    text
}

/// A curve; of too many points, each is the mean of its neighbours.
fn line(class: &str, curve: &[(f64, f64)], x: &Axis, y: &Axis) -> String {
    if curve.len() < 2 {
        return String::new();
    }
    let together = curve.len().div_ceil(POINTS);
    let mut path = String::new();
    for part in curve.chunks(together) {
        let mean = |of: fn(&(f64, f64)) -> f64| part.iter().map(of).sum::<f64>() / part.len() as f64;
        let command = if path.is_empty() { 'M' } else { 'L' };
        let _ = write!(path, "{command}{:.1} {:.1}", x.at(mean(|point| point.0)), y.at(mean(|point| point.1)));
    }
    format!("<path class=\"{class}\" d=\"{path}\"/>\n")
}

fn dots(curve: &[(f64, f64)], x: &Axis, y: &Axis) -> String {
    // More would run into each other.
    let shown = if curve.len() > 60 { &[] } else { curve };
    let dot = |(step, loss): &(f64, f64)| {
        format!("<circle class=\"dot\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>\n", x.at(*step), y.at(*loss))
    };
    shown.iter().map(dot).collect()
}

/// What the curves are, with the last value of each.
fn legend(curves: &Curves, smooth: &[(f64, f64)]) -> String {
    let last = |curve: &[(f64, f64)]| curve.last().map_or(0.0, |(_, value)| *value);
    let mut entries = vec![("smooth", format!("training {:.3}", last(smooth)))];
    if !curves.held.is_empty() {
        let least = curves.held.iter().map(|(_, loss)| *loss).fold(f64::INFINITY, f64::min);
        entries.push(("held", format!("evaluation {:.3} (least {least:.3})", last(&curves.held))));
    }
    entries.push(("rate", "learning rate".to_owned()));
    let mut text = format!("<text class=\"title\" x=\"{LEFT}\" y=\"30\">Loss</text>\n");
    let mut at = LEFT + 64.0;
    for (class, label) in entries {
        let _ = writeln!(
            text,
            "<path class=\"{class}\" d=\"M{at:.0} 26h22\"/><text x=\"{:.0}\" y=\"30\">{label}</text>",
            at + 30.0
        );
        at += 62.0 + 7.0 * label.chars().count() as f64;
    }
    text
}

/// Exponential means of the values, the first ones over what there is so far.
fn smoothed(curve: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 1.0 / (curve.len() as f64 / SMOOTHING).clamp(1.0, 500.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    let mean = |(step, value): &(f64, f64)| {
        (sum, weight) = (sum * keep + value, weight * keep + 1.0);
        (*step, sum / weight)
    };
    curve.iter().map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Evaluation, StepReport};

    fn log(steps: u64) -> Vec<LogLine> {
        let mut lines = Vec::new();
        for step in 1..=steps {
            let loss = 3.0 / (step as f64).sqrt();
            lines.push(LogLine::Step(StepReport { step, loss, rate: 1.0, ..StepReport::default() }));
            if step % 10 == 0 {
                let evaluation = Evaluation { loss: loss + 0.1, ..Evaluation::default() };
                lines.push(LogLine::Evaluation { step, evaluation });
            }
        }
        lines
    }

    #[test]
    fn a_log_without_steps_has_no_picture_and_one_step_has() {
        assert!(picture(&[]).is_none());
        assert!(picture(&log(1)).is_some_and(|text| text.ends_with("</svg>\n") && !text.contains("NaN")));
    }

    #[test]
    fn curves_lie_within_the_plot_and_have_few_points() {
        let text = picture(&log(20_000)).unwrap();
        assert!(text.len() < 100_000 && !text.contains("NaN") && !text.contains("inf"), "{} bytes", text.len());
        let smooth = text.lines().find(|line| line.starts_with("<path class=\"smooth\" d=\"M")).unwrap();
        let path = smooth.split('"').nth(3).unwrap();
        let points: Vec<(f64, f64)> = path[1..]
            .split('L')
            .map(|point| point.split_once(' ').map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).unwrap())
            .collect();
        assert!((1000..=POINTS).contains(&points.len()));
        assert!(points.iter().all(|(x, y)| (LEFT..=RIGHT).contains(x) && (TOP..=BOTTOM).contains(y)));
        assert!(points.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1), "a falling loss goes down to the right");
    }

    #[test]
    fn losses_that_are_no_numbers_are_left_out() {
        let mut lines = log(20);
        lines.push(LogLine::Step(StepReport { step: 21, loss: f64::NAN, ..StepReport::default() }));
        assert!(!picture(&lines).unwrap().contains("NaN"));
    }
}
