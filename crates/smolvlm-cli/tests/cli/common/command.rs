//! Runs the binary with an environment of its own and a time limit.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

/// No command here has work for more than a few seconds; the rest is for busy machines.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// Variables of the machine that would change what the binary does.
const SCRUBBED: [&str; 6] = ["HF_", "HUGGING", "TRANSFORMERS_", "XDG_", "HTTP", "COLUMNS"];

/// A command under preparation.
pub(crate) struct Smolvlm {
    command: Command,
    input: Vec<u8>,
}

/// The binary with these arguments, offline and without a model cache.
pub(crate) fn smolvlm<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Smolvlm {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smolvlm"));
    for (name, _) in std::env::vars_os() {
        let upper = name.to_string_lossy().to_uppercase();
        if SCRUBBED.iter().any(|prefix| upper.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
        .args(arguments)
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("none"));
    Smolvlm { command, input: Vec::new() }
}

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Smolvlm {
    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub(crate) fn args<I: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = I>) -> Self {
        self.command.args(arguments);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Where the command runs.
    pub(crate) fn within(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// What it reads from standard input.
    pub(crate) fn stdin(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Runs to the end.
    pub(crate) fn run(self) -> Ended {
        let shown = format!("{:?}", self.command);
        let (mut child, _writer) = self.spawn();
        let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
        let status = wait(&mut child, &shown);
        let text = |reader: JoinHandle<Vec<u8>>| String::from_utf8(reader.join().expect("a reader")).expect("UTF-8");
        let ended = Ended { code: exit_code(status), stdout: text(stdout), stderr: text(stderr) };
        assert!(!ended.stderr.contains("panicked"), "{shown}: {ended:#?}");
        ended
    }

    /// Runs while nobody reads its standard output.
    pub(crate) fn run_unread(self) -> Ended {
        let shown = format!("{:?}", self.command);
        let (mut child, _writer) = self.spawn();
        drop(child.stdout.take());
        let stderr = collect(child.stderr.take());
        let status = wait(&mut child, &shown);
        let stderr = String::from_utf8(stderr.join().expect("a reader")).expect("UTF-8");
        Ended { code: exit_code(status), stdout: String::new(), stderr }
    }

    /// Runs to the end, which must be a success; what it wrote to standard output.
    pub(crate) fn stdout(self) -> String {
        self.run().succeeded().stdout
    }

    /// Runs to the end, which must be a success; what it wrote, as JSON.
    pub(crate) fn json(self) -> Value {
        let stdout = self.stdout();
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
    }

    /// Runs to the end, which must be exit code `code` and an error that contains all of `parts`.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, parts: &[&str]) -> Ended {
        self.run().failed(code, parts)
    }

    fn spawn(mut self) -> (Child, JoinHandle<()>) {
        let piped = self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("the binary starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        // A command that fails early does not read all of it.
        let writer = thread::spawn(move || drop(stdin.write_all(&self.input)));
        (child, writer)
    }
}

impl Ended {
    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }

    /// Exit code `code`, nothing on standard output, and one error that contains all of `parts`.
    #[track_caller]
    pub(crate) fn failed(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        assert_eq!(self.stdout, "", "{self:#?}");
        assert_eq!(self.stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{self:#?}");
        for part in parts {
            assert!(self.stderr.contains(part), "expected {part:?} in {}", self.stderr);
        }
        self
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    let mut pipe = pipe.expect("a pipe");
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("readable");
        bytes
    })
}

/// Waits for the end; a command that takes too long is killed and fails the test.
fn wait(child: &mut Child, shown: &str) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a status") {
            return status;
        }
        if started.elapsed() > TIME_LIMIT {
            child.kill().expect("killed");
            panic!("{shown} was still running after {TIME_LIMIT:?}");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// A signal counts as −1.
fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or(-1)
}
