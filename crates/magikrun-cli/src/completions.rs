//! `completions SHELL`.

use anyhow::Result;
use clap_complete::Shell;

use crate::output;

pub(crate) const EXAMPLE: &str =
    "Example: magikrun completions bash > /usr/share/bash-completion/completions/magikrun";

#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// The script for the command line `of`.
pub(crate) fn run(args: &CompletionsArgs, mut of: clap::Command) -> Result<()> {
    // Into memory first: clap_complete panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut of, "magikrun", &mut script);
    output::write(&script)
}
