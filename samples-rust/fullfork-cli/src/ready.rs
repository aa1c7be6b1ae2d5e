// SPDX-License-Identifier: MIT OR Apache-2.0

//! When a program that was started counts as ready.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use regex_lite::Regex;

use crate::args;
use crate::procfs::Proc;

/// How often is looked for what cannot be waited for.
const INTERVAL: Duration = Duration::from_millis(10);
/// How long a program must sleep to count as one that waits for work.
const ASLEEP: Duration = Duration::from_millis(300);

/// When a program counts as ready.
#[derive(Clone, Debug)]
pub(crate) enum Rule {
    After(Duration),
    Line(Regex),
    File(PathBuf),
    Port(u16),
    /// All its threads sleep.
    Asleep,
}

impl Rule {
    /// At most one is set: the command line demands it.
    pub(crate) fn new(args: &args::Ready) -> Self {
        if let Some(regex) = &args.ready_line {
            Self::Line(regex.clone())
        } else if let Some(path) = &args.ready_file {
            Self::File(path.clone())
        } else if let Some(port) = args.ready_port {
            Self::Port(port)
        } else if let Some(time) = args.ready_after {
            Self::After(time)
        } else {
            Self::Asleep
        }
    }

    /// Is standard output to go through this command?
    pub(crate) const fn reads_output(&self) -> bool {
        matches!(self, Self::Line(_))
    }

    /// Waits until `program` is ready, or says why it is not.
    pub(crate) fn wait(
        &self,
        program: &mut Child,
        lines: Option<&Lines>,
        timeout: Duration,
    ) -> Result<(), String> {
        let start = Instant::now();
        let mut awake = start;
        loop {
            if matches!(self, Self::Asleep) && !all_sleep(program.id()) {
                awake = Instant::now();
            }
            if self.is_met(start, awake, lines) {
                return Ok(());
            }
            match program.try_wait() {
                Ok(None) => {}
                // What it wrote last may still be on its way.
                Ok(Some(_)) if lines.is_some_and(Lines::wait_for_match) => return Ok(()),
                Ok(Some(status)) => return Err(format!("it ended: {status}")),
                Err(error) => return Err(error.to_string()),
            }
            if start.elapsed() >= timeout {
                return Err(format!("{timeout:?} have passed"));
            }
            self.pause(start, lines);
        }
    }

    fn is_met(&self, start: Instant, awake: Instant, lines: Option<&Lines>) -> bool {
        match self {
            Self::Asleep => awake.elapsed() >= ASLEEP,
            Self::After(time) => start.elapsed() >= *time,
            Self::Line(_) => lines.is_some_and(Lines::has_matched),
            Self::File(path) => path.exists(),
            Self::Port(port) => TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).is_ok(),
        }
    }

    fn pause(&self, start: Instant, lines: Option<&Lines>) {
        match (self, lines) {
            (Self::After(time), _) => {
                thread::sleep(time.saturating_sub(start.elapsed()).min(INTERVAL));
            }
            (Self::Line(_), Some(lines)) => lines.pause(),
            _ => thread::sleep(INTERVAL),
        }
    }
}

/// A process that is gone does not sleep.
fn all_sleep(pid: u32) -> bool {
    Proc::system()
        .process(pid)
        .is_ok_and(|process| process.threads.iter().all(|thread| thread.state == 'S'))
}

/// Passes on what a program writes, and looks for a line.
#[derive(Debug)]
pub(crate) struct Lines {
    matched: Receiver<()>,
    seen: std::cell::Cell<bool>,
    thread: JoinHandle<io::Result<()>>,
}

impl Lines {
    pub(crate) fn pass_on(
        from: impl Read + Send + 'static,
        to: impl Write + Send + 'static,
        regex: Regex,
    ) -> Self {
        let (sender, matched) = channel();
        let thread = thread::spawn(move || pass_on(from, to, &regex, &sender));
        Self { matched, seen: std::cell::Cell::new(false), thread }
    }

