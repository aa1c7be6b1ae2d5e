// SPDX-License-Identifier: MIT OR Apache-2.0

//! Why a command failed, in one line, and its exit status.

use std::io;
use std::path::PathBuf;

use fullfork::{Errno, Operation};

/// What this machine lacks.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Missing {
    #[error("this kernel has no full fork (clone3() does not know CLONE_ALL_THREADS)")]
    FullFork,
    #[error("cannot tell whether this kernel has full fork: clone3() answers {0}")]
    Undetermined(Errno),
    #[error("this kernel's full fork has no {0}")]
    Flag(String),
    #[error("the snapshot device is missing: {0}")]
    Device(fullfork::Error),
    #[error("the tracepoints of full fork are missing: no {0}")]
    Tracepoints(PathBuf),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Missing(#[from] Missing),
    #[error("{what}: {error}")]
    FullFork { what: String, error: fullfork::Error },
    #[error("{what}: {error}")]
    Io { what: String, error: io::Error },
    #[error("process {0}: there is no such process")]
    NoProcess(u32),
    #[error("{program} was not ready: {why}")]
    NotReady { program: String, why: String },
    #[error("no snapshots are held (take one with `fullfork snapshot PID`)")]
    NoSnapshots,
    #[error("{path}: {why}")]
    RuntimeDirectory { path: PathBuf, why: &'static str },
    #[error("the holder of snapshots: {0}")]
    Holder(String),
}

impl Failure {
    /// 77 if the machine lacks something, 1 for all others; 2 is for usage.
    pub(crate) const fn exit_status(&self) -> u8 {
        match self {
            Self::Missing(_) => 77,
            _ => 1,
        }
    }

    /// Who reads the output has seen enough, `head` say, and knows it.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io { error, .. } if error.kind() == io::ErrorKind::BrokenPipe)
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |error| Self::Io { what, error }
    }

    pub(crate) fn output(error: io::Error) -> Self {
        Self::Io { what: "writing the output".into(), error }
    }

    /// Of an operation on `what`. A device that is not there is something that
    /// the machine lacks.
    pub(crate) fn of(what: impl Into<String>) -> impl FnOnce(fullfork::Error) -> Self {
        let what = what.into();
        |error| match (error.operation(), error.errno()) {
            (Operation::OpenDevice, Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => {
                Missing::Device(error).into()
            }
            _ => Self::FullFork { what, error },
        }
    }
}

#[cfg(test)]
mod tests {
    use fullfork::SnapshotStore;
    use fullfork::mock::Mock;

    use super::*;

    #[test]
    fn a_missing_device_is_77() {
        let mock = Mock::ordinary_kernel();
        let error = SnapshotStore::open_on(&mock).unwrap_err();
        let failure = Failure::of("store")(error);
        assert_eq!(failure.exit_status(), 77);
        assert!(failure.to_string().contains("/dev/rust-fullfork"));
    }

    #[test]
    fn a_refused_copy_is_1() {
        let error = fullfork::open_pidfd(0).unwrap_err();
        assert_eq!(Failure::of("process 0")(error).exit_status(), 1);
    }

    #[test]
    fn messages_are_one_line() {
        let failure = Failure::from(Missing::FullFork);
        assert!(!failure.to_string().contains('\n'));
    }
}
