//! The comment at the head of a manifest: what it is about, and what must be seen when it runs.

use std::collections::{BTreeMap, BTreeSet};

use magik_pri::RuntimeClass;
use serde_json::Value;

/// What the comment at the head of a manifest says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// `on: CLASS, CLASS`: the kinds of pods that it is run as.
    pub on: BTreeSet<&'static str>,
    /// `before: COMMAND`: done on the host, before it is run.
    pub before: Vec<String>,
    /// `needs: COMMAND`: what must succeed on the host, else the manifest is skipped.
    pub needs: Vec<String>,
    /// `note: TEXT`: what is said of it while it runs. Nothing else may be said.
    pub notes: Vec<String>,
    /// `refused: TEXT`: it cannot be run, and that is said in these lines.
    pub refused: Vec<String>,
    /// `refused on CLASS: TEXT`: likewise, as another kind of pod.
    pub refused_on: BTreeMap<&'static str, Vec<String>>,
    /// What must be seen, one after the other.
    pub steps: Vec<Step>,
}

/// A line that says what must be seen, or what is done to see more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// `inside CONTAINER: SCRIPT => OUTPUT`: what a script writes that is run in a container.
    Inside(Place, String, String),
    /// `log CONTAINER => TEXT`: all that a container has written, sooner or later.
    Log(Place, String),
    /// `container CONTAINER: POINTER => VALUE`: of its status in a v1 Pod, sooner or later.
    Container(Place, String, Value),
    /// `status: POINTER => VALUE` or `status POD: …`: of the v1 Pod, sooner or later.
    Status(Option<String>, String, Value),
    /// `events: KIND CONTAINER, …`: what has happened in this order, with other things between.
    Events(Vec<String>),
    /// `host: COMMAND => OUTPUT`: what a command writes on the host.
    Host(String, String),
    /// `stop`: the pod is asked to end.
    Stop,
}

/// `CONTAINER`, or `POD/CONTAINER` where a manifest makes several pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The name of a pod; absent: the only one.
    pub pod: Option<String>,
    /// The name of a container.
    pub container: String,
}

impl Header {
    /// Reads the comment that a manifest begins with: a paragraph for people, then what must be
    /// seen, line by line. A line that begins with three spaces goes on with the one before it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(manifest: &str) -> Result<Self, String> {
        let comment = manifest.lines().map_while(|line| line.strip_prefix('#'));
        let mut lines = comment.skip_while(|line| !line.trim().is_empty());
        if lines.next().is_none() || !manifest.starts_with("# ") {
            return Err("begin with a comment that says what it shows, then a line of '#' alone".into());
        }
        let mut whole: Vec<String> = Vec::new();
        for line in lines.map(str::trim_end) {
            match (line.strip_prefix("   "), whole.last_mut()) {
                (Some(rest), Some(before)) => {
                    before.push(' ');
                    before.push_str(rest.trim_start());
                }
                _ => whole.push(line.trim_start().to_owned()),
            }
        }
        let mut header = Self::default();
        for line in whole.iter().filter(|line| !line.is_empty()) {
            header.line(line).map_err(|error| format!("{line:?}: {error}"))?;
        }
        header.check()
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        if line == "stop" {
            self.steps.push(Step::Stop);
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("log ") {
            let (place, text) = wanted(rest)?;
            self.steps.push(Step::Log(Place::parse(place)?, text));
            return Ok(());
        }
        let (key, rest) = line
            .split_once(": ")
            .ok_or("has no ': '; see tests/manifests/README.md")?;
        match key.split_once(' ').unwrap_or((key, "")) {
            ("on", "") => {
                for name in rest.split(", ") {
                    self.on.insert(class(name)?);
                }
            }
            ("before", "") => self.before.push(rest.to_owned()),
            ("needs", "") => self.needs.push(rest.to_owned()),
            ("note", "") => self.notes.push(rest.to_owned()),
            ("refused", "") => self.refused.push(rest.to_owned()),
            ("refused", on) => {
                let name = on.strip_prefix("on ").ok_or("write 'refused on CLASS'")?;
                let lines = self.refused_on.entry(class(name)?).or_default();
                lines.push(rest.to_owned());
            }
            ("inside", place) => {
                let (script, output) = wanted(rest)?;
                let place = Place::parse(place)?;
                self.steps.push(Step::Inside(place, script.to_owned(), output));
            }
            ("container", place) => {
                let (pointer, value) = pointer(rest)?;
                self.steps
                    .push(Step::Container(Place::parse(place)?, pointer, value));
            }
            ("status", pod) => {
                let (pointer, value) = pointer(rest)?;
                let pod = (!pod.is_empty()).then(|| pod.to_owned());
                self.steps.push(Step::Status(pod, pointer, value));
            }
            ("events", "") => {
                let events = rest.split(", ").map(str::to_owned);
                self.steps.push(Step::Events(events.collect()));
            }
            ("host", "") => {
                let (command, output) = wanted(rest)?;
                self.steps.push(Step::Host(command.to_owned(), output));
            }
            _ => return Err("is nothing that can be seen; see tests/manifests/README.md".into()),
        }
        Ok(())
    }

