//! `smolvlm completions`: a shell's completion script.

use clap::CommandFactory;
use smolvlm::{Error, Result};

use crate::args::{Cli, CompletionsArgs};
use crate::console;

pub(crate) fn completions(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "smolvlm", &mut script);
    let script = String::from_utf8(script).map_err(|error| Error::internal(error.to_string()))?;
    console::print(&script)
}