    /// Until the program and all copies have closed it.
    pub(crate) fn join(self) -> io::Result<()> {
        self.thread.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    }

    fn has_matched(&self) -> bool {
        self.seen.get() || self.note(self.matched.try_recv().is_ok())
    }

    fn pause(&self) {
        self.note(self.matched.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout));
    }

    /// Waits until a line has matched, or no line comes any more.
    fn wait_for_match(&self) -> bool {
        self.seen.get() || self.note(self.matched.recv_timeout(Duration::from_secs(1)).is_ok())
    }

    fn note(&self, seen: bool) -> bool {
        self.seen.set(self.seen.get() || seen);
        seen
    }
}

fn pass_on(
    from: impl Read,
    mut to: impl Write,
    regex: &Regex,
    matched: &Sender<()>,
) -> io::Result<()> {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? > 0 {
        to.write_all(&line)?;
        to.flush()?;
        if regex.is_match(String::from_utf8_lossy(&line).trim_end_matches('\n')) {
            // Nobody listens any more if it is not the first.
            let _ = matched.send(());
        }
        line.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn wait(rule: &Rule, script: &str, timeout: Duration) -> Result<(), String> {
        let mut program = Command::new("sh");
        program.args(["-c", script]).stdout(Stdio::piped());
        let mut program = program.spawn().unwrap();
        let lines = match rule {
            Rule::Line(regex) => {
                let output = program.stdout.take().unwrap();
                Some(Lines::pass_on(output, io::sink(), regex.clone()))
            }
            _ => None,
        };
        let result = rule.wait(&mut program, lines.as_ref(), timeout);
        let _ = program.kill();
        program.wait().unwrap();
        result
    }

    #[test]
    fn a_line_makes_it_ready() {
        let rule = Rule::Line(Regex::new("^Ready to .* connections$").unwrap());
        assert_eq!(wait(&rule, "echo x; echo Ready to accept connections; sleep 9", LONG), Ok(()));
    }

    #[test]
    fn the_last_line_of_a_program_counts() {
        let rule = Rule::Line(Regex::new("ready").unwrap());
        assert_eq!(wait(&rule, "echo ready", LONG), Ok(()));
    }

    #[test]
    fn a_program_that_ends_is_not_ready() {
        let rule = Rule::File("/nowhere".into());
        assert!(wait(&rule, "exit 3", LONG).unwrap_err().contains("exit status: 3"));
    }

    #[test]
    fn a_program_has_only_so_long() {
        let rule = Rule::File("/nowhere".into());
        let why = wait(&rule, "sleep 9", Duration::from_millis(30)).unwrap_err();
        assert!(why.contains("passed"));
    }

    #[test]
    fn a_file_makes_it_ready() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let script = format!("echo $$ >{}; sleep 9", file.display());
        assert_eq!(wait(&Rule::File(file), &script, LONG), Ok(()));
    }

    #[test]
    fn a_port_makes_it_ready() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let rule = Rule::Port(listener.local_addr().unwrap().port());
        assert_eq!(wait(&rule, "sleep 9", LONG), Ok(()));
    }

    #[test]
    fn a_program_that_sleeps_is_ready() {
        let start = Instant::now();
        assert_eq!(wait(&Rule::Asleep, "exec sleep 30", LONG), Ok(()));
        assert!(start.elapsed() >= ASLEEP);
    }

    #[test]
    fn a_program_that_works_does_not_sleep() {
        let timeout = ASLEEP * 3;
        let why = wait(&Rule::Asleep, "while :; do :; done", timeout).unwrap_err();
        assert!(why.contains("passed"));
        assert!(wait(&Rule::Asleep, "exit 0", LONG).unwrap_err().contains("ended"));
    }

    #[test]
    fn time_makes_it_ready() {
        assert_eq!(wait(&Rule::After(Duration::from_millis(20)), "sleep 9", LONG), Ok(()));
    }
}
