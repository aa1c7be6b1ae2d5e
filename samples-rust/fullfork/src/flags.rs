// SPDX-License-Identifier: MIT OR Apache-2.0

//! The flags, and the types from which valid sets of them are made.

use rustix::process::Signal;

bitflags::bitflags! {
    /// Flags of `clone3()` that have to do with full fork.
    ///
    /// Programs do not combine these themselves: [`Builder`](crate::Builder)
    /// takes types that cannot contradict each other. They are what
    /// [`Support`](crate::Support) is asked about.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Flags: u64 {
        /// A pidfd of the replica of the root.
        const PIDFD = 0x1000;
        /// The parent of the replica is that of the root.
        const PARENT = 0x8000;
        /// A new PID namespace.
        const NEWPID = 0x2000_0000;
        /// The replica is reaped by itself.
        const AUTOREAP = 1 << 34;
        /// The replica has `no_new_privs`.
        const NNP = 1 << 35;
        /// The replica is killed when its pidfd is closed.
        const PIDFD_AUTOKILL = 1 << 36;
        /// Move the calling thread into the child.
        const SFORK = 1 << 56;
        /// Copy the objects that only members can reach.
        const ISOLATE = 1 << 57;
        /// Keep the TIDs, in another PID namespace.
        const KEEP_TIDS = 1 << 58;
        /// Copy the process that a pidfd names.
        const FROM_PIDFD = 1 << 59;
        /// Leave the replicas group-stopped.
        const STOPPED = 1 << 60;
        /// Copy every descendant process too.
        const SUBTREE = 1 << 61;
        /// Copy every thread of the process.
        const ALL_THREADS = 1 << 62;
    }
}

/// What is copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One process with all its threads.
    #[default]
    Process,
    /// The process and every descendant, all with all their threads.
    Tree,
    /// Of the caller's process the calling thread, as `fork()` does, and every
    /// descendant, which must have one thread each.
    ThreadAndDescendants,
}

impl Scope {
    pub(crate) const fn flags(self) -> Flags {
        match self {
            Self::Process => Flags::ALL_THREADS,
            Self::Tree => Flags::ALL_THREADS.union(Flags::SUBTREE),
            Self::ThreadAndDescendants => Flags::SUBTREE,
        }
    }
}

/// Which TIDs replicas have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Tids {
    /// New ones, in the PID namespace of the originals. Locks that record
    /// their owner's TID and are held at that instant have no owner in the
    /// replica; see [Locks](crate#locks).
    #[default]
    New,
    /// Those of the originals, in the PID namespace that `unshare()` or
    /// `setns()` set for the caller's children.
    Keep,
    /// Those of the originals, in a PID namespace that the call makes.
    KeepInNewNamespace,
}

impl Tids {
    pub(crate) const fn flags(self) -> Flags {
        match self {
            Self::New => Flags::empty(),
            Self::Keep => Flags::KEEP_TIDS,
            Self::KeepInNewNamespace => Flags::KEEP_TIDS.union(Flags::NEWPID),
        }
    }
}

/// Whose child the replica of the root is, and how its end is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// A child of the caller that has to be waited for. The signal, `SIGCHLD`
    /// by default, tells its end.
    Child {
        /// None for a child that ends silently.
        exit_signal: Option<Signal>,
    },
    /// A child of the caller that is reaped by itself.
    Autoreaped,
    /// The same, and killed when the last pidfd that the call returned is
    /// closed. Needs `CAP_SYS_ADMIN`, or [`Builder::no_new_privs`](crate::Builder::no_new_privs).
    KilledWithPidfd,
    /// A child of the root's own parent: only that one can wait for it.
    Sibling,
}

impl Default for Relation {
    fn default() -> Self {
        Self::Child { exit_signal: Some(Signal::CHILD) }
    }
}

impl Relation {
    pub(crate) const fn flags(self) -> Flags {
        match self {
            Self::Child { .. } => Flags::empty(),
            Self::Autoreaped => Flags::AUTOREAP,
            Self::KilledWithPidfd => Flags::AUTOREAP.union(Flags::PIDFD_AUTOKILL),
            Self::Sibling => Flags::PARENT,
        }
    }

    pub(crate) fn exit_signal(self) -> u32 {
        match self {
            Self::Child { exit_signal: Some(signal) } => signal.as_raw().unsigned_abs(),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_bits_of_the_contract() {
        assert_eq!(Flags::ALL_THREADS.bits(), 0x4000_0000_0000_0000);
        assert_eq!(Flags::SFORK.bits(), 0x0100_0000_0000_0000);
        assert_eq!(Flags::NEWPID.bits(), u64::from(libc::CLONE_NEWPID.unsigned_abs()));
        assert_eq!(Flags::PIDFD.bits(), u64::from(libc::CLONE_PIDFD.unsigned_abs()));
        assert_eq!(Flags::PARENT.bits(), u64::from(libc::CLONE_PARENT.unsigned_abs()));
    }

    #[test]
    fn a_new_namespace_comes_only_with_kept_tids() {
        for tids in [Tids::New, Tids::Keep, Tids::KeepInNewNamespace] {
            let flags = tids.flags();
            assert!(!flags.contains(Flags::NEWPID) || flags.contains(Flags::KEEP_TIDS));
        }
    }

    #[test]
    fn no_exit_signal_where_the_kernel_refuses_one() {
        for relation in [Relation::Autoreaped, Relation::KilledWithPidfd, Relation::Sibling] {
            assert_eq!(relation.exit_signal(), 0);
        }
        assert_eq!(Relation::default().exit_signal(), libc::SIGCHLD.unsigned_abs());
    }
}
