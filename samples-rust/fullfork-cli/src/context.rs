// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a command works with: in unit tests, something that plays it.

use std::io::Write;

use fullfork::backend::{Backend, Kernel};
use fullfork::{Answer, Flags, Support};
use serde::Serialize;

use crate::failure::{Failure, Missing};
use crate::procfs::Proc;

/// What a command works with.
pub(crate) struct Context<'a> {
    pub(crate) backend: &'a dyn Backend,
    pub(crate) proc: Proc,
    pub(crate) out: &'a mut dyn Write,
    pub(crate) json: bool,
}

impl<'a> Context<'a> {
    /// The machine that this runs on.
    pub(crate) fn system(out: &'a mut dyn Write, json: bool) -> Self {
        Self { backend: &Kernel, proc: Proc::system(), out, json }
    }

    pub(crate) fn support(&self) -> Support {
        Support::probe_with(self.backend)
    }

    /// Fails with what the kernel lacks, before anything is tried.
    pub(crate) fn require(&self, flags: Flags) -> Result<(), Failure> {
        let support = self.support();
        match first_missing(&support, Flags::ALL_THREADS | flags) {
            None => Ok(()),
            Some((_, Answer::Undetermined(errno))) => Err(Missing::Undetermined(errno).into()),
            Some((Flags::ALL_THREADS, _)) => Err(Missing::FullFork.into()),
            Some((flag, _)) => Err(Missing::Flag(name(flag)).into()),
        }
    }

    /// Writes one line of JSON.
    pub(crate) fn write_json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let line = serde_json::to_string(value).map_err(|error| Failure::output(error.into()))?;
        self.write_line(&line)
    }

    /// Writes one line, at once: who reads may be waiting for it.
    pub(crate) fn write_line(&mut self, line: &str) -> Result<(), Failure> {
        writeln!(self.out, "{line}").and_then(|()| self.out.flush()).map_err(Failure::output)
    }
}

/// `ALL_THREADS` first: without it there is nothing at all.
fn first_missing(support: &Support, flags: Flags) -> Option<(Flags, Answer)> {
    let probed = Flags::ALL_THREADS
        | Flags::SUBTREE
        | Flags::STOPPED
        | Flags::FROM_PIDFD
        | Flags::KEEP_TIDS
        | Flags::ISOLATE
        | Flags::SFORK;
    let ask = |flag| (flag, support.answer(flag));
    let others = (flags & probed) - Flags::ALL_THREADS;
    std::iter::once(Flags::ALL_THREADS)
        .chain(others.iter())
        .map(ask)
        .find(|(_, answer)| *answer != Answer::Known)
}

/// `CLONE_ALL_THREADS` and its like.
pub(crate) fn name(flag: Flags) -> String {
    names(flag).join("|")
}

/// The name of every flag that is set.
pub(crate) fn names(flags: Flags) -> Vec<String> {
    flags.iter_names().map(|(name, _)| format!("CLONE_{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fullfork::Errno;
    use fullfork::mock::Mock;

    fn require(mock: &Mock, flags: Flags) -> Result<(), Failure> {
        let mut out = Vec::new();
        let proc = Proc::system();
        Context { backend: mock, proc, out: &mut out, json: false }.require(flags)
    }

    #[test]
    fn an_ordinary_kernel_is_77() {
        let failure = require(&Mock::ordinary_kernel(), Flags::SUBTREE).unwrap_err();
        assert_eq!(failure.exit_status(), 77);
        assert!(failure.to_string().contains("CLONE_ALL_THREADS"));
        assert!(require(&Mock::new(), Flags::SUBTREE).is_ok());
    }

    #[test]
    fn a_missing_flag_is_named() {
        let failure = require(&Mock::without(Flags::SFORK), Flags::SFORK).unwrap_err();
        assert_eq!(failure.exit_status(), 77);
        assert!(failure.to_string().contains("CLONE_SFORK"));
    }

    #[test]
    fn a_filter_is_not_taken_for_a_kernel() {
        let failure = require(&Mock::answering(Errno::EPERM), Flags::empty()).unwrap_err();
        assert!(failure.to_string().contains("EPERM"));
        assert_eq!(failure.exit_status(), 77);
    }

    #[test]
    fn flags_that_every_such_kernel_has_are_not_probed() {
        assert!(require(&Mock::new(), Flags::NEWPID | Flags::KEEP_TIDS).is_ok());
    }
}
