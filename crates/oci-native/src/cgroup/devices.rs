//! Device rules on cgroup v2: a BPF program for each access (`BPF_PROG_TYPE_CGROUP_DEVICE`).
//!
//! libcgroups can make one only with libbpf. A rule is a few comparisons.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use rustix::fs::{Mode, OFlags};

/// How many rules a container may have.
const MAX_RULES: usize = 1024;
/// `BPF_DEVCG_ACC_*` of linux/bpf.h.
const ACCESS: [(char, i32); 3] = [('m', 1), ('r', 2), ('w', 4)];
/// All of them.
const ALL: i32 = 7;
/// `BPF_DEVCG_DEV_BLOCK` and `_CHAR`.
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

/// What every container may use or make, whatever its spec says, as (type, major, minor, access);
/// [`super::limits`] has the same for v1.
const DEFAULTS: [(i32, Option<i32>, Option<i32>, i32); 12] = [
    (CHAR, Some(1), Some(3), ALL),
    (CHAR, Some(1), Some(5), ALL),
    (CHAR, Some(1), Some(7), ALL),
    (CHAR, Some(1), Some(8), ALL),
    (CHAR, Some(1), Some(9), ALL),
    (CHAR, Some(5), Some(0), ALL),
    (CHAR, None, None, 1),
    (BLOCK, None, None, 1),
    (CHAR, Some(5), Some(1), ALL),
    (CHAR, Some(136), None, ALL),
    (CHAR, Some(5), Some(2), ALL),
    (CHAR, Some(10), Some(200), ALL),
];

/// A rule as the kernel numbers its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// `None`: both.
    kind: Option<i32>,
    /// `None`: any.
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

impl Rule {
    fn of(rule: &LinuxDeviceCgroup) -> Option<Self> {
        let number = |n: Option<i64>| match n {
            None | Some(-1) => Some(None),
            // Compared with a register of 64 bits that holds an unsigned number of 32.
            Some(n) => i32::try_from(n).ok().filter(|n| *n >= 0).map(Some),
        };
        let kind = match rule.typ().unwrap_or_default() {
            LinuxDeviceType::A => None,
            LinuxDeviceType::B => Some(BLOCK),
            LinuxDeviceType::C | LinuxDeviceType::U => Some(CHAR),
            // No device at all.
            LinuxDeviceType::P => return None,
        };
        let text = rule.access().as_deref().unwrap_or("rwm");
        let access = ACCESS
            .iter()
            .filter(|(letter, _)| text.contains(*letter))
            .map(|(_, bit)| bit)
            .sum();
        Some(Self {
            allow: rule.allow(),
            kind,
            major: number(rule.major())?,
            minor: number(rule.minor())?,
            access,
        })
    }

    fn is_for_all(&self) -> bool {
        self.kind.is_none() && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }
}

/// One `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// Destination in the lower four bits, source in the upper.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// The instructions that are used: class, operation and source of bpf_common.h and bpf.h in one.
mod code {
    /// `dst = *(u32 *)(src + offset)`
    pub(super) const LOAD_WORD: u8 = 0x61;
    pub(super) const MOVE_REGISTER: u8 = 0xbf;
    pub(super) const MOVE: u8 = 0xb7;
    pub(super) const AND: u8 = 0x57;
    pub(super) const SHIFT_RIGHT: u8 = 0x77;
    pub(super) const JUMP_UNLESS_EQUAL: u8 = 0x55;
    pub(super) const JUMP_IF_BITS: u8 = 0x45;
    pub(super) const JUMP: u8 = 0x05;
    pub(super) const EXIT: u8 = 0x95;
}

/// Registers: the context, then its parts.
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const WANTED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: destination | source << 4,
        offset,
        immediate,
    }
}

fn answer(allow: bool) -> [Instruction; 2] {
    [
        instruction(code::MOVE, 0, 0, 0, i32::from(allow)),
        instruction(code::EXIT, 0, 0, 0, 0),
    ]
}

