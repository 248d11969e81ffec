//! What a pod has to do with the host, and what it is called: namespaces of the host, sysctls, DNS,
//! names.

use std::{collections::HashSet, net::IpAddr};

use k8s_openapi::api::core::v1 as k8s;

use super::{
    Dns, DnsPolicy, PodSpec, SpecError, SpecErrors,
    check::{At, Result},
    errors::Problems,
    names,
};

/// Kubernetes' bounds of `dnsConfig`.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCHES_SIZE: usize = 2048;
/// A bound of our own, where Kubernetes has none.
const MAX_OPTIONS: usize = 64;
/// The most `sysctls` of a pod.
const MAX_SYSCTLS: usize = 128;
/// The longest name of a sysctl, as in Kubernetes.
const MAX_SYSCTL_LEN: usize = 253;
/// The longest value of a sysctl, in bytes.
const MAX_SYSCTL_VALUE_LEN: usize = 4096;
/// The longest host name that the kernel takes.
const MAX_HOSTNAME_LEN: usize = 64;

/// The sysctls that every pod may set: Kubernetes' safe set (1.33).
pub(crate) const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Notes what cannot be together.
pub(super) fn check_namespaces(spec: &k8s::PodSpec, problems: &mut Problems) {
    let host_pid = spec.host_pid == Some(true);
    if host_pid && spec.share_process_namespace == Some(true) {
        problems.add(SpecError::invalid(
            "spec.shareProcessNamespace",
            "ShareProcessNamespace and HostPID cannot both be enabled: remove one",
        ));
    }
    if spec.host_users == Some(false) {
        let asked = [
            (spec.host_network == Some(true), "hostNetwork"),
            (host_pid, "hostPID"),
            (spec.host_ipc == Some(true), "hostIPC"),
        ];
        for (_, field) in asked.into_iter().filter(|(asked, _)| *asked) {
            problems.add(SpecError::invalid(
                format!("spec.{field}"),
                "cannot be true when hostUsers is false: remove one",
            ));
        }
    }
}

/// Reads `dnsPolicy` and `dnsConfig`.
pub(super) fn dns(policy: Option<&str>, config: Option<k8s::PodDNSConfig>, problems: &mut Problems) -> Dns {
    const POLICY: &str = "spec.dnsPolicy";
    const CONFIG: &str = "spec.dnsConfig";
    let policy = match policy {
        None | Some("" | "ClusterFirst") => Ok(DnsPolicy::ClusterFirst),
        Some("ClusterFirstWithHostNet") => Ok(DnsPolicy::ClusterFirstWithHostNet),
        Some("Default") => Ok(DnsPolicy::Default),
        Some("None") => Ok(DnsPolicy::None),
        Some(other) => Err(format!(
            "{other:?} is none of ClusterFirst, ClusterFirstWithHostNet, Default, None"
        )),
    };
    let policy = problems.or_default(policy.at(POLICY));
    let config = config.unwrap_or_default();
    let servers = config.nameservers.unwrap_or_default();
    if policy == DnsPolicy::None && servers.is_empty() && !problems.covers(CONFIG) {
        problems.add(SpecError::invalid(
            format!("{CONFIG}.nameservers"),
            "must provide at least one DNS nameserver when dnsPolicy is None: add one",
        ));
    }
    let count = |list: usize, most: usize, name: &str, problems: &mut Problems| {
        let fits = list <= most;
        if !fits {
            let reason = format!("{list} of them, at most {most} are allowed");
            problems.add(SpecError::invalid(format!("{CONFIG}.{name}"), reason));
        }
        fits
    };
    let mut dns = Dns {
        policy,
        ..Dns::default()
    };
    if count(servers.len(), MAX_NAMESERVERS, "nameservers", problems) {
        let server = |(i, text): (usize, String)| {
            let address = text.parse::<IpAddr>();
            let address = address.map_err(|_| format!("{text:?} is no IP address, such as 192.0.2.1"));
            problems.ok(address.at(&format!("{CONFIG}.nameservers[{i}]")))
        };
        dns.nameservers = servers.into_iter().enumerate().filter_map(server).collect();
    }
    let searches = config.searches.unwrap_or_default();
    if count(searches.len(), MAX_SEARCHES, "searches", problems) {
        for (i, name) in searches.iter().enumerate() {
            problems.or_default(search_domain(name).at(&format!("{CONFIG}.searches[{i}]")));
        }
        let size = searches.iter().map(|name| name.len() + 1).sum::<usize>();
        if size > MAX_SEARCHES_SIZE {
            let reason = format!("{size} characters, at most {MAX_SEARCHES_SIZE} are allowed");
            problems.add(SpecError::invalid(format!("{CONFIG}.searches"), reason));
        }
        dns.searches = searches;
    }
    let options = config.options.unwrap_or_default();
    if count(options.len(), MAX_OPTIONS, "options", problems) {
        for (i, option) in options.into_iter().enumerate() {
            let path = format!("{CONFIG}.options[{i}]");
            let name = option.name.unwrap_or_default();
            problems.or_default(word(&name).at(&format!("{path}.name")));
            if let Some(value) = &option.value {
                problems.or_default(word(value).at(&format!("{path}.value")));
            }
            dns.options.push((name, option.value));
        }
    }
    dns
}

