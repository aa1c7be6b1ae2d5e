// SPDX-License-Identifier: MIT OR Apache-2.0

//! A backend that plays a kernel, for unit tests on any machine.

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::backend::{Backend, Reply, Request};
use crate::sys::{ProcessEntry, SnapshotArgs, SnapshotEntry, SpawnArgs, TidPair};
use crate::{Errno, Flags};

/// One full fork that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Flags without those that follow from the rest.
    pub flags: Flags,
    /// The exit signal.
    pub exit_signal: u32,
    /// Whether it was from outside.
    pub from_pidfd: bool,
    /// Room in the TID map.
    pub room: usize,
}

/// Plays a kernel. Originals have TIDs from 100 on, replicas from 1000 on.
#[derive(Debug)]
pub struct Mock {
    known: Flags,
    threads: u32,
    error: Option<Errno>,
    replica: AtomicBool,
    calls: Mutex<Vec<Call>>,
    snapshots: Mutex<Vec<SnapshotEntry>>,
    next_id: AtomicU32,
}

const ORIGINALS: u32 = 100;
const REPLICAS: u32 = 1000;

impl Default for Mock {
    fn default() -> Self {
        Self::new()
    }
}

impl Mock {
    /// A kernel with full fork.
    #[must_use]
    pub fn new() -> Self {
        Self {
            known: Flags::all(),
            threads: 1,
            error: None,
            replica: AtomicBool::new(false),
            calls: Mutex::default(),
            snapshots: Mutex::default(),
            next_id: AtomicU32::new(1),
        }
    }

    /// A kernel without full fork.
    #[must_use]
    pub fn ordinary_kernel() -> Self {
        Self { known: Flags::empty(), ..Self::new() }
    }

    /// A kernel with full fork that does not know some flags.
    #[must_use]
    pub fn without(flags: Flags) -> Self {
        Self { known: Flags::all() - flags, ..Self::new() }
    }

    /// A kernel that always fails with `errno`.
    #[must_use]
    pub fn answering(errno: Errno) -> Self {
        Self { error: Some(errno), ..Self::new() }
    }

    /// Whatever is copied has so many threads.
    #[must_use]
    pub fn threads(mut self, threads: u32) -> Self {
        self.threads = threads;
        self
    }

    /// Lets the next calls return as in the replica.
    pub fn return_as_replica(&self) {
        self.replica.store(true, Ordering::Relaxed);
    }

    /// What was asked for so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.calls).clone()
    }

    fn answer(&self) -> Result<(), Errno> {
        self.error.map_or(Ok(()), Err)
    }

    fn record(&self, request: &Request<'_>) {
        lock(&self.calls).push(Call {
            flags: request.flags,
            exit_signal: request.exit_signal,
            from_pidfd: request.source.is_some(),
            room: request.tid_map.as_ref().map_or(0, |map| map.len()),
        });
    }

    fn fill(&self, map: &mut [TidPair]) -> Result<(), Errno> {
        if map.len() < self.threads as usize {
            return Err(Errno::E2BIG);
        }
        for (i, pair) in (0..self.threads).zip(map) {
            *pair = TidPair { original: ORIGINALS + i, replica: REPLICAS + i };
        }
        Ok(())
    }

    fn find(&self, id: u32) -> Result<SnapshotEntry, Errno> {
        let snapshots = lock(&self.snapshots);
        snapshots.iter().find(|entry| entry.id == id).copied().ok_or(Errno::ENOENT)
    }
}

/// A test that failed elsewhere does no harm here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something to hold in place of a pidfd or a device.
fn some_file() -> Result<OwnedFd, Errno> {
    Ok(File::open("/dev/null").map_err(|_| Errno::EMFILE)?.into())
}

fn copy_out<T: Copy>(from: &[T], to: &mut [T]) -> Result<u32, Errno> {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    u32::try_from(from.len()).map_err(|_| Errno::E2BIG)
}

impl Backend for Mock {
    unsafe fn full_fork(&self, request: Request<'_>) -> Result<Reply, Errno> {
        self.record(&request);
        self.answer()?;
        if !self.known.contains(request.flags) {
            return Err(Errno::EINVAL);
        }
        if let Some(map) = request.tid_map {
            self.fill(map)?;
        }
        if self.replica.load(Ordering::Relaxed) {
            return Ok(Reply::Replica);
        }
        Ok(Reply::Original { pid: REPLICAS, pidfd: some_file()? })
    }

    fn probe(&self, flags: Flags) -> Errno {
        match self.error {
            Some(errno) => errno,
            None if self.known.contains(flags) => Errno::EFAULT,
            None => Errno::EINVAL,
        }
    }

    fn open_device(&self) -> Result<OwnedFd, Errno> {
        if self.known.is_empty() { Err(Errno::ENOENT) } else { some_file() }
    }

    fn snapshot(&self, _: BorrowedFd<'_>, args: &mut SnapshotArgs) -> Result<(), Errno> {
        self.answer()?;
        args.id = self.next_id.fetch_add(1, Ordering::Relaxed);
        args.pid = REPLICAS + args.id;
        args.nr_processes = 1;
        args.nr_threads = self.threads;
        lock(&self.snapshots).push(SnapshotEntry {
            flags: args.flags,
            id: args.id,
            pid: args.pid,
            nr_processes: args.nr_processes,
            nr_threads: args.nr_threads,
        });
        Ok(())
    }

    fn spawn(&self, _: BorrowedFd<'_>, args: &mut SpawnArgs) -> Result<OwnedFd, Errno> {
        self.answer()?;
        args.pid = 2 * REPLICAS + self.find(args.id)?.id;
        some_file()
    }

    fn list(&self, _: BorrowedFd<'_>, entries: &mut [SnapshotEntry]) -> Result<u32, Errno> {
        self.answer()?;
        copy_out(&lock(&self.snapshots), entries)
    }

    fn processes(
        &self,
        _: BorrowedFd<'_>,
        id: u32,
        entries: &mut [ProcessEntry],
    ) -> Result<u32, Errno> {
        self.answer()?;
        let mut process = ProcessEntry {
            pid: self.find(id)?.pid,
            original: ORIGINALS,
            nr_threads: self.threads,
            ..ProcessEntry::default()
        };
        process.comm[..4].copy_from_slice(b"mock");
        copy_out(&[process], entries)
    }

    fn drop_snapshot(&self, _: BorrowedFd<'_>, id: u32) -> Result<(), Errno> {
        self.find(id)?;
        lock(&self.snapshots).retain(|entry| entry.id != id);
        Ok(())
    }
}
