//! Whose a process's standard streams are.

use std::os::fd::AsFd;

use oci_spec::runtime::{LinuxIdMapping, Spec};
use rustix::fs::{FileType, OFlags, Uid, fcntl_getfl};

/// The host's id of the user that the container's process runs as; `None` if it is not mapped.
pub(crate) fn host_uid(spec: &Spec, uid: u32) -> Option<u32> {
    let mappings = spec.linux().as_ref().and_then(|l| l.uid_mappings().as_ref());
    match mappings.filter(|m| !m.is_empty()) {
        Some(mappings) => host_id(mappings, uid),
        None => Some(uid),
    }
}

fn host_id(mappings: &[LinuxIdMapping], id: u32) -> Option<u32> {
    let within = |m: &LinuxIdMapping| {
        id.checked_sub(m.container_id())
            .filter(|offset| *offset < m.size())
            .and_then(|offset| m.host_id().checked_add(offset))
    };
    mappings.iter().find_map(within)
}

/// Gives a standard stream to the container's user, as runc does, so that it can be opened again.
pub(crate) fn give(stream: &impl AsFd, uid: Option<u32>) {
    let Some(uid) = uid else { return };
    let Ok(stat) = rustix::fs::fstat(stream) else {
        return;
    };
    // Not the host's /dev/null, nor a file that it was given for reading.
    let writable = fcntl_getfl(stream).is_ok_and(|flags| !(flags & OFlags::RWMODE).is_empty());
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let others = stat.st_rdev == super::streams::null_device() || is_file && !writable;
    if stat.st_uid != uid && !others {
        // A socket or a read-only file system may refuse; the stream is usable all the same.
        let _ = rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_mapped_to_the_hosts() {
        let spec = |linux: serde_json::Value| -> Spec {
            serde_json::from_value(serde_json::json!({
                "ociVersion": "1.0.2", "root": {"path": "/r"}, "linux": linux,
            }))
            .unwrap()
        };
        let mapping = serde_json::json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
        let mapped = spec(serde_json::json!({"uidMappings": mapping}));
        assert_eq!(host_uid(&mapped, 9), Some(1009));
        assert_eq!(host_uid(&mapped, 10), None);
        assert_eq!(host_uid(&spec(serde_json::json!({})), 7), Some(7));
    }
}
