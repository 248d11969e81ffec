//! Volumes of data: the files that a pod's init is handed, of ConfigMaps, Secrets and the pod itself.

use std::path::PathBuf;

use magik_infra::{DataFile, plan::DataPlan};

use crate::{DataVolume, PodSpec, SpecErrors, VolumeSource, spec::Facts};

/// The pod's volumes of data, without the files; `target` tells where each is.
pub(crate) fn plans(spec: &PodSpec, target: impl Fn(&str) -> PathBuf) -> Vec<DataPlan> {
    let plan = |(name, _): (&str, &DataVolume)| DataPlan {
        name: name.to_owned(),
        target: target(name),
        group: spec.fs_group,
    };
    all(spec).map(plan).collect()
}

/// The files of each.
pub(crate) type Files = Vec<(String, Vec<DataFile>)>;

/// All volumes of data, by name.
pub(crate) fn all(spec: &PodSpec) -> impl Iterator<Item = (&str, &DataVolume)> {
    spec.volumes.iter().filter_map(|volume| match &volume.source {
        VolumeSource::Data(data) => Some((volume.name.as_str(), data)),
        _ => None,
    })
}

/// The files of these volumes, for the pod with this id.
pub(crate) fn files<'a>(
    spec: &PodSpec,
    id: &str,
    volumes: impl Iterator<Item = (&'a str, &'a DataVolume)>,
) -> Result<Files, SpecErrors> {
    let facts = Facts::of_pod(id);
    let mut all = Vec::new();
    for (name, data) in volumes {
        let files = data.bind(spec, &facts)?.into_iter();
        let files = files.map(|(path, file)| DataFile {
            path,
            mode: file.mode,
            bytes: file.bytes.to_vec(),
        });
        all.push((name.to_owned(), files.collect()));
    }
    Ok(all)
}
