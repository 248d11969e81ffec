//! Calling an engine's command line.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// A command line with its global options.
#[derive(Debug)]
pub struct Client {
    program: String,
    globals: Vec<String>,
    environment: Vec<(String, String)>,
    /// Where a check may keep files.
    pub dir: PathBuf,
    names: AtomicUsize,
}

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    line: String,
    /// The exit code; 128 + n after signal n.
    pub exit: i32,
    /// Standard output, without the whitespace around it.
    pub stdout: String,
    /// Standard error, without the whitespace around it.
    pub stderr: String,
}

impl Client {
    /// A client of `program`.
    #[must_use]
    pub fn new(program: &str, globals: &[String], environment: &[(&str, String)], dir: PathBuf) -> Self {
        Self {
            program: program.to_owned(),
            globals: globals.to_vec(),
            environment: environment
                .iter()
                .map(|(k, v)| ((*k).to_owned(), v.clone()))
                .collect(),
            dir,
            names: AtomicUsize::new(0),
        }
    }

    /// A name nobody else has.
    pub fn name(&self) -> String {
        format!("c{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// A directory nobody else has.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn directory(&self) -> Result<String> {
        let path = self.dir.join(format!("d-{}", self.name()));
        std::fs::create_dir_all(&path)?;
        Ok(path.display().to_string())
    }

    /// The command of a line as a shell splits it into words; it is killed after a minute.
    ///
    /// # Panics
    /// If the line's quotes do not match.
    #[must_use]
    pub fn command(&self, line: &str) -> Command {
        let words = shlex::split(line).unwrap_or_else(|| panic!("quotes: {line}"));
        let mut command = Command::new("timeout");
        command
            .args(["--foreground", "-k", "1", "60", &self.program])
            .args(&self.globals)
            .args(words)
            // conmon leaves a file called "oom" where it was started.
            .current_dir(&self.dir);
        command
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null());
        // Where the caller's own engines would be looked for.
        command
            .env_remove("XDG_RUNTIME_DIR")
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_CONTEXT");
        command
    }

    /// Runs a line.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(&self, line: &str) -> Result<Outcome> {
        let output = self.command(line).output().with_context(|| line.to_owned())?;
        Ok(Outcome::new(line, &output))
    }

    /// Runs a line that must succeed, and returns its standard output.
    ///
    /// # Errors
    /// It fails.
    pub fn ok(&self, line: &str) -> Result<String> {
        Ok(self.run(line)?.code(0)?.stdout.clone())
    }

    /// Runs a line whose standard output must be `expected`.
    ///
    /// # Errors
    /// It fails, or says something else.
    pub fn says(&self, line: &str, expected: &str) -> Result<()> {
        self.run(line)?.code(0)?.is(expected).map(drop)
    }

    /// Runs a line that must end with an exit code.
    ///
    /// # Errors
    /// It ends with another.
    pub fn exits(&self, line: &str, code: i32) -> Result<Outcome> {
        let outcome = self.run(line)?;
        outcome.code(code)?;
        Ok(outcome)
    }

    /// Runs a line with something on standard input.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn input(&self, line: &str, input: &[u8]) -> Result<Outcome> {
        let mut command = self.command(line);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("spawn")?;
        // A command that does not read what it is given is judged by what it says.
        let _ = child.stdin.take().context("stdin")?.write_all(input);
        Ok(Outcome::new(line, &child.wait_with_output()?))
    }

    /// Runs a line on a terminal of 100 columns and 40 rows, and types something.
    ///
    /// # Errors
    /// There is no terminal, or it cannot be started.
    pub fn terminal(&self, line: &str, typed: &str) -> Result<Outcome> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let slave = File::options().read(true).write(true).open(name.to_str()?)?;
        let size = rustix::termios::Winsize {
            ws_row: 40,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&slave, size)?;
        let mut command = self.command(line);
        let mut child = command
            .stdin(slave.try_clone()?)
            .stdout(slave.try_clone()?)
            .stderr(slave.try_clone()?)
            .spawn()?;
        drop((command, slave));
        let mut master = File::from(master);
        let mut reader = master.try_clone()?;
        let reading = std::thread::spawn(move || {
            let mut text = Vec::new();
            // EIO, once nobody has the terminal open any more, is its end.
            let _ = reader.read_to_end(&mut text);
            text
        });
        master.write_all(typed.as_bytes())?;
        let status = child.wait()?;
        let stdout = reading.join().expect("reader");
        Ok(Outcome::new(
            line,
            &std::process::Output {
                status,
                stdout,
                stderr: Vec::new(),
            },
        ))
    }
}

impl Outcome {
    fn new(line: &str, output: &std::process::Output) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().replace('\r', "");
        Self {
            line: line.to_owned(),
            exit: output
                .status
                .code()
                .unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0)),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// It must have ended with this exit code.
    ///
    /// # Errors
    /// It did not.
    pub fn code(&self, code: i32) -> Result<&Self> {
        ensure!(
            self.exit == code,
            "`{}` ended with {}, not {code}: {:?} {:?}",
            self.line,
            self.exit,
            self.stdout,
            self.stderr
        );
        Ok(self)
    }

    /// It must have failed.
    ///
    /// # Errors
    /// It did not.
    pub fn failed(&self) -> Result<&Self> {
        ensure!(self.exit != 0, "`{}` did not fail: {:?}", self.line, self.stdout);
        Ok(self)
    }

    /// Standard output must be this.
    ///
    /// # Errors
    /// It is not.
    pub fn is(&self, expected: &str) -> Result<&Self> {
        ensure!(
            self.stdout == expected,
            "`{}` said {:?}, not {expected:?} ({:?})",
            self.line,
            self.stdout,
            self.stderr
        );
        Ok(self)
    }

    /// Standard output must hold this.
    ///
    /// # Errors
    /// It does not.
    pub fn has(&self, part: &str) -> Result<&Self> {
        ensure!(
            self.stdout.contains(part),
            "`{}` said {:?} without {part:?} ({:?})",
            self.line,
            self.stdout,
            self.stderr
        );
        Ok(self)
    }

    /// Standard error must hold this, in any case of letters.
    ///
    /// # Errors
    /// It does not.
    pub fn complains(&self, part: &str) -> Result<&Self> {
        let found = self.stderr.to_lowercase().contains(&part.to_lowercase());
        ensure!(
            found,
            "`{}` complained {:?} without {part:?}",
            self.line,
            self.stderr
        );
        Ok(self)
    }
}
