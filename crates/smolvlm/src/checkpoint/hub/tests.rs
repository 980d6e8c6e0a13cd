//! Against a hub of our own on this machine, which speaks the part of the protocol that is needed and misbehaves on
//! request.

mod server;

use std::fs;
use std::path::Path;
use std::time::Duration;

use self::server::{COMMIT, Hub};
use super::*;
use crate::ErrorKind;
use crate::checkpoint::{Checkpoint, StoredDtype, testing::Tiny};

const ID: &str = "owner/model";

fn options(hub: &Hub, cache: &Path) -> HubOptions {
    HubOptions {
        endpoint: hub.endpoint.clone(),
        cache: cache.to_owned(),
        token: None,
        offline: false,
        refresh: false,
        stall: Duration::from_secs(20),
        retries: 2,
        backoff: Duration::from_millis(1),
    }
}

/// A hub that has a tiny model.
fn hub(shards: usize) -> Hub {
    let dir = tempfile::tempdir().unwrap();
    let tiny = Tiny::new(StoredDtype::F32);
    if shards == 1 {
        tiny.write(dir.path())
    } else {
        tiny.write_sharded(dir.path(), shards)
    }
    for file in ["generation_config.json", "preprocessor_config.json"] {
        fs::write(dir.path().join(file), "{}").unwrap();
    }
    fs::write(dir.path().join("pytorch_model.bin"), "not wanted").unwrap();
    Hub::serve(dir.path())
}

fn quietly(model: &str, options: &HubOptions) -> Result<PathBuf> {
    resolve_with(model, options, &mut |_| {})
}

