// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a step does, as data: it can be generated, printed, replayed and shrunk.

use serde::{Deserialize, Serialize};

use crate::args::{Args, Source};

/// A step: a tree of processes, and what happens to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Program {
    /// The first is the root. Others without a parent stand outside the tree.
    pub(crate) procs: Vec<Proc>,
    pub(crate) ops: Vec<Op>,
}

/// A thread, by its process and its place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Thread {
    pub(crate) proc: usize,
    pub(crate) index: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Proc {
    pub(crate) parent: Option<Thread>,
    #[serde(default)]
    pub(crate) share: Share,
    #[serde(default)]
    pub(crate) pid_ns: bool,
    #[serde(default)]
    pub(crate) group: Group,
    pub(crate) threads: Vec<Behaviour>,
}

/// What a process shares with its parent.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) vm: bool,
    pub(crate) files: bool,
    pub(crate) fs: bool,
    /// Only with `vm`.
    pub(crate) sighand: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Group {
    #[default]
    Inherited,
    Own,
    Session,
}

/// What a thread does over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Behaviour {
    Spin,
    Nap,
    Futex,
    ReadPipe,
    ReadEventfd,
    Poll,
    Epoll,
    SigTimedWait,
    TouchMemory,
    ChurnMappings,
    ChurnFiles,
    WaitChild,
    // These make and end tasks, so that nobody can say how many there are.
    Fork,
    Vfork,
    CreateThread,
    ForkExec,
    FullFork,
    Sfork,
}

impl Behaviour {
    pub(crate) const CALM: &'static [Self] = &[
        Self::Spin,
        Self::Nap,
        Self::Futex,
        Self::ReadPipe,
        Self::ReadEventfd,
        Self::Poll,
        Self::Epoll,
        Self::SigTimedWait,
        Self::TouchMemory,
        Self::ChurnMappings,
        Self::ChurnFiles,
        Self::WaitChild,
    ];
    pub(crate) const STORMY: &'static [Self] =
        &[Self::Fork, Self::Vfork, Self::CreateThread, Self::ForkExec, Self::FullFork, Self::Sfork];

    pub(crate) fn is_stormy(self) -> bool {
        Self::STORMY.contains(&self)
    }
}

/// What a thread changes about itself or its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Attr {
    NoNewPrivs,
    Seccomp,
    NotDumpable,
    Unprivileged,
    Subreaper,
    ParentDeathSignal,
    Name,
    LockMemory,
    DontFork,
    Userfaultfd,
    IoUring,
    Aio,
    IntervalTimer,
    PosixTimer,
    TimerFd,
    BatchPolicy,
    Nice,
    OneCpu,
    AltStack,
    BlockSignals,
    IgnoreSignal,
    Umask,
    Directory,
    UnshareFiles,
    UnshareFs,
    UnshareUts,
    UnshareIpc,
    UnshareMounts,
    OwnGroup,
    OwnSession,
    Memfd,
    Socketpair,
    Inotify,
    SignalFd,
    FewFiles,
}

impl Attr {
    pub(crate) const ALL: &'static [Self] = &[
        Self::NoNewPrivs,
        Self::Seccomp,
        Self::NotDumpable,
        Self::Unprivileged,
        Self::Subreaper,
        Self::ParentDeathSignal,
        Self::Name,
        Self::LockMemory,
        Self::DontFork,
        Self::Userfaultfd,
        Self::IoUring,
        Self::Aio,
        Self::IntervalTimer,
        Self::PosixTimer,
        Self::TimerFd,
        Self::BatchPolicy,
        Self::Nice,
        Self::OneCpu,
        Self::AltStack,
        Self::BlockSignals,
        Self::IgnoreSignal,
        Self::Umask,
        Self::Directory,
        Self::UnshareFiles,
        Self::UnshareFs,
        Self::UnshareUts,
        Self::UnshareIpc,
        Self::UnshareMounts,
        Self::OwnGroup,
        Self::OwnSession,
        Self::Memfd,
        Self::Socketpair,
        Self::Inotify,
        Self::SignalFd,
        Self::FewFiles,
    ];

    /// With it, a process is refused.
    pub(crate) fn is_unsupported(self) -> bool {
        matches!(self, Self::DontFork | Self::Userfaultfd | Self::IoUring | Self::Aio)
    }
}

