//! Requests and limits of containers and pods, and what a kubelet makes of them.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::{api::core::v1 as k8s, apimachinery::pkg::api::resource::Quantity};

use super::{ContainerSpec, IgnoredField, Limits, PodSpec, SpecError, check::At, errors::Problems, quantity};
use crate::limits::MIN_MEMORY_LIMIT;

/// The bytes of each of [`Limits::huge_pages`].
const HUGE_PAGE_SIZES: [u64; 2] = [2 << 20, 1 << 30];
/// One of the amounts.
type Amount = fn(&Limits) -> Option<u64>;

/// A kubelet's `oom_score_adj` of containers of pods that are guaranteed what they use.
const GUARANTEED_OOM_SCORE: i32 = -997;
/// That of pods that ask for nothing.
const BEST_EFFORT_OOM_SCORE: i32 = 1000;

/// Kubernetes' classes of pods by what they request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QosClass {
    /// Each container requests all that it may use.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl QosClass {
    /// As a status has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

impl fmt::Display for QosClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Limits {
    /// The huge pages, each size by its name.
    pub(crate) fn huge_pages(&self) -> [(&'static str, Option<u64>); 2] {
        [
            ("hugepages-2Mi", self.huge_pages_2mi),
            ("hugepages-1Gi", self.huge_pages_1gi),
        ]
    }
}

/// Reads `resources` of a container or a pod: limits and requests.
pub(super) fn resources(
    resources: k8s::ResourceRequirements,
    path: &str,
    problems: &mut Problems,
) -> (Limits, Limits) {
    let mut read = |list: Option<BTreeMap<String, Quantity>>, name: &str| {
        amounts(&list.unwrap_or_default(), &format!("{path}.{name}"), problems)
    };
    let limits = read(resources.limits, "limits");
    let requests = read(resources.requests, "requests");
    if limits.cpu_millis == Some(0) {
        problems.add(SpecError::invalid(
            format!("{path}.limits.cpu"),
            "must be more than 0; leave it out for no limit",
        ));
    }
    if let Some(memory) = limits.memory.filter(|memory| *memory < MIN_MEMORY_LIMIT) {
        let reason = format!(
            "{memory} bytes, at least {MIN_MEMORY_LIMIT} are needed to start a program (m is a thousandth, Mi is MiB)"
        );
        problems.add(SpecError::invalid(format!("{path}.limits.memory"), reason));
    }
    for (request, limit, name) in [
        (requests.cpu_millis, limits.cpu_millis, "cpu"),
        (requests.memory, limits.memory, "memory"),
        (
            requests.ephemeral_storage,
            limits.ephemeral_storage,
            "ephemeral-storage",
        ),
    ] {
        if request.zip(limit).is_some_and(|(request, limit)| request > limit) {
            let path = format!("{path}.requests.{name}");
            problems.add(SpecError::invalid(path, "must not be more than the limit"));
        }
    }
    let pages = requests
        .huge_pages()
        .into_iter()
        .zip(limits.huge_pages())
        .zip(HUGE_PAGE_SIZES);
    for (((name, request), (_, limit)), size) in pages {
        huge_pages(name, size, request, limit, path, problems);
    }
    let has_others = [limits, requests]
        .iter()
        .any(|amounts| amounts.cpu_millis.is_some() || amounts.memory.is_some());
    if (limits.huge_pages_2mi.or(limits.huge_pages_1gi)).is_some() && !has_others {
        let reason = "HugePages require cpu or memory: request or limit one of them, too";
        problems.add(SpecError::invalid(path, reason));
    }
    for (name, why, said) in [
        (
            "limits",
            "nothing measures yet what a container has on disk",
            limits.ephemeral_storage,
        ),
        (
            "requests",
            "a scheduler reads it, and there is one host",
            requests.ephemeral_storage,
        ),
    ] {
        if said.is_some() {
            let field = format!("{path}.{name}.ephemeral-storage");
            problems.ignored.push(IgnoredField::new(field, why));
        }
    }
    (limits, requests)
}

/// Huge pages cannot be overcommitted: what is requested is the limit.
fn huge_pages(
    name: &str,
    size: u64,
    request: Option<u64>,
    limit: Option<u64>,
    path: &str,
    problems: &mut Problems,
) {
    if let Some(limit) = limit.filter(|limit| limit % size != 0) {
        let reason = format!("{limit} bytes are no whole number of pages of {size}");
        problems.add(SpecError::invalid(format!("{path}.limits.{name}"), reason));
    }
    if request.is_some() && request != limit {
        problems.add(SpecError::invalid(
            format!("{path}.requests.{name}"),
            "must be equal to the limit: huge pages cannot be overcommitted",
        ));
    }
}

fn amounts(list: &BTreeMap<String, Quantity>, path: &str, problems: &mut Problems) -> Limits {
    // What the kernel takes: quota in microseconds per 100 ms, and bytes, both as signed numbers.
    let mut get = |name: &str, parse: fn(&str) -> std::result::Result<u64, String>, largest: u64| {
        let Quantity(text) = list.get(name)?;
        let value = parse(text).and_then(|value| {
            let fits = value <= largest;
            fits.then_some(value).ok_or_else(|| "is too large".to_owned())
        });
        problems.ok(value.at(&format!("{path}.{name}")))
    };
    let mut bytes = |name: &str| get(name, quantity::parse_whole, i64::MAX.unsigned_abs());
    Limits {
        memory: bytes("memory"),
        ephemeral_storage: bytes("ephemeral-storage"),
        huge_pages_2mi: bytes("hugepages-2Mi"),
        huge_pages_1gi: bytes("hugepages-1Gi"),
        cpu_millis: get("cpu", quantity::parse_milli, 100_000_000),
    }
}

/// Checks what the pod says for all of its containers together against what they say.
pub(super) fn check_pod(pod: &PodSpec, problems: &mut Problems) {
    let together = |get: Amount| {
        let of = |c: &ContainerSpec| get(&c.requests).or(get(&c.limits)).unwrap_or(0);
        pod.together(of)
    };
    let kinds: [(&str, Amount); 2] = [("cpu", |l| l.cpu_millis), ("memory", |l| l.memory)];
    for (name, get) in kinds {
        let request = get(&pod.requests).or(get(&pod.limits));
        if request.is_some_and(|request| request < together(get)) {
            problems.add(SpecError::invalid(
                format!("spec.resources.requests.{name}"),
                "must not be less than what the containers request together",
            ));
        }
        let Some(limit) = get(&pod.limits) else { continue };
        let too_much = pod
            .containers_by_path()
            .filter(|(_, c)| get(&c.limits).is_some_and(|own| own > limit));
        for (path, _) in too_much {
            problems.add(SpecError::invalid(
                format!("{path}.resources.limits.{name}"),
                format!("must not be more than spec.resources.limits.{name}"),
            ));
        }
    }
}

impl PodSpec {
    /// What its containers need at the same time at most: all of its apps and sidecars, or an init
    /// container with the sidecars before it.
    fn together(&self, of: impl Fn(&ContainerSpec) -> u64) -> u64 {
        let (mut sidecars, mut most) = (0_u64, 0);
        for container in &self.init_containers {
            let with_it = sidecars.saturating_add(of(container));
            most = most.max(with_it);
            if container.lifecycle.is_of_sidecar() {
                sidecars = with_it;
            }
        }
        let apps = self.containers.iter().map(of);
        apps.fold(sidecars, u64::saturating_add).max(most)
    }

