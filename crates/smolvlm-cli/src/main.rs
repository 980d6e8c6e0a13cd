//! The `smolvlm` command: flags → plan → library calls.
#![forbid(unsafe_code)]

mod args;
mod card;
mod commands;
mod console;
mod drawn;
mod exit;
mod files;
mod font;
mod json;
mod picture;
mod plan;
mod scenes;
mod sheet;
mod work;

use std::process::ExitCode;

use clap::Parser;
use smolvlm_train::Beginning;

use args::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let quiet_panic = std::panic::catch_unwind(|| run(cli.command));
    match quiet_panic {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => exit::report(&error),
        // The panic's message and place are on standard error already.
        Err(_) => exit::internal("this is a defect of smolvlm; please report the message above"),
    }
}

fn run(command: Command) -> smolvlm::Result<()> {
    match command {
        Command::Demo(args) => commands::demo::demo(&args),
        Command::Run(args) => commands::run::run(&args),
        Command::Chat(args) => commands::chat::chat(&args),
        Command::Info(args) => commands::info::info(&args),
        Command::Download(args) => commands::download::download(&args),
        Command::Quantize(args) => commands::quantize::quantize(&args),
        Command::Finetune(args) => commands::finetune::finetune(&args.run, Beginning::Checkpoint),
        Command::Train(args) => commands::finetune::finetune(&args.run, Beginning::Nothing),
        Command::Evaluate(args) => commands::evaluate::evaluate(&args),
        Command::Scenes(args) => commands::scenes::scenes(&args),
        Command::Merge(args) => commands::merge::merge(&args),
        Command::Frames(args) => commands::frames::frames(&args),
        Command::Trace(args) => commands::trace::trace(&args),
        Command::Bench(args) => commands::bench::bench(&args),
        Command::Completions(args) => commands::completions::completions(&args),
        Command::MediaWorker(args) => commands::media_worker::media_worker(&args),
    }
}
