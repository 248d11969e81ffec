//! Whether a driver's machines really boot here. That `/dev/kvm` opens is no answer: where a host is itself a guest, machines
//! may be made and never get anywhere. So a small guest is booted once, and what came of it is remembered.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use magik_infra::guest::{GuestConfig, GuestScratch};
use serde::{Deserialize, Serialize};

use crate::{Error, MIN_VM_MEMORY_MIB, Result, VmDriver, VmFiles, VmSpec, boot, lay_out, nonce};

/// In the directory that is given: what came of earlier tries.
const FILE: &str = "vm-probe.json";
/// What is read of it at most, in bytes.
const MAX_FILE: u64 = 64 << 10;
/// How long a refusal is believed: what was busy or missing may be there again.
const REFUSAL_HOLDS: Duration = Duration::from_secs(3600);

/// What came of a try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Verdict {
    /// Of what: the files, as they were, and the host's boot.
    of: String,
    /// Why it does not boot; `None`: it does.
    refusal: Option<String>,
    at: Timestamp,
}

impl Verdict {
    fn holds(&self, of: &str, now: Timestamp) -> bool {
        let age = now.duration_since(self.at);
        self.of == of && (self.refusal.is_none() || age.unsigned_abs() < REFUSAL_HOLDS)
    }

    fn result(self) -> Result<()> {
        self.refusal.map_or(Ok(()), |why| Err(Error::Unavailable(why)))
    }
}

/// Boots a guest that does nothing, unless it was tried already since the host was booted and with the same files; `limit`
/// is how long its hello may take. The verdict is kept in `directory`, if that exists. Needs a tokio runtime.
///
/// # Errors
/// Why machines of this driver do not boot here.
pub async fn probe(driver: &dyn VmDriver, files: &VmFiles, directory: &Path, limit: Duration) -> Result<()> {
    let vminit = files.vminit()?;
    let of = identity(driver, &vminit);
    let mut known = read(directory);
    let name = format!("{}: {}", driver.name(), driver.manner());
    if let Some(verdict) = known.get(&name).filter(|v| v.holds(&of, Timestamp::now())) {
        return verdict.clone().result();
    }
    let verdict = Verdict {
        of,
        refusal: try_to_boot(driver, &vminit, limit)
            .await
            .err()
            .map(|e| e.to_string()),
        at: Timestamp::now(),
    };
    known.insert(name, verdict.clone());
    if let Err(error) = write(directory, &known) {
        tracing::debug!(%error, directory = %directory.display(), "the verdict is not remembered");
    }
    verdict.result()
}

async fn try_to_boot(driver: &dyn VmDriver, vminit: &Path, limit: Duration) -> Result<()> {
    let place = Place::new()?;
    let nonce = nonce()?;
    let config = GuestConfig {
        nonce,
        hostname: "probe".to_owned(),
        scratch: GuestScratch {
            target: "/run/pod".into(),
            size: 1 << 20,
        },
        binds: vec![],
        shares: vec![],
        directories: vec![],
        shared_processes: false,
        sysctls: vec![],
    };
    let (root, sockets) = (place.directory("root")?, place.directory("sockets")?);
    lay_out(&root, vminit, &config)?;
    let spec = VmSpec {
        memory_mib: MIN_VM_MEMORY_MIB,
        vcpus: 1,
        root,
        shares: vec![],
        sockets,
        // Its guest is our own init, and nobody else's program.
        user: None,
    };
    let booted = boot(driver, &spec, &nonce, limit).await?;
    booted.vm.kill().await;
    Ok(())
}

/// What a verdict is about: another kernel, init or monitor may fare otherwise, and so may the next boot of the host.
fn identity(driver: &dyn VmDriver, vminit: &Path) -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mut files = driver.files();
    files.push(vminit.to_owned());
    let files = files.iter().map(|path| match fs::metadata(path) {
        Ok(meta) => format!(
            "{} {} {}.{}",
            path.display(),
            meta.len(),
            meta.mtime(),
            meta.mtime_nsec()
        ),
        Err(e) => format!("{} {e}", path.display()),
    });
    std::iter::once(boot.trim().to_owned())
        .chain(files)
        .collect::<Vec<_>>()
        .join("; ")
}

/// What is remembered; a file that makes no sense is none.
fn read(directory: &Path) -> BTreeMap<String, Verdict> {
    use std::io::Read;
    let mut text = Vec::new();
    let file = fs::File::open(directory.join(FILE));
    if file
        .and_then(|f| f.take(MAX_FILE).read_to_end(&mut text))
        .is_err()
    {
        return BTreeMap::new();
    }
    serde_json::from_slice(&text).unwrap_or_default()
}

fn write(directory: &Path, known: &BTreeMap<String, Verdict>) -> std::io::Result<()> {
    let new = directory.join(format!("{FILE}.{}", std::process::id()));
    fs::write(&new, serde_json::to_vec(known)?)?;
    fs::rename(&new, directory.join(FILE)).inspect_err(|_| drop(fs::remove_file(&new)))
}

/// A directory for a machine, which is removed with it.
#[derive(Debug)]
struct Place(PathBuf);

impl Place {
    fn new() -> Result<Self> {
        let unique = u64::from_ne_bytes(nonce()?[..8].try_into().unwrap_or_default());
        let path = std::env::temp_dir().join(format!("magikrun-probe-{unique:016x}"));
        Self::make(&path)?;
        Ok(Self(path))
    }

    fn make(path: &Path) -> Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder
            .mode(0o700)
            .create(path)
            .map_err(Error::io(path.display().to_string()))
    }

    fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        Self::make(&path)?;
        Ok(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(refusal: Option<&str>) -> Verdict {
        Verdict {
            of: "this".to_owned(),
            refusal: refusal.map(str::to_owned),
            at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_verdict_holds_for_what_was_tried_and_a_refusal_not_for_ever() {
        let soon = Timestamp::from_second(60).unwrap();
        let later = Timestamp::from_second(100_000).unwrap();
        assert!(verdict(None).holds("this", soon) && verdict(None).holds("this", later));
        assert!(!verdict(None).holds("that", soon));
        assert!(verdict(Some("no")).holds("this", soon));
        assert!(!verdict(Some("no")).holds("this", later));
    }

    #[test]
    fn verdicts_are_read_as_they_were_written_and_nonsense_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).is_empty());
        let known = BTreeMap::from([("qemu".to_owned(), verdict(Some("no")))]);
        write(dir.path(), &known).unwrap();
        assert_eq!(read(dir.path()), known);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(read(dir.path()).is_empty());
    }
}
