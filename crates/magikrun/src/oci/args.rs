//! The arguments of each OCI command: runc's names, options before or after the container id.
//!
//! Each command has a parser of its own, so that a call builds only one small parser.

use std::path::PathBuf;

use clap::{Args, Parser, ValueEnum};

/// `--format` of `list` and `ps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Format {
    /// Columns.
    #[default]
    Table,
    /// JSON.
    Json,
}

/// What `create`, `run` and `restore` share.
#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The directory that holds config.json and the root filesystem
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(super) bundle: PathBuf,
    /// A unix socket that is sent the master of the container's terminal
    #[arg(long, value_name = "SOCKET")]
    pub(super) console_socket: Option<PathBuf>,
    /// The file to write the first process's pid to
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,
    /// Change the root with chroot, where pivot_root cannot work (an initramfs)
    #[arg(long)]
    pub(super) no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub(super) no_new_keyring: bool,
    /// Pass N descriptors from 3 on ($LISTEN_FDS of them come first) to the container
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) preserve_fds: u32,
}

/// Create a container from a bundle; `start` runs its program
#[derive(Debug, Parser)]
#[command(name = "magikrun create", no_binary_name = true)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    pub(super) init: InitArgs,
    /// The new container's id
    pub(super) id: String,
}

/// Create a container, run it and wait for it
#[derive(Debug, Parser)]
#[command(name = "magikrun run", no_binary_name = true)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) init: InitArgs,
    /// Do not wait for it
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Do not delete the container when it has ended
    #[arg(long)]
    pub(super) keep: bool,
    /// Accepted for runc's sake: we reap only what we started
    #[arg(long)]
    no_subreaper: bool,
    /// The new container's id
    pub(super) id: String,
}

/// Run a created container's program
#[derive(Debug, Parser)]
#[command(name = "magikrun start", no_binary_name = true)]
pub(super) struct StartArgs {
    pub(super) id: String,
}

/// Print a container's state as JSON
#[derive(Debug, Parser)]
#[command(name = "magikrun state", no_binary_name = true)]
pub(super) struct StateArgs {
    pub(super) id: String,
}

/// Send a signal to a container
#[derive(Debug, Parser)]
#[command(name = "magikrun kill", no_binary_name = true)]
pub(super) struct KillArgs {
    /// Send it to every process of the container
    #[arg(short, long)]
    pub(super) all: bool,
    pub(super) id: String,
    /// A number, or a name such as TERM or SIGTERM
    #[arg(default_value = "TERM", allow_hyphen_values = true)]
    pub(super) signal: String,
}

/// Delete a stopped container
#[derive(Debug, Parser)]
#[command(name = "magikrun delete", no_binary_name = true)]
pub(super) struct DeleteArgs {
    /// Kill it first if it runs; a container that does not exist is no error
    #[arg(short, long)]
    pub(super) force: bool,
    pub(super) id: String,
}

/// Run a program in a running container
#[derive(Debug, Parser)]
#[command(name = "magikrun exec", no_binary_name = true)]
pub(super) struct ExecArgs {
    /// A unix socket that is sent the master of the process's terminal
    #[arg(long, value_name = "SOCKET")]
    pub(super) console_socket: Option<PathBuf>,
    /// The working directory
    #[arg(long, value_name = "DIR")]
    pub(super) cwd: Option<PathBuf>,
    /// Add or replace an environment variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(super) env: Vec<String>,
    /// Allocate a terminal
    #[arg(short, long)]
    pub(super) tty: bool,
    /// The user, as numbers or as names of the container's own /etc/passwd
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(super) user: Option<String>,
    /// Supplementary groups
    #[arg(short = 'g', long, value_name = "GID")]
    pub(super) additional_gids: Vec<u32>,
    /// The process as JSON (the `process` of config.json)
    #[arg(short, long, value_name = "FILE")]
    pub(super) process: Option<PathBuf>,
    /// Do not wait for it
    #[arg(short, long)]
    pub(super) detach: bool,
    /// The file to write its pid to
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,
    /// The SELinux label
    #[arg(long, value_name = "LABEL")]
    pub(super) process_label: Option<String>,
    /// The AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub(super) apparmor: Option<String>,
    /// Forbid it to gain privileges
    #[arg(long)]
    pub(super) no_new_privs: bool,
    /// Add a capability
    #[arg(short, long, value_name = "CAP")]
    pub(super) cap: Vec<String>,
    /// Pass N descriptors from 3 on to it
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) preserve_fds: u32,
    /// A cgroup below the container's own
    #[arg(long, value_name = "CGROUP")]
    pub(super) cgroup: Option<String>,
    /// Allow it in a paused container
    #[arg(long)]
    pub(super) ignore_paused: bool,
    pub(super) id: String,
    /// The program and its arguments
    #[arg(trailing_var_arg = true)]
    pub(super) args: Vec<String>,
}

