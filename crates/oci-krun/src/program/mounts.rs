//! The mounts of a bundle: what they are in a machine.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use magik_sys::mount::TMPFS_MAGIC;
use magik_vm::{HostShare, MAX_SHARES};
use oci_spec::runtime::Mount;

/// File systems that a guest mounts itself.
const OF_GUEST: [&str; 8] = [
    "proc", "sysfs", "tmpfs", "ramfs", "devpts", "mqueue", "cgroup", "cgroup2",
];
/// Where memory that processes share is.
const SHARED_MEMORY: &str = "/dev/shm";

/// The shares of a machine, while they are being put together.
#[derive(Debug, Default)]
pub(super) struct Shares {
    all: Vec<HostShare>,
    count: usize,
    /// The one that holds all single files, and how many they are.
    files: Option<(usize, usize)>,
    known: HashMap<(PathBuf, bool), PathBuf>,
}

impl Shares {
    /// A container's root.
    pub(super) fn root(&mut self, path: PathBuf) -> PathBuf {
        let number = self.next();
        self.add(HostShare {
            number,
            host_path: path,
            read_only: false,
            name: None,
            root: true,
        })
    }

    /// Something of the host; says where it is in the guest.
    fn path(&mut self, host_path: PathBuf, read_only: bool) -> io::Result<PathBuf> {
        let kind = fs::metadata(&host_path)?.file_type();
        let key = (host_path, read_only);
        if let Some(place) = self.known.get(&key) {
            return Ok(place.clone());
        }
        let (number, name) = if kind.is_dir() {
            (self.next(), None)
        } else if kind.is_file() {
            let (number, count) = match self.files {
                Some(files) => files,
                None => (self.next(), 0),
            };
            self.files = Some((number, count + 1));
            (number, Some(count.to_string().into()))
        } else {
            let what = if kind.is_socket() {
                "a socket"
            } else if kind.is_fifo() {
                "a pipe"
            } else {
                "a device"
            };
            return Err(io::Error::other(format!(
                "is {what}, and only files and directories reach a machine"
            )));
        };
        let place = self.add(HostShare {
            number,
            host_path: key.0.clone(),
            read_only,
            name,
            root: false,
        });
        self.known.insert(key, place.clone());
        Ok(place)
    }

    fn next(&mut self) -> usize {
        self.count += 1;
        self.count - 1
    }

    fn add(&mut self, share: HostShare) -> PathBuf {
        let place = share.in_guest();
        self.all.push(share);
        place
    }

    /// All of them.
    ///
    /// # Errors
    /// There are more than a machine takes.
    pub(super) fn done(self) -> Result<Vec<HostShare>, String> {
        if self.count > MAX_SHARES {
            return Err(format!(
                "mounts: {} directories of the host (all single files count as one, a root that is not read-only as another), and a machine takes {MAX_SHARES} at most",
                self.count
            ));
        }
        Ok(self.all)
    }
}

/// Makes a mount of the bundle one of the guest's.
///
/// # Errors
/// No machine can have it; the field is named.
pub(super) fn in_guest(
    mount: &mut Mount,
    index: usize,
    bundle: &Path,
    shares: &mut Shares,
) -> Result<(), String> {
    let options = mount.options().clone().unwrap_or_default();
    let has = |name: &str| options.iter().any(|o| o == name);
    let mapped = |m: &Option<Vec<_>>| m.as_ref().is_some_and(|m| !m.is_empty());
    if mapped(mount.uid_mappings()) || mapped(mount.gid_mappings()) || has("idmap") || has("ridmap") {
        return Err(format!("mounts[{index}]: users are not mapped in a machine"));
    }
    let typ = mount.typ().clone().unwrap_or_default();
    if typ != "bind" && !has("bind") && !has("rbind") {
        if OF_GUEST.contains(&typ.as_str()) {
            return Ok(());
        }
        return Err(format!("mounts[{index}].type: no machine can mount {typ:?}"));
    }
    let source = mount.source().clone().unwrap_or_default();
    let source = bundle.join(source);
    let named = |e: io::Error| format!("mounts[{index}].source: {}: {e}", source.display());
    let real = source.canonicalize().map_err(named)?;
    if mount.destination() == Path::new(SHARED_MEMORY)
        && let Some(size) = size_of_tmpfs(&real).map_err(named)?
    {
        // Whoever could share it is in the machine.
        let options = ["nosuid", "noexec", "nodev", "mode=1777", &format!("size={size}")];
        mount
            .set_typ(Some("tmpfs".to_owned()))
            .set_source(Some("shm".into()))
            .set_options(Some(options.map(str::to_owned).to_vec()));
        return Ok(());
    }
    let place = shares.path(real, has("ro") || has("rro")).map_err(named)?;
    mount.set_source(Some(place));
    Ok(())
}

