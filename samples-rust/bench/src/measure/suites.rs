// SPDX-License-Identifier: MIT OR Apache-2.0

//! Which sizes are measured, and how often.

use clap::ValueEnum;

use super::{Fallible, Work, criu, in_new_process, snapshot};
use crate::record::{Held, Record, Size};

/// A part of the measurements that can be made by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Full fork and floor by the number of threads.
    Threads,
    /// How long the originals stand still, by threads and memory; phases.
    Still,
    /// Trees of processes.
    Trees,
    /// What has nothing to do with full forks.
    Plain,
    /// Kernel memory of replicas.
    KernelMemory,
    /// Copies of snapshots.
    Snapshot,
    /// The calling thread in the child, against fork and vfork.
    Sfork,
    /// What `CLONE_ISOLATE` adds.
    Isolate,
    /// The same programs with CRIU.
    Criu,
    /// How long locks are held, and interrupts off; needs a kernel that tells.
    Holds,
    /// Two CPUs against one, by the clock on the wall.
    Wall,
}

fn samples(threads_or_processes: u32) -> usize {
    match threads_or_processes {
        0..100 => 15,
        100..1000 => 5,
        _ => 3,
    }
}

/// Measures it; the short form is for a check, not for plots.
pub(crate) fn run(suite: Suite, short: bool) -> Fallible<Vec<Record>> {
    match suite {
        Suite::Threads => threads(if short { &[1, 2, 8, 64, 512] } else { THREADS }),
        Suite::Still => still(if short { &[0, 100] } else { &[0, 10, 100, 1000] }, short),
        Suite::Trees => {
            trees(if short { &[1, 10, 100] } else { &[1, 3, 10, 30, 100, 300, 1000] }, short)
        }
        Suite::KernelMemory => in_new_process(Work::KernelMemory { threads: 1000 }),
        Suite::Snapshot => snapshot::measure(),
        Suite::Sfork => sforks(),
        Suite::Isolate => isolate(),
        Suite::Criu => criu::measure(),
        Suite::Holds => holds(),
        Suite::Wall => in_new_process(Work::Wall { threads: 512, samples: 15 }),
        Suite::Plain => in_new_process(Work::Plain { samples: if short { 51 } else { 201 } }),
    }
}

const THREADS: &[u32] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];

fn threads(counts: &[u32]) -> Fallible<Vec<Record>> {
    let most = counts.iter().max().copied().unwrap_or(1);
    let mut records = vec![];
    for ordinary in [false, true] {
        records.extend(in_new_process(Work::Threads { count: most - 1, ordinary })?);
    }
    for &count in counts {
        let (size, samples) = (Size::threads(count), samples(count));
        records.extend(in_new_process(Work::Copies { size, samples })?);
    }
    Ok(records)
}

fn still(megabytes: &[u32], short: bool) -> Fallible<Vec<Record>> {
    let mut records = in_new_process(Work::Threads { count: 63, ordinary: false })?;
    for &mb in megabytes {
        for threads in [8, 64] {
            let size = Size::threads(threads).with_mb(mb);
            let samples = if mb < 1000 { 5 } else { 3 };
            records.extend(in_new_process(Work::Copies { size, samples })?);
            records.extend(in_new_process(Work::TracedCopies { size, samples })?);
        }
    }
    if !short {
        for mb in [100, 1000] {
            let size = Size::threads(8).with_mb(mb);
            records.extend(in_new_process(Work::HugeCopies { size, samples: 3 })?);
        }
        // The phases of other sizes.
        for threads in [1, 512, 4096] {
            let (size, samples) = (Size::threads(threads), samples(threads));
            records.extend(in_new_process(Work::TracedCopies { size, samples })?);
        }
    }
    Ok(records)
}

fn holds() -> Fallible<Vec<Record>> {
    let mut records = vec![];
    for threads in [8, 64, 512] {
        records.extend(in_new_process(Work::Holds { size: Size::threads(threads) })?);
    }
    for processes in [10, 100] {
        records.extend(in_new_process(Work::Holds { size: Size::processes(processes) })?);
    }
    Ok(records)
}

fn trees(counts: &[u32], short: bool) -> Fallible<Vec<Record>> {
    let mut records = vec![];
    for &count in counts {
        let (size, samples) = (Size::processes(count), samples(count));
        records.extend(in_new_process(Work::Trees { size, samples })?);
    }
    if !short {
        // A fork is dearer the more ancestors have the same memory. Here all have one.
        for count in [10, 100, 250, 500, 1000] {
            let (size, samples) = (Size::processes(count), 3);
            records.extend(in_new_process(Work::WideTrees { size, samples })?);
        }
    }
    Ok(records)
}

fn sforks() -> Fallible<Vec<Record>> {
    let mut records = vec![];
    for mb in [0, 1000] {
        let size = Size::threads(1).with_mb(mb);
        records.extend(in_new_process(Work::Sfork { size, samples: 15 })?);
    }
    Ok(records)
}

fn isolate() -> Fallible<Vec<Record>> {
    let mut records = vec![];
    for held in [
        Held::Nothing,
        Held::Devices,
        Held::OthersEventfds,
        Held::Pipes,
        Held::Eventfds,
        Held::Sockets,
        Held::Timerfds,
        Held::Epolls,
        Held::Memory,
    ] {
        records.extend(in_new_process(Work::Isolate { held, samples: 9 })?);
    }
    Ok(records)
}
