//! Volumes of data: the files that a pod's init is handed, of ConfigMaps, Secrets and the pod itself.

use std::path::PathBuf;

use magik_infra::{DataFile, plan::DataPlan};

use crate::{PodSpec, SpecErrors, VolumeSource, spec::Facts};

/// The pod's volumes of data, without the files; `target` tells where each is.
pub(crate) fn plans(spec: &PodSpec, target: impl Fn(&str) -> PathBuf) -> Vec<DataPlan> {
    let data = spec
        .volumes
        .iter()
        .filter(|volume| matches!(volume.source, VolumeSource::Data(_)));
    let plan = |volume: &crate::Volume| DataPlan {
        name: volume.name.clone(),
        target: target(&volume.name),
        group: None,
    };
    data.map(plan).collect()
}

/// The files of each, for the pod with this id.
pub(crate) fn files(spec: &PodSpec, id: &str) -> Result<Vec<(String, Vec<DataFile>)>, SpecErrors> {
    let facts = Facts::of_pod(id);
    let mut all = Vec::new();
    for volume in &spec.volumes {
        let VolumeSource::Data(data) = &volume.source else {
            continue;
        };
        let files = data.bind(spec, &facts)?.into_iter();
        let files = files.map(|(path, file)| DataFile {
            path,
            mode: file.mode,
            bytes: file.bytes.to_vec(),
        });
        all.push((volume.name.clone(), files.collect()));
    }
    Ok(all)
}
