//! What people see while work goes on: everything on standard error, standard output stays clean.

use std::io::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use smolvlm::checkpoint::hub::DownloadProgress;
use smolvlm::{Error, ErrorKind, Progress, ProgressHook, Result};

/// How much to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Console {
    quiet: bool,
    verbose: bool,
}

impl Console {
    pub(crate) fn new(quiet: bool, verbose: bool) -> Self {
        Self { quiet, verbose }
    }

    /// A line that people want unless they asked for quiet.
    pub(crate) fn note(self, text: &str) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// A line that people want when they asked for details.
    pub(crate) fn detail(self, text: &str) {
        if self.verbose {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Shows a download, once there is one.
    pub(crate) fn download(self) -> DownloadBar {
        DownloadBar { quiet: self.quiet, bar: None }
    }

    /// A bar of `length` steps.
    pub(crate) fn bar(self, length: u64, template: &str) -> ProgressBar {
        if self.quiet { ProgressBar::hidden() } else { styled(length, template) }
    }

    /// Shows tiles going through the vision tower.
    pub(crate) fn vision_progress(self) -> Option<ProgressHook> {
        if self.quiet {
            return None;
        }
        let mut bar: Option<ProgressBar> = None;
        Some(Box::new(move |progress| {
            let Progress::Vision { done, total } = progress;
            let shown = bar.get_or_insert_with(|| {
                styled(total as u64, "looking  {wide_bar:.cyan/dim} {pos}/{len} tiles {eta:>4}")
            });
            shown.set_position(done as u64);
            if done >= total {
                shown.finish_and_clear();
                bar = None;
            }
        }))
    }
}

/// A bar that appears with the first progress.
pub(crate) struct DownloadBar {
    quiet: bool,
    bar: Option<(String, ProgressBar)>,
}

impl DownloadBar {
    pub(crate) fn update(&mut self, progress: &DownloadProgress) {
        if self.quiet {
            return;
        }
        if self.bar.as_ref().is_none_or(|(file, _)| *file != progress.file) {
            self.finish();
            let bar = styled(progress.size, "{msg} {wide_bar:.cyan/dim} {bytes}/{total_bytes} {eta:>4}");
            bar.set_message(progress.file.clone());
            self.bar = Some((progress.file.clone(), bar));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_position(progress.received);
        }
    }

    pub(crate) fn finish(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn styled(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Writes to standard output. A reader that has gone away ends the program quietly, as other tools do.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Error::new(ErrorKind::Internal, "cannot write to standard output").caused_by(error)),
        Ok(()) => Ok(()),
    }
}

/// Seconds with the digits that matter.
pub(crate) fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

/// Bytes in the largest binary unit that leaves a number above one.
pub(crate) fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (count.max(1).ilog2() / 10).min(4) as usize;
    if power == 0 {
        format!("{count} B")
    } else {
        format!("{:.2} {}", count as f64 / (1_u64 << (10 * power)) as f64, units[power])
    }
}