/// The program. For each access (read, write, mknod) the last rule that matches decides. If none
/// matches, access is allowed, as in a new v1 cgroup.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    // `struct bpf_cgroup_dev_ctx`: access and type in the halves of the first word.
    let mut program = vec![
        instruction(code::LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(code::MOVE_REGISTER, WANTED, KIND, 0, 0),
        instruction(code::SHIFT_RIGHT, WANTED, 0, 0, 16),
        instruction(code::AND, KIND, 0, 0, 0xffff),
        instruction(code::LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(code::LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let verdict: Vec<Instruction> = match (rule.access, rule.allow) {
            (0, _) => continue,
            (ALL, allow) => answer(allow).to_vec(),
            // Allowed accesses need no other rule; if all are, the program allows.
            (access, true) => [
                instruction(code::AND, WANTED, 0, 0, ALL & !access),
                instruction(code::JUMP_UNLESS_EQUAL, WANTED, 0, 2, 0),
            ]
            .into_iter()
            .chain(answer(true))
            .collect(),
            (access, false) => [
                instruction(code::JUMP_IF_BITS, WANTED, 0, 1, access),
                instruction(code::JUMP, 0, 0, 2, 0),
            ]
            .into_iter()
            .chain(answer(false))
            .collect(),
        };
        let tests: Vec<(u8, i32)> = [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)]
            .into_iter()
            .filter_map(|(register, value)| Some((register, value?)))
            .collect();
        let mut left = tests.len() + verdict.len();
        for (register, value) in tests {
            left -= 1;
            // At most six.
            let offset = i16::try_from(left).unwrap_or(0);
            program.push(instruction(code::JUMP_UNLESS_EQUAL, register, 0, offset, value));
        }
        program.extend(verdict);
        if rule.is_for_all() {
            return program;
        }
    }
    program.extend(answer(true));
    program
}

/// Restricts a cgroup of v2, given its directory, to the devices that its rules allow, the last one
/// that fits deciding, and to those that every container may use (runtime-spec, "Default Devices").
///
/// # Errors
/// There are too many rules, or the kernel refuses the program that they are made into.
pub fn restrict(cgroup: &Path, rules: &[LinuxDeviceCgroup]) -> io::Result<()> {
    if rules.len() > MAX_RULES {
        return Err(io::Error::other(format!("more than {MAX_RULES} device rules")));
    }
    let given: Vec<Rule> = rules.iter().filter_map(Rule::of).collect();
    // No program if there is no rule, or if the last one allows everything.
    if given.last().is_none_or(|last| last.allow && last.is_for_all()) {
        return Ok(());
    }
    let defaults = DEFAULTS.map(|(kind, major, minor, access)| Rule {
        allow: true,
        kind: Some(kind),
        major,
        minor,
        access,
    });
    let all: Vec<Rule> = given.into_iter().chain(defaults).collect();
    let program = load(&program(&all))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    attach(&rustix::fs::open(cgroup, flags, Mode::empty())?, &program)
}

/// How often a program is offered to a kernel that is interrupted.
const LOAD_ATTEMPTS: u32 = 10;

/// `BPF_PROG_LOAD`; the kernel verifies the program.
fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    const BPF_PROG_LOAD: i32 = 5;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    let attributes = Attributes {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // A signal that arrives during verification makes it fail with EAGAIN; libbpf retries, too.
    let refused = |e: &io::Error| e.kind() == io::ErrorKind::WouldBlock;
    let fd = (1..LOAD_ATTEMPTS)
        .map(|_| bpf(BPF_PROG_LOAD, &attributes))
        .find(|answer| !answer.as_ref().is_err_and(refused))
        .unwrap_or_else(|| bpf(BPF_PROG_LOAD, &attributes))?;
    #[allow(unsafe_code, reason = "the kernel returns a number")]
    // SAFETY: a descriptor the kernel has just made, which has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `BPF_PROG_ATTACH`; the cgroup keeps the program from then on.
fn attach(cgroup: &OwnedFd, program: &OwnedFd) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        target: i32,
        program: i32,
        kind: u32,
        flags: u32,
    }
    const BPF_PROG_ATTACH: i32 = 8;
    const BPF_CGROUP_DEVICE: u32 = 6;
    /// Programs of cgroups above and below are run, too.
    const BPF_F_ALLOW_MULTI: u32 = 2;
    let attributes = Attributes {
        target: cgroup.as_raw_fd(),
        program: program.as_raw_fd(),
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &attributes).map(drop)
}

