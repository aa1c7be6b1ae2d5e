// SPDX-License-Identifier: MIT OR Apache-2.0

//! The one error type: what was tried, and what the kernel answered.

use std::fmt;

use crate::Errno;

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Copying the caller's own process or tree: [`Builder::fork`](crate::Builder::fork).
    Fork,
    /// Copying another process or tree: [`Builder::copy`](crate::Builder::copy).
    Copy,
    /// Moving into a child: [`Options::start`](crate::sfork::Options::start).
    Sfork,
    /// Running a program: [`Subprocess::exec`](crate::sfork::Subprocess::exec).
    Exec,
    /// Leaving a child: [`Subprocess::exit`](crate::sfork::Subprocess::exit).
    Exit,
    /// Opening a pidfd.
    OpenPidfd,
    /// Waiting for a copy.
    Wait,
    /// Sending a signal to a copy.
    Signal,
    /// Opening the device of snapshots.
    OpenDevice,
    /// Taking a snapshot.
    Snapshot,
    /// Spawning a copy of a snapshot.
    Spawn,
    /// Listing snapshots.
    List,
    /// Listing the processes of a snapshot.
    Processes,
    /// Dropping a snapshot.
    Drop,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fork => "full fork",
            Self::Copy => "full fork from outside",
            Self::Sfork => "sfork",
            Self::Exec => "exec",
            Self::Exit => "exit",
            Self::OpenPidfd => "opening a pidfd",
            Self::Wait => "waiting for the copy",
            Self::Signal => "sending a signal to the copy",
            Self::OpenDevice => "opening /dev/rust-fullfork",
            Self::Snapshot => "taking a snapshot",
            Self::Spawn => "spawning a copy of the snapshot",
            Self::List => "listing snapshots",
            Self::Processes => "listing the processes of the snapshot",
            Self::Drop => "dropping the snapshot",
        })
    }
}

/// An operation that failed, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{operation}: {errno}{}", Reason(explain(*.operation, *.errno)))]
pub struct Error {
    operation: Operation,
    errno: Errno,
}

impl Error {
    pub(crate) const fn new(operation: Operation, errno: Errno) -> Self {
        Self { operation, errno }
    }

    /// What was tried.
    #[must_use]
    pub const fn operation(&self) -> Operation {
        self.operation
    }

    /// What the kernel answered.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        self.errno
    }

    /// What the documentation says that this answer means, if it does.
    #[must_use]
    pub const fn reason(&self) -> Option<&'static str> {
        explain(self.operation, self.errno)
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = Self::from(error.errno).kind();
        Self::new(kind, error)
    }
}

struct Reason(Option<&'static str>);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |text| write!(f, " ({text})"))
    }
}

const fn explain(operation: Operation, errno: Errno) -> Option<&'static str> {
    match operation {
        Operation::Fork | Operation::Copy => explain_copy(errno),
        Operation::Snapshot | Operation::Spawn => match explain_device(errno) {
            None => explain_copy(errno),
            some => some,
        },
        Operation::List | Operation::Processes | Operation::Drop => explain_device(errno),
        Operation::OpenDevice => explain_open(errno),
        Operation::Sfork => explain_sfork(errno),
        Operation::Exec => explain_exec(errno),
        Operation::Exit => explain_left(errno),
        Operation::OpenPidfd => match errno {
            Errno::ESRCH => Some("there is no such process"),
            _ => None,
        },
        Operation::Wait | Operation::Signal => None,
    }
}

const fn explain_copy(errno: Errno) -> Option<&'static str> {
    Some(match errno {
        Errno::EINVAL => "the kernel does not know these flags, or they contradict each other",
        Errno::EPERM => {
            "a process may not be traced or is less confined than the caller, or a capability is missing"
        }
        Errno::EBADF => "not a pidfd",
        Errno::ESRCH => "the process has exited",
        Errno::EAGAIN => "a limit on processes",
        Errno::ENOMEM => "not enough memory, or the PID namespace is ending",
        Errno::EBUSY => "a thread could not be quiesced in time, or is traced by another member",
        Errno::EOPNOTSUPP => "a process holds something that cannot be copied truly",
        Errno::EEXIST => "a TID is taken in the other PID namespace",
        Errno::E2BIG => "more threads than the TID map has room for, or a kernel without full fork",
        Errno::ENOSPC => "too many, or too deeply nested, PID namespaces",
        Errno::ENOSYS => "the kernel has no clone3(), or it is filtered",
        _ => return None,
    })
}

const fn explain_sfork(errno: Errno) -> Option<&'static str> {
    Some(match errno {
        Errno::EINVAL => "the kernel does not know CLONE_SFORK, or these flags contradict it",
        Errno::EPERM => "a namespace, or the cgroup, needs a capability",
        Errno::EAGAIN => "a limit on processes",
        Errno::ENOMEM => "not enough memory, or the PID namespace is ending",
        Errno::EBADF => "not a directory of a cgroup",
        Errno::EOPNOTSUPP => "the thread has registers that cannot go with it, a shadow stack say",
        Errno::ENOSPC => "too many, or too deeply nested, namespaces",
        Errno::ENOSYS => "the kernel has no clone3(), or it is filtered",
        _ => return None,
    })
}

const fn explain_exec(errno: Errno) -> Option<&'static str> {
    Some(match errno {
        Errno::ENOENT => "there is no such program, or its interpreter is missing",
        Errno::EACCES => "it may not be executed",
        Errno::ENOEXEC => "it is of no format that this kernel runs",
        Errno::E2BIG => "arguments and environment are too large",
        Errno::EINVAL => "a zero byte in a name or argument, or a mangled program",
        _ => return explain_left(errno),
    })
}

const fn explain_left(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::ESRCH => Some("the thread is not in this child any more"),
        Errno::EBUSY => Some("the thread is in a child of this child"),
        _ => None,
    }
}

const fn explain_device(errno: Errno) -> Option<&'static str> {
    Some(match errno {
        Errno::ENOENT => "there is no such snapshot",
        Errno::ESRCH => "its processes are gone",
        Errno::ENOTTY => "the device is not the snapshot store",
        _ => return None,
    })
}

const fn explain_open(errno: Errno) -> Option<&'static str> {
    Some(match errno {
        Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => {
            "the driver rust_fullfork is not loaded or not built"
        }
        Errno::EACCES | Errno::EPERM => "no permission",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_operation_and_errno() {
        let error = Error::new(Operation::Copy, Errno::EBUSY);
        assert_eq!(error.operation(), Operation::Copy);
        assert_eq!(error.errno(), Errno::EBUSY);
        assert_eq!(
            error.to_string(),
            "full fork from outside: EBUSY (a thread could not be quiesced in time, or is traced \
             by another member)"
        );
    }

    #[test]
    fn tells_no_reason_that_is_not_documented() {
        let error = Error::new(Operation::Fork, Errno::EMFILE);
        assert_eq!(error.reason(), None);
        assert_eq!(error.to_string(), "full fork: EMFILE");
    }

    #[test]
    fn esrch_of_a_snapshot_is_not_that_of_a_pidfd() {
        let spawn = Error::new(Operation::Spawn, Errno::ESRCH);
        let copy = Error::new(Operation::Copy, Errno::ESRCH);
        assert_ne!(spawn.reason(), copy.reason());
    }

    #[test]
    fn becomes_an_io_error_of_the_same_kind() {
        let error = std::io::Error::from(Error::new(Operation::Copy, Errno::EPERM));
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    }
}