/// Show a container's processes
#[derive(Debug, Parser)]
#[command(name = "magikrun ps", no_binary_name = true)]
pub(super) struct PsArgs {
    /// How to print it: what ps(1) says of them, or their pids as JSON
    #[arg(short, long, default_value = "table")]
    pub(super) format: Format,
    pub(super) id: String,
    /// Options for ps(1)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) ps_options: Vec<String>,
}

/// List the containers
#[derive(Debug, Parser)]
#[command(name = "magikrun list", no_binary_name = true)]
pub(super) struct ListArgs {
    /// How to print it
    #[arg(short, long, default_value = "table")]
    pub(super) format: Format,
    /// Only the ids
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// Freeze a container's processes
#[derive(Debug, Parser)]
#[command(name = "magikrun pause", no_binary_name = true)]
pub(super) struct PauseArgs {
    pub(super) id: String,
}

/// Thaw a paused container
#[derive(Debug, Parser)]
#[command(name = "magikrun resume", no_binary_name = true)]
pub(super) struct ResumeArgs {
    pub(super) id: String,
}

/// Change a container's resource limits
#[derive(Debug, Default, Parser)]
#[command(name = "magikrun update", no_binary_name = true)]
pub(super) struct UpdateArgs {
    /// A file with resources as in config.json, or `-` for stdin; other options are then ignored
    #[arg(short, long, value_name = "FILE")]
    pub(super) resources: Option<PathBuf>,
    /// Block I/O weight, 10 to 1000
    #[arg(long, value_name = "N")]
    pub(super) blkio_weight: Option<u16>,
    /// CFS period in microseconds
    #[arg(long, value_name = "USEC")]
    pub(super) cpu_period: Option<u64>,
    /// CFS quota in microseconds; -1 is no limit
    #[arg(long, value_name = "USEC", allow_negative_numbers = true)]
    pub(super) cpu_quota: Option<i64>,
    /// CFS burst in microseconds
    #[arg(long, value_name = "USEC")]
    pub(super) cpu_burst: Option<u64>,
    /// CPU shares, relative to other containers
    #[arg(long, value_name = "N", alias = "cpu-shares")]
    pub(super) cpu_share: Option<u64>,
    /// Realtime period in microseconds
    #[arg(long, value_name = "USEC")]
    pub(super) cpu_rt_period: Option<u64>,
    /// Realtime runtime in microseconds
    #[arg(long, value_name = "USEC", allow_negative_numbers = true)]
    pub(super) cpu_rt_runtime: Option<i64>,
    /// 1 for SCHED_IDLE, 0 for not
    #[arg(long, value_name = "0|1")]
    pub(super) cpu_idle: Option<i64>,
    /// CPUs to use
    #[arg(long, value_name = "LIST")]
    pub(super) cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    pub(super) cpuset_mems: Option<String>,
    /// Memory limit in bytes (or with a suffix k, m, g); -1 is no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(super) memory: Option<String>,
    /// Memory soft limit in bytes
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(super) memory_reservation: Option<String>,
    /// Memory and swap together in bytes; -1 is no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(super) memory_swap: Option<String>,
    /// Processes and threads; -1 is no limit
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(super) pids_limit: Option<i64>,
    /// Intel RDT: not supported
    #[arg(long, hide = true)]
    pub(super) l3_cache_schema: Option<String>,
    /// Intel RDT: not supported
    #[arg(long, hide = true)]
    pub(super) mem_bw_schema: Option<String>,
    pub(super) id: String,
}

/// Print a container's resource use and out-of-memory events as JSON lines
#[derive(Debug, Parser)]
#[command(name = "magikrun events", no_binary_name = true)]
pub(super) struct EventsArgs {
    /// How often resource use is printed, such as 5s or 500ms
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub(super) interval: String,
    /// Print resource use once, and return
    #[arg(long)]
    pub(super) stats: bool,
    pub(super) id: String,
}

/// Write an example config.json
#[derive(Debug, Parser)]
#[command(name = "magikrun spec", no_binary_name = true)]
pub(super) struct SpecArgs {
    /// Where to write it
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(super) bundle: PathBuf,
    /// With a user namespace, for a caller who is not root
    #[arg(long)]
    pub(super) rootless: bool,
}

/// Print what this runtime can do as the runtime-spec's features document
#[derive(Debug, Parser)]
#[command(name = "magikrun features", no_binary_name = true)]
pub(super) struct FeaturesArgs {}

/// What `checkpoint` and `restore` share.
#[derive(Debug, Args)]
pub(super) struct CriuArgs {
    /// The directory of the images
    #[arg(long, value_name = "DIR", default_value = "checkpoint")]
    pub(super) image_path: PathBuf,
    /// The directory of CRIU's logs
    #[arg(long, value_name = "DIR")]
    pub(super) work_path: Option<PathBuf>,
    /// Allow open TCP connections
    #[arg(long)]
    pub(super) tcp_established: bool,
    /// Allow unix sockets to outside
    #[arg(long)]
    pub(super) ext_unix_sk: bool,
    /// Allow a terminal of the caller's
    #[arg(long)]
    pub(super) shell_job: bool,
    /// Handle file locks
    #[arg(long)]
    pub(super) file_locks: bool,
    /// soft, full or strict
    #[arg(long, value_name = "MODE", default_value = "soft")]
    pub(super) manage_cgroups_mode: String,
}

/// Save a running container with CRIU
#[derive(Debug, Parser)]
#[command(name = "magikrun checkpoint", no_binary_name = true)]
pub(super) struct CheckpointArgs {
    #[command(flatten)]
    pub(super) criu: CriuArgs,
    /// Let the container run on
    #[arg(long)]
    pub(super) leave_running: bool,
    /// Link files that were removed
    #[arg(long)]
    pub(super) link_remap: bool,
    #[command(flatten)]
    pub(super) refused: RefusedCriuArgs,
    pub(super) id: String,
}

/// Recreate a container that `checkpoint` saved
#[derive(Debug, Parser)]
#[command(name = "magikrun restore", no_binary_name = true)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    pub(super) init: InitArgs,
    #[command(flatten)]
    pub(super) criu: CriuArgs,
    /// Do not wait for it
    #[arg(short, long)]
    pub(super) detach: bool,
    #[arg(long, hide = true)]
    no_subreaper: bool,
    #[command(flatten)]
    pub(super) refused: RefusedCriuArgs,
    pub(super) id: String,
}