#[test]
fn a_model_is_fetched_into_the_shared_layout_and_then_used_without_asking() {
    let (hub, cache) = (hub(1), tempfile::tempdir().unwrap());
    let options = options(&hub, cache.path());
    let mut steps = Vec::new();
    let folder = resolve_with(ID, &options, &mut |step| steps.push(step)).unwrap();

    let model = cache.path().join("models--owner--model");
    assert_eq!(folder, model.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(model.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(fs::read_dir(model.join("refs")).unwrap().count(), 1);
    let weights = fs::read_link(folder.join("model.safetensors")).unwrap();
    assert!(weights.starts_with("../../blobs"), "{weights:?}");
    assert!(!folder.join("pytorch_model.bin").exists());
    Checkpoint::open(&folder).unwrap().validate().unwrap();

    let last = steps.last().unwrap();
    assert_eq!((last.received, last.all_received), (last.size, last.all_size));
    assert_eq!(
        last.all_size,
        ["config.json", "tokenizer.json", "generation_config.json", "preprocessor_config.json", "model.safetensors"]
            .iter()
            .map(|file| fs::metadata(folder.join(file)).unwrap().len())
            .sum::<u64>()
    );

    let asked = hub.requests().len();
    assert_eq!(quietly(ID, &options).unwrap(), folder);
    assert_eq!(quietly(&format!("{ID}@{COMMIT}"), &options).unwrap(), folder);
    assert_eq!(quietly(ID, &HubOptions { offline: true, ..options.clone() }).unwrap(), folder);
    assert_eq!(hub.requests().len(), asked);
    quietly(ID, &HubOptions { refresh: true, ..options }).unwrap();
    assert_eq!(hub.requests()[asked..], ["GET /api/models/owner/model/revision/main"]);
}

#[test]
fn shards_are_fetched_as_the_index_lists_them_through_redirects() {
    let (hub, cache) = (hub(3), tempfile::tempdir().unwrap());
    hub.set(|behaviour| behaviour.redirect = true);
    let folder = quietly(&format!("{ID}@refs/pr/1"), &options(&hub, cache.path())).unwrap();
    Checkpoint::open(&folder).unwrap().validate().unwrap();
    let reference = cache.path().join("models--owner--model/refs/refs/pr/1");
    assert_eq!(fs::read_to_string(reference).unwrap(), COMMIT);
}

#[test]
fn a_broken_transfer_goes_on_where_it_stopped() {
    let (hub, cache) = (hub(1), tempfile::tempdir().unwrap());
    hub.set(|behaviour| behaviour.break_after = vec![("model.safetensors", 1000), ("model.safetensors", 500)]);
    let folder = quietly(ID, &options(&hub, cache.path())).unwrap();
    Checkpoint::open(&folder).unwrap().validate().unwrap();
    assert_eq!(hub.ranges("model.safetensors"), ["bytes=0-", "bytes=1000-", "bytes=1500-"]);
}

#[test]
fn an_interrupted_run_is_taken_up_by_the_next() {
    let (hub, cache) = (hub(1), tempfile::tempdir().unwrap());
    let options = HubOptions { retries: 0, ..options(&hub, cache.path()) };
    hub.set(|behaviour| behaviour.break_after = vec![("model.safetensors", 1234)]);
    let error = quietly(ID, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network);
    assert!(error.to_string().contains("model.safetensors: the transfer from http://127.0.0.1"), "{error}");
    let asked = hub.requests().len();
    let mut first = None;
    let folder = resolve_with(ID, &options, &mut |step| {
        first.get_or_insert(step);
    })
    .unwrap();
    Checkpoint::open(&folder).unwrap().validate().unwrap();
    assert_eq!(hub.ranges("model.safetensors").last().unwrap(), "bytes=1234-");
    assert_eq!(first.unwrap().received, 1234);
    assert!(!hub.requests()[asked..].iter().any(|request| request.ends_with("config.json")));
}

#[test]
fn a_server_without_ranges_and_a_full_leftover_do_not_spoil_the_file() {
    let (hub, cache) = (hub(1), tempfile::tempdir().unwrap());
    hub.set(|behaviour| {
        behaviour.ignore_ranges = true;
        behaviour.break_after = vec![("model.safetensors", 100)];
    });
    let folder = quietly(ID, &options(&hub, cache.path())).unwrap();
    Checkpoint::open(&folder).unwrap().validate().unwrap();

    let weights = folder.join("model.safetensors");
    let blob = fs::canonicalize(&weights).unwrap();
    fs::rename(&blob, blob.with_extension("part")).unwrap();
    let folder = quietly(ID, &options(&hub, cache.path())).unwrap();
    Checkpoint::open(&folder).unwrap().validate().unwrap();
}

#[test]
fn bytes_that_another_commit_brought_are_not_fetched_again() {
    let (hub, cache) = (hub(1), tempfile::tempdir().unwrap());
    let folder = quietly(ID, &options(&hub, cache.path())).unwrap();
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    let fetched = hub.ranges("model.safetensors").len();
    quietly(ID, &options(&hub, cache.path())).unwrap();
    Checkpoint::open(&folder).unwrap().validate().unwrap();
    assert_eq!(hub.ranges("model.safetensors").len(), fetched);
}

#[test]
fn a_gated_model_asks_for_the_licence_and_a_token_and_a_token_opens_it() {
    let (hub, cache) = (hub(1), tempfile::tempdir().unwrap());
    let options = options(&hub, cache.path());
    for status in [401, 403] {
        hub.set(|behaviour| behaviour.token = Some(("hf_right", status)));
        let error = quietly(ID, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Network);
        for part in ["accept its licence", "set HF_TOKEN", "no token is set", &status.to_string()] {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
    }
    let error = quietly(ID, &HubOptions { token: Some("hf_wrong".into()), ..options.clone() }).unwrap_err();
    assert!(error.to_string().contains("does not grant access") && !error.to_string().contains("hf_wrong"), "{error}");
    quietly(ID, &HubOptions { token: Some("hf_right".into()), ..options }).unwrap();
}

#[test]
fn a_model_that_does_not_exist_is_said_not_to() {
    let (hub, cache) = (hub(1), tempfile::tempdir().unwrap());
    let error = quietly("owner/other", &options(&hub, cache.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network);
    assert!(error.to_string().contains("check the id owner/other and the revision main"), "{error}");
}

#[test]
fn offline_without_a_copy_says_what_to_fetch_and_where_to_put_it() {
    let (hub, cache) = (hub(1), tempfile::tempdir().unwrap());
    let offline = HubOptions { offline: true, ..options(&hub, cache.path()) };
    let error = quietly(ID, &offline).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network);
    let tree = format!("{}/owner/model/tree/main", hub.endpoint);
    for part in [
        "HF_HUB_OFFLINE is set",
        &tree,
        "--model model",
        "config.json, tokenizer.json, model.safetensors",
        "generation_config.json",
        "models--owner--model",
        cache.path().to_str().unwrap(),
    ] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    assert!(hub.requests().is_empty());

    hub.set(|behaviour| behaviour.break_after = vec![("model.safetensors", 10)]);
    quietly(ID, &HubOptions { retries: 0, offline: false, ..offline.clone() }).unwrap_err();
    fs::create_dir_all(cache.path().join("models--owner--model/refs")).unwrap();
    fs::write(cache.path().join("models--owner--model/refs/main"), COMMIT).unwrap();
    let error = quietly(ID, &offline).unwrap_err();
    assert!(error.to_string().contains("lacks model.safetensors"), "{error}");
}

#[test]
fn an_incomplete_but_usable_copy_is_completed_online_and_used_without_network() {
    let (hub, cache) = (hub(1), tempfile::tempdir().unwrap());
    let options = options(&hub, cache.path());
    let folder = quietly(ID, &options).unwrap();
    fs::remove_file(folder.join("generation_config.json")).unwrap();
    let nowhere = HubOptions { endpoint: "http://127.0.0.1:1".into(), ..options.clone() };
    assert_eq!(quietly(ID, &nowhere).unwrap(), folder);
    assert_eq!(quietly(ID, &HubOptions { offline: true, ..options.clone() }).unwrap(), folder);
    quietly(ID, &options).unwrap();
    assert!(folder.join("generation_config.json").exists());
}

#[test]
fn silence_and_refusal_of_the_network_end_in_an_error() {
    let (hub, cache) = (hub(1), tempfile::tempdir().unwrap());
    let nowhere = HubOptions { endpoint: "http://127.0.0.1:1".into(), ..options(&hub, cache.path()) };
    let error = quietly(ID, &nowhere).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network);
    assert!(error.to_string().contains("cannot reach http://127.0.0.1:1"), "{error}");
    assert!(error.to_string().contains("--model model"), "{error}");

    hub.set(|behaviour| behaviour.hang_on = Some("model.safetensors"));
    let hasty = HubOptions { stall: Duration::from_millis(400), ..options(&hub, cache.path()) };
    let error = quietly(ID, &hasty).unwrap_err();
    assert!(error.to_string().contains("nothing came from"), "{error}");
}

#[test]
fn a_server_that_is_no_hub_cannot_write_outside_the_cache() {
    for (etag, commit) in [("../../evil", COMMIT), ("", COMMIT), ("abc", "../../evil"), ("abc", "0123")] {
        let (hub, cache) = (hub(1), tempfile::tempdir().unwrap());
        hub.set(|behaviour| behaviour.headers = Some((etag, commit)));
        let error = quietly(ID, &options(&hub, cache.path())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Network, "{error}");
        assert!(error.to_string().contains("HF_ENDPOINT"), "{error}");
        assert!(!cache.path().join("evil").exists());
    }
    let (hub, cache) = (hub(1), tempfile::tempdir().unwrap());
    hub.set(|behaviour| behaviour.commit = "../../evil");
    assert!(quietly(ID, &options(&hub, cache.path())).unwrap_err().to_string().contains("no commit"));
}

#[test]
fn a_folder_is_itself_and_a_file_is_not_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    assert_eq!(resolve(path, &mut |_| {}).unwrap(), dir.path());
    let file = dir.path().join("model.safetensors");
    fs::write(&file, "x").unwrap();
    let error = resolve(file.to_str().unwrap(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("give the folder it is in"), "{error}");
    let error = resolve(&format!("{path}/nowhere"), &mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Checkpoint);
}
