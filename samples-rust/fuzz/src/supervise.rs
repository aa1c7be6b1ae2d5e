// SPDX-License-Identifier: MIT OR Apache-2.0

//! The fuzzer runs in a child, so that somebody is there if it stands still itself.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::procfs;
use crate::sys;

/// It beats as long as the fuzzer goes on.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    beats: AtomicU64,
    step: AtomicU64,
}

/// Longer than any one system call of the fuzzer's may take.
const LIMIT: Duration = Duration::from_secs(120);

impl Pulse {
    fn shared() -> Option<&'static Self> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let page = sys::map(4096, prot, libc::MAP_SHARED)?;
        // SAFETY: a page of zeros that is never unmapped; both sides use atomics.
        Some(unsafe { &*(page as *const Self) })
    }

    pub(crate) fn beat(&self) {
        self.beats.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn step(&self, step: u64) {
        self.step.store(step, Ordering::SeqCst);
        self.beat();
    }
}

/// Runs `work` in a child, and returns its exit code; or, if it stands still or is
/// killed, the step that it was in, and why it went no further.
pub(crate) fn watched(
    work: impl FnOnce(&'static Pulse) -> ExitCode,
) -> Result<ExitCode, (u64, String)> {
    let Some(pulse) = Pulse::shared() else { return Ok(ExitCode::from(2)) };
    // SAFETY: there is one thread.
    let pid = unsafe { sys::fork() };
    if pid == 0 {
        // What ends in the tree comes here; and nothing is left if this is killed.
        sys::prctl(libc::PR_SET_CHILD_SUBREAPER as usize, 1, 0, 0);
        sys::prctl(libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize, 0, 0);
        sys::setsid();
        // The kernel sends it to a process group that is orphaned while a member is
        // stopped, and processes of the tree are in this one.
        // SAFETY: no handler is set.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
        return Ok(work(pulse));
    }
    if pid < 0 {
        return Ok(ExitCode::from(2));
    }
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        let (ended, status) = sys::wait_child(pid, libc::WNOHANG);
        if ended == pid {
            if libc::WIFSIGNALED(status) {
                let why = format!("the fuzzer died of signal {}", libc::WTERMSIG(status));
                return Err((pulse.step.load(Ordering::SeqCst), why));
            }
            return Ok(ExitCode::from(libc::WEXITSTATUS(status) as u8));
        }
        let beats = pulse.beats.load(Ordering::SeqCst);
        if beats != seen {
            (seen, since) = (beats, Instant::now());
        } else if since.elapsed() > LIMIT {
            eprintln!("fuzz: it stands still\n{}", procfs::dump());
            sys::kill(pid as usize, libc::SIGKILL as usize);
            let step = pulse.step.load(Ordering::SeqCst);
            return Err((step, "the fuzzer itself does not go on".into()));
        }
        sys::nap(50_000_000);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_is_told() {
        let (step, why) = watched(|pulse| {
            pulse.step(5);
            sys::kill(sys::getpid() as usize, libc::SIGKILL as usize);
            ExitCode::SUCCESS
        })
        .unwrap_err();
        assert_eq!((step, why.as_str()), (5, "the fuzzer died of signal 9"));
    }

    #[test]
    fn a_hangup_is_survived() {
        let code = watched(|_| {
            sys::kill(sys::getpid() as usize, libc::SIGHUP as usize);
            sys::exit_process(0)
        });
        assert!(code.is_ok(), "{code:?}");
    }

    #[test]
    fn pulses_are_shared() {
        let pulse = Pulse::shared().unwrap();
        // SAFETY: the child uses nothing that another thread may hold.
        let pid = unsafe { sys::fork() };
        if pid == 0 {
            pulse.step(9);
            sys::exit_process(0);
        }
        assert_eq!(sys::wait_child(pid, 0).0, pid);
        assert_eq!(pulse.step.load(Ordering::SeqCst), 9);
        assert_eq!(pulse.beats.load(Ordering::SeqCst), 1);
    }
}
