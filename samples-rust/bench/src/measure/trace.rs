// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the tracepoints say of a full fork: its phases, and how long the
//! originals stood still.

use std::fs;
use std::io;
use std::path::PathBuf;

const TRACING: &str = "/sys/kernel/tracing";

/// The time stamps of one full fork, in ticks, but for the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Phases {
    start: u64,
    quiesced: u64,
    commit: u64,
    release: u64,
    pub(crate) stood_still_ns: u64,
}

impl Phases {
    pub(crate) fn quiesce(&self) -> u64 {
        self.quiesced.saturating_sub(self.start)
    }

    pub(crate) fn prepare(&self) -> u64 {
        self.commit.saturating_sub(self.quiesced)
    }

    pub(crate) fn commit(&self) -> u64 {
        self.release.saturating_sub(self.commit)
    }
}

/// A trace instance that follows full forks, and ends with this value.
pub(crate) struct Trace {
    directory: PathBuf,
}

impl Trace {
    pub(crate) fn start() -> io::Result<Self> {
        let directory = PathBuf::from(format!("{TRACING}/instances/bench-{}", std::process::id()));
        fs::create_dir(&directory)?;
        let trace = Self { directory };
        trace.write("trace_clock", "x86-tsc")?;
        for event in ["start", "quiesced", "commit", "release"] {
            trace.write(&format!("events/fullfork/fullfork_{event}/enable"), "1")?;
        }
        Ok(trace)
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        fs::write(self.directory.join(file), text)
    }

    /// The one full fork since the last call.
    pub(crate) fn take(&self) -> io::Result<Phases> {
        let text = fs::read_to_string(self.directory.join("trace"))?;
        self.write("trace", "")?;
        parse(&text).ok_or_else(|| io::Error::other(format!("no full fork in this trace: {text}")))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // What is left of it disturbs nobody.
        let _ = fs::remove_dir(&self.directory);
    }
}

/// Lines are `comm-PID [CPU] flags TICKS: event: fields`.
fn parse(text: &str) -> Option<Phases> {
    let mut phases = Phases::default();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (head, rest) = line.split_once(": fullfork_")?;
        let ticks = head.rsplit(' ').next()?.parse().ok()?;
        match rest.split(':').next()? {
            "start" => phases.start = ticks,
            "quiesced" => phases.quiesced = ticks,
            "commit" => phases.commit = ticks,
            "release" => {
                phases.release = ticks;
                phases.stood_still_ns =
                    rest.rsplit("stood_still_ns=").next()?.trim().parse().ok()?;
            }
            _ => {}
        }
    }
    (phases.release > 0 && phases.start > 0).then_some(phases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_trace() {
        let text = "# tracer: nop\n#\n\
            bench-7 [000] ..... 1000: fullfork_start: flags=0x4000000000000000 nr_threads=8\n\
            bench-7 [000] ..... 1100: fullfork_quiesced: nr_members=8\n\
            bench-7 [000] ..... 1400: fullfork_commit: tgid=9 nr_members=8\n\
            bench-7 [000] ..... 1900: fullfork_release: stood_still_ns=880\n";
        let phases = parse(text).unwrap();
        assert_eq!((phases.quiesce(), phases.prepare(), phases.commit()), (100, 300, 500));
        assert_eq!(phases.stood_still_ns, 880);
    }

    #[test]
    fn an_abort_is_no_full_fork() {
        let text = "bench-7 [000] ..... 1000: fullfork_start: flags=0x0 nr_threads=8\n\
            bench-7 [000] ..... 1100: fullfork_abort: err=-11 reason=none culprit=0\n";
        assert_eq!(parse(text), None);
    }
}
