//! How large images may be, and how long a pull may take.

use std::time::Duration;

use magik_image::{Error, Limits};
use magik_pri::parse_quantity;

use crate::config::{Config, Values};

/// The options; they are many and rarely needed, so docs/cli.md tells of them, and whoever needs one.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct LimitArgs {
    /// The largest layer
    #[arg(long, global = true, hide = true, value_name = "SIZE", value_parser = parse_quantity, env = "MAGIKRUN_MAX_LAYER_SIZE")]
    max_layer_size: Option<u64>,
    /// The largest image, unpacked
    #[arg(long, global = true, hide = true, value_name = "SIZE", value_parser = parse_quantity, env = "MAGIKRUN_MAX_IMAGE_SIZE")]
    max_image_size: Option<u64>,
    /// The most files of a layer
    #[arg(long, global = true, hide = true, value_name = "N", value_parser = parse_quantity, env = "MAGIKRUN_MAX_LAYER_FILES")]
    max_layer_files: Option<u64>,
    /// The longest time for the pull of one image
    #[arg(
        long,
        global = true,
        hide = true,
        value_name = "SECONDS",
        env = "MAGIKRUN_PULL_TIMEOUT"
    )]
    pull_timeout: Option<u32>,
}

impl LimitArgs {
    /// Takes from the configuration what no option or variable says.
    pub(crate) fn complete(&mut self, config: &Config) {
        let take = |own: &mut Option<u64>, key: fn(&Values) -> Option<u64>| {
            *own = own.or_else(|| config.file(key).map(|set| set.value));
        };
        take(&mut self.max_layer_size, |v| v.max_layer_size);
        take(&mut self.max_image_size, |v| v.max_image_size);
        take(&mut self.max_layer_files, |v| v.max_layer_files);
        let timeout = || config.file(|v| v.pull_timeout).map(|set| set.value);
        self.pull_timeout = self.pull_timeout.or_else(timeout);
    }

    /// The limits in force.
    pub(crate) fn limits(&self) -> Limits {
        let default = Limits::default();
        Limits {
            max_layer_size: self.max_layer_size.unwrap_or(default.max_layer_size),
            max_rootfs_size: self.max_image_size.unwrap_or(default.max_rootfs_size),
            max_files_per_layer: self.max_layer_files.unwrap_or(default.max_files_per_layer),
            ..default
        }
    }

    /// The longest time for a pull, if one is given.
    pub(crate) fn pull_timeout(&self) -> Option<Duration> {
        self.pull_timeout
            .map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// An error of an image, with the option that helps where it is a limit.
    pub(crate) fn advise(&self, error: anyhow::Error) -> anyhow::Error {
        let limits = self.limits();
        let sizes = [
            ("--max-layer-size", limits.max_layer_size),
            ("--max-image-size", limits.max_rootfs_size),
        ];
        let files = [("--max-layer-files", limits.max_files_per_layer)];
        let (passed, options) = match error.downcast_ref() {
            Some(Error::TooLarge { limit, .. }) => (*limit, &sizes[..]),
            Some(Error::TooMany { limit, .. }) => (*limit, &files[..]),
            _ => return error,
        };
        // Where two have the same value, either may be meant.
        let meant = options.iter().filter(|(_, limit)| *limit == passed);
        let meant: Vec<&str> = meant.map(|(option, _)| *option).collect();
        if meant.is_empty() {
            return error;
        }
        let said = magikrun::failure::chain(&error);
        anyhow::anyhow!("{said}: {} raises it", meant.join(" or "))
    }
}
