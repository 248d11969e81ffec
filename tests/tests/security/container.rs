//! The attacker is root in a container, and tries to leave it or to take more than it was given.
