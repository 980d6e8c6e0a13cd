//! `smolvlm download`, from a hub on this machine, and what runs on its copies.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::common::command::Smolvlm;
use crate::common::hub::Hub;
use crate::common::{Case, Copy, checkpoint, smolvlm};

fn home() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// A command that may ask `hub`, with its cache in `home`.
fn online(arguments: &[&str], hub: &Hub, home: &Path) -> Smolvlm {
    smolvlm(arguments).env("HF_HUB_OFFLINE", "0").env("HF_ENDPOINT", &hub.endpoint).env("HF_HOME", home)
}

#[test]
fn a_model_is_fetched_into_the_standard_cache_and_runs_offline_from_there() {
    let (hub, home) = (Hub::serve(Path::new(&checkpoint())), home());
    let stdout = online(&["download", "owner/model"], &hub, home.path()).stdout();
    let folder = PathBuf::from(stdout.trim_end());
    assert!(folder.starts_with(home.path().join("hub/models--owner--model/snapshots")), "{stdout}");
    for file in ["config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json", "chat_template.json"]
    {
        let (copy, original) = (folder.join(file), Path::new(&checkpoint()).join(file));
        assert!(std::fs::read(copy).expect("a copy") == std::fs::read(original).expect("the original"), "{file}");
    }
    let run = smolvlm(["run", "--model", "owner/model", "--dtype", "f32", "Hi"]).env("HF_HOME", home.path());
    assert_eq!(run.stdout(), Case::read("text_short").printed());
}

/// Where the Python client is installed (`SMOLVLM_REFERENCE_PYTHON` names the interpreter), it finds what we fetched.
#[test]
fn the_python_client_finds_the_same_files_in_the_cache() {
    let Ok(python) = std::env::var("SMOLVLM_REFERENCE_PYTHON") else { return };
    let (hub, home) = (Hub::serve(Path::new(&checkpoint())), home());
    let folder = online(&["download", "owner/model"], &hub, home.path()).stdout();
    let script = "import sys; from huggingface_hub import hf_hub_download as find\n\
                  print(*[find('owner/model', name, local_files_only=True) for name in sys.argv[1:]], sep='\\n')";
    let names = ["config.json", "model.safetensors", "tokenizer.json", "chat_template.json"];
    let mut command = std::process::Command::new(python);
    command.arg("-c").arg(script).args(names).env("HF_HOME", home.path()).env("HF_HUB_OFFLINE", "1");
    let output = command.env_remove("HF_HUB_CACHE").output().expect("the interpreter runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected: Vec<String> = names.iter().map(|name| format!("{}/{name}", folder.trim_end())).collect();
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().collect::<Vec<_>>(), expected);
}

#[test]
fn frames_of_a_model_on_the_hub_need_no_weights_and_a_later_download_brings_them() {
    let (hub, home) = (Hub::serve(Path::new(&checkpoint())), home());
    let clip = crate::common::input("short_64x48_10fps_5s.mp4");
    online(&["frames", &clip, "--model", "owner/model"], &hub, home.path()).run().succeeded();
    let weights = |request: &&String| request.contains(".safetensors");
    assert_eq!(hub.requests().iter().find(weights), None);
    let folder = online(&["download", "owner/model"], &hub, home.path()).stdout();
    assert!(Path::new(folder.trim_end()).join("model.safetensors").exists());
}

#[test]
fn run_fetches_a_model_that_is_not_there_yet() {
    let (hub, home) = (Hub::serve(Path::new(&checkpoint())), home());
    let run = online(&["run", "--model", "owner/model", "--dtype", "f32", "Hi"], &hub, home.path());
    assert_eq!(run.stdout(), Case::read("text_short").printed());
}

#[test]
fn a_copy_that_is_there_is_run_without_asking_the_hub() {
    let (hub, home) = (Hub::serve(Path::new(&checkpoint())), home());
    online(&["download", "owner/model"], &hub, home.path()).run().succeeded();
    let asked = hub.requests().len();
    online(&["run", "--model", "owner/model", "--dtype", "f32", "Hi"], &hub, home.path()).run().succeeded();
    assert_eq!(hub.requests().len(), asked);
}

