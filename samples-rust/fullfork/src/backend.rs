// SPDX-License-Identifier: MIT OR Apache-2.0

//! What answers: the kernel, or in unit tests something that plays it.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};

use crate::sys::{
    self, BAD_ADDRESS, CloneArgs, ProcessEntry, SnapshotArgs, SnapshotEntry, SpawnArgs, TidPair,
};
use crate::{Errno, Flags};

/// Where the driver has its device.
pub const DEVICE: &str = "/dev/rust-fullfork";

/// One call for a full fork.
#[derive(Debug)]
pub struct Request<'a> {
    /// All flags but [`Flags::PIDFD`] and [`Flags::FROM_PIDFD`], which follow
    /// from the rest.
    pub flags: Flags,
    /// What tells the parent of the end of the replica, or 0.
    pub exit_signal: u32,
    /// The process to copy, if it is not the caller's own.
    pub source: Option<BorrowedFd<'a>>,
    /// Room for the TIDs of originals and replicas.
    pub tid_map: Option<&'a mut [TidPair]>,
}

/// Who returns from a full fork.
#[derive(Debug)]
pub enum Reply {
    /// The replica of the caller.
    Replica,
    /// The caller.
    Original {
        /// PID of the root's replica.
        pid: u32,
        /// A pidfd of it.
        pidfd: OwnedFd,
    },
}