    /// Kubernetes' class of the pod. Where the pod says what it needs as a whole, that counts, else
    /// what each container says.
    #[must_use]
    pub fn qos_class(&self) -> QosClass {
        let says = |limits: &Limits| limits.cpu_millis.is_some() || limits.memory.is_some();
        let of_pod = says(&self.limits) || says(&self.requests);
        let all: Vec<(&Limits, &Limits)> = if of_pod {
            vec![(&self.limits, &self.requests)]
        } else {
            self.all_containers().map(|c| (&c.limits, &c.requests)).collect()
        };
        let amount = |value: Option<u64>| value.filter(|value| *value > 0);
        let kinds = |(limits, requests): &(&Limits, &Limits)| {
            [
                (amount(limits.cpu_millis), requests.cpu_millis),
                (amount(limits.memory), requests.memory),
            ]
        };
        let mut every = all.iter().flat_map(kinds);
        if all
            .iter()
            .flat_map(kinds)
            .all(|(limit, request)| limit.is_none() && amount(request).is_none())
        {
            return QosClass::BestEffort;
        }
        // An absent request is the limit.
        let guaranteed =
            every.all(|(limit, request)| limit.is_some() && request.is_none_or(|r| Some(r) == limit));
        if guaranteed {
            QosClass::Guaranteed
        } else {
            QosClass::Burstable
        }
    }

