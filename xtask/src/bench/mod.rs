//! Placeholder.
use anyhow::Result;
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// x
    Pods,
}
pub(crate) fn run(_: &Command) -> Result<()> {
    Ok(())
}
