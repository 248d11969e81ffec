//! `pod top`.

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use magik_pri::Process;
use serde::Serialize;

use super::advise;
use crate::{
    output::{self, FormatArg},
    pod::backend,
    roots::GlobalArgs,
};

#[derive(Debug, clap::Args)]
pub(crate) struct TopArgs {
    /// Only this container [default: all that run]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Name, namespace/name, id or the start of an id
    pub(super) pod: String,
    #[command(flatten)]
    format: FormatArg,
}

/// A process, and the container it is in.
#[derive(Debug, Serialize)]
struct Row {
    container: String,
    #[serde(flatten)]
    process: Process,
}

pub(super) async fn run(global: &GlobalArgs, args: &TopArgs) -> Result<ExitCode> {
    let runtime = backend::pods(global)?;
    let pod = runtime.pod_status(&args.pod).await.map_err(advise)?;
    if let Some(named) = &args.container
        && pod.container(named).is_none()
    {
        let names: Vec<&str> = pod.all_containers().map(|c| c.name.as_str()).collect();
        let names = names.join(", ");
        return Err(anyhow!(
            "pod {}: there is no container {named:?}: it has {names}",
            args.pod
        ));
    }
    let mut rows = Vec::new();
    for (container, processes) in runtime.processes(&pod.id).await.map_err(advise)? {
        if args.container.as_ref().is_some_and(|named| *named != container) {
            continue;
        }
        let row = |process| Row {
            container: container.clone(),
            process,
        };
        rows.extend(processes.into_iter().map(row));
    }
    rows.sort_by(|a, b| (&a.container, a.process.pid).cmp(&(&b.container, b.process.pid)));
    if let Some(document) = args.format.document() {
        document.print(&rows)?;
    } else {
        let header = [
            "CONTAINER",
            "PID",
            "USER",
            "STATE",
            "CPU TIME",
            "MEMORY",
            "COMMAND",
        ];
        output::table(header, rows.into_iter().map(Row::columns))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Row {
    fn columns(self) -> [String; 7] {
        let Process {
            pid,
            uid,
            state,
            cpu_ms,
            rss,
            command,
        } = self.process;
        [
            self.container,
            pid.to_string(),
            uid.to_string(),
            state.to_string(),
            format!("{}.{:02}s", cpu_ms / 1000, cpu_ms % 1000 / 10),
            output::size(rss),
            command,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_flat_in_json_and_has_hundredths_of_seconds() {
        let row = Row {
            container: "c".to_owned(),
            process: Process {
                pid: 1,
                uid: 33,
                state: 'S',
                cpu_ms: 61_078,
                rss: 2 << 20,
                command: "nginx: master".to_owned(),
            },
        };
        let json = serde_json::to_value(&row).unwrap();
        assert_eq!(
            (&json["container"], &json["cpuMs"]),
            (&"c".into(), &61_078.into())
        );
        let columns = row.columns();
        assert_eq!(columns[4], "61.07s");
        assert_eq!(columns[6], "nginx: master");
    }
}