/// `.`, or a domain with or without a dot at its end, as Kubernetes takes them.
fn search_domain(name: &str) -> std::result::Result<(), String> {
    let bare = name.strip_suffix('.').unwrap_or(name);
    if name == "." {
        return Ok(());
    }
    // Underscores are no host's, and are used in search domains all the same.
    names::dns_subdomain(&bare.replace('_', "x"), 253).map_err(|_| {
        let shown: String = name.chars().take(64).collect();
        format!("{shown:?} is no domain, such as example.com")
    })
}

/// A part of a line of resolv.conf(5).
fn word(text: &str) -> std::result::Result<(), String> {
    let fits = |c: char| c.is_ascii_graphic();
    if text.is_empty() || text.len() > 255 || !text.chars().all(fits) {
        return Err("must be 1 to 255 printable ASCII characters without spaces".into());
    }
    Ok(())
}

/// Reads `securityContext.sysctls`; what may be set is for [`PodSpec::check_sysctls`].
pub(super) fn sysctls(
    list: Vec<k8s::Sysctl>,
    spec: &k8s::PodSpec,
    problems: &mut Problems,
) -> Vec<(String, String)> {
    const PATH: &str = "spec.securityContext.sysctls";
    if list.len() > MAX_SYSCTLS {
        let reason = format!("{} of them, at most {MAX_SYSCTLS} are allowed", list.len());
        problems.add(SpecError::invalid(PATH, reason));
        return Vec::new();
    }
    let mut seen = HashSet::new();
    let mut sysctls = Vec::with_capacity(list.len());
    for (i, k8s::Sysctl { name, value }) in list.into_iter().enumerate() {
        let path = format!("{PATH}[{i}]");
        let name = normal(&name);
        let checked = sysctl_name(&name)
            .and_then(|()| host_owned(&name, spec))
            .and_then(|()| {
                let new = seen.insert(name.clone());
                new.then_some(())
                    .ok_or_else(|| format!("{name} is set twice: remove one"))
            });
        problems.or_default(checked.at(&format!("{path}.name")));
        if value.len() > MAX_SYSCTL_VALUE_LEN || value.chars().any(char::is_control) {
            let reason = "must be one line of at most 4096 bytes";
            problems.add(SpecError::invalid(format!("{path}.value"), reason));
        }
        sysctls.push((name, value));
    }
    sysctls
}

/// With dots between its parts, as Kubernetes reads both forms of sysctl(8): the first separator
/// says which it is.
fn normal(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes().get(at) == Some(&b'/') => name
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// Whether it is a name, and one of a namespace.
fn sysctl_name(name: &str) -> std::result::Result<(), String> {
    let part = |part: &str| {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
        part.bytes().all(fits) && part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
    };
    if name.len() > MAX_SYSCTL_LEN || !name.split(['.', '/']).all(part) {
        let shown: String = name.chars().take(64).collect();
        return Err(format!(
            "{shown:?} is no sysctl: write net.ipv4.tcp_syncookies or the like"
        ));
    }
    if namespace(name).is_none() {
        return Err(format!(
            "{name} is the whole host's: only kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* and net.* are a pod's own"
        ));
    }
    Ok(())
}

/// The namespace whose sysctl it is.
fn namespace(name: &str) -> Option<&'static str> {
    // As the kernel has them, ipc/ipc_sysctl.c: these and no others below `kernel`.
    const IPC: [&str; 9] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.msg_next_id",
        "kernel.sem",
        "kernel.sem_next_id",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
    ];
    let ipc = IPC.contains(&name)
        || ["kernel.shm_rmid_forced", "kernel.shm_next_id"].contains(&name)
        || name.starts_with("fs.mqueue.");
    match ipc {
        true => Some("IPC"),
        false => name.starts_with("net.").then_some("network"),
    }
}

/// Refuses one that would change the host.
fn host_owned(name: &str, spec: &k8s::PodSpec) -> std::result::Result<(), String> {
    let (of_host, field) = match namespace(name) {
        Some("IPC") => (spec.host_ipc == Some(true), "hostIPC"),
        _ => (spec.host_network == Some(true), "hostNetwork"),
    };
    if of_host {
        return Err(format!("{name} is the host's with {field}: remove one"));
    }
    Ok(())
}