    /// A kubelet's `oom_score_adj` of a container on a host with so many bytes of memory.
    #[must_use]
    pub fn oom_score_adj(&self, container: &ContainerSpec, memory: u64) -> i32 {
        match self.qos_class() {
            QosClass::Guaranteed => return GUARANTEED_OOM_SCORE,
            QosClass::BestEffort => return BEST_EFFORT_OOM_SCORE,
            QosClass::Burstable => {}
        }
        let of = |c: &ContainerSpec| c.requests.memory.or(c.limits.memory).unwrap_or(0);
        let mut request = of(container);
        // What the pod requests beyond its containers is shared among them.
        if let Some(pod) = self.requests.memory.or(self.limits.memory) {
            let together = self.all_containers().map(of).fold(0_u64, u64::saturating_add);
            let count = self.all_containers().count().max(1) as u64;
            request = request.saturating_add(pod.saturating_sub(together) / count);
        }
        let share = u128::from(request) * 1000 / u128::from(memory.max(1));
        let score = 1000 - i32::try_from(share.min(1000)).unwrap_or(1000);
        // Above those that are guaranteed, below those that ask for nothing.
        score.clamp(1000 + GUARANTEED_OOM_SCORE, BEST_EFFORT_OOM_SCORE - 1)
    }

    /// A kubelet's weight of a container's processor time against the pod's others; `None`: no
    /// container of the pod says anything.
    pub(crate) fn cpu_shares_of(&self, container: &ContainerSpec) -> Option<u64> {
        let of = |c: &ContainerSpec| c.requests.cpu_millis.or(c.limits.cpu_millis);
        let anything = self.all_containers().any(|c| of(c).is_some());
        anything.then(|| shares(of(container).unwrap_or(0)))
    }

