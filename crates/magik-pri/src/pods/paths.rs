//! Where everything of a pod lies, and how pods are named.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use magik_infra::PENDING_SUFFIX;

use crate::{Error, Result};

/// Hex digits of an id that are random.
const RANDOM_DIGITS: usize = 16;
/// Hex digits of an id that say which state root the pod belongs to.
const TAG_DIGITS: usize = 8;

/// In a pod's sandbox: its containers' bundles.
pub(crate) const BUNDLES: &str = "containers";

/// The log of a pod's init among those of its containers; no container is called that.
pub(crate) const INIT_LOG: &str = "_init";

/// Where pods are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// Images, layers, volumes, logs: `/var/lib/magikrun`.
    pub data: PathBuf,
    /// What does not outlive a boot: `/run/magikrun`.
    pub state: PathBuf,
}

/// Both roots, made and absolute, and every path below them.
#[derive(Debug)]
pub(crate) struct Paths {
    data: PathBuf,
    state: PathBuf,
    tag: String,
}

impl Paths {
    /// Makes the directories.
    pub(crate) fn open(roots: &Roots) -> Result<Self> {
        let (data, state) = (root(&roots.data)?, root(&roots.state)?);
        let pods = data.join("pods");
        magik_cas::private::directory(&pods).map_err(refused(&pods))?;
        spread(&pods);
        for dir in ["pods", "names", "sandboxes", "intents"] {
            let dir = state.join(dir);
            magik_cas::private::directory(&dir).map_err(refused(&dir))?;
        }
        let tag = tag(&state);
        Ok(Self { data, state, tag })
    }

    /// A new id: random digits, then those of this state root. So what lies in a data root or a cgroup tree that several
    /// state roots use can be told apart.
    pub(crate) fn new_id(&self) -> Result<String> {
        let mut bytes = [0_u8; RANDOM_DIGITS / 2];
        let n = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        n.map_err(Error::io("getrandom"))?;
        let random = bytes
            .iter()
            .fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        Ok(format!("{random}{}", self.tag))
    }

    /// Whether a file name is the id of a pod of this state root.
    pub(crate) fn is_own_id(&self, name: &str) -> bool {
        is_id(name) && name.ends_with(&self.tag)
    }

    pub(crate) fn pods(&self) -> PathBuf {
        self.state.join("pods")
    }
    /// A committed pod's state.
    pub(crate) fn pod(&self, id: &str) -> PathBuf {
        self.pods().join(id)
    }
    /// The state of a pod that is not committed, or is being deleted.
    pub(crate) fn pending(&self, id: &str) -> PathBuf {
        self.pods().join(format!("{id}{PENDING_SUFFIX}"))
    }
    /// Serialises reservations and sweeps.
    pub(crate) fn reservations_lock(&self) -> PathBuf {
        self.state.join("pods.lock")
    }
    pub(crate) fn names(&self) -> PathBuf {
        self.state.join("names")
    }
    /// What a container of a pod writes.
    pub(crate) fn rw(&self, id: &str, container: &str) -> PathBuf {
        self.data_pod(id).join("rw").join(container)
    }

    /// Held while images are pulled for a pod that is not reserved yet.
    pub(crate) fn intents(&self) -> PathBuf {
        self.state.join("intents")
    }
    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.state.join("sandboxes")
    }
    pub(crate) fn sandbox(&self, id: &str) -> PathBuf {
        self.sandboxes().join(id)
    }
    /// The containers' bundles, in a pod's sandbox.
    pub(crate) fn bundles(&self, id: &str) -> PathBuf {
        self.sandbox(id).join(BUNDLES)
    }
    pub(crate) fn data_root(&self) -> &Path {
        &self.data
    }
    pub(crate) fn data_pods(&self) -> PathBuf {
        self.data.join("pods")
    }
    pub(crate) fn data_pod(&self, id: &str) -> PathBuf {
        self.data_pods().join(id)
    }
    pub(crate) fn log(&self, id: &str, container: &str) -> PathBuf {
        self.data_pod(id).join("logs").join(format!("{container}.log"))
    }
}

