//! The attacker is root in a pod's virtual machine, or a WebAssembly program.