    /// A kubelet's weight of the pod against others.
    pub(crate) fn cpu_shares(&self) -> u64 {
        let of = |c: &ContainerSpec| c.requests.cpu_millis.or(c.limits.cpu_millis).unwrap_or(0);
        let containers = self.together(of);
        let own = self.requests.cpu_millis.or(self.limits.cpu_millis);
        shares(own.unwrap_or(containers))
    }
}

/// A kubelet's weight of a container that requests so much; `None`: nothing.
#[cfg(target_os = "linux")]
pub(crate) fn cpu_shares(millis: Option<u64>) -> u64 {
    shares(millis.unwrap_or(0))
}

/// A processor's worth is a weight of 1024; the kernel's least is 2.
fn shares(millis: u64) -> u64 {
    (millis.saturating_mul(1024) / 1000).clamp(2, 262_144)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: &str, containers: &str) -> PodSpec {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{{spec} containers: [{containers}]}}}}"
        );
        PodSpec::from_yaml(&text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn container(name: &str, resources: &str) -> String {
        format!("{{name: {name}, image: b, resources: {{{resources}}}}}")
    }

    const BOTH: &str = "limits: {cpu: 1, memory: 1Gi}";

    #[test]
    fn the_class_and_the_oom_score_are_those_of_a_kubelet() {
        const HOST: u64 = 4 << 30;
        for (spec, resources, class, score) in [
            ("", vec![""], QosClass::BestEffort, 1000),
            ("", vec!["requests: {memory: 0}"], QosClass::BestEffort, 1000),
            ("", vec![BOTH], QosClass::Guaranteed, -997),
            (
                "",
                vec!["limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 1}"],
                QosClass::Guaranteed,
                -997,
            ),
            (
                "",
                vec!["limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 500m}"],
                QosClass::Burstable,
                750,
            ),
            ("", vec![BOTH, ""], QosClass::Burstable, 750),
            ("", vec!["", BOTH], QosClass::Burstable, 999),
            ("", vec!["limits: {memory: 1Gi}"], QosClass::Burstable, 750),
            ("", vec!["requests: {memory: 4Gi}"], QosClass::Burstable, 3),
            (
                "",
                vec!["requests: {ephemeral-storage: 1Gi}"],
                QosClass::BestEffort,
                1000,
            ),
            (
                "resources: {limits: {cpu: 1, memory: 1Gi}},",
                vec!["", ""],
                QosClass::Guaranteed,
                -997,
            ),
            (
                "resources: {requests: {memory: 2Gi}},",
                vec!["", ""],
                QosClass::Burstable,
                750,
            ),
        ] {
            let list: Vec<String> = resources
                .iter()
                .enumerate()
                .map(|(i, r)| container(&format!("c{i}"), r))
                .collect();
            let pod = pod(spec, &list.join(", "));
            assert_eq!(pod.qos_class(), class, "{spec} {resources:?}");
            assert_eq!(
                pod.oom_score_adj(&pod.containers[0], HOST),
                score,
                "{spec} {resources:?}"
            );
        }
    }

    #[test]
    fn weights_follow_requests() {
        let pod = pod(
            "",
            &[container("a", "requests: {cpu: 500m}"), container("b", "")].join(", "),
        );
        assert_eq!(pod.cpu_shares_of(&pod.containers[0]), Some(512));
        assert_eq!(pod.cpu_shares_of(&pod.containers[1]), Some(2));
        assert_eq!(pod.cpu_shares(), 512);
        let own = |name: &str, cpu: &str, more: &str| {
            format!("{{name: {name}, image: b, resources: {{requests: {{cpu: {cpu}}}}}{more}}}")
        };
        // A sidecar runs beside the init containers after it, and beside the apps.
        let list = [
            own("i", "1", ""),
            own("s", "250m", ", restartPolicy: Always"),
            own("j", "2", ""),
        ];
        let init = self::pod(
            &format!("initContainers: [{}],", list.join(", ")),
            &own("a", "1", ""),
        );
        assert_eq!(init.cpu_shares(), 2304);
        let none = self::pod("", &container("a", ""));
        assert_eq!(
            (none.cpu_shares_of(&none.containers[0]), none.cpu_shares()),
            (None, 2)
        );
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let error = |spec: &str, resources: &str| {
            let text = format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{{spec} containers: [{}]}}}}",
                container("c", resources)
            );
            PodSpec::from_yaml(&text).unwrap_err().to_string()
        };
        for (resources, said) in [
            (
                "limits: {hugepages-2Mi: 3Mi, cpu: 1}",
                "limits.hugepages-2Mi: 3145728 bytes are no whole number of pages",
            ),
            ("limits: {hugepages-2Mi: 2Mi}", "HugePages require cpu or memory"),
            (
                "requests: {hugepages-1Gi: 1Gi, cpu: 1}",
                "requests.hugepages-1Gi: must be equal to the limit",
            ),
            (
                "limits: {example.com/gpu: 1}",
                "limits.example.com/gpu: not supported: there is no such device",
            ),
            (
                "limits: {cpus: 1}",
                "limits.cpus: unknown field, did you mean cpu?",
            ),
        ] {
            let error = error("", resources);
            assert!(error.contains(said), "{error}");
        }
        let of_pod = error("resources: {limits: {memory: 1Gi}},", "limits: {memory: 2Gi}");
        assert!(
            of_pod.contains("spec.containers[0].resources.limits.memory: must not be more"),
            "{of_pod}"
        );
        let of_pod = error("resources: {requests: {cpu: 1}},", "requests: {cpu: 2}");
        assert!(
            of_pod.contains("spec.resources.requests.cpu: must not be less"),
            "{of_pod}"
        );
        let of_pod = error("resources: {limits: {ephemeral-storage: 1Gi}},", "");
        assert!(
            of_pod.contains("spec.resources.limits.ephemeral-storage: not supported"),
            "{of_pod}"
        );
    }
}
