//! The guest as a machine: its console, clock and power.

use std::{io, time::Duration};

use magik_infra::guest::Welcome;
use rustix::{
    fs::{Mode, OFlags},
    system::{RebootCommand, reboot},
    time::{ClockId, Timespec, clock_settime},
};

/// The first virtio console, which every monitor shows the host.
const CONSOLE: &str = "/dev/hvc0";
/// How long the console may take to appear: its device is found by a kernel thread.
const CONSOLE_TIME: Duration = Duration::from_secs(5);

/// Writes a line to the console.
pub(crate) fn say(message: &str) {
    let line = format!("vminit: {message}\n");
    // There is no other place to report to.
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
}

/// Makes the console this process's output, and nothing its input, whatever the kernel opened.
///
/// # Errors
/// There is no console.
pub(crate) fn open_console() -> io::Result<()> {
    let began = std::time::Instant::now();
    let console = loop {
        let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
        match rustix::fs::open(CONSOLE, flags, Mode::empty()) {
            Ok(console) => break console,
            Err(_) if began.elapsed() < CONSOLE_TIME => std::thread::sleep(Duration::from_millis(1)),
            Err(e) => {
                return Err(io::Error::new(
                    io::Error::from(e).kind(),
                    format!("{CONSOLE}: {e}"),
                ));
            }
        }
    };
    let nothing = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&console)?;
    rustix::stdio::dup2_stderr(&console)?;
    Ok(())
}

/// Sets the clock: an emulated guest has none.
///
/// # Errors
/// The kernel refuses the time.
pub(crate) fn set_clock(welcome: Welcome) -> io::Result<()> {
    let now = Timespec {
        tv_sec: welcome.now.as_second(),
        tv_nsec: welcome.now.subsec_nanosecond().into(),
    };
    Ok(clock_settime(ClockId::Realtime, now)?)
}

/// Ends the machine: its monitors take a restart for the end.
pub(crate) fn power_off() -> ! {
    // Nothing here outlives the machine: there is nothing to sync.
    let _ = reboot(RebootCommand::Restart);
    std::process::exit(1);
}
