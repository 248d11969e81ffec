//! The attacker is another user of the host.
