//! Exit codes 5 and 6: memory and network.

use crate::common::Case;
use crate::common::goldens::run;

#[test]
fn a_cache_too_small_for_the_request_says_what_it_needs_and_holds() {
    let parts = ["key-value cache of 30 tokens", "holds 0", "--cache-memory"];
    run(&["--cache-memory", "0", "Hi"]).fails(5, &parts);
    // 1 MiB is 1365 tokens of 768 bytes, in whole pages.
    run(&["--cache-memory", "1", "-n", "1400", "Hi"]).fails(5, &["key-value cache of 1410 tokens"]);
}

#[test]
fn a_cache_that_suffices_changes_nothing() {
    let printed = Case::read("text_short").printed();
    for mebibytes in ["1", "17592186044416", "18446744073709551615"] {
        assert_eq!(run(&["--cache-memory", mebibytes, "Hi"]).stdout(), printed, "{mebibytes}");
    }
}

#[test]
fn a_reply_without_end_is_bounded_by_the_context() {
    let reply = &run(&["--max-new-tokens", "18446744073709551615", "--json", "Hi"]).json()["replies"][0];
    assert!(reply["finish"] == "end_token" || reply["finish"] == "context", "{}", reply["finish"]);
}

#[test]
fn a_server_that_cannot_be_reached_is_a_network_error_that_names_the_url() {
    for flag in ["--image", "--video"] {
        // Nothing listens on port 1.
        let arguments = [flag, "http://127.0.0.1:1/cat", "--allow-private-urls", "Hi"];
        run(&arguments).fails(6, &["http://127.0.0.1:1/cat", "cannot be reached"]);
        let parts = ["http://127.0.0.1:1/cat", "127.0.0.1, an address of this machine", "--allow-private-urls"];
        run(&[flag, "http://127.0.0.1:1/cat", "Hi"]).fails(6, &parts);
    }
}
