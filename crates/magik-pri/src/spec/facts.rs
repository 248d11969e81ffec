//! What is known of a pod only once it is reserved, or only by the host that runs it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::OnceLock,
};

/// What a pod can learn of itself and of its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The pod's id.
    pub(crate) uid: String,
    /// The host's name.
    pub(crate) node_name: String,
    /// The host's addresses, at most one of each version, once somebody asks; the first one is *the*
    /// address.
    host: OnceLock<Vec<IpAddr>>,
    /// Thousandths of the host's processors, once somebody asks: files of several cgroups are read for it.
    cpu_millis: OnceLock<u64>,
    /// The host's memory in bytes.
    pub(crate) memory: u64,
}

impl Facts {
    /// In place of what is not known yet: no value that is found later is longer.
    pub(crate) fn unknown() -> Self {
        let longest = Ipv6Addr::from([0xffff; 8]);
        Self {
            uid: "0".repeat(64),
            node_name: "0".repeat(64),
            host: OnceLock::from(vec![longest.into(), longest.into()]),
            cpu_millis: OnceLock::from(u64::MAX),
            memory: u64::MAX,
        }
    }

    /// Those of the pod with this id, which runs here.
    #[cfg(target_os = "linux")]
    pub(crate) fn of_pod(id: &str) -> Self {
        Self {
            uid: id.to_owned(),
            // As kubelet names a node.
            node_name: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .trim()
                .to_lowercase(),
            host: OnceLock::new(),
            cpu_millis: OnceLock::new(),
            memory: host_memory(),
        }
    }

    pub(super) fn cpu_millis(&self) -> u64 {
        let count = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        *self.cpu_millis.get_or_init(|| 1000 * count() as u64)
    }

    fn host(&self) -> &[IpAddr] {
        self.host.get_or_init(host_addresses)
    }

    pub(super) fn host_ip(&self) -> String {
        self.host().first().map(ToString::to_string).unwrap_or_default()
    }

    pub(super) fn host_ips(&self) -> String {
        let all: Vec<String> = self.host().iter().map(ToString::to_string).collect();
        all.join(",")
    }

    /// A pod with a network of its own has nothing but loopback in it.
    pub(super) fn pod_ip(&self, host_network: bool) -> String {
        if host_network {
            self.host_ip()
        } else {
            Ipv4Addr::LOCALHOST.to_string()
        }
    }

    pub(super) fn pod_ips(&self, host_network: bool) -> String {
        if host_network {
            self.host_ips()
        } else {
            self.pod_ip(false)
        }
    }
}

/// The addresses that this host has on its way to others; without a network that of loopback.
/// Nothing is sent: a UDP socket that is connected only knows its route.
fn host_addresses() -> Vec<IpAddr> {
    let found = [SOMEBODY_V4, SOMEBODY_V6].into_iter().filter_map(address_towards);
    let found: Vec<IpAddr> = found.collect();
    if found.is_empty() {
        return vec![Ipv4Addr::LOCALHOST.into()];
    }
    found
}

// Addresses of documentation, which nobody has (RFC 5737, RFC 3849).
pub(crate) const SOMEBODY_V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);
const SOMEBODY_V6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9);

/// The host's own address on its way to another; `None`: there is no way.
pub(crate) fn address_towards(other: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if other.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    // Connecting a datagram socket looks up the route, and sends nothing.
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(other).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified() && !address.is_loopback()).then_some(address)
}

/// The host's memory, in bytes.
#[cfg(target_os = "linux")]
pub(crate) fn host_memory() -> u64 {
    let info = rustix::system::sysinfo();
    let memory = u128::from(info.totalram) * u128::from(info.mem_unit);
    u64::try_from(memory).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_fact_is_longer_than_what_stands_for_it() {
        let (unknown, known) = (Facts::unknown(), Facts::of_pod("0123456789abcdef01234567"));
        assert!(known.uid.len() <= unknown.uid.len());
        assert!(known.node_name.len() <= unknown.node_name.len());
        assert!(known.host_ips().len() <= unknown.host_ips().len() && !known.host_ip().is_empty());
        assert!(known.cpu_millis() >= 1000 && known.memory > 1 << 20);
        for host_network in [false, true] {
            assert!(known.pod_ip(host_network).parse::<IpAddr>().is_ok());
        }
    }
}