/// What answers the calls of this crate, from any number of threads.
pub trait Backend: Sync {
    /// Makes a full fork.
    ///
    /// # Safety
    ///
    /// If the request can copy the calling process, the caller keeps what
    /// [`Builder::fork`](crate::Builder::fork) demands.
    unsafe fn full_fork(&self, request: Request<'_>) -> Result<Reply, Errno>;

    /// The answer to a call with `flags` that cannot succeed: see
    /// [`Support::probe`](crate::Support::probe).
    fn probe(&self, flags: Flags) -> Errno;

    /// Opens the snapshot device.
    fn open_device(&self) -> Result<OwnedFd, Errno>;

    /// Takes a snapshot.
    fn snapshot(&self, device: BorrowedFd<'_>, args: &mut SnapshotArgs) -> Result<(), Errno>;

    /// Spawns a copy and returns its pidfd; the PID is in `args`.
    fn spawn(&self, device: BorrowedFd<'_>, args: &mut SpawnArgs) -> Result<OwnedFd, Errno>;

    /// Writes the snapshots that fit, and returns how many there are.
    fn list(&self, device: BorrowedFd<'_>, entries: &mut [SnapshotEntry]) -> Result<u32, Errno>;

    /// Writes the processes of a snapshot that fit, and returns how many there are.
    fn processes(
        &self,
        device: BorrowedFd<'_>,
        id: u32,
        entries: &mut [ProcessEntry],
    ) -> Result<u32, Errno>;

    /// Drops a snapshot.
    fn drop_snapshot(&self, device: BorrowedFd<'_>, id: u32) -> Result<(), Errno>;
}

/// The running kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl Backend for Kernel {
    unsafe fn full_fork(&self, request: Request<'_>) -> Result<Reply, Errno> {
        let mut pidfd = -1_i32;
        let args = clone_args(request, &mut pidfd);
        // SAFETY: the addresses are those of `pidfd` and of the map, which the
        // request borrows; the rest is promised by the caller.
        match unsafe { sys::clone3(&args) }? {
            0 => Ok(Reply::Replica),
            pid => {
                // SAFETY: the call succeeded, so it has put a new pidfd there.
                let pidfd = unsafe { sys::own_fd(pidfd) };
                Ok(Reply::Original { pid, pidfd })
            }
        }
    }

    fn probe(&self, flags: Flags) -> Errno {
        let args = probe_args(flags);
        // SAFETY: the only address is one that the kernel cannot write to,
        // which no call survives. So no process is ever made.
        match unsafe { sys::clone3(&args) } {
            Err(errno) => errno,
            // Which process this is, and who its parent, nobody can say now.
            Ok(_) => std::process::abort(),
        }
    }

    fn open_device(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
        Ok(open(DEVICE, flags, Mode::empty())?)
    }

    fn snapshot(&self, device: BorrowedFd<'_>, args: &mut SnapshotArgs) -> Result<(), Errno> {
        sys::snapshot(device, args)
    }

    fn spawn(&self, device: BorrowedFd<'_>, args: &mut SpawnArgs) -> Result<OwnedFd, Errno> {
        sys::spawn(device, args)?;
        // SAFETY: the call succeeded, so it has put a new pidfd there.
        Ok(unsafe { sys::own_fd(args.pidfd) })
    }

    fn list(&self, device: BorrowedFd<'_>, entries: &mut [SnapshotEntry]) -> Result<u32, Errno> {
        sys::list_snapshots(device, entries)
    }

    fn processes(
        &self,
        device: BorrowedFd<'_>,
        id: u32,
        entries: &mut [ProcessEntry],
    ) -> Result<u32, Errno> {
        sys::list_processes(device, id, entries)
    }

    fn drop_snapshot(&self, device: BorrowedFd<'_>, id: u32) -> Result<(), Errno> {
        sys::drop_snapshot(device, id)
    }
}

fn clone_args(request: Request<'_>, pidfd: &mut i32) -> CloneArgs {
    let mut args = CloneArgs {
        flags: (request.flags | Flags::PIDFD).bits(),
        pidfd: std::ptr::from_mut(pidfd) as u64,
        exit_signal: u64::from(request.exit_signal),
        ..CloneArgs::default()
    };
    if let Some(source) = request.source {
        args.flags |= Flags::FROM_PIDFD.bits();
        args.source_pidfd = u64::from(source.as_raw_fd().unsigned_abs());
    }
    if let Some(map) = request.tid_map {
        args.tid_map = map.as_mut_ptr() as u64;
        args.tid_map_size = map.len() as u64;
    }
    args
}

/// Two mistakes: a TID map that has a size and no address, which a kernel with
/// full fork sees before it looks at any process; and a pidfd that cannot be
/// written, for kernels that would give these bits another meaning one day.
fn probe_args(flags: Flags) -> CloneArgs {
    let mut args = CloneArgs {
        flags: (flags | Flags::PIDFD).bits(),
        pidfd: BAD_ADDRESS,
        ..CloneArgs::default()
    };
    if flags.contains(Flags::SFORK) {
        // It is a flag for vfork(), which has no TID map.
        args.flags |= u64::from((libc::CLONE_VM | libc::CLONE_VFORK).unsigned_abs());
    } else {
        args.tid_map_size = 1;
    }
    args
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_request_for_the_own_process_has_no_source() {
        let mut pidfd = -1;
        let request =
            Request { flags: Flags::ALL_THREADS, exit_signal: 17, source: None, tid_map: None };
        let args = clone_args(request, &mut pidfd);
        assert_eq!(args.flags, (Flags::ALL_THREADS | Flags::PIDFD).bits());
        assert_eq!((args.source_pidfd, args.tid_map, args.tid_map_size), (0, 0, 0));
        assert_eq!(args.exit_signal, 17);
    }

    #[test]
    fn a_source_brings_its_flag() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let (mut pidfd, mut map) = (-1, [TidPair::default(); 3]);
        let request = Request {
            flags: Flags::ALL_THREADS,
            exit_signal: 0,
            source: Some(file.as_fd()),
            tid_map: Some(&mut map),
        };
        let args = clone_args(request, &mut pidfd);
        assert_ne!(args.flags & Flags::FROM_PIDFD.bits(), 0);
        assert_eq!(args.source_pidfd, u64::from(file.as_raw_fd().unsigned_abs()));
        assert_eq!(args.tid_map_size, 3);
    }

    #[test]
    fn every_probe_has_a_result_that_cannot_be_written() {
        for flag in Flags::all().iter() {
            let args = probe_args(Flags::ALL_THREADS | flag);
            assert_ne!(args.flags & Flags::PIDFD.bits(), 0);
            assert_eq!(args.pidfd, BAD_ADDRESS);
            assert_eq!(args.tid_map, 0);
        }
    }

    #[test]
    fn a_probe_of_this_machine_makes_no_process() {
        let children = || std::fs::read_to_string("/proc/thread-self/children").ok();
        let before = children();
        for flags in [Flags::ALL_THREADS, Flags::SUBTREE, Flags::SFORK] {
            assert_ne!(Kernel.probe(flags).number(), 0);
        }
        assert_eq!(children(), before);
    }
}
