//! This process's mounts, and a process that cannot be mistaken for another one that gets its pid later.
//!
//! `cargo run -p magik-sys --example mounts`
#![allow(clippy::print_stdout, reason = "an example")]

#[cfg(target_os = "linux")]
fn main() -> std::io::Result<()> {
    use magik_sys::{mountinfo, process::Process};

    for mount in mountinfo::parse(&mountinfo::read()?) {
        println!("{:10} {}", mount.kind, mount.point.display());
    }
    let mut child = std::process::Command::new("sleep").arg("1000").spawn()?;
    let process = Process::of(child.id().cast_signed())?;
    println!("alive: {}", process.is_alive());
    child.kill()?;
    child.wait()?;
    println!("alive: {}", process.is_alive());
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn main() {}
