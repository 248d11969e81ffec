//! The attacker is a registry, or somebody between it and us.
