//! The attacker reaches a pod over the network, or shares the host with it.
