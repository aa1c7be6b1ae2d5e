// SPDX-License-Identifier: MIT OR Apache-2.0

//! The handle of the root's replica, and which TIDs belong together.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};

use crate::error::{Error, Operation};
use crate::sys::TidPair;

/// The TIDs of all originals and their replicas.
///
/// The root's leader comes first, parents before their children, leaders before
/// their threads. Zombies have an entry too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TidMap {
    pairs: Vec<TidPair>,
}

impl TidMap {
    pub(crate) fn new(mut pairs: Vec<TidPair>) -> Self {
        let used = pairs.iter().position(|pair| pair.replica == 0).unwrap_or(pairs.len());
        pairs.truncate(used);
        Self { pairs }
    }

    /// All pairs, in the order of the kernel.
    #[must_use]
    pub fn pairs(&self) -> &[TidPair] {
        &self.pairs
    }

    /// The TID of the replica of a thread.
    #[must_use]
    pub fn replica_of(&self, original: u32) -> Option<u32> {
        self.pairs.iter().find(|pair| pair.original == original).map(|pair| pair.replica)
    }
}

/// The replica of the root, as its maker holds it.
///
/// Dropping it neither ends the replica nor waits for it.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    pidfd: OwnedFd,
    tid_map: TidMap,
}

/// What a replica did that its parent can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It ended, and was reaped.
    Ended(ExitStatus),
    /// It is stopped by this signal.
    Stopped(i32),
}

/// Children with any exit signal, those without one as well.
pub(crate) const ANY_EXIT_SIGNAL: WaitIdOptions = WaitIdOptions::from_bits_retain(0x4000_0000);

impl Child {
    pub(crate) fn new(pid: u32, pidfd: OwnedFd, tid_map: TidMap) -> Self {
        Self { pid, pidfd, tid_map }
    }

    /// Its PID, as the caller sees it.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// The TIDs, if [`Builder::tid_map`](crate::Builder::tid_map) asked for them.
    #[must_use]
    pub const fn tid_map(&self) -> &TidMap {
        &self.tid_map
    }

    /// Waits until it ends, and reaps it.
    pub fn wait(&self) -> Result<ExitStatus, Error> {
        loop {
            if let Some(Event::Ended(status)) = self.wait_id(WaitIdOptions::EXITED)? {
                return Ok(status);
            }
        }
    }

    /// The exit status if it has ended; it is reaped then.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>, Error> {
        match self.wait_id(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)? {
            Some(Event::Ended(status)) => Ok(Some(status)),
            _ => Ok(None),
        }
    }

    /// Waits until it stops or ends. A replica that was made
    /// [`stopped`](crate::Builder::stopped) can be waited for at once.
    pub fn wait_event(&self) -> Result<Event, Error> {
        loop {
            let options = WaitIdOptions::EXITED | WaitIdOptions::STOPPED;
            if let Some(event) = self.wait_id(options)? {
                return Ok(event);
            }
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        pidfd_send_signal(&self.pidfd, signal)
            .map_err(|errno| Error::new(Operation::Signal, errno.into()))
    }

    /// Lets a stopped replica go on.
    pub fn resume(&self) -> Result<(), Error> {
        self.signal(Signal::CONT)
    }

    /// Takes the pidfd out.
    #[must_use]
    pub fn into_pidfd(self) -> OwnedFd {
        self.pidfd
    }

    fn wait_id(&self, options: WaitIdOptions) -> Result<Option<Event>, Error> {
        loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), options | ANY_EXIT_SIGNAL) {
                Ok(status) => return Ok(status.as_ref().and_then(event)),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(Error::new(Operation::Wait, errno.into())),
            }
        }
    }
}

impl AsFd for Child {
    /// Its pidfd, to poll for its end.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

pub(crate) fn event(status: &WaitIdStatus) -> Option<Event> {
    const CORE_DUMPED: i32 = 0x80;
    if let Some(signal) = status.stopping_signal() {
        return Some(Event::Stopped(signal));
    }
    let raw = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code & 0xff) << 8,
        (_, Some(signal)) if status.dumped() => signal | CORE_DUMPED,
        (_, Some(signal)) => signal,
        _ => return None,
    };
    Some(Event::Ended(ExitStatus::from_raw(raw)))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    fn pair(original: u32, replica: u32) -> TidPair {
        TidPair { original, replica }
    }

    // It is waited for by the tests, through its pidfd.
    #[allow(clippy::zombie_processes)]
    fn child(script: &str) -> Child {
        let process = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let pid = Pid::from_child(&process);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        Child::new(process.id(), pidfd, TidMap::default())
    }

    #[test]
    fn a_map_ends_at_the_first_empty_entry() {
        let map = TidMap::new(vec![pair(5, 15), pair(6, 16), pair(0, 0)]);
        assert_eq!(map.pairs().len(), 2);
        assert_eq!(map.replica_of(6), Some(16));
        assert_eq!(map.replica_of(0), None);
    }

    #[test]
    fn originals_outside_of_the_pid_namespace_have_entries() {
        let map = TidMap::new(vec![pair(0, 15), pair(0, 16)]);
        assert_eq!(map.pairs().len(), 2);
    }

    #[test]
    fn tells_an_exit_status() {
        let child = child("exit 7");
        assert_eq!(child.wait().unwrap().code(), Some(7));
        assert_eq!(child.wait().unwrap_err().errno(), crate::Errno::ECHILD);
    }

    #[test]
    fn tells_a_stop_and_a_signal() {
        let child = child("kill -STOP $$; kill -TERM $$");
        assert_eq!(child.wait_event().unwrap(), Event::Stopped(libc::SIGSTOP));
        assert_eq!(child.try_wait().unwrap(), None);
        child.resume().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    }
}
