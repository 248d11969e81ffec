//! Manifests that are given by `-f`.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow, bail};
use magik_pri::{PodSpec, limits::MAX_SPEC_SIZE};

/// Reads a file, or standard input where it is called `-`, never more than a pod may have.
pub(super) fn read(file: &Path) -> Result<PodSpec> {
    let stdin = file == Path::new("-");
    let name = if stdin {
        "stdin".into()
    } else {
        file.display().to_string()
    };
    let open = || -> io::Result<Box<dyn Read>> {
        Ok(if stdin {
            Box::new(io::stdin().lock())
        } else {
            Box::new(File::open(file)?)
        })
    };
    let mut bytes = Vec::new();
    let read = open().and_then(|from| from.take(MAX_SPEC_SIZE as u64 + 1).read_to_end(&mut bytes));
    read.with_context(|| name.clone())?;
    if bytes.len() > MAX_SPEC_SIZE {
        bail!(
            "{name}: larger than {} MiB, which no pod may be",
            MAX_SPEC_SIZE >> 20
        );
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| anyhow!("{name}: is no text in UTF-8: give a Kubernetes v1 Pod"))?;
    PodSpec::from_yaml(&text).context(name)
}

/// The pod that a manifest describes, by namespace and name.
pub(super) fn name(file: &Path) -> Result<String> {
    if !file.exists() && file != Path::new("-") {
        let file = file.display();
        bail!(
            "{file}: no such file: -f names a manifest; to kill and delete a pod give 'pod delete --force {file}'"
        );
    }
    Ok(read(file)?.full_name())
}
