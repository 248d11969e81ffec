//! Volumes with names, which stay when pods go.
//!
//! Each is a directory of the data root, `volumes/<namespace>_<name>`, with `data`, which containers
//! see, and `volume.json`. It is made elsewhere and renamed, so that it is there as a whole or not at
//! all. That a pod uses it is a file among the pod's own, `pods/<id>/claims/<namespace>_<name>`: it
//! goes with them, whatever ends the pod or its caller, and is seen from every state root that uses
//! the data root. Both are written and looked at under one lock.

use std::{
    fs,
    io::{self, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use magik_sys::tree;
use serde::{Deserialize, Serialize};

use super::{
    group, lock,
    paths::{Paths, Roots, entries, is_id, make_dir, name_link},
};
use crate::{
    Error, Result, SpecError,
    limits::MAX_POD_NAME_LEN,
    spec::{check_namespace, dns_subdomain},
};

/// Begins the name of a volume that is being made.
const NEW: &str = ".new";
/// Begins the name of one that is being removed.
const REMOVED: &str = ".removed";
const LOCK: &str = ".lock";
/// What containers see.
const DATA: &str = "data";
const RECORD: &str = "volume.json";
/// In a pod's own directory: the volumes that it uses.
pub(super) const CLAIMS: &str = "claims";

/// A volume with a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct NamedVolume {
    /// The namespace of the pods that can use it.
    pub namespace: String,
    /// Its name there.
    pub name: String,
    /// The directory that containers see.
    pub path: PathBuf,
    /// When it was made.
    pub created_at: Timestamp,
    /// How many bytes it should hold; nothing limits it.
    pub requested: Option<u64>,
    /// The ids of the pods that use it, those of other state roots, too.
    pub used_by: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    created_at: Timestamp,
    #[serde(default)]
    requested: Option<u64>,
}

/// The volumes with names of a data root.
///
/// ```no_run
/// use magik_pri::{Roots, Volumes};
/// let roots = Roots { data: "/var/lib/magikrun".into(), state: "/run/magikrun".into() };
/// let volumes = Volumes::open(&roots)?;
/// volumes.create("default", "database", None)?;
/// assert!(volumes.list()?[0].used_by.is_empty());
/// # Ok::<(), magik_pri::Error>(())
/// ```
#[derive(Debug)]
pub struct Volumes {
    volumes: PathBuf,
    pods: PathBuf,
}

impl Volumes {
    /// Those below a data root.
    ///
    /// # Errors
    /// The directories cannot be made, or are not the caller's alone.
    pub fn open(roots: &Roots) -> Result<Self> {
        Ok(Self::of(&Paths::open(roots)?))
    }

    /// Nothing is touched yet.
    pub(super) fn of(paths: &Paths) -> Self {
        Self {
            volumes: paths.data_root().join("volumes"),
            pods: paths.data_pods(),
        }
    }

    /// Makes one.
    ///
    /// # Errors
    /// The name is none, or another volume has it.
    pub fn create(&self, namespace: &str, name: &str, requested: Option<u64>) -> Result<NamedVolume> {
        check(namespace, name)?;
        let lock = self.lock()?;
        if self.dir(namespace, name).exists() {
            return Err(Error::VolumeExists(format!("{namespace}/{name}")));
        }
        self.make(namespace, name, requested)?;
        let made = self.read(namespace, name);
        drop(lock);
        made
    }

    /// All of them, by namespace and name.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn list(&self) -> Result<Vec<NamedVolume>> {
        let _lock = self.lock()?;
        let mut names = entries(&self.volumes)?;
        names.sort_unstable();
        let names = names.iter().filter(|name| !name.starts_with('.'));
        let parts = names.filter_map(|name| name.split_once('_'));
        parts
            .map(|(namespace, name)| self.read(namespace, name))
            .collect()
    }

    /// One of them.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn get(&self, namespace: &str, name: &str) -> Result<NamedVolume> {
        let _lock = self.lock()?;
        self.read(namespace, name)
    }

    /// Removes one, with all that is in it.
    ///
    /// # Errors
    /// There is none of that name, or a pod uses it.
    pub fn remove(&self, namespace: &str, name: &str) -> Result<()> {
        let _lock = self.lock()?;
        let volume = self.read(namespace, name)?;
        if !volume.used_by.is_empty() {
            return Err(Error::VolumeInUse {
                volume: format!("{namespace}/{name}"),
                pods: volume.used_by,
            });
        }
        let aside = self.volumes.join(REMOVED);
        let dir = self.dir(namespace, name);
        let failed = || Error::io(format!("remove {}", dir.display()));
        // Nobody finds it any more, should this end before all of it is gone.
        fs::rename(&dir, &aside).map_err(failed())?;
        tree::remove(&aside).map_err(failed())
    }

    /// Removes those that no pod uses, and returns what they were.
    ///
    /// # Errors
    /// One cannot be removed.
    pub fn prune(&self, namespace: Option<&str>) -> Result<Vec<NamedVolume>> {
        let mut removed = Vec::new();
        for volume in self.list()? {
            let is_meant = namespace.is_none_or(|namespace| volume.namespace == namespace);
            if !is_meant || !volume.used_by.is_empty() {
                continue;
            }
            match self.remove(&volume.namespace, &volume.name) {
                Ok(()) => removed.push(volume),
                // Somebody was quicker.
                Err(Error::VolumeInUse { .. } | Error::NoVolume(_)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(removed)
    }

    /// What containers see of a volume.
    pub(super) fn data(&self, namespace: &str, name: &str) -> PathBuf {
        self.dir(namespace, name).join(DATA)
    }

    pub(super) fn exists(&self, namespace: &str, name: &str) -> bool {
        self.dir(namespace, name).is_dir()
    }

    /// Notes that a pod uses a volume, which is made if it may be.
    pub(super) fn take(
        &self,
        pod: &str,
        namespace: &str,
        claim: &crate::Claim,
        group: Option<u32>,
    ) -> Result<()> {
        let name = &claim.name;
        let lock = self.lock()?;
        if !self.exists(namespace, name) {
            if !claim.make {
                return Err(Error::NoVolume(format!("{namespace}/{name}")));
            }
            self.make(namespace, name, claim.requested)?;
        }
        let claims = self.pods.join(pod).join(CLAIMS);
        let note = || {
            if !claims.is_dir() {
                make_dir(&claims, 0o700)?;
            }
            fs::write(claims.join(name_link(namespace, name)), "")
        };
        note().map_err(Error::io(format!("pod {pod}: note its volume {name}")))?;
        drop(lock);
        let Some(group) = group.filter(|_| !claim.read_only) else {
            return Ok(());
        };
        let data = self.data(namespace, name);
        group::give_tree(&data, group).map_err(Error::io(format!("volume {name}: give it to group {group}")))
    }

    fn dir(&self, namespace: &str, name: &str) -> PathBuf {
        self.volumes.join(name_link(namespace, name))
    }

    /// Nobody else makes, removes or takes a volume meanwhile; what somebody has left is removed.
    fn lock(&self) -> Result<OwnedFd> {
        let made = magik_cas::private::directory(&self.volumes).map_err(io::Error::other);
        made.map_err(Error::io(format!("use {}", self.volumes.display())))?;
        let path = self.volumes.join(LOCK);
        let locked = lock::open(&path, true).and_then(|file| {
            lock::exclusive(&file)?;
            for left in [NEW, REMOVED] {
                tree::remove(&self.volumes.join(left))?;
            }
            Ok(file)
        });
        locked.map_err(Error::io(format!("lock {}", self.volumes.display())))
    }

    fn make(&self, namespace: &str, name: &str, requested: Option<u64>) -> Result<()> {
        let (new, dir) = (self.volumes.join(NEW), self.dir(namespace, name));
        let record = Record {
            created_at: Timestamp::now(),
            requested,
        };
        let make = || {
            make_dir(&new, 0o700)?;
            // Any user of any container may write, as in an emptyDir.
            make_dir(&new.join(DATA), 0o777)?;
            let mut file = fs::File::create_new(new.join(RECORD))?;
            file.write_all(serde_json::to_string(&record)?.as_bytes())?;
            file.sync_all()?;
            sync(&new)?;
            fs::rename(&new, &dir)?;
            sync(&self.volumes)
        };
        make().map_err(Error::io(format!("create volume {namespace}/{name}")))
    }

    fn read(&self, namespace: &str, name: &str) -> Result<NamedVolume> {
        let dir = self.dir(namespace, name);
        let full = format!("{namespace}/{name}");
        let text = match fs::read(dir.join(RECORD)) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Error::NoVolume(full)),
            Err(e) => return Err(Error::io(format!("volume {full}"))(e)),
        };
        let record = serde_json::from_slice(&text).map_err(io::Error::from);
        let record: Record = record.map_err(Error::io(format!("volume {full}: {RECORD}")))?;
        Ok(NamedVolume {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            path: dir.join(DATA),
            created_at: record.created_at,
            requested: record.requested,
            used_by: self.used_by(namespace, name)?,
        })
    }

    fn used_by(&self, namespace: &str, name: &str) -> Result<Vec<String>> {
        let mut ids = entries(&self.pods)?;
        let claim = Path::new(CLAIMS).join(name_link(namespace, name));
        ids.retain(|id| is_id(id) && self.pods.join(id).join(&claim).exists());
        ids.sort_unstable();
        Ok(ids)
    }
}

