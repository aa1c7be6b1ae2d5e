// SPDX-License-Identifier: MIT OR Apache-2.0

//! Full forks. What they take is put together, and what they return is dressed, in
//! Python.

use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};

use fullfork::{Builder, Child, Error, Flags, Fork, Relation, Scope, Signal, Tids};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::exception;

/// The parameters of `fork()` and `copy()`, as a dict.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct Request {
    all_threads: bool,
    subtree: bool,
    stopped: bool,
    keep_tids: bool,
    new_pid_namespace: bool,
    no_new_privs: bool,
    tid_map: bool,
    relation: String,
    exit_signal: i32,
}

/// PID, pidfd and TIDs of what was made.
type Made = (u32, RawFd, Vec<(u32, u32)>);

impl Request {
    fn scope(&self) -> PyResult<Scope> {
        match (self.all_threads, self.subtree) {
            (true, false) => Ok(Scope::Process),
            (true, true) => Ok(Scope::Tree),
            (false, true) => Ok(Scope::ThreadAndDescendants),
            (false, false) => Err(PyValueError::new_err(
                "all_threads or subtree: os.fork() copies one thread of one process",
            )),
        }
    }

    fn tids(&self) -> PyResult<Tids> {
        match (self.keep_tids, self.new_pid_namespace) {
            (false, false) => Ok(Tids::New),
            (true, false) => Ok(Tids::Keep),
            (true, true) => Ok(Tids::KeepInNewNamespace),
            (false, true) => Err(PyValueError::new_err("new_pid_namespace needs keep_tids")),
        }
    }

    fn relation(&self) -> PyResult<Relation> {
        match &*self.relation {
            "child" => Ok(Relation::Child { exit_signal: self.exit_signal()? }),
            "autoreaped" => Ok(Relation::Autoreaped),
            "killed with pidfd" => Ok(Relation::KilledWithPidfd),
            "sibling" => Ok(Relation::Sibling),
            other => Err(PyValueError::new_err(format!("no relation: {other}"))),
        }
    }

    fn exit_signal(&self) -> PyResult<Option<Signal>> {
        let wrong = || PyValueError::new_err(format!("no signal: {}", self.exit_signal));
        match self.exit_signal {
            0 => Ok(None),
            number => Signal::from_named_raw(number).map(Some).ok_or_else(wrong),
        }
    }

    fn builder(&self) -> PyResult<Builder<'static>> {
        let mut builder = Builder::new(self.scope()?).tids(self.tids()?).relation(self.relation()?);
        if self.stopped {
            builder = builder.stopped();
        }
        if self.no_new_privs {
            builder = builder.no_new_privs();
        }
        if self.tid_map {
            builder = builder.tid_map();
        }
        Ok(builder)
    }

    fn flags(&self, from_outside: bool) -> Flags {
        let mut flags = Flags::empty();
        flags.set(Flags::ALL_THREADS, self.all_threads);
        flags.set(Flags::SUBTREE, self.subtree);
        flags.set(Flags::STOPPED, self.stopped);
        flags.set(Flags::KEEP_TIDS, self.keep_tids);
        flags.set(Flags::FROM_PIDFD, from_outside);
        flags
    }
}

/// A full fork of this process, or of the one that the pidfd `source` names. Returns
/// (PID, pidfd, TIDs), and None in the replica.
///
/// The lock of the interpreter is kept: no other Python thread is amid anything, in
/// the replica as little as here.
#[pyfunction]
#[pyo3(signature = (request, source, /))]
#[allow(clippy::needless_pass_by_value)] // Python's arguments are.
pub(crate) fn full_fork(request: Request, source: Option<RawFd>) -> PyResult<Option<Made>> {
    let builder = request.builder()?;
    let answer = match source {
        Some(pidfd) if pidfd < 0 => return Err(PyValueError::new_err("negative file descriptor")),
        Some(pidfd) => {
            // SAFETY: it is open as long as the caller, whose it is, waits here; and if it
            // is not, nothing happens but that the kernel says so.
            builder.copy(unsafe { BorrowedFd::borrow_raw(pidfd) }).map(Fork::Original)
        }
        None if request.all_threads => {
            // SAFETY: Python's locks record no TID. What else the promise is about, the
            // documentation of fork() leaves to its caller, as that of os.fork() does.
            unsafe { builder.fork() }
        }
        None => fork_one_thread(builder),
    };
    match answer.map_err(|error| exception(error, request.flags(source.is_some())))? {
        Fork::Replica => Ok(None),
        Fork::Original(child) => Ok(Some(made(child))),
    }
}

/// The other threads of Python, of which there is none but in name, are not in the
/// replica.
fn fork_one_thread(builder: Builder<'_>) -> Result<Fork, Error> {
    // SAFETY: the interpreter is attached to this thread, here and in the replica; these
    // are what os.fork() calls around fork(). The package demands that the process has
    // one thread, so that no lock of the C library is held.
    unsafe {
        pyo3::ffi::PyOS_BeforeFork();
        let answer = builder.fork();
        if matches!(answer, Ok(Fork::Replica)) {
            pyo3::ffi::PyOS_AfterFork_Child();
        } else {
            pyo3::ffi::PyOS_AfterFork_Parent();
        }
        answer
    }
}

fn made(child: Child) -> Made {
    let tids = child.tid_map().pairs().iter().map(|pair| (pair.original, pair.replica)).collect();
    (child.pid(), child.into_pidfd().into_raw_fd(), tids)
}
