//! The option that says which images may be used.

use std::path::PathBuf;

use magik_image::policy::PolicySource;

/// Which images may be used.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct PolicyArg {
    /// The policy.json to follow [default: podman's]
    #[arg(long, value_name = "FILE")]
    signature_policy: Option<PathBuf>,
}

impl PolicyArg {
    pub(super) fn source(&self) -> PolicySource {
        match &self.signature_policy {
            Some(path) => PolicySource::File(path.clone()),
            None => PolicySource::System,
        }
    }
}
