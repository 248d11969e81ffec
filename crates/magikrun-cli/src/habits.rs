//! What people type who know podman, docker or kubectl, and what does it here.

/// The answer to more than one of them.
const BUILD: &str =
    "Images are built by others: podman build, buildah or docker build; then 'magikrun image load'";

const CHANGE: &str =
    "A pod is replaced, not changed: edit its manifest, then 'magikrun pod run --replace -f FILE'";

/// Words of theirs, and the answer: a command of ours, or, where it begins with a capital, a sentence.
const HABITS: &[(&[&str], &str)] = &[
    // kubectl
    (&["annotate"], CHANGE),
    (&["api-resources"], "system info"),
    (&["apply"], "pod run -f FILE"),
    (&["attach"], "pod attach POD"),
    (&["debug"], "pod exec -it POD -- sh"),
    (&["cluster-info"], "system info"),
    (&["describe"], "pod status POD"),
    (&["edit"], CHANGE),
    (&["explain"], "pod validate -f FILE"),
    (&["get", "events"], "pod events POD"),
    (&["get", "po"], "pod ls"),
    (&["get", "pod"], "pod ls"),
    (&["get", "pods"], "pod ls"),
    (&["get"], "pod ls"),
    (&["label"], CHANGE),
    (&["logs"], "pod logs POD"),
    (&["patch"], CHANGE),
    (&["port-forward"], "pod port-forward POD PORT"),
    (&["replace"], "pod run --replace -f FILE"),
    (&["rollout"], "pod restart POD"),
    (
        &["scale"],
        "There is one pod of each name: give each a manifest of its own, and 'magikrun pod run -f FILE'",
    ),
    (&["set"], CHANGE),
    (&["top"], "pod top POD' or 'magikrun pod stats POD"),
    (&["wait"], "pod wait POD"),
    (&["config"], "system config"),
    // podman and docker
    (&["build"], BUILD),
    (&["commit"], BUILD),
    (&["diff"], "image diff IMAGE"),
    (&["history"], "image history IMAGE"),
    (&["compose"], "pod run -f FILE"),
    (&["cp"], "pod cp POD:PATH PATH"),
    (&["container", "cp"], "pod cp POD:PATH PATH"),
    (&["container", "exec"], "pod exec POD -- COMMAND"),
    (&["container", "logs"], "pod logs POD"),
    (&["container", "prune"], "system prune"),
    (&["container", "rm"], "pod delete POD"),
    (&["container", "run"], "pod run IMAGE"),
    (&["container", "stop"], "pod stop POD"),
    (&["container"], "pod ls"),
    (&["images"], "image ls"),
    (&["import"], "image load FILE"),
    (&["info"], "system info"),
    (&["inspect"], "pod inspect POD' or 'magikrun image inspect IMAGE"),
    (&["kube", "down"], "pod delete --force -f FILE"),
    (&["kube"], "pod run -f FILE"),
    (&["load"], "image load FILE"),
    (&["play"], "pod run -f FILE"),
    (&["pods"], "pod ls"),
    (&["port"], "pod status POD"),
    (&["pull"], "image pull NAME"),
    (&["push"], "image push IMAGE"),
    (&["restart"], "pod restart POD"),
    (&["rm"], "pod delete POD"),
    (&["rmi"], "image rm IMAGE"),
    (&["save"], "image save -o FILE IMAGE"),
    (
        &["search"],
        "Registries are searched with podman search or docker search; 'magikrun image pull NAME' pulls",
    ),
    (&["stats"], "pod stats POD"),
    (&["stop"], "pod stop POD"),
    (&["tag"], "image tag IMAGE NAME"),
    (
        &["network"],
        "Each pod has a network of its own; spec.hostNetwork: true is the host's, hostPort publishes a port",
    ),
    (&["version"], "--version"),
    (&["volume", "list"], "volume ls"),
    (&["volume", "remove"], "volume rm NAME"),
    (&["image", "build"], BUILD),
    (&["image", "import"], "image load FILE"),
    (&["image", "list"], "image ls"),
    (&["image", "mount"], "image unpack IMAGE DIR"),
    (&["image", "remove"], "image rm IMAGE"),
    (&["pod", "create"], "pod run IMAGE' or 'magikrun pod run -f FILE"),
    (&["pod", "apply"], "pod run --replace -f FILE"),
    (&["pod", "describe"], "pod status POD"),
    (&["pod", "get"], "pod ls"),
    (&["pod", "kill"], "pod stop -t 0 POD"),
    (&["pod", "list"], "pod ls"),
    (&["pod", "prune"], "system prune"),
    (&["pod", "start"], "pod run --replace -f FILE"),
];

