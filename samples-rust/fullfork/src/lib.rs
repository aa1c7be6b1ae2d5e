// SPDX-License-Identifier: MIT OR Apache-2.0

//! Copies of running processes, with all their threads.
//!
//! `fork()` copies one thread. On a kernel with full fork, `clone3()` copies a
//! process with every thread it has: each thread of the copy goes on exactly where
//! its original was, in user mode or inside a system call. It also copies whole
//! trees of processes at one instant, from inside or by pidfd from outside. The
//! kernel's `Documentation/userspace-api/fullfork.rst` says what is promised,
//! what is refused, and what is not copied.
//!
//! | what | is |
//! |---|---|
//! | [`Support`] | which flags this kernel knows |
//! | [`Builder`] | what to copy, and how: [`Builder::fork`] from inside, [`Builder::copy`] from outside |
//! | [`Child`] | the replica, as its maker holds it |
//! | [`SnapshotStore`], [`Snapshot`] | stopped copies from which running ones are made, of the sample driver |
//! | [`sfork`] | start programs: the calling thread itself moves into the child, and back |
//! | [`Error`] | what was tried, and what the kernel answered |
//!
//! # From outside
//!
//! ```no_run
//! use fullfork::{Builder, Scope, Support, Tids, open_pidfd};
//!
//! fn copy_tree(pid: u32) -> Result<(), fullfork::Error> {
//!     if !Support::probe().full_fork() {
//!         eprintln!("this kernel has no full fork");
//!         return Ok(());
//!     }
//!     let copy = Builder::new(Scope::Tree)
//!         .tids(Tids::KeepInNewNamespace)
//!         .tid_map()
//!         .copy(open_pidfd(pid)?)?;
//!     for pair in copy.tid_map().pairs() {
//!         println!("{} is copied by {}", pair.original, pair.replica);
//!     }
//!     println!("it ended: {}", copy.wait()?);
//!     Ok(())
//! }
//! ```
//!
//! # From inside
//!
//! ```no_run
//! use fullfork::{Builder, Fork, Scope, exit_now};
//!
//! # fn main() -> Result<(), fullfork::Error> {
//! // SAFETY: no lock that records its owner is held, and no thread uses a file
//! // whose position matters.
//! match unsafe { Builder::new(Scope::Process).fork() }? {
//!     Fork::Replica => exit_now(0),
//!     Fork::Original(child) => println!("{}", child.wait()?),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Locks
//!
//! Replicas have new TIDs, unless [`Tids::Keep`] or [`Tids::KeepInNewNamespace`]
//! asks for those of the originals. A lock that records its owner's TID, and was
//! held at that instant, has no owner in a replica with new TIDs. `std::sync::Mutex`
//! records none. The C library takes recursive locks of its own when it creates a
//! thread or loads a library. Copy programs that you do not know with their TIDs.

pub mod backend;
mod builder;
mod child;
mod errno;
mod error;
mod flags;
#[cfg(any(test, feature = "mock"))]
pub mod mock;
pub mod sfork;
mod snapshot;
mod support;
mod sys;

use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

pub use builder::{Builder, Fork};
pub use child::{Child, Event, TidMap};
pub use errno::Errno;
pub use error::{Error, Operation};
pub use flags::{Flags, Relation, Scope, Tids};
pub use rustix::process::Signal;
pub use snapshot::{Snapshot, SnapshotOptions, SnapshotStore, SpawnOptions};
pub use support::{Answer, Support};
pub use sys::{ProcessEntry, SnapshotArgs, SnapshotEntry, SpawnArgs, TidPair, exit_now};

/// Opens a pidfd of a process.
pub fn open_pidfd(pid: u32) -> Result<OwnedFd, Error> {
    let fail = |errno| Error::new(Operation::OpenPidfd, errno);
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pidfd_open(pid.ok_or(fail(Errno::ESRCH))?, PidfdFlags::empty())
        .map_err(|errno| fail(errno.into()))
}