/// Something that happens once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Action {
    Signal {
        proc: usize,
        signal: i32,
    },
    SignalThread {
        thread: Thread,
        signal: i32,
    },
    Attr {
        thread: Thread,
        attr: Attr,
    },
    ExitThread(Thread),
    ExitProcess(Thread),
    Exec(Thread),
    Freeze,
    Thaw,
    /// From outside. It lets the thread go on, or with `hold` keeps it stopped.
    Trace {
        thread: Thread,
        follow: bool,
        hold: bool,
    },
    Untrace,
    SignalReplicas(i32),
    /// So many tasks more than there are now.
    LimitTasks(u32),
    Unlimit,
    /// To another cgroup, or back.
    Migrate {
        proc: usize,
        away: bool,
    },
    /// Reads what procfs shows of it.
    Look {
        proc: usize,
    },
    Sleep {
        us: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Op {
    Do(Action),
    Call {
        /// All at once; each by another thread.
        calls: Vec<Call>,
        /// What happens meanwhile, after so many microseconds each.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        during: Vec<(u32, Action)>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) by: Thread,
    pub(crate) args: Args,
    /// Where the kernel can: the point at which the caller meets a fault.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) fail_nth: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Program {
    pub(crate) const MAX_PROCS: usize = 12;
    pub(crate) const MAX_THREADS: usize = 28;

    pub(crate) fn has(&self, thread: Thread) -> bool {
        self.procs.get(thread.proc).is_some_and(|proc| thread.index < proc.threads.len())
    }

    pub(crate) fn threads(&self) -> impl Iterator<Item = Thread> + '_ {
        self.procs
            .iter()
            .enumerate()
            .flat_map(|(proc, p)| (0..p.threads.len()).map(move |index| Thread { proc, index }))
    }

    pub(crate) fn behaviour(&self, thread: Thread) -> Behaviour {
        self.procs[thread.proc].threads[thread.index]
    }

    /// The place of a thread in the shared memory.
    pub(crate) fn slot(&self, thread: Thread) -> usize {
        self.procs[..thread.proc].iter().map(|p| p.threads.len()).sum::<usize>() + thread.index
    }

    pub(crate) fn is_in_tree(&self, proc: usize) -> bool {
        proc == 0 || self.procs[proc].parent.is_some()
    }

    /// Is `proc` in a PID namespace below that of the fuzzer?
    pub(crate) fn is_nested(&self, proc: usize) -> bool {
        self.procs[proc].pid_ns
            || self.procs[proc].parent.is_some_and(|parent| self.is_nested(parent.proc))
    }

    /// Is `proc` below `above`, or the same?
    pub(crate) fn is_below(&self, proc: usize, above: usize) -> bool {
        proc == above
            || self.procs[proc].parent.is_some_and(|parent| self.is_below(parent.proc, above))
    }

    /// Do all parts refer to what is there? A file that was edited may be wrong.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.procs.is_empty() || self.procs[0].parent.is_some() {
            return Err("the first process is the root, without a parent".into());
        }
        if self.procs.len() > Self::MAX_PROCS || self.threads().count() > Self::MAX_THREADS {
            return Err("too many processes or threads".into());
        }
        for (i, proc) in self.procs.iter().enumerate() {
            if proc.threads.is_empty() {
                return Err(format!("process {i} has no thread"));
            }
            if proc.parent.is_some_and(|parent| parent.proc >= i || !self.has(parent)) {
                return Err(format!("the parent of process {i} does not come before it"));
            }
            if proc.share.sighand && !proc.share.vm {
                return Err(format!("process {i} shares handlers without memory"));
            }
        }
        let mut callers = Vec::new();
        for (i, op) in self.ops.iter().enumerate() {
            let wrong = || Err(format!("operation {i} names a thread that is not there"));
            match op {
                Op::Do(action) if !self.has_all(action) => return wrong(),
                Op::Do(_) => {}
                Op::Call { calls, during } => {
                    callers.clear();
                    callers.extend(calls.iter().map(|call| call.by));
                    callers.dedup();
                    let sources = calls.iter().filter_map(|call| call.args.source.proc());
                    let is_led =
                        |proc: usize| self.procs.get(proc).is_none_or(|p| p.threads.len() == 1);
                    if calls.iter().any(|call| match call.args.source {
                        Source::ThreadOf(proc) => is_led(proc),
                        _ => false,
                    }) {
                        return Err(format!("operation {i} names a thread that leads"));
                    }
                    if callers.len() != calls.len()
                        || !callers.iter().all(|by| self.has(*by))
                        || !sources.into_iter().all(|proc| proc < self.procs.len())
                        || !during.iter().all(|(_, action)| self.has_all(action))
                    {
                        return wrong();
                    }
                }
            }
        }
        Ok(())
    }

    fn has_all(&self, action: &Action) -> bool {
        match action {
            Action::Signal { proc, .. } | Action::Migrate { proc, .. } | Action::Look { proc } => {
                *proc < self.procs.len()
            }
            Action::SignalThread { thread, .. }
            | Action::Attr { thread, .. }
            | Action::ExitThread(thread)
            | Action::ExitProcess(thread)
            | Action::Exec(thread)
            | Action::Trace { thread, .. } => self.has(*thread),
            _ => true,
        }
    }
}
