//! The binary as people and scripts use it: arguments and files in; standard output, standard error and exit code out.

mod adapter;
mod bad_checkpoint;
mod bad_input;
mod bench;
mod chat;
mod common;
mod completions;
mod containment;
mod demonstration;
mod download;
mod finetune;
mod frames;
mod info;
mod limits;
mod packed;
mod quantize;
mod run;
mod run_options;
mod scenes;
mod trace;
mod usage;
