// SPDX-License-Identifier: MIT OR Apache-2.0

//! Snapshots: stopped copies from which any number of running ones are made.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::backend::{Backend, Kernel};
use crate::child::{Child, TidMap};
use crate::error::{Error, Operation};
use crate::sys::{ProcessEntry, SnapshotArgs, SnapshotEntry, SpawnArgs};
use crate::{Errno, Flags, Relation, Scope, Tids};

impl ProcessEntry {
    /// The original was stopped, and so is the running copy.
    pub const WAS_STOPPED: u32 = 1;
    /// The process is gone.
    pub const IS_GONE: u32 = 2;

    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        let end = self.comm.iter().position(|byte| *byte == 0).unwrap_or(self.comm.len());
        String::from_utf8_lossy(&self.comm[..end]).into_owned()
    }
}

/// How a snapshot is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotOptions {
    /// What is copied.
    pub scope: Scope,
    /// Which TIDs the template has.
    pub tids: Tids,
    /// Gives the template `no_new_privs`.
    pub no_new_privs: bool,
}

/// How a copy of a snapshot is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpawnOptions {
    /// Which TIDs the copy has.
    pub tids: Tids,
    /// Whose child it is: a child, or an autoreaped one, else `EINVAL`.
    pub relation: Relation,
    /// Leaves the copy stopped.
    pub stopped: bool,
    /// Gives the copy `no_new_privs`.
    pub no_new_privs: bool,
}

/// An open store of snapshots: `/dev/rust-fullfork`.
///
/// When its last file descriptor is closed, all its snapshots are dropped.
pub struct SnapshotStore<'b> {
    backend: &'b dyn Backend,
    device: OwnedFd,
}

impl SnapshotStore<'static> {
    /// Opens a new, empty store.
    pub fn open() -> Result<Self, Error> {
        SnapshotStore::open_on(&Kernel)
    }

    /// Takes the file descriptor of a store that somebody else opened.
    #[must_use]
    pub fn from_fd(device: OwnedFd) -> Self {
        SnapshotStore { backend: &Kernel, device }
    }
}

impl<'b> SnapshotStore<'b> {
    /// Opens a store of `backend`.
    pub fn open_on(backend: &'b dyn Backend) -> Result<Self, Error> {
        match backend.open_device() {
            Ok(device) => Ok(Self { backend, device }),
            Err(errno) => Err(Error::new(Operation::OpenDevice, errno)),
        }
    }

    /// Takes a snapshot of the process that a pidfd names.
    pub fn take(
        &self,
        source: impl AsFd,
        options: SnapshotOptions,
    ) -> Result<Snapshot<'_, 'b>, Error> {
        let mut flags = options.scope.flags() | options.tids.flags();
        flags.set(Flags::NNP, options.no_new_privs);
        let mut args = SnapshotArgs {
            flags: flags.bits(),
            pidfd: source.as_fd().as_raw_fd(),
            ..SnapshotArgs::default()
        };
        self.backend
            .snapshot(self.device.as_fd(), &mut args)
            .map_err(|errno| Error::new(Operation::Snapshot, errno))?;
        let entry = SnapshotEntry {
            flags: args.flags,
            id: args.id,
            pid: args.pid,
            nr_processes: args.nr_processes,
            nr_threads: args.nr_threads,
        };
        Ok(Snapshot { store: self, entry, kept: false })
    }

    /// Makes a running copy of a snapshot.
    pub fn spawn(&self, id: u32, options: SpawnOptions) -> Result<Child, Error> {
        let mut flags = options.tids.flags() | options.relation.flags();
        flags.set(Flags::STOPPED, options.stopped);
        flags.set(Flags::NNP, options.no_new_privs);
        let mut args = SpawnArgs {
            flags: flags.bits(),
            id,
            exit_signal: options.relation.exit_signal(),
            pidfd: -1,
            pid: 0,
        };
        let pidfd = self
            .backend
            .spawn(self.device.as_fd(), &mut args)
            .map_err(|errno| Error::new(Operation::Spawn, errno))?;
        Ok(Child::new(args.pid, pidfd, TidMap::default()))
    }

    /// All snapshots of the store.
    pub fn list(&self) -> Result<Vec<SnapshotEntry>, Error> {
        read_all(|entries| self.backend.list(self.device.as_fd(), entries))
            .map_err(|errno| Error::new(Operation::List, errno))
    }

    /// The processes of a snapshot.
    pub fn processes(&self, id: u32) -> Result<Vec<ProcessEntry>, Error> {
        read_all(|entries| self.backend.processes(self.device.as_fd(), id, entries))
            .map_err(|errno| Error::new(Operation::Processes, errno))
    }

