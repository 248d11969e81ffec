//! Seccomp filters, compiled once.
//!
//! libseccomp needs some milliseconds to compile a profile such as podman's. The program depends
//! only on the profile, the machine and libseccomp's version, so it is kept; loading is one call.

use std::{
    collections::HashSet,
    fs, io,
    io::{Read, Seek, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall, ScmpVersion,
};
use magik_sys::seccomp;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Part of every key: changes when the same profile would be compiled differently.
const FORMAT: u32 = 2;
/// How many filters are kept. When there are more, all are removed.
const MAX_KEPT: usize = 64;
/// `BPF_MAXINSNS`: no program the kernel takes has more instructions.
const MAX_INSTRUCTIONS: usize = 4096;
/// The size of a `struct sock_filter` in bytes.
const INSTRUCTION: usize = 8;
/// By these the listener gets its descriptor, with the filter loaded.
const NEEDED_TO_LISTEN: [&str; 3] = ["sendmsg", "write", "close"];
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER` of linux/seccomp.h.
const NEW_LISTENER: u32 = 1 << 3;

/// A profile that cannot be made into a filter.
#[derive(Debug, thiserror::Error)]
#[error("linux.seccomp: {0}")]
pub(crate) struct ProfileError(String);

/// A compiled filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Filter {
    /// `SECCOMP_FILTER_FLAG_*` of seccomp(2).
    flags: u32,
    /// The `struct sock_filter`s.
    program: Vec<u8>,
}

impl Filter {
    /// Loads it into this thread, which needs no_new_privs or `CAP_SYS_ADMIN`. A filter that
    /// notifies returns the descriptor of its listener.
    pub(crate) fn load(&self) -> io::Result<Option<OwnedFd>> {
        seccomp::load(&self.instructions(), self.flags)
    }

    fn instructions(&self) -> Vec<seccomp::Instruction> {
        self.program
            .chunks_exact(INSTRUCTION)
            .map(|i| seccomp::Instruction {
                code: u16::from_ne_bytes([i[0], i[1]]),
                jt: i[2],
                jf: i[3],
                k: u32::from_ne_bytes([i[4], i[5], i[6], i[7]]),
            })
            .collect()
    }

    /// Whether it lets these system calls through: their numbers and arguments.
    pub(crate) fn allows(&self, calls: [(libc::c_long, [u64; 6]); 2]) -> bool {
        let filter = self.instructions();
        calls
            .iter()
            .all(|(number, arguments)| seccomp::allows(&filter, *number, *arguments))
    }

    /// Whether it has a listener, which only a container's own process can be given.
    pub(crate) fn notifies(&self) -> bool {
        self.flags & NEW_LISTENER != 0
    }

    fn read(file: &Path) -> io::Result<Self> {
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(file)?;
        // Only files of this user: another's could be a filter that allows all.
        if file.metadata()?.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut bytes = Vec::new();
        file.take((MAX_INSTRUCTIONS * INSTRUCTION) as u64 + 5)
            .read_to_end(&mut bytes)?;
        let (flags, program) = bytes.split_first_chunk().ok_or(io::ErrorKind::InvalidData)?;
        let filter = Self {
            flags: u32::from_ne_bytes(*flags),
            program: program.to_vec(),
        };
        filter.checked().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn checked(self) -> Option<Self> {
        let instructions = self.program.len() / INSTRUCTION;
        let whole = self.program.len().is_multiple_of(INSTRUCTION);
        (whole && (1..=MAX_INSTRUCTIONS).contains(&instructions)).then_some(self)
    }

    /// Appears under its name whole or not at all.
    fn write(&self, file: &Path) -> io::Result<()> {
        let new = file.with_extension(format!("new.{}", std::process::id()));
        let bytes = [&self.flags.to_ne_bytes(), self.program.as_slice()].concat();
        let written = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&new)
            .and_then(|mut f| f.write_all(&bytes))
            .and_then(|()| fs::rename(&new, file));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }
}

/// The directory compiled filters are kept in.
#[derive(Debug)]
pub(crate) struct Filters {
    dir: PathBuf,
}

impl Filters {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The filter of a profile.
    pub(crate) fn get(&self, profile: &LinuxSeccomp) -> Result<Filter, ProfileError> {
        let file = self.dir.join(key(profile)?);
        if let Ok(filter) = Filter::read(&file) {
            return Ok(filter);
        }
        let filter = compile(profile)?;
        // Keeping it only saves time.
        if let Err(error) = self.keep(&filter, &file) {
            tracing::debug!(file = %file.display(), %error, "a seccomp filter is not kept");
        }
        Ok(filter)
    }

    fn keep(&self, filter: &Filter, file: &Path) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)?;
        let kept: Vec<_> = fs::read_dir(&self.dir)?.flatten().collect();
        if kept.len() >= MAX_KEPT {
            for old in kept {
                let _ = fs::remove_file(old.path());
            }
        }
        filter.write(file)
    }
}

/// Whether the profile asks a listener.
fn notifies(profile: &LinuxSeccomp) -> bool {
    let actions = profile.syscalls().iter().flatten().map(LinuxSyscall::action);
    actions
        .chain([profile.default_action()])
        .any(|action| action == LinuxSeccompAction::ScmpActNotify)
}

fn key(profile: &LinuxSeccomp) -> Result<String, ProfileError> {
    let version = ScmpVersion::current().map_err(|e| ProfileError(e.to_string()))?;
    let json = serde_json::to_vec(profile).map_err(|e| ProfileError(e.to_string()))?;
    let mut hash = Sha256::new();
    hash.update(format!("{FORMAT} {version} {}\n", std::env::consts::ARCH));
    hash.update(json);
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

/// Translates a profile as runc does: names that libseccomp does not know are left out, as are
/// rules that repeat the default.
fn compile(profile: &LinuxSeccomp) -> Result<Filter, ProfileError> {
    let failed = |e: libseccomp::error::SeccompError| ProfileError(e.to_string());
    let asks = |rule: &LinuxSyscall| rule.action() == LinuxSeccompAction::ScmpActNotify;
    let needed = |rule: &LinuxSyscall| {
        rule.names()
            .iter()
            .any(|name| NEEDED_TO_LISTEN.contains(&name.as_str()))
    };
    let mut rules = profile.syscalls().iter().flatten();
    if profile.default_action() == LinuxSeccompAction::ScmpActNotify || rules.any(|r| asks(r) && needed(r)) {
        return Err(ProfileError(format!(
            "the listener cannot be asked about {}, which it takes to reach it",
            NEEDED_TO_LISTEN.join(", ")
        )));
    }
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut context = ScmpFilterContext::new(default).map_err(failed)?;
    // Whether no_new_privs is set is the process's own field to say.
    context.set_ctl_nnp(false).map_err(failed)?;
    for architecture in profile.architectures().iter().flatten() {
        let architecture: ScmpArch = name_of(architecture)?.parse().map_err(failed)?;
        context.add_arch(architecture).map_err(failed)?;
    }
    for rule in profile.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret())?;
        if action == default {
            continue;
        }
        let comparisons: Vec<_> = rule.args().iter().flatten().map(comparison).collect();
        // libseccomp compares an argument once per rule; as in runc, more become more rules.
        let mut indexes = HashSet::new();
        let apart = !rule.args().iter().flatten().all(|a| indexes.insert(a.index()));
        for syscall in rule.names().iter().filter_map(|n| ScmpSyscall::from_name(n).ok()) {
            if comparisons.is_empty() {
                context.add_rule(action, syscall).map_err(failed)?;
            } else if apart {
                for comparison in comparisons.chunks(1) {
                    context
                        .add_rule_conditional(action, syscall, comparison)
                        .map_err(failed)?;
                }
            } else {
                context
                    .add_rule_conditional(action, syscall, &comparisons)
                    .map_err(failed)?;
            }
        }
    }
    let mut file = rustix::fs::memfd_create("seccomp", rustix::fs::MemfdFlags::CLOEXEC)
        .map(fs::File::from)
        .map_err(|e| ProfileError(e.to_string()))?;
    context.export_bpf(&file).map_err(failed)?;
    let mut program = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut program))
        .map_err(|e| ProfileError(e.to_string()))?;
    let flags = profile
        .flags()
        .iter()
        .flatten()
        .map(|f| flag(*f))
        .fold(if notifies(profile) { NEW_LISTENER } else { 0 }, |all, f| all | f);
    Filter { flags, program }
        .checked()
        .ok_or_else(|| ProfileError("the program is larger than the kernel takes".into()))
}

/// The name the runtime-spec gives a value.
fn name_of(value: &impl Serialize) -> Result<String, ProfileError> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => Ok(name),
        other => Err(ProfileError(format!("{other:?} is no name"))),
    }
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, ProfileError> {
    let errno = errno.map_or(Ok(libc::EPERM), i32::try_from);
    let errno = errno.map_err(|e| ProfileError(format!("errnoRet: {e}")))?;
    ScmpAction::from_str(&name_of(&action)?, Some(errno)).map_err(|e| ProfileError(e.to_string()))
}

fn comparison(arg: &LinuxSeccompArg) -> ScmpArgCompare {
    let (mut operand, mut operator) = (
        arg.value(),
        match arg.op() {
            LinuxSeccompOperator::ScmpCmpNe => ScmpCompareOp::NotEqual,
            LinuxSeccompOperator::ScmpCmpLt => ScmpCompareOp::Less,
            LinuxSeccompOperator::ScmpCmpLe => ScmpCompareOp::LessOrEqual,
            LinuxSeccompOperator::ScmpCmpEq => ScmpCompareOp::Equal,
            LinuxSeccompOperator::ScmpCmpGe => ScmpCompareOp::GreaterEqual,
            LinuxSeccompOperator::ScmpCmpGt => ScmpCompareOp::Greater,
            LinuxSeccompOperator::ScmpCmpMaskedEq => ScmpCompareOp::MaskedEqual(0),
        },
    );
    // The spec's `value` is the mask, `valueTwo` the datum (seccomp_rule_add(3)).
    if let ScmpCompareOp::MaskedEqual(mask) = &mut operator {
        *mask = operand;
        operand = arg.value_two().unwrap_or(0);
    }
    ScmpArgCompare::new(u32::try_from(arg.index()).unwrap_or(u32::MAX), operator, operand)
}

fn flag(flag: LinuxSeccompFilterFlag) -> u32 {
    let flag = match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
            libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
        }
    };
    u32::try_from(flag).unwrap_or(0)
}

/// The compiled filter of a container, in its directory: exec loads it too.
const FILTER: &str = "seccomp.bpf";

/// Keeps it in a container's directory, for exec.
pub(crate) fn keep_for_exec(dir: &Path, filter: &Filter) -> io::Result<()> {
    filter.write(&dir.join(FILTER))
}

/// What was kept; `None` where a container has no filter, or was made by a version that kept none.
pub(crate) fn kept_for_exec(dir: &Path) -> io::Result<Option<Filter>> {
    match Filter::read(&dir.join(FILTER)) {
        Ok(filter) => Ok(Some(filter)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io::Error::new(e.kind(), format!("{FILTER}: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(json: serde_json::Value) -> LinuxSeccomp {
        serde_json::from_value(json).unwrap()
    }

    fn plain() -> LinuxSeccomp {
        profile(serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5}]
        }))
    }

    #[test]
    fn a_filter_is_compiled_once_and_read_back_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let filters = Filters::new(dir.path().join("filters"));
        let first = filters.get(&plain()).unwrap();
        let kept: Vec<_> = fs::read_dir(&filters.dir)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        assert_eq!(kept.len(), 1);
        assert_eq!(Filter::read(&kept[0]).unwrap(), first);
        assert_eq!(filters.get(&plain()).unwrap(), first);
    }

    #[test]
    fn a_damaged_filter_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let filters = Filters::new(dir.path().to_owned());
        let first = filters.get(&plain()).unwrap();
        let file = dir.path().join(key(&plain()).unwrap());
        for damage in [
            &b""[..],
            b"123",
            &[0; 4],
            &[0; 13],
            &vec![0; MAX_INSTRUCTIONS * INSTRUCTION + 12],
        ] {
            fs::write(&file, damage).unwrap();
            assert_eq!(filters.get(&plain()).unwrap(), first, "{} bytes", damage.len());
        }
    }

    #[test]
    fn the_number_of_kept_filters_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let filters = Filters::new(dir.path().to_owned());
        for errno in 0..MAX_KEPT + 3 {
            let rule =
                serde_json::json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno + 1});
            filters
                .get(&profile(
                    serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}),
                ))
                .unwrap();
        }
        assert!(fs::read_dir(dir.path()).unwrap().count() <= MAX_KEPT);
    }

    #[test]
    fn a_filter_that_notifies_has_a_listener() {
        let rule = |action: &str| serde_json::json!({"names": ["mkdir"], "action": action, "errnoRet": 1});
        let profile = |action: &str| {
            profile(serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule(action)]}))
        };
        assert!(compile(&profile("SCMP_ACT_NOTIFY")).unwrap().notifies());
        assert!(!compile(&profile("SCMP_ACT_ERRNO")).unwrap().notifies());
    }

    /// runc's meaning: `value` is the mask.
    #[test]
    fn masked_comparisons_mask_with_value() {
        let rule = |value: u64, two: u64| {
            let args = serde_json::json!([{"index": 0, "value": value, "valueTwo": two, "op": "SCMP_CMP_MASKED_EQ"}]);
            let rule = serde_json::json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": args});
            profile(serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}))
        };
        // Compared with 0 under the mask (BPF_ALU | BPF_AND | BPF_K is 0x54).
        let filter = compile(&rule(0x7E02_0000, 0)).unwrap();
        let masks = filter.program.chunks_exact(INSTRUCTION).filter(|i| i[0] == 0x54);
        assert!(
            masks.clone().any(|i| i[4..] == 0x7E02_0000_u32.to_ne_bytes()),
            "{:?}",
            filter.program
        );
    }
}
