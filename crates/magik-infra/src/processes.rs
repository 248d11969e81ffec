//! The processes of containers, as `/proc` shows them (proc(5)): no program of the image is needed.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
};

use serde::Serialize;

use crate::{
    client::{MAJOR, clean},
    error::ControlError,
    rpc::control as proto,
};

/// The most processes in one answer: as many as a pod may have.
pub const MAX_PROCESSES: usize = 4096;
/// How much of one command line is given, in bytes.
pub const MAX_COMMAND: usize = 4096;
/// How much of all command lines together, in bytes: an answer is one frame.
const MAX_COMMANDS: usize = 512 << 10;
/// How much of each that is given where there are too many of them, in bytes.
const MIN_COMMAND: usize = 32;
/// How much of a file in `/proc` is read, in bytes: `status` has up to 65536 groups.
const MAX_FILE: u64 = 1 << 20;
/// After so many processes others get a turn.
const AT_ONCE: usize = 32;

/// The minor version of the control service that brought this.
const MINOR: u32 = 1;

/// A process of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Its number in its own pid namespace, as programs in the container see it.
    pub pid: i32,
    /// The user id that it acts for, as the container numbers users.
    pub uid: u32,
    /// Its state, by the letter that `ps` shows: `R` runs, `S` sleeps, `Z` has ended.
    pub state: char,
    /// The processor time that it has used, in milliseconds.
    pub cpu_ms: u64,
    /// Memory that is present, in bytes.
    pub rss: u64,
    /// Its command line, or its name in brackets if it has none. No control characters.
    pub command: String,
}

impl Process {
    /// What the other side says, which is not trusted.
    pub(crate) fn from_message(message: &proto::Process) -> Self {
        let state = char::from_u32(message.state).filter(char::is_ascii_alphabetic);
        Self {
            pid: message.pid,
            uid: message.uid,
            state: state.unwrap_or('?'),
            cpu_ms: message.cpu_ms,
            rss: message.rss,
            command: clean(&String::from_utf8_lossy(&message.command)),
        }
    }

    pub(crate) fn into_message(self) -> proto::Process {
        let mut message = proto::Process::new();
        message.pid = self.pid;
        message.uid = self.uid;
        message.state = self.state.into();
        message.cpu_ms = self.cpu_ms;
        message.rss = self.rss;
        message.command = self.command.into_bytes();
        message
    }
}

/// An error if an init that speaks this minor version cannot say.
pub(crate) fn check_version(minor: u32) -> Result<(), ControlError> {
    if minor >= MINOR {
        return Ok(());
    }
    Err(ControlError::Unsupported(format!(
        "the pod's init speaks version {MAJOR}.{minor} of the control service, and that came with {MAJOR}.{MINOR}: run the pod anew"
    )))
}

/// What the other side answered, within the bounds.
pub(crate) fn from_response(response: &proto::ProcessesResponse) -> BTreeMap<String, Vec<Process>> {
    let mut room = MAX_PROCESSES;
    let mut all = BTreeMap::new();
    for container in &response.containers {
        let processes = container.processes.iter().take(room);
        let processes: Vec<_> = processes.map(Process::from_message).collect();
        room -= processes.len();
        all.insert(clean(&container.container), processes);
    }
    all
}

/// What one answer may still hold.
#[derive(Debug)]
pub(crate) struct Room {
    processes: usize,
    commands: usize,
}

impl Room {
    pub(crate) const fn new() -> Self {
        Self {
            processes: MAX_PROCESSES,
            commands: MAX_COMMANDS,
        }
    }

    /// Those of `pids`, as this process numbers them, that are still there.
    pub(crate) async fn read(&mut self, pids: &[i32]) -> Vec<Process> {
        let mut found = Vec::new();
        for (n, pid) in pids.iter().enumerate() {
            if self.processes == 0 {
                break;
            }
            if n % AT_ONCE == AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            // It may have ended meanwhile.
            if let Ok(process) = read(*pid, self.commands.clamp(MIN_COMMAND, MAX_COMMAND)) {
                self.processes -= 1;
                self.commands = self.commands.saturating_sub(process.command.len());
                found.push(process);
            }
        }
        found
    }
}

/// Reads a process, with at most so many bytes of its command line.
fn read(pid: i32, command: usize) -> io::Result<Process> {
    let file = |name: &str, limit: u64| -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(format!("/proc/{pid}/{name}"))?;
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text =
        |name| -> io::Result<String> { Ok(String::from_utf8_lossy(&file(name, MAX_FILE)?).into_owned()) };
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let stat = Stat::parse(&text("stat")?).ok_or_else(malformed)?;
    let status = Status::parse(&text("status")?).ok_or_else(malformed)?;
    let users = text("uid_map").unwrap_or_default();
    let line = file("cmdline", command as u64).unwrap_or_default();
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    Ok(Process {
        pid: status.pid.unwrap_or(pid),
        uid: inside(&users, status.uid),
        state: stat.state,
        cpu_ms: stat.ticks.saturating_mul(1000) / ticks,
        rss: status.rss,
        command: command_line(&line, &stat.name, command),
    })
}

