//! `--root` and `--state-dir`.

use std::path::PathBuf;

use anyhow::Result;
use tracing::level_filters::LevelFilter;

use crate::image_limits::LimitArgs;

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
        hide_env_values = true,
        hide_short_help = true
    )]
    root: Option<PathBuf>,
    /// State of what runs [default: /run/magikrun, or $XDG_RUNTIME_DIR/magikrun]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "MAGIKRUN_STATE_DIR",
        hide_env_values = true,
        hide_short_help = true
    )]
    state_dir: Option<PathBuf>,
    /// What is said on stderr: off, error, warn, info, debug or trace (RUST_LOG chooses in detail)
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        default_value = "warn",
        hide_default_value = true,
        hide_short_help = true
    )]
    log_level: LevelFilter,
    #[command(flatten)]
    pub(crate) images: LimitArgs,
    /// The same as --log-level debug
    #[arg(long, global = true, hide = true)]
    debug: bool,
}

impl GlobalArgs {
    /// What is said on stderr.
    pub(crate) fn log_level(&self) -> LevelFilter {
        if self.debug {
            LevelFilter::DEBUG
        } else {
            self.log_level
        }
    }

    /// The data root, absolute.
    pub(crate) fn data_root(&self) -> Result<PathBuf> {
        magikrun::roots::data_root(self.root.as_deref())
    }

    /// The state root, absolute.
    pub(crate) fn state_root(&self) -> Result<PathBuf> {
        magikrun::roots::state_root(self.state_dir.as_deref())
    }
}
