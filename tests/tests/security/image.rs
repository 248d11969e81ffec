//! The attacker made the image: its files meet the runtime before anything of it runs.
