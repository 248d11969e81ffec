//! The machine of a pod: what the launcher decides about it.

use std::{collections::BTreeSet, io, path::PathBuf};

use magik_vm::{DriverKind, HostShare, MAX_SHARES, MAX_VM_MEMORY_MIB, Machine, OVERHEAD_MIB, VmFiles, vcpus};

use crate::{
    HostPathKind, PodSpec, SpecError, VolumeSource,
    pods::{Start, volumes::SHARED_MEMORY_VOLUME},
};

/// What a container is taken to need that says nothing, in MiB.
const UNSAID_MIB: u64 = 128;

/// What a pod sees of the host: its `hostPath` volumes.
pub(super) fn shares(spec: &PodSpec) -> Vec<HostShare> {
    let mut known = BTreeSet::new();
    let mut shares = Vec::new();
    for volume in &spec.volumes {
        let VolumeSource::HostPath(host) = &volume.source else {
            continue;
        };
        let mut mounts = spec.all_containers().flat_map(|c| &c.mounts);
        if !mounts.any(|m| m.volume == volume.name) || !known.insert(&host.path) {
            continue;
        }
        let of_path: Vec<_> = spec
            .volumes
            .iter()
            .filter(|v| matches!(&v.source, VolumeSource::HostPath(h) if h.path == host.path))
            .map(|v| &v.name)
            .collect();
        let mut all = spec.all_containers().flat_map(|c| &c.mounts);
        let is_file =
            matches!(host.kind, HostPathKind::File | HostPathKind::FileOrCreate) || host.path.is_file();
        shares.push(HostShare {
            number: shares.len(),
            host_path: host.path.clone(),
            read_only: all.all(|m| m.read_only || !of_path.contains(&&m.volume)),
            name: host.path.file_name().filter(|_| is_file).map(PathBuf::from),
            root: false,
        });
    }
    shares
}

/// Memory in MiB and processors for a pod: the sum of what its containers may use, or the most that an init container
/// may, and what the guest itself needs.
pub(super) fn size(spec: &PodSpec) -> Result<(u32, u32), SpecError> {
    let memory = |c: &crate::ContainerSpec| {
        let bytes = c.limits.memory.or(c.requests.memory);
        bytes.map_or(UNSAID_MIB, |b| b.div_ceil(1 << 20))
    };
    // Sidecars stay: each init container runs beside those before it, and the others beside all.
    let (mut sidecars, mut before) = (0_u64, 0);
    for container in &spec.init_containers {
        before = before.max(sidecars.saturating_add(memory(container)));
        if container.lifecycle.is_of_sidecar() {
            sidecars = sidecars.saturating_add(memory(container));
        }
    }
    let together: u64 = spec.containers.iter().map(memory).sum();
    let together = together.saturating_add(sidecars);
    // What the pod says for all of them goes before what they say.
    let own = spec.limits.memory.or(spec.requests.memory);
    let own = own.map(|bytes| bytes.div_ceil(1 << 20));
    let memory_mib = own.unwrap_or(together.max(before)).saturating_add(OVERHEAD_MIB);
    if memory_mib > u64::from(MAX_VM_MEMORY_MIB) {
        return Err(SpecError::invalid(
            "spec.containers",
            format!(
                "the pod's machine would need {memory_mib} MiB of memory (limits, and {OVERHEAD_MIB} MiB for the guest), and the most is {MAX_VM_MEMORY_MIB}"
            ),
        ));
    }
    let millis: u64 = spec
        .containers
        .iter()
        .map(|c| c.limits.cpu_millis.unwrap_or(1000))
        .sum();
    let vcpus = vcpus(spec.limits.cpu_millis.unwrap_or(millis).div_ceil(1000));
    if shares(spec).len() > MAX_SHARES {
        return Err(SpecError::invalid(
            "spec.volumes",
            format!("a machine takes {MAX_SHARES} hostPath volumes at most"),
        ));
    }
    Ok((u32::try_from(memory_mib).unwrap_or(u32::MAX), vcpus))
}

/// The machine of a pod that is about to be started.
pub(super) fn of(start: &Start<'_>, files: VmFiles, driver: DriverKind) -> io::Result<Machine> {
    let (memory_mib, vcpus) = size(start.spec).map_err(io::Error::other)?;
    let empty_dirs = start.spec.volumes.iter();
    let empty_dirs = empty_dirs.filter(|v| !matches!(v.source, VolumeSource::HostPath(_)));
    Ok(Machine {
        memory_mib,
        vcpus: if driver.is_emulated() { 1 } else { vcpus },
        driver,
        hello_time: driver.hello_time(),
        files: files.into_directory(),
        data: start.data.join("pods").join(start.id),
        hostname: start.hostname.to_owned(),
        containers: start.spec.all_containers().map(|c| c.name.clone()).collect(),
        empty_dirs: empty_dirs
            .map(|v| v.name.clone())
            .chain([SHARED_MEMORY_VOLUME.to_owned()])
            .collect(),
        volume_group: start.spec.fs_group,
        sysctls: start.spec.sysctls.clone(),
        shared_processes: start.spec.share_process_namespace,
        shares: shares(start.spec),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn spec(containers: &str, volumes: &str) -> PodSpec {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{containers: [{containers}], volumes: [{volumes}]}}}}"
        );
        PodSpec::from_yaml(&text).unwrap()
    }

    #[test]
    fn a_machine_is_as_large_as_its_containers_together() {
        let one = |memory: &str, cpu: &str| {
            format!(
                "{{name: a{memory}, image: i, resources: {{limits: {{memory: {memory}Mi, cpu: '{cpu}'}}}}}}"
            )
        };
        let size = |containers: &str| super::size(&spec(containers, ""));
        assert_eq!(size("{name: a, image: i}").unwrap().0, 256);
        assert_eq!(
            size(&format!("{}, {}", one("100", "0.5"), one("200", "0.5"))).unwrap(),
            (428, 1)
        );
        // A sidecar stays, another init container is gone by then.
        let mut with_sidecar = spec(&one("100", "1"), "");
        let text = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: a, image: i}], initContainers: [\
            {name: s, image: i, restartPolicy: Always, resources: {limits: {memory: 50Mi}}}, \
            {name: i, image: i, resources: {limits: {memory: 60Mi}}}]}}";
        with_sidecar.init_containers = PodSpec::from_yaml(text).unwrap().init_containers;
        assert_eq!(super::size(&with_sidecar).unwrap().0, 278);
        let most = u64::from(MAX_VM_MEMORY_MIB) - OVERHEAD_MIB;
        size(&one(&most.to_string(), "1")).unwrap();
        let error = size(&one(&(most + 1).to_string(), "1")).unwrap_err().to_string();
        assert!(error.contains("4097 MiB"), "{error}");
    }

    #[test]
    fn host_paths_are_shares_that_are_read_only_unless_somebody_writes() {
        let spec = spec(
            "{name: a, image: i, volumeMounts: [{name: v, mountPath: /v, readOnly: true}, {name: w, mountPath: /w}, {name: x, mountPath: /x, readOnly: true}]}",
            "{name: v, hostPath: {path: /srv}}, {name: w, hostPath: {path: /var}}, {name: x, hostPath: {path: /var}}, {name: unused, hostPath: {path: /opt}}",
        );
        let shares = shares(&spec);
        let found: Vec<_> = shares
            .iter()
            .map(|s| (s.host_path.to_str().unwrap(), s.read_only))
            .collect();
        assert_eq!(found, [("/srv", true), ("/var", false)]);
        assert_eq!(shares[1].in_guest(), Path::new("/run/shares/1"));
    }
}
