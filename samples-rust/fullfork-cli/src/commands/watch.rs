// SPDX-License-Identifier: MIT OR Apache-2.0

//! `fullfork watch`

use std::io::{self, IsTerminal, stderr};
use std::os::unix::net::UnixStream;

use fullfork::Flags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::args;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{BAD, GOOD, STRONG, count, duration, styled};
use crate::trace::{self, Instance, Operation, Outcome, Tracker};

/// How often is looked. A poll of `trace_pipe` would wait until its buffer is half
/// full.
const INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

pub(super) fn run(args: &args::Watch, context: &mut Context<'_>) -> Result<u8, Failure> {
    context.require(Flags::empty())?;
    // Before there is anything that has to be removed at the end.
    let stop = stop_signals().map_err(Failure::io("signals"))?;
    let mut instance = Instance::create()?;
    if stderr().is_terminal() {
        eprintln!("Watching; end with Ctrl-C.");
    }
    let mut tracker = Tracker::default();
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 && !has_stopped(&stop).map_err(Failure::io("signals"))? {
        let lines = instance.read().map_err(Failure::io("trace_pipe"))?;
        for operation in lines.iter().filter_map(|line| tracker.add(trace::parse(line)?)) {
            if left > 0 {
                tell(&operation, context)?;
                left -= 1;
            }
        }
    }
    Ok(0)
}

/// Becomes readable with a signal that is to end this.
fn stop_signals() -> io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
    }
    Ok(read)
}

fn has_stopped(stop: &UnixStream) -> io::Result<bool> {
    let mut fds = [PollFd::new(stop, PollFlags::IN)];
    match poll(&mut fds, Some(&INTERVAL)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn tell(operation: &Operation, context: &mut Context<'_>) -> Result<(), Failure> {
    if context.json { context.write_json(operation) } else { context.write_line(&text(operation)) }
}

fn text(operation: &Operation) -> String {
    let who = styled(STRONG, format!("{} {}", operation.comm, operation.caller));
    let time = operation.time;
    let flags = operation.flags.join("|");
    match &operation.outcome {
        Outcome::Done { original, replica, stood_still_ns } => {
            let pid = |pid: &Option<u32>| pid.map_or("?".to_owned(), |pid| pid.to_string());
            let tasks = count(operation.nr_members.unwrap_or(0) as usize, "task");
            let done = styled(GOOD, format!("{} -> {}", pid(original), pid(replica)));
            let still = duration(*stood_still_ns);
            format!("{time:.6} {who}: {done}, {tasks} stood still for {still}, {flags}")
        }
        Outcome::Failed { errno, reason, culprit } => {
            let failed = styled(BAD, format!("{errno} {reason}"));
            format!("{time:.6} {who}: {failed}, because of {culprit}, {flags}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(outcome: Outcome) -> String {
        let operation = Operation {
            caller: 9,
            comm: "sh".into(),
            time: 1.5,
            flags: vec!["CLONE_ALL_THREADS".into()],
            nr_members: Some(2),
            outcome,
        };
        anstream::adapter::strip_str(&text(&operation)).to_string()
    }

    #[test]
    fn says_how_long_the_originals_stood_still() {
        let done = Outcome::Done { original: Some(10), replica: Some(20), stood_still_ns: 830_000 };
        let expected = "1.500000 sh 9: 10 -> 20, 2 tasks stood still for 830 us, CLONE_ALL_THREADS";
        assert_eq!(plain(done), expected);
    }

    #[test]
    fn says_why_one_failed() {
        let failed =
            Outcome::Failed { errno: "EBUSY".into(), reason: "timeout".into(), culprit: 7 };
        let expected = "1.500000 sh 9: EBUSY timeout, because of 7, CLONE_ALL_THREADS";
        assert_eq!(plain(failed), expected);
    }

    #[test]
    fn a_signal_ends_it() {
        let stop = stop_signals().unwrap();
        assert!(!has_stopped(&stop).unwrap());
        signal_hook::low_level::raise(SIGHUP).unwrap();
        assert!(has_stopped(&stop).unwrap());
    }
}
