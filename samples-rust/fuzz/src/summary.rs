// SPDX-License-Identifier: MIT OR Apache-2.0

//! What was done, for people and for programs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::check::errno_name;

/// The numbers of a run; one object of JSON.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Summary {
    pub(crate) seed: u64,
    pub(crate) steps: u64,
    pub(crate) seconds: f64,
    /// Calls that returned, and of these those that made replicas.
    pub(crate) operations: u64,
    pub(crate) succeeded: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    /// Successes of which every task was compared with its original.
    pub(crate) shapes: u64,
    /// Calls whose caller was killed; that were not made, as it could not act.
    pub(crate) killed: u64,
    pub(crate) skipped: u64,
    pub(crate) actions: u64,
    /// Threads that moved into a child with `CLONE_SFORK`, and came back.
    pub(crate) sforks: u64,
    pub(crate) longest_call_ns: u64,
    /// Of the tracepoints `fullfork_release` and `fullfork_abort`.
    pub(crate) longest_stand_still_ns: u64,
    pub(crate) reasons: BTreeMap<String, u64>,
    /// Where the time went.
    pub(crate) milliseconds: BTreeMap<&'static str, u64>,
    pub(crate) hangs: u64,
    /// Tasks that were there after all were killed.
    pub(crate) leaks: u64,
    pub(crate) failures: Vec<Failed>,
}

/// A step that failed.
#[derive(Debug, Serialize)]
pub(crate) struct Failed {
    pub(crate) step: u64,
    pub(crate) why: String,
}

impl Summary {
    pub(crate) fn count(&mut self, returned: i64) {
        self.operations += 1;
        if returned >= 0 {
            self.succeeded += 1;
        } else {
            *self.errors.entry(errno_name(-returned as i32)).or_default() += 1;
        }
    }

    pub(crate) fn took(&mut self, time: Duration) {
        self.longest_call_ns = self.longest_call_ns.max(time.as_nanos() as u64);
    }

    pub(crate) fn spent(&mut self, what: &'static str, since: Instant) {
        let time = since.elapsed().as_millis() as u64;
        *self.milliseconds.entry(what).or_default() += time;
    }

    pub(crate) fn failed(&mut self, step: u64, why: &str) {
        let why = why.lines().next().unwrap_or_default().to_owned();
        self.leaks += u64::from(why.contains("do not end"));
        self.failures.push(Failed { step, why });
    }

    fn take_event(&mut self, line: &str) {
        let word = |key: &str| line.split_whitespace().find_map(|word| word.strip_prefix(key));
        if let Some(ns) = word("stood_still_ns=").and_then(|ns| ns.parse().ok()) {
            self.longest_stand_still_ns = self.longest_stand_still_ns.max(ns);
        }
        if let Some(reason) = word("reason=") {
            *self.reasons.entry(reason.to_owned()).or_default() += 1;
        }
    }
}

/// The events of the kernel, in a buffer of its own.
pub(crate) struct Trace {
    directory: PathBuf,
    /// Closed before the directory is removed.
    pipe: Option<File>,
    rest: String,
}

impl Trace {
    /// `None` where there are no such events.
    pub(crate) fn start() -> Option<Self> {
        let name = format!("fullfork-fuzz.{}", std::process::id());
        let directory = PathBuf::from("/sys/kernel/tracing/instances").join(name);
        fs::create_dir(&directory).ok()?;
        for event in ["fullfork_release", "fullfork_abort"] {
            let enable = directory.join("events/fullfork").join(event).join("enable");
            if fs::write(enable, "1").is_err() {
                let _ = fs::remove_dir(&directory);
                return None;
            }
        }
        let pipe = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(directory.join("trace_pipe"))
            .ok()?;
        Some(Self { directory, pipe: Some(pipe), rest: String::new() })
    }

    pub(crate) fn read(&mut self, summary: &mut Summary) {
        let mut buffer = [0; 8192];
        let Some(pipe) = &mut self.pipe else { return };
        while let Ok(n @ 1..) = pipe.read(&mut buffer) {
            self.rest += &String::from_utf8_lossy(&buffer[..n]);
            while let Some((line, rest)) = self.rest.split_once('\n') {
                summary.take_event(line);
                self.rest = rest.to_owned();
            }
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::write(self.directory.join("events/fullfork/enable"), "0");
        drop(self.pipe.take());
        let _ = fs::remove_dir(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events() {
        let mut summary = Summary::default();
        summary.take_event("  sh-1 [000] .. 1.5: fullfork_release: stood_still_ns=700");
        summary.take_event("  sh-1 [000] .. 1.5: fullfork_release: stood_still_ns=50");
        summary.take_event("  sh-1 [001] .. 1.6: fullfork_abort: err=-16 reason=timeout culprit=4");
        assert_eq!(summary.longest_stand_still_ns, 700);
        assert_eq!(summary.reasons["timeout"], 1);
    }

    #[test]
    fn counts() {
        let mut summary = Summary::default();
        for returned in [5, -22, -22, -16] {
            summary.count(returned);
        }
        assert_eq!((summary.operations, summary.succeeded), (4, 1));
        assert_eq!(summary.errors["EINVAL"], 2);
        summary.failed(3, "at the end: 2 tasks do not end\nand a dump");
        assert_eq!((summary.leaks, summary.failures.len()), (1, 1));
    }
}
