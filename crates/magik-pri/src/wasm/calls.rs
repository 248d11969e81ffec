//! The system calls that a pod's process keeps.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Compare, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

type Error = Box<dyn std::error::Error>;

/// What no WASI call comes to, and what breaks out of sandboxes have been made of.
const REFUSED: &[libc::c_long] = &[
    // Other programs, other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_kcmp,
    libc::SYS_kill,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    // Namespaces, mounts, roots.
    libc::SYS_chroot,
    libc::SYS_fanotify_init,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_setns,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    // Parts of the kernel with a history.
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_memfd_secret,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
    libc::SYS_vmsplice,
    // The machine's.
    libc::SYS_acct,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_settimeofday,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    // Who it is.
    libc::SYS_capset,
    libc::SYS_setfsgid,
    libc::SYS_setfsuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_setregid,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setreuid,
    libc::SYS_setuid,
    // Rights to files, which no WASI call changes, and files that are none.
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_lremovexattr,
    libc::SYS_lsetxattr,
    libc::SYS_mknodat,
    libc::SYS_removexattr,
    libc::SYS_setxattr,
    // Newer than libc's table: fchmodat2, setxattrat, removexattrat, open_tree_attr. The same on every architecture.
    452,
    463,
    466,
    467,
];

/// Older forms of the same.
#[cfg(target_arch = "x86_64")]
const REFUSED_OF_ARCHITECTURE: &[libc::c_long] = &[
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_fork,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kexec_file_load,
    libc::SYS_lchown,
    libc::SYS_mknod,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_OF_ARCHITECTURE: &[libc::c_long] = &[];

/// Of clone(2): a namespace each. `CLONE_NEWTIME` is clone3's alone.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

/// The sockets of WASI and of the control service, and what the C library asks for addresses.
const FAMILIES: [libc::c_int; 4] = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_UNIX];

/// The calls of the x32 ABI are numbered from here: other numbers for the same calls (asm/unistd.h, `__X32_SYSCALL_BIT`).
const X32: u32 = 0x4000_0000;

/// Leaves threads and what they do.
pub(super) fn restrict() -> Result<(), Error> {
    seccompiler::apply_filter(&program()?)?;
    Ok(())
}

fn program() -> Result<BpfProgram, Error> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in REFUSED.iter().chain(REFUSED_OF_ARCHITECTURE) {
        rules.insert(*call, Vec::new());
    }
    rules.insert(libc::SYS_clone, no_process()?);
    rules.insert(libc::SYS_socket, no_other_socket()?);
    let refuse = SeccompAction::Errno(u32::try_from(libc::EPERM)?);
    let rest: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()?;
    Ok(beginning()?.into_iter().chain(rest).collect())
}

/// Calls that are not there: with `ENOSYS` for clone3, whose flags lie in memory that no filter reads, the C library makes its
/// threads with clone.
fn beginning() -> Result<[sock_filter; 4], Error> {
    let instruction = |code: u32, jt, jf, k| {
        Ok::<_, Error>(sock_filter {
            code: u16::try_from(code)?,
            jt,
            jf,
            k,
        })
    };
    Ok([
        // The number of the call is the first word of `struct seccomp_data`.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)?,
        instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, 0, X32)?,
        instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            u32::try_from(libc::SYS_clone3)?,
        )?,
        instruction(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | u32::try_from(libc::ENOSYS)?,
        )?,
    ])
}

/// clone(2) that makes no thread of this process, or one with a namespace of its own.
fn no_process() -> Result<Vec<SeccompRule>, Error> {
    let flag = |flag: libc::c_int, set: bool| {
        let flag = u64::from(flag.cast_unsigned());
        let value = if set { flag } else { 0 };
        let condition = SeccompCondition::new(0, Length::Qword, Compare::MaskedEq(flag), value)?;
        Ok::<_, Error>(SeccompRule::new(vec![condition])?)
    };
    let namespaces = NAMESPACES.iter().map(|namespace| flag(*namespace, true));
    std::iter::once(flag(libc::CLONE_THREAD, false))
        .chain(namespaces)
        .collect()
}

/// socket(2) of another family, or netlink that is not about addresses.
fn no_other_socket() -> Result<Vec<SeccompRule>, Error> {
    let condition = |argument, compare, value: libc::c_int| {
        SeccompCondition::new(argument, Length::Dword, compare, u64::from(value.cast_unsigned()))
    };
    let other = FAMILIES.map(|family| condition(0, Compare::Ne, family));
    let other = other.into_iter().collect::<Result<Vec<_>, _>>()?;
    let netlink = vec![
        condition(0, Compare::Eq, libc::AF_NETLINK)?,
        condition(2, Compare::Ne, libc::NETLINK_ROUTE)?,
    ];
    Ok(vec![SeccompRule::new(other)?, SeccompRule::new(netlink)?])
}

