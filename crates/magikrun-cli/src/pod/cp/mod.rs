//! `pod cp`: a tar archive through `tar` in the container.

mod fetch;
mod pack;
mod pipe;
mod place;
mod send;
mod session;

use std::{process::ExitCode, slice};

use anyhow::{Result, anyhow};
use clap::builder::{OsStringValueParser, TypedValueParser as _};

use self::{place::Place, session::Remote};
use crate::{failure, output, pod::backend, roots::GlobalArgs};

pub(crate) const EXAMPLE: &str = "\
Examples: magikrun pod cp ./site web:/usr/share/nginx/html
          magikrun pod cp -c redis shop/web:/data/dump.rdb .
          magikrun pod cp web:/etc - | tar -t
The container needs the program tar.";

#[derive(Debug, clap::Args)]
pub(crate) struct CpArgs {
    /// The container [default: the pod's default-container annotation, else the first]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// What is copied: POD:PATH, a path here (DIR/.: what is in DIR), or - for an archive on stdin
    #[arg(value_name = "[POD:]FROM", value_parser = OsStringValueParser::new().try_map(Place::parse))]
    from: Place,
    /// Where to: a directory that exists, or a new name; - for an archive (tar) on stdout
    #[arg(value_name = "[POD:]TO", value_parser = OsStringValueParser::new().try_map(Place::parse))]
    to: Place,
}

impl CpArgs {
    /// The pod that is named.
    pub(super) fn pods(&mut self) -> &mut [String] {
        match (&mut self.from, &mut self.to) {
            (Place::Pod(place), _) | (_, Place::Pod(place)) => slice::from_mut(&mut place.pod),
            _ => &mut [],
        }
    }
}

pub(super) async fn run(global: &GlobalArgs, args: &CpArgs) -> Result<ExitCode> {
    let place = match (&args.from, &args.to) {
        (Place::Pod(from), Place::Pod(to)) => {
            let by = format!("magikrun pod cp {from} - | magikrun pod cp - {to}");
            return Err(misused(&format!(
                "copies from pod to pod go through here: '{by}'"
            )));
        }
        (Place::Pod(place), _) | (_, Place::Pod(place)) => place,
        _ => return Err(misused("name the pod, as in POD:PATH")),
    };
    let runtime = backend::pods(global)?;
    let remote = Remote::find(runtime.as_ref(), &place.pod, args.container.as_deref()).await?;
    let skipped = match (&args.from, &args.to) {
        (Place::Pod(from), Place::Host(to)) => {
            fetch::to_host(&remote, from, to, global.images.limits()).await?
        }
        (Place::Pod(from), _) => fetch::to_stdout(&remote, from).await?,
        (Place::Host(from), Place::Pod(to)) => send::from_host(&remote, from, to).await?,
        (_, Place::Pod(to)) => send::from_stdin(&remote, to).await?,
        _ => 0,
    };
    if skipped > 0 {
        output::note(&format!(
            "warning: {skipped} left out: sockets, pipes, devices and links that lead out of the copy are not copied"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// An error of the command line.
fn misused(text: &str) -> anyhow::Error {
    failure::with_code(failure::USAGE, anyhow!("pod cp: {text}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::Cli;

    #[test]
    fn a_copy_has_two_ends_that_make_sense() {
        let parsed = |args: &[&str]| Cli::try_parse_from([&["magikrun", "pod", "cp"], args].concat());
        assert!(parsed(&["web:/etc/hosts", "."]).is_ok());
        assert!(parsed(&["-c", "c", "-", "shop/web:/tmp"]).is_ok());
        for wrong in [&["web:/etc/hosts"][..], &["web:", "."], &["", "web:/x"]] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }
}
