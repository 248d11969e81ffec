//! `pod update`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};

use super::{advise, backend, manifest};
use crate::{output, roots::GlobalArgs};

pub(crate) const EXAMPLE: &str = "\
Example: magikrun pod update web -f web.yaml
The files of ConfigMaps and Secrets in the pod's volumes are replaced, those of a volume at once.
Variables keep their values, and volumes of an object that is immutable stay as they are.";

#[derive(Debug, clap::Args)]
pub(crate) struct UpdateArgs {
    /// Name, namespace/name, id, or the start of an id
    #[arg(value_name = "POD")]
    pub(super) pod: String,
    /// The manifests it was run with, with other data: files, directories, - for stdin
    #[arg(short, long = "file", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) async fn run(global: &GlobalArgs, args: &UpdateArgs, namespace: Option<&str>) -> Result<ExitCode> {
    let runtime = backend::pods(global)?;
    let known = runtime.pod_spec(&args.pod).await.map_err(advise)?;
    let pods = manifest::read(&args.files, namespace, false)?;
    let Some(pod) = pods.iter().find(|pod| pod.spec.full_name() == known.full_name()) else {
        bail!(
            "pod {}: is not in these manifests: give those that it was run with",
            known.full_name()
        );
    };
    let updated = runtime.update_pod(&args.pod, &pod.spec).await;
    updated.map_err(|error| manifest::explain(&pod.file, error))?;
    output::line(known.full_name())?;
    Ok(ExitCode::SUCCESS)
}