/// The file name of a reservation. Neither part has a `_`: it separates them.
pub(crate) fn name_link(namespace: &str, name: &str) -> String {
    format!("{namespace}_{name}")
}

/// Whether a text has the form of an id.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == RANDOM_DIGITS + TAG_DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// FNV-1a of the path: stable from one version of this program to the next.
fn tag(state: &Path) -> String {
    let bytes = state.as_os_str().as_encoded_bytes();
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    });
    let folded = (hash >> 32) ^ (hash & 0xffff_ffff);
    format!("{folded:08x}")
}

/// Makes a root and the directories above it, for the owner only, and returns its real path. One that is there already may be
/// seen by others, since what is in it is not; but nobody else may put something else in the place of what is ours.
fn root(dir: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::MetadataExt as _;
    let failed = || Error::io(format!("create {}", dir.display()));
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(failed())?;
    let dir = dir.canonicalize().map_err(failed())?;
    let meta = dir.symlink_metadata().map_err(failed())?;
    let ours = [0, rustix::process::geteuid().as_raw()].contains(&meta.uid());
    // In a sticky directory others may add, but not replace.
    if ours && (meta.mode() & 0o022 == 0 || meta.mode() & 0o1000 != 0) {
        return Ok(dir);
    }
    let why = format!(
        "belongs to user {} with mode {:o}: others could replace what is in it",
        meta.uid(),
        meta.mode() & 0o7777
    );
    Err(refused(&dir)(io::Error::new(
        io::ErrorKind::PermissionDenied,
        why,
    )))
}

/// A directory that is not ours alone.
fn refused<E: Into<Box<dyn std::error::Error + Send + Sync>>>(dir: &Path) -> impl FnOnce(E) -> Error {
    let context = format!("use {}", dir.display());
    move |e| Error::io(context)(io::Error::other(e))
}

/// Tells ext4 that the directories in this one have nothing to do with each other (chattr(1), `T`), so that it makes each
/// where there is room: among the inodes of pods deleted a moment ago it looks long for free ones. Others have no such flag.
fn spread(dir: &Path) {
    use rustix::fs::{IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(dir) = rustix::fs::open(dir, flags, Mode::empty()) else {
        return;
    };
    if let Ok(flags) = ioctl_getflags(&dir)
        && !flags.contains(IFlags::TOPDIR)
    {
        let _ = ioctl_setflags(&dir, flags | IFlags::TOPDIR);
    }
}

/// Makes one new directory with exactly this mode, whatever the umask is.
pub(crate) fn make_dir(dir: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().mode(mode).create(dir)?;
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

/// Removes a symbolic link; one that is gone already is no error.
pub(crate) fn remove_link(link: &Path) -> io::Result<()> {
    match fs::remove_file(link) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The names in a directory that are text; one that does not exist has none.
pub(crate) fn entries(dir: &Path) -> Result<Vec<String>> {
    let context = || format!("list {}", dir.display());
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(context())(e)),
    };
    let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
    let names: io::Result<Vec<_>> = names.collect();
    Ok(names
        .map_err(Error::io(context()))?
        .into_iter()
        .flatten()
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_tell_the_state_root_they_belong_to() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let (data, state) = (dir.path().join("data"), dir.path().join(name));
            Paths::open(&Roots { data, state }).unwrap()
        };
        let (a, b) = (open("a"), open("b"));
        let id = a.new_id().unwrap();
        assert!(is_id(&id) && a.is_own_id(&id) && !b.is_own_id(&id));
        assert!(open("a").is_own_id(&id));
        assert_ne!(a.new_id().unwrap(), id);
        for wrong in [
            "",
            "..",
            "abc",
            &format!("{id}.pending"),
            &id.to_uppercase(),
            &format!("{}/..", &id[..21]),
        ] {
            assert!(!is_id(wrong), "{wrong}");
        }
    }

    #[test]
    fn the_longest_name_is_a_file_name() {
        let link = name_link(&"n".repeat(63), &"p".repeat(crate::limits::MAX_POD_NAME_LEN));
        assert_eq!(link.len(), 255);
    }
}
