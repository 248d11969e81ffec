//! Filters on system calls (seccomp(2)): loading one, and asking beforehand what it will answer.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
};

/// linux/audit.h
#[cfg(target_arch = "x86_64")]
pub const ARCHITECTURE: u32 = 0xc000_003e;
/// linux/audit.h
#[cfg(target_arch = "aarch64")]
pub const ARCHITECTURE: u32 = 0xc000_00b7;

/// One instruction of a filter (`struct sock_filter`).
pub type Instruction = libc::sock_filter;

/// Loads a filter into this thread, which needs `no_new_privs` or `CAP_SYS_ADMIN`; `flags` are
/// `SECCOMP_FILTER_FLAG_*`. With that for a listener, its descriptor is the answer.
///
/// # Errors
/// The kernel refuses: it is no filter, or this thread may not.
#[allow(unsafe_code, reason = "rustix has no seccomp(2)")]
pub fn load(filter: &[Instruction], flags: u32) -> io::Result<Option<OwnedFd>> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program points to `len` initialised instructions that outlive the call, which
    // only reads them.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::c_ulong::from(flags),
            &raw const program,
        )
    };
    match i32::try_from(answer) {
        Ok(0) => Ok(None),
        // SAFETY: with the flag the answer is a new descriptor, which has no other owner. It is
        // close-on-exec.
        Ok(fd) if fd > 0 => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a filter lets a system call of this architecture through. It is asked as the kernel asks
/// it (seccomp(2), and Documentation/networking/filter.rst), with what filters use; anything else
/// counts as a refusal.
pub fn allows(filter: &[Instruction], number: libc::c_long, arguments: [u64; 6]) -> bool {
    let answer = answer(filter, number, arguments).map(|answer| answer & libc::SECCOMP_RET_ACTION_FULL);
    matches!(answer, Some(libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG))
}

fn answer(filter: &[Instruction], number: libc::c_long, arguments: [u64; 6]) -> Option<u32> {
    // `struct seccomp_data`, by words: number, architecture, where the call was made from (8
    // bytes), arguments.
    let halves = arguments.iter().flat_map(|argument| argument.to_ne_bytes());
    let data: Vec<u8> = u32::try_from(number)
        .ok()?
        .to_ne_bytes()
        .into_iter()
        .chain(ARCHITECTURE.to_ne_bytes())
        .chain([0; 8])
        .chain(halves)
        .collect();
    let (mut accumulator, mut next) = (0_u32, 0_usize);
    loop {
        let Instruction { code, jt, jf, k } = *filter.get(next)?;
        next += 1;
        let jump = |condition| usize::from(if condition { jt } else { jf });
        match u32::from(code) {
            code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                let at = usize::try_from(k).ok()?;
                let word = data.get(at..at.checked_add(4)?)?;
                accumulator = u32::from_ne_bytes(word.try_into().ok()?);
            }
            code if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => accumulator &= k,
            code if code == libc::BPF_JMP | libc::BPF_JA => {
                next = next.checked_add(usize::try_from(k).ok()?)?;
            }
            code if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => next += jump(accumulator == k),
            code if code == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => next += jump(accumulator >= k),
            code if code == libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K => next += jump(accumulator > k),
            code if code == libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K => {
                next += jump(accumulator & k != 0);
            }
            code if code == libc::BPF_RET | libc::BPF_K => return Some(k),
            _ => return None,
        }
    }
}

/// An instruction; the codes are those of linux/bpf_common.h.
pub fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction {
        // The codes are numbers of 16 bits in a constant's wider type.
        code: u16::try_from(code).unwrap_or(u16::MAX),
        jt,
        jf,
        k,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_asked_by_number_and_argument() {
        let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        let load = |at| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0, 0);
        let number = u32::try_from(libc::SYS_clone).unwrap();
        let filter = [
            load(4),
            instruction(equal, ARCHITECTURE, 0, 6),
            load(0),
            instruction(equal, number, 0, 3),
            // The lower half of the first argument.
            load(16),
            instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0x7e02_0000, 0, 0),
            instruction(equal, 0, 1, 0),
            instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
            instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | 1, 0, 0),
        ];
        let clone = |flags| allows(&filter, libc::SYS_clone, [flags, 0, 0, 0, 0, 0]);
        // What the last jump skips is the permission: namespaces are allowed by this one, and
        // nothing else.
        assert!(!clone(0) && clone(0x0002_0000));
        assert!(allows(&filter, libc::SYS_read, [0; 6]));
        // One without an end, or that asks for what is not there, allows nothing.
        assert!(
            !allows(&filter[..3], libc::SYS_read, [0; 6]) && !allows(&[load(64)], libc::SYS_read, [0; 6])
        );
    }
}
