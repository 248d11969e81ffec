//! The files that every container of a pod has in its `/etc`: what the pod is called, which names it
//! knows, and where it asks for others.

use std::{fs, io, net::IpAddr, os::unix::fs::PermissionsExt as _, path::Path};

use crate::{Dns, DnsPolicy, PodSpec};

/// What is made for the pod and mounted into each container's `/etc`.
pub(crate) const ETC: [&str; 3] = ["hosts", "hostname", "resolv.conf"];
/// What systemd-resolved asks itself: a kubelet is told to read it where the other names a server
/// that only the host can reach.
const OF_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
/// As many as the C library's resolver takes, and Kubernetes.
const MAX_NAMESERVERS: usize = 3;
/// The most that is read of a file of the host.
const MAX_SIZE: u64 = 64 << 10;

/// What its containers see as host name.
pub(crate) fn host_name(spec: &PodSpec) -> String {
    if spec.host_network && spec.hostname.is_none() {
        return rustix::system::uname().nodename().to_string_lossy().into_owned();
    }
    spec.host_name()
}

/// Writes them into a directory.
pub(crate) fn write(dir: &Path, spec: &PodSpec) -> io::Result<()> {
    let texts = [hosts(spec), format!("{}\n", host_name(spec)), resolv_conf(spec)];
    for (name, text) in ETC.into_iter().zip(texts) {
        let file = dir.join(name);
        fs::write(&file, text)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

fn of_host(path: &str) -> Option<String> {
    use io::Read as _;
    let mut text = String::new();
    let file = fs::File::open(path).ok()?;
    file.take(MAX_SIZE).read_to_string(&mut text).ok()?;
    Some(text)
}

fn hosts(spec: &PodSpec) -> String {
    let name = match spec.domain().filter(|_| !spec.host_network) {
        Some(domain) => {
            let short = spec.short_host_name();
            format!("{short}.{domain}\t{short}")
        }
        None => host_name(spec),
    };
    let own =
        || format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{name}\n");
    let text = spec.host_network.then(|| of_host("/etc/hosts")).flatten();
    let mut text = text.unwrap_or_else(own);
    for (address, names) in spec.host_aliases.iter().filter(|(_, names)| !names.is_empty()) {
        text.push_str(&format!("{address}\t{}\n", names.join(" ")));
    }
    text
}

/// What a kubelet without a cluster's DNS writes: the host's file, with what the pod adds to it.
fn resolv_conf(spec: &PodSpec) -> String {
    let Dns {
        policy,
        nameservers,
        searches,
        options,
    } = &spec.dns;
    let host = if *policy == DnsPolicy::None {
        String::new()
    } else {
        resolv_conf_of_host(spec.host_network)
    };
    if nameservers.is_empty() && searches.is_empty() && options.is_empty() {
        return host;
    }
    let mut all = Resolver::parse(&host);
    for server in nameservers {
        add(&mut all.nameservers, server.to_string());
    }
    all.nameservers.truncate(MAX_NAMESERVERS);
    for domain in searches {
        add(&mut all.searches, domain.clone());
    }
    for (name, value) in options {
        // The pod's own goes before the host's of that name.
        all.options
            .retain(|option| option.split(':').next() != Some(name.as_str()));
        all.options.push(match value {
            Some(value) => format!("{name}:{value}"),
            None => name.clone(),
        });
    }
    all.text()
}

fn add(list: &mut Vec<String>, new: String) {
    if !list.contains(&new) {
        list.push(new);
    }
}

/// The host's own, or where that names servers on the host's loopback only, which a pod with a
/// network of its own cannot reach, what systemd-resolved asks.
fn resolv_conf_of_host(host_network: bool) -> String {
    let text = of_host("/etc/resolv.conf").unwrap_or_default();
    let servers = Resolver::parse(&text).nameservers;
    let is_loopback = |server: &String| server.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !host_network
        && !servers.is_empty()
        && servers.iter().all(is_loopback)
        && let Some(other) = of_host(OF_RESOLVED)
    {
        return other;
    }
    text
}

/// What resolv.conf(5) says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    fn parse(text: &str) -> Self {
        let mut all = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let keyword = words.next();
            let rest = words.map(str::to_owned);
            match keyword {
                Some("nameserver") => all.nameservers.extend(rest.take(1)),
                // Of several lines the last one counts.
                Some("search" | "domain") => all.searches = rest.collect(),
                Some("options") => all.options.extend(rest),
                _ => {}
            }
        }
        all
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.nameservers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_host_is_read_as_the_resolver_reads_it() {
        let text =
            "# x\nnameserver 192.0.2.1\nsearch a b\ndomain c\n; y\noptions ndots:2 rotate\nnameserver ::1\n";
        let all = Resolver::parse(text);
        assert_eq!(all.nameservers, ["192.0.2.1", "::1"]);
        assert_eq!(
            (all.searches.as_slice(), all.options.len()),
            (&["c".to_owned()][..], 2)
        );
        let expected = "search c\nnameserver 192.0.2.1\nnameserver ::1\noptions ndots:2 rotate\n";
        assert_eq!(all.text(), expected);
        assert_eq!(Resolver::parse(&all.text()), all);
    }

    #[test]
    fn names_of_a_pod_with_a_subdomain_are_those_of_a_kubelet() {
        let pod = |more: &str| {
            PodSpec::from_yaml(&format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: web, namespace: shop}}, spec: {{{more}, containers: [{{name: c, image: b}}]}}}}"
            ))
            .unwrap()
        };
        let short = pod("hostname: h, subdomain: sub");
        assert_eq!(host_name(&short), "h");
        assert!(hosts(&short).contains("127.0.1.1\th.sub.shop.svc.cluster.local\th\n"));
        let long = pod("subdomain: sub, setHostnameAsFQDN: true");
        assert_eq!(host_name(&long), "web.sub.shop.svc.cluster.local");
        assert_eq!(host_name(&pod("setHostnameAsFQDN: true")), "web");
        let none = pod(
            "dnsPolicy: None, dnsConfig: {nameservers: [192.0.2.1], searches: [a.b], options: [{name: ndots, value: '2'}, {name: rotate}]}",
        );
        assert_eq!(
            resolv_conf(&none),
            "search a.b\nnameserver 192.0.2.1\noptions ndots:2 rotate\n"
        );
    }
}