#[cfg(test)]
#[allow(
    unsafe_code,
    reason = "the calls that must fail are made as a program that broke out makes them"
)]
mod tests {
    use super::*;

    /// What a call gave: its value, or the error as a negative number.
    fn call(number: libc::c_long, arguments: [libc::c_long; 5]) -> i64 {
        let [a, b, c, d, e] = arguments;
        // SAFETY: each call of these tests fails before it reads or writes any memory of this process.
        let result = unsafe { libc::syscall(number, a, b, c, d, e) };
        if result == 0 && matches!(number, libc::SYS_clone | libc::SYS_clone3) {
            // A process that should not be there: its parent says so.
            // SAFETY: it ends, and nothing of this program runs in it.
            unsafe { libc::_exit(0) };
        }
        if result < 0 {
            -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or_default())
        } else {
            result
        }
    }

    /// In a thread, which takes its filter with it.
    fn restricted<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            restrict().unwrap();
            work()
        });
        thread.join().unwrap()
    }

    #[test]
    fn no_process_is_made_and_no_program_started() {
        let results = restricted(|| {
            let flags = |flags: libc::c_int| [libc::c_long::from(flags), 0, 0, 0, 0];
            let mut results = vec![
                ("clone", call(libc::SYS_clone, flags(libc::SIGCHLD))),
                (
                    "clone with memory",
                    call(
                        libc::SYS_clone,
                        flags(libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD),
                    ),
                ),
                (
                    "clone into namespaces",
                    call(libc::SYS_clone, flags(libc::CLONE_NEWUSER | libc::SIGCHLD)),
                ),
                (
                    "thread in a namespace",
                    call(
                        libc::SYS_clone,
                        flags(libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD | libc::CLONE_NEWNET),
                    ),
                ),
                ("execve", call(libc::SYS_execve, [0; 5])),
                ("execveat", call(libc::SYS_execveat, [0; 5])),
                ("unshare", call(libc::SYS_unshare, flags(libc::CLONE_NEWUSER))),
                ("kill", call(libc::SYS_kill, [1, 0, 0, 0, 0])),
                ("mknodat", call(libc::SYS_mknodat, [0; 5])),
            ];
            #[cfg(target_arch = "x86_64")]
            results.extend([
                ("fork", call(libc::SYS_fork, [0; 5])),
                ("vfork", call(libc::SYS_vfork, [0; 5])),
                ("mknod", call(libc::SYS_mknod, [0; 5])),
            ]);
            results
        });
        for (name, result) in results {
            assert_eq!(result, -i64::from(libc::EPERM), "{name}");
        }
        let absent = restricted(|| {
            [
                call(libc::SYS_clone3, [0; 5]),
                call(libc::c_long::from(X32) + 57, [0; 5]),
            ]
        });
        assert_eq!(
            absent,
            [-i64::from(libc::ENOSYS); 2],
            "clone3, and fork by its x32 number"
        );
    }

    #[test]
    fn threads_are_made_as_ever() {
        let made = restricted(|| {
            let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(|| 7);
            thread.unwrap().join().unwrap()
        });
        assert_eq!(made, 7);
    }

    #[test]
    fn sockets_are_of_wasis_families() {
        let socket = |family: libc::c_int, protocol: libc::c_int| {
            move || {
                let kind = libc::c_long::from(libc::SOCK_DGRAM | libc::SOCK_CLOEXEC);
                call(libc::SYS_socket, [family.into(), kind, protocol.into(), 0, 0])
            }
        };
        for family in [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX] {
            let made = restricted(socket(family, 0));
            // A host may have no IPv6.
            assert!(
                made >= 0 || made == -i64::from(libc::EAFNOSUPPORT),
                "{family}: {made}"
            );
        }
        for (family, protocol) in [
            (libc::AF_VSOCK, 0),
            (libc::AF_ALG, 0),
            (libc::AF_PACKET, 0),
            (libc::AF_NETLINK, libc::NETLINK_NETFILTER),
        ] {
            assert_eq!(
                restricted(socket(family, protocol)),
                -i64::from(libc::EPERM),
                "{family}"
            );
        }
    }
}
