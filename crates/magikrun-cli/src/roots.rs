//! `--root` and `--state-dir`.

use std::path::PathBuf;

use anyhow::Result;

/// The options that every command takes.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// Images, layers and pod data [default: /var/lib/magikrun, or $XDG_DATA_HOME/magikrun]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "MAGIKRUN_ROOT",
        hide_env_values = true
    )]
    root: Option<PathBuf>,
    /// State of what runs [default: /run/magikrun, or $XDG_RUNTIME_DIR/magikrun]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "MAGIKRUN_STATE_DIR",
        hide_env_values = true
    )]
    state_dir: Option<PathBuf>,
    /// Say on stderr what is being done (RUST_LOG chooses in detail)
    #[arg(long, global = true)]
    pub(crate) debug: bool,
}

impl GlobalArgs {
    /// The data root, absolute.
    pub(crate) fn data_root(&self) -> Result<PathBuf> {
        magikrun::roots::data_root(self.root.as_deref())
    }

    /// The state root, absolute.
    pub(crate) fn state_root(&self) -> Result<PathBuf> {
        magikrun::roots::state_root(self.state_dir.as_deref())
    }
}
