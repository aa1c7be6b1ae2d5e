// SPDX-License-Identifier: MIT OR Apache-2.0

//! Which flags this kernel knows.

use crate::backend::{Backend, Kernel};
use crate::{Errno, Flags};

/// What is known about one flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The kernel knows the flag.
    Known,
    /// The kernel does not know the flag.
    Unknown,
    /// Something answered in place of `clone3()`, a seccomp filter say.
    Undetermined(Errno),
}

/// Which flags of full fork this kernel knows, whatever its version is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Support {
    answers: Vec<(Flags, Answer)>,
}

/// What is probed: the flag, and what it is probed together with.
const PROBES: [(Flags, Flags); 7] = [
    (Flags::ALL_THREADS, Flags::empty()),
    (Flags::SUBTREE, Flags::empty()),
    (Flags::STOPPED, Flags::ALL_THREADS),
    (Flags::FROM_PIDFD, Flags::ALL_THREADS),
    (Flags::KEEP_TIDS, Flags::ALL_THREADS),
    (Flags::ISOLATE, Flags::ALL_THREADS),
    (Flags::SFORK, Flags::empty()),
];

impl Support {
    /// Asks the running kernel.
    ///
    /// Each flag is given to a `clone3()` that cannot succeed: it has a TID map
    /// with a size but no address. A kernel that knows the flag finds that out
    /// before it looks at any process, and answers `EFAULT`. One that does not
    /// answers `EINVAL` for the flag, or `E2BIG` since it does not know the field
    /// either. No process is made or disturbed, and no version is asked for. The
    /// address for the pidfd is a bad one too: a kernel that gave these bits another
    /// meaning could not make a process either.
    ///
    /// [`Flags::SFORK`] has no TID map, and is probed by the bad address alone.
    #[must_use]
    pub fn probe() -> Self {
        Self::probe_with(&Kernel)
    }

    /// Asks `backend`.
    #[must_use]
    pub fn probe_with(backend: &dyn Backend) -> Self {
        let ask = |(flag, with): (Flags, Flags)| (flag, understand(backend.probe(flag | with)));
        Self { answers: PROBES.into_iter().map(ask).collect() }
    }

    /// What is known about one flag.
    #[must_use]
    pub fn answer(&self, flag: Flags) -> Answer {
        let found = self.answers.iter().find(|(known, _)| *known == flag);
        found.map_or(Answer::Unknown, |(_, answer)| *answer)
    }

    /// Does the kernel know all of `flags`?
    #[must_use]
    pub fn has(&self, flags: Flags) -> bool {
        flags.iter().all(|flag| self.answer(flag) == Answer::Known)
    }

    /// Can the kernel copy a process with all its threads?
    #[must_use]
    pub fn full_fork(&self) -> bool {
        self.has(Flags::ALL_THREADS)
    }

    /// Every flag that was probed.
    pub fn iter(&self) -> impl Iterator<Item = (Flags, Answer)> + '_ {
        self.answers.iter().copied()
    }
}

const fn understand(errno: Errno) -> Answer {
    match errno {
        Errno::EFAULT => Answer::Known,
        Errno::EINVAL | Errno::E2BIG | Errno::ENOSYS => Answer::Unknown,
        other => Answer::Undetermined(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::Mock;

    #[test]
    fn knows_what_the_kernel_knows() {
        let support = Support::probe_with(&Mock::without(Flags::SFORK));
        assert!(support.full_fork());
        assert!(support.has(Flags::SUBTREE | Flags::STOPPED | Flags::KEEP_TIDS));
        assert_eq!(support.answer(Flags::SFORK), Answer::Unknown);
        assert!(!support.has(Flags::SUBTREE | Flags::SFORK));
    }

    #[test]
    fn reports_an_ordinary_kernel() {
        let support = Support::probe_with(&Mock::ordinary_kernel());
        assert!(!support.full_fork());
        assert!(support.iter().all(|(_, answer)| answer == Answer::Unknown));
    }

    #[test]
    fn does_not_take_a_filter_for_a_kernel() {
        let support = Support::probe_with(&Mock::answering(Errno::EPERM));
        assert!(!support.full_fork());
        assert_eq!(support.answer(Flags::SUBTREE), Answer::Undetermined(Errno::EPERM));
    }

    #[test]
    fn says_the_same_of_this_machine_twice() {
        assert_eq!(Support::probe(), Support::probe());
    }
}