/// Options of runc's that nothing here implements: named, so that the answer is a clear one.
#[derive(Debug, Default, Args)]
pub(super) struct RefusedCriuArgs {
    #[arg(long, hide = true)]
    pub(super) parent_path: Option<PathBuf>,
    #[arg(long, hide = true)]
    pub(super) pre_dump: bool,
    #[arg(long, hide = true)]
    pub(super) lazy_pages: bool,
    #[arg(long, hide = true)]
    pub(super) status_fd: Option<i32>,
    #[arg(long, hide = true)]
    pub(super) page_server: Option<String>,
    #[arg(long, hide = true)]
    pub(super) empty_ns: Vec<String>,
    #[arg(long, hide = true)]
    pub(super) auto_dedup: bool,
    #[arg(long, hide = true)]
    pub(super) lsm_profile: Option<String>,
    #[arg(long, hide = true)]
    pub(super) lsm_mount_context: Option<String>,
}

impl RefusedCriuArgs {
    /// The first option that was given.
    pub(super) fn given(&self) -> Option<&'static str> {
        [
            (self.parent_path.is_some(), "--parent-path"),
            (self.pre_dump, "--pre-dump"),
            (self.lazy_pages, "--lazy-pages"),
            (self.status_fd.is_some_and(|fd| fd >= 0), "--status-fd"),
            (self.page_server.is_some(), "--page-server"),
            (self.empty_ns.iter().any(|ns| !ns.is_empty()), "--empty-ns"),
            (self.auto_dedup, "--auto-dedup"),
            (self.lsm_profile.is_some(), "--lsm-profile"),
            (self.lsm_mount_context.is_some(), "--lsm-mount-context"),
        ]
        .into_iter()
        .find_map(|(given, name)| given.then_some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T: Parser>(line: &str) -> T {
        T::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    #[test]
    fn options_come_before_or_after_the_id() {
        for line in [
            "--bundle /b --pid-file /p c1",
            "c1 --bundle /b --pid-file /p",
            "--bundle=/b c1 --pid-file=/p",
        ] {
            let args: CreateArgs = parse(line);
            assert_eq!(
                (args.id.as_str(), args.init.bundle, args.init.pid_file),
                ("c1", "/b".into(), Some("/p".into()))
            );
        }
        assert!(parse::<DeleteArgs>("c1 --force").force);
        assert!(parse::<DeleteArgs>("-f c1").force);
        assert_eq!(
            parse::<UpdateArgs>("c1 --resources -").resources,
            Some("-".into())
        );
    }

    #[test]
    fn kill_takes_a_number_a_name_or_nothing() {
        for (line, all, signal) in [
            ("c 9", false, "9"),
            ("--all c KILL", true, "KILL"),
            ("c -a SIGTERM", true, "SIGTERM"),
            ("c", false, "TERM"),
        ] {
            let args: KillArgs = parse(line);
            assert_eq!(
                (args.id.as_str(), args.all, args.signal.as_str()),
                ("c", all, signal),
                "{line}"
            );
        }
    }

    #[test]
    fn exec_leaves_the_programs_own_options_to_the_program() {
        let args: ExecArgs = parse("-t -e A=b --cwd /w c1 sh -c true -e");
        assert!(args.tty);
        assert_eq!(args.env, ["A=b"]);
        assert_eq!(args.args, ["sh", "-c", "true", "-e"]);
        let args: ExecArgs = parse("--process /p --detach --pid-file /f c1");
        assert!(args.args.is_empty() && args.detach);
        assert_eq!(parse::<ExecArgs>("c1 --process /p").process, Some("/p".into()));
        assert_eq!(parse::<ExecArgs>("c1 --user 1:2 id").args, ["id"]);
    }

    #[test]
    fn ps_passes_options_on_and_keeps_its_own() {
        assert_eq!(parse::<PsArgs>("--format json c1").format, Format::Json);
        assert_eq!(parse::<PsArgs>("c1 -ef").ps_options, ["-ef"]);
        assert_eq!(parse::<PsArgs>("c1 aux").ps_options, ["aux"]);
    }

    #[test]
    fn unlimited_is_written_as_minus_one() {
        let args: UpdateArgs = parse("--memory -1 --memory-swap=-1 --cpu-quota -1 --pids-limit -1 c1");
        assert_eq!(
            (args.memory.as_deref(), args.memory_swap.as_deref()),
            (Some("-1"), Some("-1"))
        );
        assert_eq!((args.cpu_quota, args.pids_limit), (Some(-1), Some(-1)));
    }

    #[test]
    fn an_unknown_option_and_a_missing_id_are_refused() {
        assert!(CreateArgs::try_parse_from(["--nosuch", "c"]).is_err());
        assert!(StartArgs::try_parse_from(Vec::<String>::new()).is_err());
        assert!(StateArgs::try_parse_from(["a", "b"]).is_err());
    }
}
