//! Looks at pods that run, to see what their manifests' headers say.

use std::{
    io::Read as _,
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::header::{Place, Step};
use crate::Magikrun;

/// How long what happens sooner or later may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The pods of a manifest that runs, or of several that were made into one.
#[derive(Debug)]
pub(super) struct Look<'a> {
    pub(super) magikrun: &'a Magikrun,
    /// The name of the pod, where there is one, and its id.
    pub(super) pod: &'a str,
    pub(super) id: &'a str,
    /// What stands before the names of this manifest's containers, as in `NAME-`.
    pub(super) prefix: &'a str,
}

impl Look<'_> {
    /// Sees whether a step is as the header says.
    ///
    /// # Errors
    /// What is seen instead.
    pub(super) fn check(&self, step: &Step) -> Result<(), String> {
        match step {
            Step::Inside(place, script, output) => {
                let (pod, container) = self.find(place);
                let words = ["pod", "exec", "-c", &container, pod, "--", "busybox"];
                let out = self
                    .magikrun
                    .run(&[&words[..], &["sh", "-c", script.as_str()]].concat());
                let said = out.stdout.strip_suffix('\n').unwrap_or(&out.stdout);
                if out.code == 0 && said == self.fill(output) {
                    return Ok(());
                }
                let error = out.stderr.trim_end();
                Err(format!("writes {said:?}, exit code {}, {error:?}", out.code))
            }
            Step::Log(place, text) => {
                let (pod, container) = self.find(place);
                let wanted = self.fill(text);
                let wanted = wanted.strip_suffix('\n').unwrap_or(&wanted).to_owned();
                sooner_or_later(&Value::String(wanted), || {
                    let log = self.log(pod, &container).expect("a log");
                    Value::String(log.strip_suffix('\n').unwrap_or(&log).to_owned())
                })
            }
            Step::Container(place, pointer, value) => {
                let (pod, container) = self.find(place);
                sooner_or_later(value, || self.of_container(pod, &container, pointer))
            }
            Step::Status(pod, pointer, value) => {
                let pod = pod.as_deref().unwrap_or(self.id);
                let value = value
                    .as_str()
                    .map_or(value.clone(), |text| self.fill(text).into());
                sooner_or_later(&value, || {
                    self.v1(pod).pointer(pointer).cloned().unwrap_or_default()
                })
            }
            Step::Events(events) => self.events(events),
            Step::Host(command, output) => {
                let said = shell(command)?;
                (said == self.fill(output))
                    .then_some(())
                    .ok_or_else(|| format!("writes {said:?}"))
            }
            Step::Stop => {
                self.magikrun.ok(&["pod", "stop", self.id]);
                Ok(())
            }
        }
    }

    /// Both streams, in the order in which they were written.
    fn log(&self, pod: &str, container: &str) -> std::io::Result<String> {
        let (mut reader, writer) = std::io::pipe()?;
        let mut command = self.magikrun.command(&["pod", "logs", "-c", container, pod]);
        let mut child = command.stdout(writer.try_clone()?).stderr(writer).spawn()?;
        // It has the ends that are written to.
        drop(command);
        let mut log = String::new();
        reader.read_to_string(&mut log)?;
        child.wait().map(|_| log)
    }

    fn find<'b>(&'b self, place: &'b Place) -> (&'b str, String) {
        let pod = place.pod.as_deref().unwrap_or(self.id);
        (pod, format!("{}{}", self.prefix, place.container))
    }

    /// What a header cannot know: `{pod}`, `{id}` and `{node}`.
    fn fill(&self, text: &str) -> String {
        let node = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .to_lowercase();
        text.replace("{pod}", self.pod)
            .replace("{id}", self.id)
            .replace("{node}", &node)
    }

    fn v1(&self, pod: &str) -> Value {
        let out = self.magikrun.ok(&["pod", "status", "-o", "json", pod]);
        serde_json::from_str(&out).expect("a pod in JSON")
    }

    fn of_container(&self, pod: &str, container: &str, pointer: &str) -> Value {
        let status = &self.v1(pod)["status"];
        let lists = ["initContainerStatuses", "containerStatuses"];
        let mut all = lists
            .iter()
            .flat_map(|list| status[list].as_array().into_iter().flatten());
        let found = all.find(|status| status["name"] == container);
        let found = found.unwrap_or_else(|| panic!("there is no container {container}"));
        found.pointer(pointer).cloned().unwrap_or_default()
    }

    fn events(&self, wanted: &[String]) -> Result<(), String> {
        let mut said = String::new();
        let missing = || {
            let out = self.magikrun.ok(&["pod", "events", "--format", "json", self.id]);
            let all: Vec<String> = out.lines().filter_map(|line| self.event(line)).collect();
            let mut left = all.iter();
            let missing = wanted
                .iter()
                .filter(|event| !left.any(|found| found == *event))
                .count();
            said = all.join(", ");
            missing.into()
        };
        sooner_or_later(&0.into(), missing).map_err(|_| said)
    }

    /// `KIND` or `KIND CONTAINER`, if it is about this manifest's pod.
    fn event(&self, line: &str) -> Option<String> {
        let event: Value = serde_json::from_str(line).expect("an event in JSON");
        let kind = event["kind"].as_str().expect("an event's kind");
        match event["container"].as_str() {
            Some(container) => Some(format!("{kind} {}", container.strip_prefix(self.prefix)?)),
            None => Some(kind.to_owned()),
        }
    }
}

/// What a command writes on the host, in the directory that is there for manifests.
pub(super) fn shell(command: &str) -> Result<String, String> {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(Path::new(super::HOST));
    let out = shell.output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&out.stdout);
    let said = said.strip_suffix('\n').unwrap_or(&said).to_owned();
    if out.status.success() {
        return Ok(said);
    }
    let error = String::from_utf8_lossy(&out.stderr);
    Err(format!("{}, {said:?}, {:?}", out.status, error.trim_end()))
}

/// Looks again until it is what is wanted.
fn sooner_or_later(wanted: &Value, mut look: impl FnMut() -> Value) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let seen = look();
        if seen == *wanted {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("is {seen}"));
        }
        sleep(Duration::from_millis(50));
    }
}
