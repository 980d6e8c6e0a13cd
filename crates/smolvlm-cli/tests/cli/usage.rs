//! Exit code 2: the command line itself is at fault.

use crate::common::goldens::{on_checkpoint, run};
use crate::common::{input, smolvlm};

#[test]
fn unknown_flags_and_commands_are_named() {
    run(&["--imagine", "x", "Hi"]).fails(2, &["--imagine"]);
    smolvlm(["walk"]).fails(2, &["walk", "Usage: smolvlm"]);
    smolvlm(["run", "--dtype", "f64", "Hi"]).fails(2, &["f64", "f32, bf16"]);
    smolvlm(["run", "--compat", "hf-1.0", "Hi"]).fails(2, &["hf-1.0", "hf-5.23"]);
    smolvlm(["run", "--threads", "many", "Hi"]).fails(2, &["--threads", "many"]);
}

#[test]
fn a_missing_prompt_is_asked_for() {
    run(&[]).fails(2, &["<PROMPT>"]);
    run(&["--image", &input("square_48.png")]).fails(2, &["<PROMPT>"]);
}

#[test]
fn a_messages_file_excludes_a_prompt_and_its_files() {
    for flags in [&["Hi"][..], &["--image", "a.png"], &["--video", "a.mp4"], &["--system", "x"]] {
        run(&["--messages", "a.json"]).args(flags).fails(2, &["--messages", "cannot be used with"]);
    }
}

#[test]
fn quiet_and_verbose_exclude_each_other() {
    run(&["--quiet", "--verbose", "Hi"]).fails(2, &["--quiet", "--verbose"]);
}

#[test]
fn log_probabilities_need_json() {
    run(&["Hi", "--logprobs"]).fails(2, &["--json"]);
}

#[test]
fn numbers_out_of_range_are_refused_with_their_range() {
    for (flag, value, expected) in [
        ("--temperature", "-1", "temperature is -1; it must be above 0"),
        ("--temperature", "nan", "temperature is NaN"),
        ("--temperature", "inf", "temperature is inf"),
        ("--top-p", "0", "top_p is 0; it must be above 0 and at most 1"),
        ("--top-p", "1.5", "top_p is 1.5"),
        ("--top-p", "-0.5", "top_p is -0.5"),
        ("--min-p", "2", "min_p is 2; it must be from 0 to 1"),
        ("--min-p", "-0.1", "min_p is -0.1"),
        ("--repetition-penalty", "0", "repetition_penalty is 0; it must be above 0"),
        ("--repetition-penalty", "-2", "repetition_penalty is -2"),
        ("--max-new-tokens", "0", "max_new_tokens is 0"),
        ("--fps", "0", "frames per second must be above 0"),
        ("--fps", "-1", "frames per second must be above 0"),
        ("--fps", "nan", "frames per second must be above 0"),
        ("--fps", "1e9", "at most 1000"),
        ("--longest-edge", "0", "longest edge must be from 1"),
        ("--longest-edge", "99999999", "longest edge must be from 1"),
        ("--max-frames", "0", "frame count must be from 1"),
        ("--stop", "", "a stop string is empty"),
        ("--chunk", "0", "--chunk"),
    ] {
        let ended = run(&[flag, value, "Hi"]).fails(2, &[expected]);
        assert!(ended.stderr.matches('\n').count() < 8, "{flag} {value}: {}", ended.stderr);
    }
}

#[test]
fn numbers_that_are_none_are_refused_by_flag() {
    for (flag, value) in [
        ("--max-new-tokens", "-1"),
        ("--max-new-tokens", "99999999999999999999999"),
        ("--seed", "x"),
        ("--stop-id", "-1"),
        ("--top-k", "1.5"),
        ("--cache-memory", "1GB"),
    ] {
        run(&[flag, value, "Hi"]).fails(2, &[value]);
    }
}

#[test]
fn a_picture_of_too_many_tiles_says_which_flag_to_lower() {
    run(&["--longest-edge", "65536", "--image", &input("square_48.png"), "Hi"]).fails(2, &["tiles", "longest edge"]);
}

#[test]
fn a_trace_needs_messages_and_a_place() {
    on_checkpoint("trace").fails(2, &["--messages <FILE>", "--out <FILE>"]);
    on_checkpoint("trace").args(["--messages", "a", "--out", "b", "--logits", "some"]).fails(2, &["some", "all, last"]);
}
