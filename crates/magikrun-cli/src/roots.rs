//! The options of every command, and what the configuration files say instead of them.

use std::path::PathBuf;

use anyhow::Result;
use clap::ArgMatches;
use tracing::level_filters::LevelFilter;

use crate::{config::Config, image_limits::LimitArgs};

/// The options that every command takes.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    // runc's commands have another `--root`; here it was this option's name at first.
    /// Images, layers and pod data [default: /var/lib/magikrun, or $XDG_DATA_HOME/magikrun]
    #[arg(
        long,
        alias = "root",
        global = true,
        value_name = "DIR",
        env = "MAGIKRUN_DATA_DIR",
        hide_env_values = true,
        hide_short_help = true
    )]
    data_dir: Option<PathBuf>,
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
        env = "MAGIKRUN_LOG_LEVEL",
        hide_env = true,
        hide_short_help = true
    )]
    log_level: Option<LevelFilter>,
    #[command(flatten)]
    pub(crate) images: LimitArgs,
    /// The same as --log-level debug
    #[arg(long, global = true, hide = true)]
    debug: bool,
    /// What the files and the environment say beside the options.
    #[arg(skip)]
    pub(crate) config: Config,
}

impl GlobalArgs {
    /// Takes from the configuration what no option or variable says.
    pub(crate) fn complete(&mut self, mut config: Config, matches: &ArgMatches) {
        config.note_given(matches);
        if self.data_dir.is_none() {
            let old = config.old_data_dir();
            self.data_dir = old.or_else(|| config.file(|v| v.data_dir.clone()).map(|set| set.value));
        }
        if self.state_dir.is_none() {
            self.state_dir = config.file(|v| v.state_dir.clone()).map(|set| set.value);
        }
        if self.log_level.is_none() {
            self.log_level = config.file(|v| v.log_level).map(|set| set.value);
        }
        self.images.complete(&config);
        self.config = config;
    }

    /// Whether `--debug` was given.
    pub(crate) fn debug(&self) -> bool {
        self.debug
    }

    /// What is said on stderr.
    pub(crate) fn log_level(&self) -> LevelFilter {
        if self.debug {
            LevelFilter::DEBUG
        } else {
            self.log_level.unwrap_or(LevelFilter::WARN)
        }
    }

    /// The data root, absolute.
    pub(crate) fn data_root(&self) -> Result<PathBuf> {
        magikrun::roots::data_root(self.data_dir.as_deref())
    }

    /// The state root, absolute.
    pub(crate) fn state_root(&self) -> Result<PathBuf> {
        magikrun::roots::state_root(self.state_dir.as_deref())
    }
}