/// The arguments with blanks between them, or the process's name; at most `limit` bytes.
fn command_line(line: &[u8], name: &str, limit: usize) -> String {
    let line = String::from_utf8_lossy(line);
    let line = clean(line.trim_end_matches('\0'));
    let mut shown = if line.is_empty() {
        clean(&format!("[{name}]"))
    } else {
        line
    };
    shown.truncate(shown.floor_char_boundary(limit));
    shown
}

/// What is needed of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    state: char,
    /// Processor time, in clock ticks.
    ticks: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name may hold anything, parentheses too.
        let (before, after) = text.rsplit_once(')')?;
        let (_, name) = before.split_once('(')?;
        let mut fields = after.split_whitespace();
        let state = fields.next()?.chars().next()?;
        // Fields 14 and 15, `utime` and `stime`; the state is the third.
        let mut times = fields.skip(10).map_while(|field| field.parse::<u64>().ok());
        let ticks = times.next()?.saturating_add(times.next()?);
        let name = name.to_owned();
        Some(Self { name, state, ticks })
    }
}

/// What is needed of `/proc/PID/status`, in which the kernel escapes newlines of names.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    /// The effective user, as the reader's user namespace numbers it.
    uid: u32,
    /// In the innermost pid namespace.
    pid: Option<i32>,
    rss: u64,
}

impl Status {
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        };
        let kib = field("VmRSS").and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        Some(Self {
            uid: field("Uid")?.split_whitespace().nth(1)?.parse().ok()?,
            pid: field("NSpid").and_then(|text| text.split_whitespace().last()?.parse().ok()),
            // One that has ended has no memory.
            rss: kib.unwrap_or(0).saturating_mul(1024),
        })
    }
}

/// The id that a user namespace has for `outside`, by its map; the same id if it has none.
fn inside(map: &str, outside: u32) -> u32 {
    let mapped = map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(|n| n.parse::<u32>().ok());
        let (first, from, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let offset = outside.checked_sub(from).filter(|offset| *offset < count)?;
        first.checked_add(offset)
    });
    mapped.unwrap_or(outside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_forge_the_fields_behind_it() {
        let text = "7 (a) R 1 (b)) S 1 7 7 0 -1 4194560 1 2 3 4 150 25 0 0 20 0 1 0 99 0 0\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.ticks), ('S', 175));
        assert_eq!(stat.name, "a) R 1 (b)");
        assert_eq!(Stat::parse("7 (x) S 1"), None);
        let text = "Name:\tUid:\\n0\nUid:\t0\t33\t0\t0\nNSpid:\t512\t40\t7\nVmRSS:\t     300 kB\n";
        let status = Status::parse(text).unwrap();
        assert_eq!((status.uid, status.pid, status.rss), (33, Some(7), 300 << 10));
    }

    #[test]
    fn users_are_those_of_the_container() {
        let map = "         0 2013265920      65536\n";
        assert_eq!(inside(map, 2_013_265_953), 33);
        assert_eq!(inside(map, 5), 5);
        assert_eq!(inside("0 0 4294967295\n", 33), 33);
        assert_eq!(inside("nonsense\n1\n", 33), 33);
    }

    #[test]
    fn command_lines_are_one_line_and_bounded() {
        assert_eq!(command_line(b"sh\0-c\0a\x1b[2J\nb\0", "sh", 100), "sh -c a [2J b");
        assert_eq!(command_line(b"", "kworker\n", 100), "[kworker ]");
        assert_eq!(command_line("\u{e9}\u{e9}".as_bytes(), "x", 3), "\u{e9}");
        assert!(command_line(&[0xff; 4096], "x", 4096).len() <= 4096);
        let mut message = proto::Process::new();
        message.state = 0x1b;
        message.command = b"\x1b]0;title\x07".to_vec();
        let process = Process::from_message(&message);
        assert_eq!((process.state, process.command.as_str()), ('?', " ]0;title "));
    }

    #[test]
    fn an_older_init_is_told_from_one_that_can_say() {
        assert!(matches!(check_version(0), Err(ControlError::Unsupported(_))));
        assert!(check_version(crate::MINOR).is_ok());
    }

    #[tokio::test]
    async fn this_process_is_read_and_one_that_is_none_is_left_out() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut room = Room::new();
        let found = room.read(&[own, i32::MAX]).await;
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].rss > 0 && found[0].command.contains("magik_infra"),
            "{found:?}"
        );
        assert_eq!(room.processes, MAX_PROCESSES - 1);
        room.processes = 0;
        assert_eq!(room.read(&[own]).await, []);
    }
}