/// Whether a volume can be called so.
fn check(namespace: &str, name: &str) -> Result<()> {
    let named = |field: &'static str| move |why: String| SpecError::invalid(field, why);
    check_namespace(namespace).map_err(named("namespace"))?;
    dns_subdomain(name, MAX_POD_NAME_LEN).map_err(named("name"))?;
    Ok(())
}

fn sync(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Volumes {
        Volumes::open(&Roots {
            data: dir.join("data"),
            state: dir.join("state"),
        })
        .unwrap()
    }

    #[test]
    fn a_volume_is_there_as_a_whole_and_stays_while_a_pod_uses_it() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = open(dir.path());
        let made = volumes.create("default", "db", Some(5)).unwrap();
        assert_eq!((made.requested, made.used_by.len()), (Some(5), 0));
        assert!(made.path.is_dir());
        let again = volumes.create("default", "db", None).unwrap_err().to_string();
        assert!(again.contains("volume default/db exists"), "{again}");
        volumes.create("other", "db", None).unwrap();
        let pod = "0123456789abcdef01234567";
        fs::create_dir_all(dir.path().join("data/pods").join(pod)).unwrap();
        let claim = |name: &str, make| crate::Claim {
            name: name.to_owned(),
            read_only: false,
            make,
            requested: None,
        };
        volumes.take(pod, "default", &claim("db", false), None).unwrap();
        let error = volumes
            .take(pod, "default", &claim("none", false), None)
            .unwrap_err();
        assert!(matches!(error, Error::NoVolume(_)), "{error}");
        volumes
            .take(pod, "default", &claim("new", true), Some(0))
            .unwrap();
        let used = volumes.remove("default", "db").unwrap_err().to_string();
        assert!(used.contains(pod), "{used}");
        // What a caller that was killed has left is gone.
        fs::create_dir_all(dir.path().join("data/volumes/.new/data")).unwrap();
        let pruned = volumes.prune(None).unwrap();
        assert_eq!(pruned.len(), 1, "{pruned:?}");
        assert!(!dir.path().join("data/volumes/.new").exists());
        fs::remove_dir_all(dir.path().join("data/pods").join(pod)).unwrap();
        volumes.remove("default", "db").unwrap();
        assert!(volumes.get("default", "db").is_err());
        assert_eq!(volumes.list().unwrap().len(), 1);
    }

    #[test]
    fn names_are_those_of_kubernetes() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = open(dir.path());
        for (namespace, name) in [
            ("default", ".."),
            ("default", "a/b"),
            ("default", ""),
            ("default", "a_b"),
            ("..", "a"),
            ("a_b", "c"),
            ("default", &"a".repeat(300)),
        ] {
            assert!(
                volumes.create(namespace, name, None).is_err(),
                "{namespace} {name}"
            );
        }
    }
}
