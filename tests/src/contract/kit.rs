//! The programs that containers of a backend run, and what programs of that kind can do at all.

use std::path::Path;

use magik_oci::Exit;
use magikrun_test_images::{ImageConfig, LayerBuilder, Layout, shell_wasm};
use serde_json::{Value, json};

use crate::{BUSYBOX, busybox_layout, container};

/// What a backend's containers are made of.
#[derive(Debug, Clone, Copy)]
pub struct Kit {
    /// Makes a layout with an image of the name [`BUSYBOX`], with a shell in it.
    pub layout: fn(&Path) -> Layout,
    /// A container of that image which runs a script.
    pub container: fn(&str, &str) -> Value,
    /// Whether programs are processes: they hear signals, and others can be started beside them.
    pub processes: bool,
    /// A script that takes so many bytes of memory, prints `eaten` and keeps them.
    pub eat: fn(usize) -> String,
}

/// Busybox.
pub const PROCESSES: Kit = Kit {
    layout: busybox_layout,
    container: |name, script| container(name, BUSYBOX, script),
    processes: true,
    eat: |bytes| format!("x=$(head -c {bytes} /dev/zero | tr '\\0' x); echo eaten; sleep 100; echo $x"),
};

/// A small shell compiled to WebAssembly.
pub const WEBASSEMBLY: Kit = Kit {
    layout: wasm_layout,
    container: |name, script| json!({"name": name, "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["/bin/sh.wasm", "-c", script]}),
    processes: false,
    eat: |bytes| format!("eat {bytes}"),
};

impl Kit {
    /// A script that runs until it is told to end, and ends with `code` if it can hear that.
    #[must_use]
    pub fn until_term(&self, code: u8) -> String {
        format!("trap 'exit {code}' TERM; while :; do sleep 0.05; done")
    }

    /// How that ends.
    #[must_use]
    pub fn exit_of_until_term(&self, code: u8) -> Exit {
        if self.processes {
            Exit::exited(code.into())
        } else {
            Exit::signalled(15)
        }
    }

    /// How a program ends that was asked to and did not, once its grace period is over: what cannot hear the request is
    /// said to have ended by it.
    #[must_use]
    pub fn exit_after_grace(&self) -> Exit {
        Exit::signalled(if self.processes { 9 } else { 15 })
    }
}

fn wasm_layout(dir: &Path) -> Layout {
    let shell = std::fs::read(shell_wasm().expect("a shell for WebAssembly")).expect("its module");
    // As large as busybox, so that what is too small for one is too small for the other.
    let filler: Vec<u8> = (0_u32..512 << 10)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let mut layer = LayerBuilder::new();
    layer
        .file("/bin/sh.wasm", 0o755, &shell)
        .and_then(|l| l.file("/lib/filler", 0o644, &filler))
        .and_then(|l| l.file("/etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\n"))
        .and_then(|l| l.dir("/tmp", 0o1777))
        .expect("files");
    let layer = layer.finish().expect("layer");
    let mut layout = Layout::create(dir).expect("layout");
    let config = ImageConfig::command(&["/bin/sh.wasm"]);
    layout.add(BUSYBOX, &[&layer], &config).expect("image");
    layout
}