    /// Drops a snapshot. Copies that were made of it go on.
    pub fn drop_snapshot(&self, id: u32) -> Result<(), Error> {
        self.backend
            .drop_snapshot(self.device.as_fd(), id)
            .map_err(|errno| Error::new(Operation::Drop, errno))
    }
}

impl AsFd for SnapshotStore<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl fmt::Debug for SnapshotStore<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotStore").field("device", &self.device).finish_non_exhaustive()
    }
}

/// A list may have grown since its length was asked for.
fn read_all<T: Clone + Default>(
    mut read: impl FnMut(&mut [T]) -> Result<u32, Errno>,
) -> Result<Vec<T>, Errno> {
    let mut entries = vec![T::default(); 64];
    loop {
        let there = read(&mut entries)? as usize;
        if there <= entries.len() {
            entries.truncate(there);
            return Ok(entries);
        }
        entries.resize(there, T::default());
    }
}

/// A snapshot, which is dropped with this value.
#[derive(Debug)]
pub struct Snapshot<'s, 'b> {
    store: &'s SnapshotStore<'b>,
    entry: SnapshotEntry,
    kept: bool,
}

impl Snapshot<'_, '_> {
    /// What names it in its store.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.entry.id
    }

    /// What it holds.
    #[must_use]
    pub const fn entry(&self) -> &SnapshotEntry {
        &self.entry
    }

    /// Makes a running copy.
    pub fn spawn(&self, options: SpawnOptions) -> Result<Child, Error> {
        self.store.spawn(self.entry.id, options)
    }

    /// The processes that it holds.
    pub fn processes(&self) -> Result<Vec<ProcessEntry>, Error> {
        self.store.processes(self.entry.id)
    }

    /// Leaves it in the store until that is closed.
    #[must_use = "the id is what names it from now on"]
    pub fn keep(mut self) -> u32 {
        self.kept = true;
        self.entry.id
    }
}

impl Drop for Snapshot<'_, '_> {
    fn drop(&mut self) {
        if !self.kept {
            // It may be gone already, which is as good.
            let _ = self.store.drop_snapshot(self.entry.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::Mock;

    fn source() -> std::fs::File {
        std::fs::File::open("/dev/null").unwrap()
    }

    #[test]
    fn is_dropped_with_its_value() {
        let mock = Mock::new();
        let store = SnapshotStore::open_on(&mock).unwrap();
        let snapshot = store.take(source(), SnapshotOptions::default()).unwrap();
        assert_eq!(store.list().unwrap(), [*snapshot.entry()]);
        drop(snapshot);
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn stays_if_it_is_kept() {
        let mock = Mock::new();
        let store = SnapshotStore::open_on(&mock).unwrap();
        let id = store.take(source(), SnapshotOptions::default()).unwrap().keep();
        assert_eq!(store.list().unwrap()[0].id, id);
        store.drop_snapshot(id).unwrap();
        assert_eq!(store.drop_snapshot(id).unwrap_err().errno(), Errno::ENOENT);
    }

    #[test]
    fn lists_more_than_a_first_guess() {
        let mock = Mock::new();
        let store = SnapshotStore::open_on(&mock).unwrap();
        let options = SnapshotOptions::default();
        let ids: Vec<_> = (0..100).map(|_| store.take(source(), options).unwrap().keep()).collect();
        let listed: Vec<_> = store.list().unwrap().iter().map(|entry| entry.id).collect();
        assert_eq!(listed, ids);
    }

    #[test]
    fn spawns_from_what_is_there() {
        let mock = Mock::new();
        let store = SnapshotStore::open_on(&mock).unwrap();
        let snapshot = store.take(source(), SnapshotOptions::default()).unwrap();
        assert!(snapshot.spawn(SpawnOptions::default()).unwrap().pid() > 0);
        assert_eq!(snapshot.processes().unwrap()[0].name(), "mock");
        let error = store.spawn(snapshot.id() + 1, SpawnOptions::default()).unwrap_err();
        assert_eq!((error.operation(), error.errno()), (Operation::Spawn, Errno::ENOENT));
    }

    #[test]
    fn may_be_used_by_any_thread() {
        fn check<T: Send + Sync>() {}
        check::<SnapshotStore<'static>>();
        check::<Snapshot<'static, 'static>>();
        check::<Child>();
    }

    #[test]
    fn reports_a_missing_driver() {
        let mock = Mock::ordinary_kernel();
        let error = SnapshotStore::open_on(&mock).unwrap_err();
        assert_eq!((error.operation(), error.errno()), (Operation::OpenDevice, Errno::ENOENT));
    }
}
