// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a measurement is, between the guest that makes it and the report.

use serde::{Deserialize, Serialize};

/// What a process has besides itself.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Held {
    /// What each of those has: ten descriptors of pipes.
    Nothing,
    /// Devices, of a kind that is never copied.
    Devices,
    /// Eventfds that another process has too.
    OthersEventfds,
    /// Pipes of its own.
    Pipes,
    /// Eventfds of its own.
    Eventfds,
    /// Pairs of unix sockets of its own.
    Sockets,
    /// Timerfds of its own.
    Timerfds,
    /// Epoll instances of its own.
    Epolls,
    /// Shared anonymous memory of its own.
    Memory,
}

/// What was measured.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    /// `clone3(CLONE_ALL_THREADS)`, from the call to its return in the caller.
    FullFork,
    /// The same where the caller is an ordinary task: threads that are let go
    /// may run before it returns.
    FullForkOrdinary,
    /// The same of a tree, with `CLONE_SUBTREE`.
    FullForkOfTree,
    /// The same from outside, by a pidfd.
    FullForkByPidfd,
    /// A plain `fork()` of the same process.
    Fork,
    /// A full fork of a process whose memory is in huge pages.
    FullForkHuge,
    /// A plain fork of that.
    ForkHuge,
    /// The plain forks of all processes of a tree, added up.
    ForksOfTree,
    /// Raw `clone3()` of one thread more; a sample for each, in their order.
    Thread,
    /// The same from an ordinary task.
    ThreadOrdinary,
    /// A full fork of a tree in which all are children of the root.
    FullForkOfWideTree,
    /// What the tracepoint says: how long the originals stood still.
    StoodStill,
    /// From the call until all are quiesced.
    PhaseQuiesce,
    /// From then until all replicas are there.
    PhasePrepare,
    /// From then until the originals are released.
    PhaseCommit,
    /// From then until the call returns.
    PhaseReturn,
    /// `vfork()`, until the child has exited.
    Vfork,
    /// A child by `vfork()` that exits, until it was waited for.
    VforkExit,
    /// The same by `CLONE_SFORK`.
    SforkExit,
    /// A child by `fork()` that executes a program, until that was waited for.
    ForkExec,
    /// The same by `vfork()`.
    VforkExec,
    /// The same by `CLONE_SFORK`.
    SforkExec,
    /// `pthread_create()`.
    PthreadCreate,
    /// `execve()`, to the first instruction of the program.
    Execve,
    /// A system call that does nothing.
    NullSyscall,
    /// A signal to oneself, its handler, and back.
    Signal,
    /// A full fork while all threads may run on one CPU only; wall clock.
    OnOneCpu,
    /// The same on two.
    OnTwoCpus,
    /// Kernel memory of a thread.
    MemoryOfThread,
    /// Kernel memory of a replica, for each thread but the leader.
    MemoryOfReplicaThread,
    /// The longest that `tasklist_lock` is held for writing.
    WriteHold,
    /// The same by `fork()` and thread creation.
    WriteHoldOfFork,
    /// The longest that `tasklist_lock` is held for reading.
    ReadHold,
    /// The same by `fork()` and thread creation.
    ReadHoldOfFork,
    /// The longest that interrupts are off.
    IrqsOff,
    /// The same by `fork()` and thread creation.
    IrqsOffOfFork,
    /// A full fork of a process of one thread that has this.
    NotIsolated(Held),
    /// The same with `CLONE_ISOLATE`.
    Isolated(Held),
    /// A running copy of a snapshot, until the call returns.
    Spawn,
    /// `criu dump --leave-running`.
    CriuDump,
    /// `criu restore`, until all runs.
    CriuRestore,
}

/// What the samples count.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    /// Instructions of the guest: its clock under `-icount shift=0`.
    #[default]
    Instructions,
    /// Nanoseconds of the host.
    Nanoseconds,
    /// Bytes.
    Bytes,
}

/// The size of what is copied.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub(crate) struct Size {
    /// Threads of each process.
    pub(crate) threads: u32,
    /// Processes.
    pub(crate) processes: u32,
    /// Megabytes of anonymous memory, written once.
    pub(crate) mb: u32,
}

impl Size {
    /// One process of so many threads.
    pub(crate) const fn threads(threads: u32) -> Self {
        Self { threads, processes: 1, mb: 0 }
    }

    /// So many processes of one thread.
    pub(crate) const fn processes(processes: u32) -> Self {
        Self { threads: 1, processes, mb: 0 }
    }

    /// The same with memory.
    pub(crate) const fn with_mb(self, mb: u32) -> Self {
        Self { mb, ..self }
    }
}

/// The samples of one figure.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Record {
    pub(crate) figure: Figure,
    #[serde(flatten)]
    pub(crate) size: Size,
    #[serde(default)]
    pub(crate) unit: Unit,
    pub(crate) samples: Vec<u64>,
}

impl Record {
    pub(crate) fn new(figure: Figure, size: Size, samples: Vec<u64>) -> Self {
        Self { figure, size, unit: Unit::default(), samples }
    }

    pub(crate) fn with_unit(self, unit: Unit) -> Self {
        Self { unit, ..self }
    }

    /// The least; 0 where there is none.
    pub(crate) fn least(&self) -> u64 {
        self.samples.iter().min().copied().unwrap_or(0)
    }

    /// The middle one; 0 where there is none.
    pub(crate) fn median(&self) -> u64 {
        let mut sorted = self.samples.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or(0)
    }
}

/// All that one boot of a guest measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Measurements {
    /// Which kernel: fast, base, off.
    pub(crate) kernel: String,
    pub(crate) cpus: u32,
    pub(crate) records: Vec<Record>,
}