#[test]
fn a_second_download_asks_for_the_newest_commit_but_fetches_nothing_it_has() {
    let (hub, home) = (Hub::serve(Path::new(&checkpoint())), home());
    let first = online(&["download", "owner/model"], &hub, home.path()).stdout();
    let asked = hub.requests().len();
    assert_eq!(online(&["download", "owner/model"], &hub, home.path()).stdout(), first);
    let again = hub.requests().split_off(asked);
    assert!(again.iter().any(|request| request.starts_with("/api/models/owner/model")), "{again:?}");
    let transfers = |request: &&String| request.contains("/resolve/") && !request.ends_with("bytes=0-0");
    assert_eq!(again.iter().find(transfers), None, "{again:?}");
}

#[test]
fn json_names_the_model_and_its_folder() {
    let (hub, home) = (Hub::serve(Path::new(&checkpoint())), home());
    let value = online(&["download", "owner/model", "--json", "--quiet"], &hub, home.path()).json();
    assert_eq!(value["model"], "owner/model");
    assert!(Path::new(value["folder"].as_str().expect("a path")).join("config.json").exists());
}

#[test]
fn a_transfer_that_breaks_goes_on_where_it_stopped() {
    let (hub, home) = (Hub::serve(Path::new(&checkpoint())), home());
    hub.break_after(500_000);
    online(&["download", "owner/model"], &hub, home.path()).run().succeeded();
    let resumed = hub.requests().iter().any(|request| request.ends_with("model.safetensors bytes=500000-"));
    assert!(resumed, "{:?}", hub.requests());
}

#[test]
fn what_arrives_is_checked_like_any_checkpoint() {
    let broken = Copy::new().edit("config.json", |config| config["text_config"]["hidden_size"] = 96.into());
    let (hub, home) = (Hub::serve(broken.path()), home());
    online(&["download", "owner/model"], &hub, home.path()).fails(4, &["the weights do not fit config.json"]);
}

#[test]
fn a_folder_is_a_model_that_is_there() {
    assert_eq!(smolvlm(["download", &checkpoint()]).stdout(), format!("{}\n", checkpoint()));
}

#[test]
fn a_model_that_does_not_exist_is_a_network_error_that_names_it() {
    let (hub, home) = (Hub::serve(Path::new(&checkpoint())), home());
    online(&["download", "owner/other"], &hub, home.path()).fails(6, &["owner/other", "404"]);
}

#[test]
fn a_gated_model_asks_for_a_token_and_never_shows_it() {
    let (hub, home) = (Hub::gated(Path::new(&checkpoint()), "hf_right"), home());
    let download = || online(&["download", "owner/model"], &hub, home.path());
    download().fails(6, &["owner/model", "set HF_TOKEN", "no token is set"]);
    let ended = download().env("HF_TOKEN", "hf_wrong").fails(6, &["does not grant access"]);
    assert!(!ended.stderr.contains("hf_wrong"), "{}", ended.stderr);
    download().env("HF_TOKEN", "hf_right").run().succeeded();
}

#[test]
fn a_hub_that_cannot_be_reached_is_a_network_error_that_says_what_else_to_do() {
    // Nothing listens on port 1.
    let home = home();
    let command = |arguments: &[&str]| {
        let command = smolvlm(arguments).env("HF_HUB_OFFLINE", "0").env("HF_ENDPOINT", "http://127.0.0.1:1");
        command.env("HF_HOME", home.path())
    };
    let parts = ["cannot reach http://127.0.0.1:1", "owner/model@main", "config.json", "--model model"];
    command(&["download", "owner/model"]).fails(6, &parts);
    command(&["run", "--model", "owner/model", "Hi"]).fails(6, &parts);
}

#[test]
fn an_endpoint_that_is_no_address_is_a_usage_error() {
    let command = smolvlm(["download", "owner/model"]).env("HF_HUB_OFFLINE", "0").env("HF_ENDPOINT", "mirror");
    command.fails(2, &["HF_ENDPOINT", "mirror"]);
}
