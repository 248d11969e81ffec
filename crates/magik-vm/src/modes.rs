//! A filter for what serves a share that the guest writes to: no file that it makes gives others the rights of its owner or group.
//! In a share such a file is the host's, too, where it lies: on the host anybody could execute it.

use std::{collections::BTreeMap, io};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// `S_ISUID | S_ISGID`.
const SPECIAL: [u64; 2] = [0o4000, 0o2000];
/// Calls that were added to the kernel after libc's table was made: the same numbers everywhere.
const SYS_FCHMODAT2: libc::c_long = 452;

/// Calls, and which argument of theirs is a mode.
const MODES: &[(libc::c_long, u8)] = &[
    (libc::SYS_fchmod, 1),
    (libc::SYS_fchmodat, 2),
    (SYS_FCHMODAT2, 2),
    (libc::SYS_mkdirat, 2),
    (libc::SYS_mknodat, 2),
    (libc::SYS_openat, 3),
];
/// Older forms of them.
#[cfg(target_arch = "x86_64")]
const OLD_MODES: &[(libc::c_long, u8)] = &[
    (libc::SYS_chmod, 1),
    (libc::SYS_creat, 1),
    (libc::SYS_mkdir, 1),
    (libc::SYS_mknod, 1),
    (libc::SYS_open, 2),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_MODES: &[(libc::c_long, u8)] = &[];

/// The filter: `EPERM` for a mode with one of these bits. openat2, whose mode lies in memory that no filter reads, is not there,
/// and whoever would call it calls openat.
pub(crate) fn filters() -> io::Result<[BpfProgram; 2]> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for (call, argument) in MODES.iter().chain(OLD_MODES) {
        let special = SPECIAL.map(|bit| {
            let compare = SeccompCmpOp::MaskedEq(bit);
            let condition = SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, compare, bit);
            condition.and_then(|condition| SeccompRule::new(vec![condition]))
        });
        let special = special.into_iter().collect::<Result<_, _>>();
        rules.insert(*call, special.map_err(io::Error::other)?);
    }
    let absent = BTreeMap::from([(libc::SYS_openat2, vec![])]);
    Ok([program(rules, libc::EPERM)?, program(absent, libc::ENOSYS)?])
}

fn program(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: libc::c_int) -> io::Result<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let refuse = SeccompAction::Errno(errno.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch);
    filter.and_then(BpfProgram::try_from).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    };

    use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};

    use super::*;

    #[test]
    fn files_are_made_and_none_of_them_is_setuid() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let thread = std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            for filter in filters().unwrap() {
                seccompiler::apply_filter(&filter).unwrap();
            }
            let file = path.join("file");
            let mut new = fs::OpenOptions::new();
            new.write(true).create(true);
            new.clone().mode(0o755).open(&file).unwrap();
            let mut done = vec![];
            for special in [0o4755, 0o2755, 0o6711] {
                done.push(fs::set_permissions(&file, fs::Permissions::from_mode(special)).is_ok());
                let open = fs::File::open(&file).unwrap();
                done.push(open.set_permissions(fs::Permissions::from_mode(special)).is_ok());
                done.push(new.clone().mode(special).open(path.join("new")).is_ok());
                let (mode, kind) = (Mode::from_raw_mode(special), FileType::RegularFile);
                done.push(rustix::fs::mknodat(CWD, path.join("node"), kind, mode, 0).is_ok());
                let flags = OFlags::WRONLY | OFlags::CREATE;
                let open = rustix::fs::openat2(CWD, path.join("open"), flags, mode, ResolveFlags::empty());
                assert_eq!(open.unwrap_err(), rustix::io::Errno::NOSYS);
            }
            // Whatever else there is goes on.
            fs::set_permissions(&file, fs::Permissions::from_mode(0o1644)).unwrap();
            fs::create_dir(path.join("dir")).unwrap();
            fs::set_permissions(path.join("dir"), fs::Permissions::from_mode(0o1777)).unwrap();
            fs::rename(&file, path.join("dir/file")).unwrap();
            done
        });
        assert!(thread.join().unwrap().iter().all(|done| !done));
        let mode = fs::metadata(dir.path().join("dir/file")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o1644);
    }
}