    fn check(self) -> Result<Self, String> {
        if self.on.is_empty() && self.refused_on.is_empty() {
            return Err("has no line 'on: native' or the like".into());
        }
        if self.refused_on.keys().any(|class| self.on.contains(class)) {
            return Err("is refused on what it is run on".into());
        }
        let looks = self.steps.iter().any(|step| *step != Step::Stop);
        match (looks, self.refused.is_empty()) {
            (true, false) => Err("is refused, so nothing is seen of it".into()),
            (false, true) if !self.on.is_empty() => {
                Err("says nothing of what must be seen: add 'inside CONTAINER: SCRIPT => OUTPUT'".into())
            }
            _ => Ok(self),
        }
    }
}

impl Place {
    fn parse(text: &str) -> Result<Self, String> {
        let (pod, container) = match text.rsplit_once('/') {
            Some((pod, container)) => (Some(pod.to_owned()), container),
            None => (None, text),
        };
        if container.is_empty() || container.contains(' ') {
            return Err(format!("{text:?} is no container"));
        }
        let container = container.to_owned();
        Ok(Self { pod, container })
    }
}

fn class(name: &str) -> Result<&'static str, String> {
    name.parse::<RuntimeClass>().map(RuntimeClass::as_str)
}

/// `WHAT => TEXT`; `\n` in the text is the end of a line.
fn wanted(text: &str) -> Result<(&str, String), String> {
    // Nothing at all is wanted where nothing stands after the arrow.
    let (what, text) = text
        .rsplit_once(" => ")
        .or_else(|| Some((text.strip_suffix(" =>")?, "")))
        .ok_or("has no ' => ' before what is wanted")?;
    Ok((what, text.replace("\\n", "\n")))
}

/// `POINTER => VALUE`; a value that is no JSON is text.
fn pointer(text: &str) -> Result<(String, Value), String> {
    let (pointer, value) = wanted(text)?;
    if !pointer.starts_with('/') {
        return Err(format!("{pointer:?} is no JSON pointer"));
    }
    let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
    Ok((pointer.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(container: &str) -> Place {
        Place::parse(container).unwrap()
    }

    #[test]
    fn a_header_is_read_line_by_line() {
        let header = Header::parse(
            "# What it shows,\n# in two lines.\n#\n# on: native, microvm\n# before: touch a\n\
             # inside c: echo a => b => a => b\n# inside p-0/c: true =>\n\
             # container c: /state/terminated/exitCode => 3\n# status: /status/phase => Running\n\
             # stop\n# log c => one\\ntwo\n\
             # events: container.started a,\n#    pod.ready\n# host: ls => x\n\
             # refused on wasm: spec.x: not supported: no\nkind: Pod\n# inside c: not a header\n",
        );
        let steps = vec![
            Step::Inside(place("c"), "echo a => b => a".into(), "b".into()),
            Step::Inside(place("p-0/c"), "true".into(), String::new()),
            Step::Container(place("c"), "/state/terminated/exitCode".into(), 3.into()),
            Step::Status(None, "/status/phase".into(), "Running".into()),
            Step::Stop,
            Step::Log(place("c"), "one\ntwo".into()),
            Step::Events(vec!["container.started a".into(), "pod.ready".into()]),
            Step::Host("ls".into(), "x".into()),
        ];
        let refused = "spec.x: not supported: no".to_owned();
        let expected = Header {
            on: BTreeSet::from(["native", "microvm"]),
            before: vec!["touch a".into()],
            needs: vec![],
            notes: vec![],
            refused: vec![],
            refused_on: BTreeMap::from([("wasm", vec![refused])]),
            steps,
        };
        assert_eq!(header, Ok(expected));
    }

    #[test]
    fn what_is_no_header_is_told() {
        for (lines, said) in [
            ("kind: Pod", "begin with a comment"),
            ("# about\nkind: Pod", "begin with a comment"),
            ("# about\n#\n# inside c: a => b", "no line 'on:"),
            ("# about\n#\n# on: native", "says nothing of what must be seen"),
            (
                "# about\n#\n# on: native\n# stop",
                "says nothing of what must be seen",
            ),
            ("# about\n#\n# on: gvisor\n# inside c: a => b", "gvisor"),
            ("# about\n#\n# on: native\n# inside c: a", "has no ' => '"),
            ("# about\n#\n# on: native\n# inside: a => b", "is no container"),
            ("# about\n#\n# on: native\n# status: a => b", "is no JSON pointer"),
            (
                "# about\n#\n# on: native\n# outside c: a => b",
                "is nothing that can be seen",
            ),
            ("# about\n#\n# on: native\n# stopp", "has no ': '"),
            (
                "# about\n#\n# on: native\n# refused: a\n# log c => b",
                "nothing is seen of it",
            ),
            (
                "# about\n#\n# on: native\n# refused on native: a\n# log c => b",
                "refused on what it is run on",
            ),
        ] {
            let error = Header::parse(lines).unwrap_err();
            assert!(error.contains(said), "{lines:?}: {error}");
        }
    }
}