/// Options of theirs: of which of our commands, and what to do.
const OPTIONS: &[(&str, &[&str], &str)] = &[
    (
        "image",
        &["-u", "--username"],
        "give --creds USER, or log in with 'magikrun login'",
    ),
    ("image", &["--arch", "--os"], "write --platform OS/ARCH"),
    (
        "image ls",
        &["-a", "--all", "--digests", "--no-trunc"],
        "-o json shows everything",
    ),
    ("image ls", &["-f", "--filter"], "pipe the list through grep"),
    ("image prune", &["-f", "--force"], NOT_ASKED),
    (
        "image rm",
        &["-f", "--force"],
        "delete the pods that use the image first",
    ),
    (
        "image rm",
        &["-a", "--all"],
        "'magikrun image prune --all' removes images that no pod uses",
    ),
    (
        "pod delete",
        &["--now", "--ignore-not-found", "-i", "--ignore"],
        "--force kills, and does not mind pods that do not exist",
    ),
    (
        "pod delete",
        &["--grace-period", "-t", "--time"],
        "'magikrun pod stop -t SECONDS POD' first, or --force",
    ),
    ("pod delete", &["-a"], "write --all"),
    (
        "pod delete",
        &["-v", "--volumes", "--wait", "--cascade"],
        "it is always so, leave it out",
    ),
    ("pod events", &["--until"], "pipe the events through grep"),
    ("pod events", &["-w", "--watch"], "write -f"),
    ("pod exec", &["-d", "--detach"], "end the line with '&'"),
    ("pod exec", &["--stdin"], "write -i or --interactive"),
    (
        "pod exec",
        &["--privileged"],
        "set securityContext in the manifest",
    ),
    (
        "pod logs",
        &["-p", "--previous"],
        "the log goes on when a container is restarted, leave it out",
    ),
    ("pod logs", &["--names"], "write --prefix"),
    ("pod logs", &["-l", "--selector"], SELECT),
    (
        "pod logs",
        &["--until", "--limit-bytes"],
        "pipe the log through head",
    ),
    (
        "pod ls",
        &["-a", "--all"],
        "pods that have ended are always listed, leave it out",
    ),
    (
        "pod ls",
        &["-w", "--watch"],
        "'magikrun pod events -f POD' follows a pod",
    ),
    (
        "pod ls",
        &["-f", "--filter", "--field-selector"],
        "-l chooses by labels",
    ),
    (
        "pod ls",
        &["--no-trunc", "--show-labels", "--sort-by"],
        "-o json shows everything",
    ),
    (
        "pod run",
        &["-i", "-t", "-it", "--interactive", "--tty", "--stdin"],
        "'magikrun pod exec -it POD -- sh' gives a terminal in a pod that runs",
    ),
    ("pod run", &["--recreate", "--force"], "write --replace"),
    (
        "pod run",
        &["--restart"],
        "a pod is run once; start it again from outside, as by a systemd unit",
    ),
    ("pod run", &["--net"], "write --network"),
    ("pod run", &["--image"], "write the image without it"),
    (
        "pod run",
        &["-k", "--kustomize", "-R", "--recursive"],
        "give one manifest with -f",
    ),
    (
        "pod stats",
        &["-a", "--all"],
        "without a name every pod that runs is shown, leave it out",
    ),
    (
        "pod status",
        &["-w", "--watch"],
        "'magikrun pod events -f POD' follows a pod",
    ),
    ("pod stop", &["-a", "--all", "-l", "--selector"], SELECT),
    ("pod stop", &["--grace-period", "--timeout"], "write -t SECONDS"),
    ("system prune", &["-f", "--force"], NOT_ASKED),
    (
        "system prune",
        &["--volumes"],
        "volumes go with their pods, leave it out",
    ),
];
const NOT_ASKED: &str = "nothing is asked before, leave it out";
const SELECT: &str = "name the pods; 'magikrun pod ls -q -l LABELS' finds them";

