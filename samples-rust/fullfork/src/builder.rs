// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a full fork is to copy, and how.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use crate::backend::{Backend, Kernel, Reply, Request};
use crate::child::{Child, TidMap};
use crate::error::{Error, Operation};
use crate::sys::{TidPair, exit_now};
use crate::{Errno, Flags, Relation, Scope, Tids};

/// Who goes on behind [`Builder::fork`].
#[derive(Debug)]
#[must_use = "the replica returns from the call too"]
pub enum Fork {
    /// The replica of the caller.
    Replica,
    /// The caller, with what it made.
    Original(Child),
}

/// What a full fork is to copy, and how.
#[derive(Clone, Copy)]
#[must_use]
pub struct Builder<'b> {
    backend: &'b dyn Backend,
    scope: Scope,
    tids: Tids,
    relation: Relation,
    options: Flags,
    room: Room,
}

/// Room for the TID map.
#[derive(Clone, Copy, Debug)]
enum Room {
    None,
    Exactly(usize),
    Enough,
}

/// Room that is tried first, and what no system has more of: `PID_MAX_LIMIT`.
const FIRST_ROOM: usize = 256;
const LAST_ROOM: usize = 1 << 22;

impl Builder<'static> {
    /// A full fork by the running kernel.
    pub fn new(scope: Scope) -> Self {
        Builder::on(&Kernel, scope)
    }
}

impl<'b> Builder<'b> {
    /// A full fork by `backend`.
    pub fn on(backend: &'b dyn Backend, scope: Scope) -> Self {
        Builder {
            backend,
            scope,
            tids: Tids::default(),
            relation: Relation::default(),
            options: Flags::empty(),
            room: Room::None,
        }
    }

    /// Which TIDs replicas have.
    pub fn tids(mut self, tids: Tids) -> Self {
        self.tids = tids;
        self
    }

    /// Whose child the replica is.
    pub fn relation(mut self, relation: Relation) -> Self {
        self.relation = relation;
        self
    }

    /// Leaves the replicas stopped, as after `SIGSTOP`, until `SIGCONT`:
    /// [`Child::resume`].
    pub fn stopped(mut self) -> Self {
        self.options |= Flags::STOPPED;
        self
    }

    /// Copies pipes, unix sockets, event and timer descriptors, epoll sets and shared
    /// memory that only members can reach, in place of sharing them.
    pub fn isolated(mut self) -> Self {
        self.options |= Flags::ISOLATE;
        self
    }

    /// Gives the replica of the root `no_new_privs`.
    pub fn no_new_privs(mut self) -> Self {
        self.options |= Flags::NNP;
        self
    }

    /// Asks for the TIDs of all originals and replicas, however many there are.
    ///
    /// Room for them is found by trying. A call that fails for lack of it costs
    /// the originals the time in which they are quiesced.
    pub fn tid_map(mut self) -> Self {
        self.room = Room::Enough;
        self
    }

    /// Asks for the TIDs of all originals and replicas, and has the call fail
    /// with `E2BIG` if there are more than `room`.
    pub fn tid_map_with_room(mut self, room: usize) -> Self {
        self.room = Room::Exactly(room);
        self
    }

    /// Copies the caller's own process, or with [`Scope::Tree`] all that is
    /// below it too. Returns twice: in the caller and in its replica.
    ///
    /// # Safety
    ///
    /// Memory stays valid in the replica, as each process has its own. What can
    /// go wrong is what the program knows about the world outside of it:
    ///
    /// * **All threads go on**, with [`Scope::Process`] and [`Scope::Tree`], so
    ///   that a lock that is held is released by who holds it. The replica may
    ///   allocate, lock, join and create threads, unless a lock was held at that
    ///   instant that records its owner's TID and [`Tids::New`] was asked for:
    ///   recursive, error checking, robust and PI mutexes, some of the C library's
    ///   own among them. Such a lock has no owner in the replica, and who takes it
    ///   there waits for ever. glibc has one that it takes when it loads a library
    ///   and when a thread registers a destructor of thread-local storage: while a
    ///   thread of std starts, and when it first waits in a channel.
    ///   [`Tids::Keep`] has no such limit.
    /// * With [`Scope::ThreadAndDescendants`] **other threads of the caller are not
    ///   copied**. A replica of a process that had several may call only what
    ///   is async-signal-safe, which excludes allocation. No
    ///   `pthread_atfork()` handler runs.
    /// * **File descriptors are shared.** The position of a file, the content of a
    ///   pipe or socket, an epoll set and its registrations are the same object on
    ///   both sides, and every thread of the replica goes on to use them. A
    ///   thread that waits for a pipe takes bytes from its original. A type that owns
    ///   a file descriptor, and believes that nobody else reads from it, is wrong.
    /// * **Shared memory is shared**, locks in it too: each lock that a thread held
    ///   there seems to be held twice and will be released twice.
    ///   [`Builder::isolated`] copies of both what nobody else can reach.
    /// * **What names a process is stale**: PIDs and TIDs that were remembered,
    ///   children (except members of the tree), timers, record locks,
    ///   pending signals. With [`Tids::Keep`] PIDs and TIDs of members stay true.
    /// * **What is unique is there twice**: seeds of random numbers, session
    ///   keys, nonces, buffered output. A replica that is to end ends by
    ///   [`exit_now`], or buffers and exit handlers do their work a second time.
    pub unsafe fn fork(&self) -> Result<Fork, Error> {
        // SAFETY: the same promise.
        unsafe { self.make(None) }.map_err(|errno| Error::new(Operation::Fork, errno))
    }

