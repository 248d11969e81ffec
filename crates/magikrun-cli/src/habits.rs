//! What people type who know podman, docker or kubectl, and what does it here.

/// The answer to more than one of them.
const BUILD: &str =
    "Images are built by others: podman build, buildah or docker build; then 'magikrun image load'";

/// Words of theirs, and the answer: a command of ours, or, where it begins with a capital, a sentence.
const HABITS: &[(&[&str], &str)] = &[
    // kubectl
    (&["apply"], "pod run -f FILE"),
    (&["attach"], "pod attach POD"),
    (&["debug"], "pod exec -it POD -- sh"),
    (&["describe"], "pod status POD"),
    (&["get", "events"], "pod events POD"),
    (&["get", "po"], "pod ls"),
    (&["get", "pod"], "pod ls"),
    (&["get", "pods"], "pod ls"),
    (&["get"], "pod ls"),
    (&["logs"], "pod logs POD"),
    (&["port-forward"], "pod port-forward POD PORT"),
    (&["replace"], "pod run --replace -f FILE"),
    (&["rollout"], "pod restart POD"),
    (&["top"], "pod stats POD"),
    (&["wait"], "pod wait POD"),
    (&["config"], "system config"),
    // podman and docker
    (&["build"], BUILD),
    (&["commit"], BUILD),
    (&["diff"], "image diff IMAGE"),
    (&["history"], "image history IMAGE"),
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
    (&["stats"], "pod stats POD"),
    (&["stop"], "pod stop POD"),
    (&["tag"], "image tag IMAGE NAME"),
    (&["version"], "--version"),
    (&["image", "build"], BUILD),
    (&["image", "import"], "image load FILE"),
    (&["image", "list"], "image ls"),
    (&["image", "mount"], "image unpack IMAGE DIR"),
    (&["image", "remove"], "image rm IMAGE"),
    (&["pod", "create"], "pod run -f FILE"),
    (&["pod", "describe"], "pod status POD"),
    (&["pod", "kill"], "pod stop -t 0 POD"),
    (&["pod", "list"], "pod ls"),
    (&["pod", "prune"], "system prune"),
    (&["pod", "start"], "pod run -f FILE"),
    (&["pod", "top"], "pod exec POD -- ps"),
];

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
    }
}