#[allow(unsafe_code, reason = "neither rustix nor libc has bpf(2)")]
fn bpf<T>(command: i32, attributes: &T) -> io::Result<i32> {
    // SAFETY: the attributes are the command's, of this size; what they point to is only read.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(answer).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: u32 = 2;
    const WRITE: u32 = 4;
    const MKNOD: u32 = 1;

    /// The kernel's answer, as the test computes it.
    #[allow(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "as the machine does"
    )]
    fn run(program: &[Instruction], kind: i32, major: u32, minor: u32, access: u32) -> bool {
        let context = [access << 16 | kind as u32, major, minor];
        let mut registers = [0_u64; 11];
        let mut at = 0_usize;
        loop {
            let i = program[at];
            let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            let jump = |condition: bool| if condition { i.offset as usize } else { 0 };
            at += 1;
            match i.code {
                code::LOAD_WORD => registers[to] = u64::from(context[i.offset as usize / 4]),
                code::MOVE_REGISTER => registers[to] = registers[from],
                code::MOVE => registers[to] = i.immediate as u64,
                code::AND => registers[to] &= i.immediate as u64,
                code::SHIFT_RIGHT => registers[to] >>= i.immediate,
                code::JUMP_UNLESS_EQUAL => at += jump(registers[to] != i.immediate as u64),
                code::JUMP_IF_BITS => at += jump(registers[to] & i.immediate as u64 != 0),
                code::JUMP => at += jump(true),
                code::EXIT => return registers[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn rules(rules: &serde_json::Value) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_value(rules.clone()).unwrap()
    }

    fn compiled(json: &serde_json::Value) -> Vec<Instruction> {
        program(&rules(json).iter().filter_map(Rule::of).collect::<Vec<_>>())
    }

    #[test]
    fn the_last_rule_for_an_access_decides() {
        let program = compiled(&serde_json::json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
            {"allow": true, "type": "b", "major": 8, "access": "r"},
            {"allow": true, "type": "b", "major": 8, "minor": 1, "access": "w"},
            {"allow": true, "type": "c", "major": 7, "minor": -1, "access": "rwm"},
            {"allow": false, "type": "c", "major": 7, "minor": 3, "access": "w"},
        ]));
        for (kind, major, minor, access, allowed) in [
            (CHAR, 10, 229, READ | WRITE, true),
            (CHAR, 10, 229, READ | MKNOD, false),
            (CHAR, 10, 228, READ, false),
            (BLOCK, 10, 229, READ, false),
            (BLOCK, 8, 5, READ, true),
            (BLOCK, 8, 5, WRITE, false),
            // Two rules together.
            (BLOCK, 8, 1, READ | WRITE, true),
            (CHAR, 7, 2, READ | WRITE | MKNOD, true),
            (CHAR, 7, 3, READ | MKNOD, true),
            (CHAR, 7, 3, READ | WRITE, false),
        ] {
            let answer = run(&program, kind, major, minor, access);
            assert_eq!(answer, allowed, "{kind} {major}:{minor} {access}");
        }
    }

    #[test]
    fn without_a_rule_everything_is_allowed_and_odd_rules_are_left_out() {
        assert!(run(&program(&[]), BLOCK, 1, 2, READ));
        let odd = serde_json::json!([
            {"allow": false, "type": "p", "access": "rwm"}, {"allow": false, "type": "c", "major": -2, "access": "rwm"},
            {"allow": false, "access": "x"},
        ]);
        assert!(run(&compiled(&odd), CHAR, 1, 3, READ | WRITE));
        // Rules before one for everything have no effect.
        let last = compiled(&serde_json::json!([
            {"allow": true, "type": "c", "major": 1, "access": "rwm"}, {"allow": false, "access": "rwm"},
        ]));
        assert_eq!(last.len(), 8);
    }

    #[test]
    #[allow(clippy::print_stderr, reason = "a skipped test says so")]
    fn the_kernel_takes_the_program_and_obeys_it() {
        let Some(cgroup) = scratch_cgroup() else {
            eprintln!("SKIPPED the_kernel_takes_the_program_and_obeys_it: needs root and a cgroup v2");
            return;
        };
        let given = rules(&serde_json::json!([
            {"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"},
        ]));
        restrict(&cgroup.0, &given).unwrap();
        let script = format!(
            "echo $$ > {}/cgroup.procs || exit 9; dd if=/dev/zero of=/dev/null count=1 || exit 1; ! true < /dev/kmsg || exit 2",
            cgroup.0.display()
        );
        let status = std::process::Command::new("sh")
            .args(["-c", &script])
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(0));
        assert!(
            std::fs::File::open("/dev/kmsg").is_ok(),
            "outside nothing is restricted"
        );
    }

    struct Scratch(std::path::PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir(&self.0);
        }
    }

    fn scratch_cgroup() -> Option<Scratch> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let roots = [magik_sys::cgroup::MOUNT_ROOT, "/sys/fs/cgroup/unified"];
        let mut v2 = roots
            .iter()
            .filter(|r| magik_sys::cgroup::is_v2(**r).is_ok_and(|v2| v2));
        let dir = Path::new(v2.next()?).join(format!("magikrun-test-devices-{}", std::process::id()));
        std::fs::create_dir(&dir).ok()?;
        Some(Scratch(dir))
    }
}