    /// Copies the process that a pidfd names, or with [`Scope::Tree`] all that is
    /// below it too. The caller needs the right to trace what it copies.
    ///
    /// If the caller is itself below what it copies, its process ends in the
    /// replica, with status 0, and only the caller returns.
    pub fn copy(&self, source: impl AsFd) -> Result<Child, Error> {
        // SAFETY: a replica of the caller ends right behind the call.
        let fork = unsafe { self.make(Some(source.as_fd())) };
        match fork.map_err(|errno| Error::new(Operation::Copy, errno))? {
            Fork::Original(child) => Ok(child),
            Fork::Replica => exit_now(0),
        }
    }

    fn flags(&self) -> Flags {
        self.scope.flags() | self.tids.flags() | self.relation.flags() | self.options
    }

    /// # Safety
    ///
    /// See [`Builder::fork`].
    unsafe fn make(&self, source: Option<BorrowedFd<'_>>) -> Result<Fork, Errno> {
        let mut room = match self.room {
            Room::None => 0,
            Room::Exactly(room) => room,
            Room::Enough => FIRST_ROOM,
        };
        loop {
            // SAFETY: the same promise.
            match unsafe { self.make_with_room(source, room) } {
                Err(Errno::E2BIG) if self.grows() && room < LAST_ROOM => room *= 4,
                answer => return answer,
            }
        }
    }

    const fn grows(&self) -> bool {
        matches!(self.room, Room::Enough)
    }

    /// # Safety
    ///
    /// See [`Builder::fork`].
    unsafe fn make_with_room(
        &self,
        source: Option<BorrowedFd<'_>>,
        room: usize,
    ) -> Result<Fork, Errno> {
        let mut pairs = vec![TidPair::default(); room];
        let request = Request {
            flags: self.flags(),
            exit_signal: self.relation.exit_signal(),
            source,
            tid_map: (!matches!(self.room, Room::None)).then_some(&mut pairs[..]),
        };
        // SAFETY: the same promise.
        match unsafe { self.backend.full_fork(request) }? {
            Reply::Original { pid, pidfd } => {
                Ok(Fork::Original(Child::new(pid, pidfd, TidMap::new(pairs))))
            }
            Reply::Replica => {
                // Its allocator may be locked for good, as after fork().
                std::mem::forget(pairs);
                Ok(Fork::Replica)
            }
        }
    }
}

impl fmt::Debug for Builder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("flags", &self.flags())
            .field("relation", &self.relation)
            .field("room", &self.room)
            .finish_non_exhaustive()
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
    fn copies_a_process_with_all_threads() {
        let mock = Mock::new();
        let child = Builder::on(&mock, Scope::Process).copy(source()).unwrap();
        assert_eq!(child.pid(), 1000);
        assert!(child.tid_map().pairs().is_empty());
        let calls = mock.calls();
        assert_eq!(calls[0].flags, Flags::ALL_THREADS);
        assert_eq!(calls[0].exit_signal, 17);
        assert!(calls[0].from_pidfd);
    }

    #[test]
    fn combines_what_is_asked_for() {
        let mock = Mock::new();
        Builder::on(&mock, Scope::Tree)
            .tids(Tids::KeepInNewNamespace)
            .relation(Relation::KilledWithPidfd)
            .stopped()
            .isolated()
            .no_new_privs()
            .copy(source())
            .unwrap();
        let expected = Flags::ALL_THREADS
            | Flags::SUBTREE
            | Flags::KEEP_TIDS
            | Flags::NEWPID
            | Flags::AUTOREAP
            | Flags::PIDFD_AUTOKILL
            | Flags::STOPPED
            | Flags::ISOLATE
            | Flags::NNP;
        assert_eq!(mock.calls()[0].flags, expected);
        assert_eq!(mock.calls()[0].exit_signal, 0);
    }

    #[test]
    fn finds_room_for_a_large_tree() {
        let mock = Mock::new().threads(1000);
        let child = Builder::on(&mock, Scope::Tree).tid_map().copy(source()).unwrap();
        assert_eq!(child.tid_map().pairs().len(), 1000);
        let rooms: Vec<_> = mock.calls().iter().map(|call| call.room).collect();
        assert_eq!(rooms, [256, 1024]);
    }

    #[test]
    fn takes_no_more_room_than_allowed() {
        let mock = Mock::new().threads(5);
        let error = Builder::on(&mock, Scope::Process).tid_map_with_room(4).copy(source());
        assert_eq!(error.unwrap_err().errno(), Errno::E2BIG);
        let child = Builder::on(&mock, Scope::Process).tid_map_with_room(5).copy(source());
        assert_eq!(child.unwrap().tid_map().replica_of(104), Some(1004));
    }

    #[test]
    fn errors_tell_which_call_it_was() {
        let mock = Mock::answering(Errno::EBUSY);
        let copy = Builder::on(&mock, Scope::Process).copy(source()).unwrap_err();
        assert_eq!(copy.operation(), Operation::Copy);
        // SAFETY: the mock copies nothing.
        let fork = unsafe { Builder::on(&mock, Scope::Process).fork() }.unwrap_err();
        assert_eq!(fork.operation(), Operation::Fork);
        assert_eq!(fork.errno(), Errno::EBUSY);
    }

    #[test]
    fn fork_has_two_ends() {
        let mock = Mock::new();
        let builder = Builder::on(&mock, Scope::Process);
        // SAFETY: the mock copies nothing.
        assert!(matches!(unsafe { builder.fork() }, Ok(Fork::Original(_))));
        mock.return_as_replica();
        // SAFETY: the mock copies nothing.
        assert!(matches!(unsafe { builder.fork() }, Ok(Fork::Replica)));
    }
}
