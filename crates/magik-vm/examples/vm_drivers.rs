//! Which drivers of virtual machines there are on this host, and what the others lack. Starts none.
//!
//! `cargo run -p magik-vm --example vm_drivers`
#![allow(clippy::print_stdout, reason = "an example")]

#[cfg(target_os = "linux")]
fn main() {
    use magik_vm::{DriverKind, VmFiles};

    let files = VmFiles::find();
    for kind in DriverKind::ALL {
        match kind.find(&files) {
            Ok(_) => println!("{:9} is there", kind.as_str()),
            Err(error) => println!("{:9} {error}", kind.as_str()),
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {}