/// The size in bytes, if it is a tmpfs.
fn size_of_tmpfs(path: &Path) -> io::Result<Option<u64>> {
    let found = rustix::fs::statfs(path)?;
    let block = u64::try_from(found.f_bsize).unwrap_or_default();
    Ok((i128::from(found.f_type) == TMPFS_MAGIC).then(|| found.f_blocks.saturating_mul(block)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(json: serde_json::Value) -> Mount {
        serde_json::from_value(json).unwrap()
    }

    fn bind(source: &Path, options: &[&str]) -> Mount {
        mount(serde_json::json!({"destination": "/x", "type": "bind", "source": source, "options": options}))
    }

    #[test]
    fn directories_are_shares_and_files_have_one_together() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        for name in ["a", "b"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let mut shares = Shares::default();
        let root = shares.root(dir.path().to_owned());
        let mut place = |name: &str, options: &[&str]| {
            let mut mount = bind(Path::new(name), options);
            in_guest(&mut mount, 0, dir.path(), &mut shares).unwrap();
            mount.source().clone().unwrap()
        };
        let places = [
            place("a", &["ro", "rbind"]),
            place("d", &["rbind"]),
            place("b", &[]),
            place("d", &["rbind"]),
        ];
        assert_eq!(root, Path::new("/run/shares/0"));
        let expected = [
            "/run/shares/1/0",
            "/run/shares/2",
            "/run/shares/1/1",
            "/run/shares/2",
        ];
        assert_eq!(places, expected.map(PathBuf::from));
        let all = shares.done().unwrap();
        let read_only: Vec<_> = all.iter().map(|s| s.read_only).collect();
        assert_eq!(read_only, [false, true, false, false]);
    }

    #[test]
    fn what_reaches_no_machine_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
        let refused =
            |mut mount: Mount| in_guest(&mut mount, 3, dir.path(), &mut Shares::default()).unwrap_err();
        for (mount, part) in [
            (bind(Path::new("s"), &[]), "is a socket"),
            (bind(Path::new("/dev/null"), &[]), "is a device"),
            (bind(Path::new("none"), &[]), "No such file"),
            (bind(Path::new("."), &["idmap"]), "mapped"),
            (
                mount(serde_json::json!({"destination": "/x", "type": "overlay"})),
                "\"overlay\"",
            ),
        ] {
            let said = refused(mount);
            assert!(said.contains("mounts[3]") && said.contains(part), "{said}");
        }
        let mut shares = Shares::default();
        for _ in 0..MAX_SHARES {
            shares.next();
        }
        assert!(shares.next() == MAX_SHARES && shares.done().unwrap_err().contains("8 at most"));
    }

    #[test]
    fn shared_memory_is_the_machines_own() {
        let mut shm = mount(
            serde_json::json!({"destination": "/dev/shm", "type": "bind", "source": "/dev/shm", "options": ["bind"]}),
        );
        let mut shares = Shares::default();
        in_guest(&mut shm, 0, Path::new("/"), &mut shares).unwrap();
        assert_eq!(shm.typ().as_deref(), Some("tmpfs"));
        assert!(shares.done().unwrap().is_empty());
    }
}
