//! Manifests that are given by `-f`.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow, bail};
use magik_pri::{PodSpec, limits::MAX_SPEC_SIZE};

/// That of pods which name none.
const DEFAULT_NAMESPACE: &str = "default";

/// Reads a file, or standard input where it is called `-`, never more than a pod may have.
/// A pod that names no namespace, or the default one, is in `namespace`, if one is given.
pub(super) fn read(file: &Path, namespace: Option<&str>) -> Result<PodSpec> {
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
    let mut spec = PodSpec::from_yaml(&text).with_context(|| name.clone())?;
    match namespace {
        Some(namespace) if spec.namespace == DEFAULT_NAMESPACE => spec.namespace = namespace.to_owned(),
        Some(namespace) if spec.namespace != namespace => bail!(
            "{name}: the pod is in namespace {}, not {namespace}: leave -n out",
            spec.namespace
        ),
        _ => {}
    }
    Ok(spec)
}

/// The pod that a manifest describes, by namespace and name.
pub(super) fn name(file: &Path, namespace: Option<&str>) -> Result<String> {
    if file != Path::new("-") && (!file.exists() || file.is_dir()) {
        let file = file.display();
        bail!(
            "{file}: is no file: -f names a manifest; to kill and delete a pod give 'pod delete --force {file}'"
        );
    }
    Ok(read(file, namespace)?.full_name())
}