impl PodSpec {
    /// Whether the pod sets only those sysctls that are safe or `allowed`: names, or what they begin
    /// with and `*`.
    ///
    /// # Errors
    /// Names each of the others.
    pub fn check_sysctls(&self, allowed: &[String]) -> std::result::Result<(), SpecErrors> {
        let is_allowed = |name: &str| {
            SAFE_SYSCTLS.contains(&name)
                || allowed.iter().any(|pattern| match pattern.strip_suffix('*') {
                    Some(start) => name.starts_with(&normal(start)),
                    None => name == normal(pattern),
                })
        };
        let mut problems = Problems::default();
        for (i, (name, _)) in self.sysctls.iter().enumerate() {
            if !is_allowed(name) {
                problems.add(SpecError::unsupported(
                    format!("spec.securityContext.sysctls[{i}].name"),
                    format!("{name} is not one of Kubernetes' safe sysctls: add it to allowed-unsafe-sysctls in the configuration, or remove it"),
                ));
            }
        }
        problems.finish()
    }
}

/// Puts `hostnameOverride` in the place of `hostname` and `subdomain`, as a kubelet does.
pub(super) fn override_name(spec: &mut k8s::PodSpec, problems: &mut Problems) {
    let name = spec.hostname_override.take().filter(|name| !name.is_empty());
    let Some(name) = name else { return };
    let valid = match (spec.host_network, spec.set_hostname_as_fqdn) {
        (Some(true), _) => {
            Err("the host's name is the pod's with hostNetwork: remove one of the two".to_owned())
        }
        (_, Some(true)) => Err("is the whole name: remove setHostnameAsFQDN".to_owned()),
        _ => names::dns_subdomain(&name, MAX_HOSTNAME_LEN),
    };
    problems.or_default(valid.at("spec.hostnameOverride"));
    (spec.hostname, spec.subdomain) = (Some(name), None);
}

/// Checks `subdomain` and `setHostnameAsFQDN` against the names of the pod.
pub(super) fn check_names(spec: &PodSpec, problems: &mut Problems) {
    if let Some(subdomain) = &spec.subdomain {
        problems.or_default(names::dns_label(subdomain).at("spec.subdomain"));
    }
    let name = spec.host_name();
    if spec.set_hostname_as_fqdn && name.len() > MAX_HOSTNAME_LEN {
        let reason = format!(
            "the name is {} characters, and the kernel takes {MAX_HOSTNAME_LEN}: give a shorter hostname",
            name.len()
        );
        problems.add(SpecError::invalid("spec.setHostnameAsFQDN", reason));
    }
}

impl PodSpec {
    /// What its containers see as their host name where it is not the host's, as a kubelet has it:
    /// the pod's `hostname`, else its name cut to a label; with `setHostnameAsFQDN` and its domain.
    #[must_use]
    pub fn host_name(&self) -> String {
        match self.domain() {
            Some(domain) if self.set_hostname_as_fqdn => format!("{}.{domain}", self.short_host_name()),
            _ => self.short_host_name(),
        }
    }

    /// Without its domain.
    pub(crate) fn short_host_name(&self) -> String {
        match &self.hostname {
            Some(hostname) => hostname.clone(),
            None => self
                .name
                .chars()
                .take(63)
                .collect::<String>()
                .trim_end_matches(['-', '.'])
                .to_owned(),
        }
    }

    /// The domain of a pod that has a `subdomain`, in the domain that clusters have where nobody
    /// chose another.
    pub(crate) fn domain(&self) -> Option<String> {
        let subdomain = self.subdomain.as_ref()?;
        Some(format!("{subdomain}.{}.svc.cluster.local", self.namespace))
    }
}

/// Reads `fsGroup` and `fsGroupChangePolicy`. The policy changes nothing: volumes that get a group
/// are new with the pod, as those which Kubernetes calls ephemeral.
pub(super) fn fs_group(context: &k8s::PodSecurityContext, problems: &mut Problems) -> Option<u32> {
    const PATH: &str = "spec.securityContext";
    let policy = match context.fs_group_change_policy.as_deref() {
        None | Some("" | "Always" | "OnRootMismatch") => Ok(()),
        Some(other) => Err(format!("{other:?} is none of Always, OnRootMismatch")),
    };
    problems.or_default(policy.at(&format!("{PATH}.fsGroupChangePolicy")));
    let group: Result<Option<u32>> = context
        .fs_group
        .map(super::security::id)
        .transpose()
        .at(&format!("{PATH}.fsGroup"));
    problems.or_default(group)
}
