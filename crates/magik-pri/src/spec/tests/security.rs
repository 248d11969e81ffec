//! Security contexts.

use super::*;

#[test]
fn security_contexts_are_checked_as_the_api_server_does() {
    refused(
        "spec.containers[0].securityContext",
        r#"
        allowPrivilegeEscalation: false, privileged: true => : cannot set `allowPrivilegeEscalation` to false and `privileged` to true
        allowPrivilegeEscalation: false, capabilities: {add: [cap_sys_admin]} => : cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN
        runAsNonRoot: true, runAsUser: 0 => .runAsUser: container's runAsUser breaks non-root policy
        runAsNonRoot: true | runAsUser: 0 => .runAsUser: container's runAsUser breaks non-root policy
        runAsUser: 0 | runAsNonRoot: true => .runAsUser: container's runAsUser breaks non-root policy
        procMount: Unmasked => .procMount: `hostUsers` must be false to use `Unmasked`
        procMount: Full => .procMount: "Full" is none of
        seccompProfile: {type: Localhost} => .seccompProfile.localhostProfile: must be set when seccomp type is Localhost
        seccompProfile: {type: RuntimeDefault, localhostProfile: p} => .seccompProfile.localhostProfile: can only be set when seccomp type is Localhost
        seccompProfile: {type: Localhost, localhostProfile: /p} => .seccompProfile.localhostProfile: must be a relative path
        seccompProfile: {type: Localhost, localhostProfile: a/../../p} => .seccompProfile.localhostProfile: must not contain '..'
        seccompProfile: {type: Localhost, localhostProfile: ''} => .seccompProfile.localhostProfile: is no name
        seccompProfile: {type: Default} => .seccompProfile.type: "Default" is none of RuntimeDefault, Unconfined, Localhost
        seccompProfile: {} => .seccompProfile
        appArmorProfile: {type: Localhost} => .appArmorProfile.localhostProfile: must be set when AppArmor type is Localhost
        appArmorProfile: {type: Localhost, localhostProfile: 'a b'} => .appArmorProfile.localhostProfile: is no name of a profile
        seLinuxOptions: {user: 'a:b'} => .seLinuxOptions.user: is no part of a label
        seLinuxOptions: {tpye: a} => .seLinuxOptions.tpye: unknown field
        runAsNonRoot: 1 => .runAsNonRoot
        "#,
        |piece| {
            let (pod, container) = piece.split_once(" | ").unwrap_or(("", piece));
            error(
                &format!("securityContext: {{{pod}}}"),
                &format!("securityContext: {{{container}}}"),
            )
        },
    );
    refused(
        "spec.securityContext",
        r#"
        supplementalGroups: [-1] => .supplementalGroups[0]: -1 is not between
        supplementalGroups: [4294967295] => .supplementalGroups[0]: 4294967295 is not between
        supplementalGroupsPolicy: None => .supplementalGroupsPolicy: "None" is none of
        runAsUser: 2147483648 => .runAsUser: 2147483648 is not between
        privileged: true => .privileged: unknown field
        "#,
        |piece| error(&format!("securityContext: {{{piece}}}"), ""),
    );
}

#[test]
fn a_manifest_of_the_restricted_standard_is_taken_as_it_is() {
    let pod = parse(
        "securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}",
        "securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}",
    );
    let security = &pod.containers[0].security;
    assert!(security.run_as_non_root && !security.allow_privilege_escalation && !security.privileged);
    assert_eq!(
        (security.run_as_user, &security.seccomp),
        (Some(1000), &Seccomp::RuntimeDefault)
    );
    assert_eq!(security.drop_capabilities, ["ALL"]);
    // What a container does not say is as in Kubernetes, but for the filter, which it always has.
    let silent = &parse("", "").containers[0].security;
    assert!(silent.allow_privilege_escalation && !silent.run_as_non_root);
    assert_eq!(silent.seccomp, Seccomp::RuntimeDefault);
    // A container may ask for less than its pod.
    let own = parse(
        "securityContext: {runAsNonRoot: true, seccompProfile: {type: Unconfined}}",
        "securityContext: {runAsNonRoot: false, seccompProfile: {type: RuntimeDefault}}",
    );
    assert!(!own.containers[0].security.run_as_non_root);
    assert_eq!(own.containers[0].security.seccomp, Seccomp::RuntimeDefault);
}
