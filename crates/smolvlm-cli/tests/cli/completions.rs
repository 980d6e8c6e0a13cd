//! `smolvlm completions`, `--help` and `--version`.

use crate::common::smolvlm;

const COMMANDS: [&str; 10] =
    ["run", "chat", "info", "download", "quantize", "finetune", "merge", "trace", "bench", "completions"];

#[test]
fn a_completion_script_for_each_shell_knows_commands_and_flags() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = smolvlm(["completions", shell]).stdout();
        for word in COMMANDS.into_iter().chain(["max-new-tokens", "cache-memory"]) {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn a_script_that_bash_accepts() {
    let script = smolvlm(["completions", "bash"]).stdout();
    let Ok(mut bash) =
        std::process::Command::new("bash").args(["-n", "/dev/stdin"]).stdin(std::process::Stdio::piped()).spawn()
    else {
        return;
    };
    std::io::Write::write_all(&mut bash.stdin.take().expect("a pipe"), script.as_bytes()).expect("written");
    assert!(bash.wait().expect("a status").success());
}

#[test]
fn an_unknown_shell_is_a_usage_error() {
    smolvlm(["completions", "tcsh"]).fails(2, &["tcsh", "bash", "zsh", "fish"]);
}

#[test]
fn every_commands_help_has_an_example() {
    for command in COMMANDS {
        let help = smolvlm([command, "--help"]).stdout();
        assert!(help.contains("Example"), "{command}: {help}");
        assert!(help.contains(&format!("smolvlm {command}")), "{command}: {help}");
    }
}

#[test]
fn help_lists_the_commands_and_the_exit_codes() {
    let help = smolvlm(["--help"]).stdout();
    for word in COMMANDS {
        assert!(help.contains(&format!("\n  {word}")), "{word}: {help}");
    }
    assert!(help.contains("Exit codes: 0 done"), "{help}");
}

#[test]
fn the_version_is_the_packages() {
    assert_eq!(smolvlm(["--version"]).stdout(), format!("smolvlm {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn no_command_shows_the_help_and_is_a_usage_error() {
    let ended = smolvlm([""; 0]).run();
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("Usage: smolvlm <COMMAND>"), "{}", ended.stderr);
}