/// The answer to an option that `command`, such as `magikrun pod run`, does not have.
pub(crate) fn option(command: &str, option: &str) -> Option<String> {
    let ours = command.strip_prefix("magikrun ")?;
    let option = option.split('=').next().unwrap_or(option);
    let fits = |of: &str| {
        let rest = ours.strip_prefix(of);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    };
    let (_, _, what) = OPTIONS
        .iter()
        .find(|(of, options, _)| fits(of) && options.contains(&option))?;
    Some(format!("'{command}' has no option '{option}': {what}"))
}

/// The answer to a command that stands behind options which no command of ours has.
pub(crate) fn answer_behind_options<'a>(words: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let words: Vec<&str> = words.into_iter().collect();
    (0..words.len()).find_map(|from| answer(words[from..].iter().copied()))
}

/// The answer to a command line whose command does not exist here.
pub(crate) fn answer<'a>(words: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let words: Vec<&str> = words.into_iter().filter(|word| !word.starts_with('-')).collect();
    let known = HABITS.iter().filter(|(theirs, _)| words.starts_with(theirs));
    let (theirs, ours) = known.max_by_key(|(theirs, _)| theirs.len())?;
    let theirs = theirs.join(" ");
    Some(if ours.starts_with(char::is_uppercase) {
        format!("there is no command '{theirs}' here. {ours}")
    } else {
        format!("there is no command '{theirs}' here: 'magikrun {ours}' does that")
    })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _, error::ErrorKind};

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn no_habit_is_a_command_of_ours_and_every_answer_is_one() {
        for (theirs, ours) in HABITS {
            let words = std::iter::once("magikrun").chain(theirs.iter().copied());
            let error = Cli::try_parse_from(words).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidSubcommand, "{theirs:?}");
            if ours.starts_with(char::is_uppercase) || *ours == "--version" {
                continue;
            }
            for command in ours.split("magikrun ") {
                let mut of = &Cli::command();
                for word in command.split([' ', '\'']).take(2) {
                    let found = of.find_subcommand(word);
                    of = found.unwrap_or_else(|| panic!("{command}: there is no {word}"));
                }
            }
        }
    }

    #[test]
    fn the_longest_habit_answers_whatever_the_options() {
        assert_eq!(
            answer(["get", "-A", "pods"]).as_deref(),
            Some("there is no command 'get pods' here: 'magikrun pod ls' does that")
        );
        assert_eq!(
            answer(["kube", "down", "web.yaml"]).as_deref(),
            Some("there is no command 'kube down' here: 'magikrun pod delete --force -f FILE' does that")
        );
        assert!(answer(["build", "."]).is_some_and(|answer| answer.contains("buildah")));
        assert_eq!(answer(["frobnicate"]), None);
        let behind = answer_behind_options(["-n", "shop", "get", "pods"]);
        assert!(behind.is_some_and(|answer| answer.contains("'magikrun pod ls'")));
    }

    #[test]
    fn options_are_answered_of_the_command_that_has_them_there() {
        for (command, theirs, part) in [
            ("magikrun pod logs", "--previous", "leave it out"),
            ("magikrun pod stop", "--timeout=3", "write -t SECONDS"),
            ("magikrun image pull", "--username=me", "--creds"),
        ] {
            let answer = option(command, theirs).unwrap();
            assert!(
                answer.starts_with(&format!("'{command}' has no option")),
                "{answer}"
            );
            assert!(answer.contains(part), "{answer}");
        }
        assert_eq!(option("magikrun pod logs", "--replace"), None);
        assert_eq!(option("magikrun", "--replace"), None);
        // Every command that is named is one of ours.
        for (command, ..) in OPTIONS {
            let mut of = &Cli::command();
            for word in command.split(' ') {
                of = of.find_subcommand(word).unwrap_or_else(|| panic!("{command}"));
            }
        }
    }
}
