//! `smolvlm bench`, with settings that take a moment.

use crate::common::goldens::on_checkpoint;

const SMALL: [&str; 8] = ["--tiles", "1", "--prompt-tokens", "8,16", "--decode-tokens", "2", "--repeat", "1"];

#[test]
fn json_has_every_figure_beside_the_machines_peak() {
    let value = on_checkpoint("bench").args(SMALL).arg("--json").json();
    let positive = |value: &serde_json::Value| value.as_f64().is_some_and(|number| number > 0.0 && number.is_finite());
    assert_eq!(value["dtype"], "f32");
    assert!(positive(&value["peak"]["flops"]) && positive(&value["peak"]["read_bytes_per_second"]), "{value}");
    let figures = value["figures"].as_array().expect("figures");
    let stages: Vec<&str> = figures.iter().filter_map(|figure| figure["stage"].as_str()).collect();
    assert_eq!(stages, ["vision", "prefill of 8", "decode after 8", "prefill of 16", "decode after 16"]);
    for figure in figures {
        for key in ["median", "min", "max", "floor", "share_of_floor"] {
            assert!(positive(&figure[key]), "{key}: {figure}");
        }
        let number = |key: &str| figure[key].as_f64().unwrap_or_default();
        assert!(number("min") <= number("median") && number("median") <= number("max"), "{figure}");
        assert!(figure["unit"].is_string() && figure["reached"].is_object(), "{figure}");
    }
    assert_eq!(value["answers"][0]["tiles"], 17);
    assert!(positive(&value["answers"][0]["first_token_seconds"]), "{value}");
    assert!(positive(&value["answers"][1]["last_token_seconds"]), "{value}");
    if cfg!(target_os = "linux") {
        assert!(positive(&value["peak_memory_bytes"]), "{value}");
    }
}

#[test]
fn text_is_a_table_of_the_same_stages() {
    let stdout = on_checkpoint("bench").args(SMALL).arg("--quiet").stdout();
    for part in [
        "peak of this machine",
        "vision ",
        "prefill of 8 ",
        "decode after 16 ",
        "first token after",
        "share of the floor",
    ] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
}

#[test]
fn lengths_that_cannot_be_measured_are_usage_errors() {
    for length in ["0", "8,0"] {
        on_checkpoint("bench").args(["--prompt-tokens", length]).fails(2, &["--prompt-tokens"]);
    }
    // The reference checkpoint's context holds 8192 tokens, prompt and reply together.
    on_checkpoint("bench").args(["--prompt-tokens", "8191", "--decode-tokens", "32"]).fails(2, &["8192"]);
}
