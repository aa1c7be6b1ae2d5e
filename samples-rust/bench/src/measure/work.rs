// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a process does that was made to be copied.

use serde::{Deserialize, Serialize};

use super::subject::{
    Pages, Tree, become_threads, end, never, run_before_others, settle, take_memory,
};
use super::trace::Trace;
use super::{Fallible, holds, isolate, kernel_memory, plain, program, raw, sfork, wall};
use crate::record::{Figure, Held, Record, Size};

/// An order to a new process; it prints the records that it makes.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Work {
    /// Full forks and forks of this size.
    Copies { size: Size, samples: usize },
    /// The same with the memory in huge pages.
    HugeCopies { size: Size, samples: usize },
    /// The same full forks, with what the tracepoints say.
    TracedCopies { size: Size, samples: usize },
    /// Makes so many threads.
    Threads { count: u32, ordinary: bool },
    /// Full forks of a tree, and the forks of all its processes.
    Trees { size: Size, samples: usize },
    /// Full forks of a tree that is wide.
    WideTrees { size: Size, samples: usize },
    /// What has nothing to do with full forks.
    Plain { samples: usize },
    /// Children that exit or execute a program, of a process of this size.
    Sfork { size: Size, samples: usize },
    /// The same full fork on one CPU and on two.
    Wall { threads: u32, samples: usize },
    /// Kernel memory of threads and of replicas.
    KernelMemory { threads: u32 },
    /// Full forks of a process that has this, with and without `CLONE_ISOLATE`.
    Isolate { held: Held, samples: usize },
    /// How long others are kept off.
    Holds { size: Size },
    /// Is a process, or tree, of this size until it is killed.
    Wait { size: Size },
}

/// Does it, prints, and ends.
pub(crate) fn work(order: &str) -> Fallible<()> {
    let records = match serde_json::from_str(order)? {
        Work::Copies { size, samples } => copies(size, samples)?,
        Work::HugeCopies { size, samples } => huge_copies(size, samples)?,
        Work::TracedCopies { size, samples } => traced_copies(size, samples)?,
        Work::Threads { count, ordinary } => threads(count, ordinary)?,
        Work::Trees { size, samples } => trees(size, samples)?,
        Work::WideTrees { size, samples } => wide_trees(size, samples)?,
        Work::Plain { samples } => plain::measure(samples)?,
        Work::Sfork { size, samples } => sfork::measure(size, samples)?,
        Work::Isolate { held, samples } => isolate::measure(held, samples)?,
        Work::Holds { size } => holds::measure(size)?,
        Work::Wait { size } => program::wait(size)?,
        Work::Wall { threads, samples } => wall::measure(threads, samples)?,
        Work::KernelMemory { threads } => kernel_memory::measure(threads)?,
    };
    println!("{}", serde_json::to_string(&records)?);
    // The other threads never end by themselves.
    end()
}

/// Lets everybody who was killed end, and reaps those who were left to us.
pub(super) fn settle_down() -> Fallible<()> {
    settle();
    while raw::reap_one_that_ended()? {
        settle();
    }
    Ok(())
}

/// The first one is not counted: it does what is done once only.
pub(super) fn repeat(
    samples: usize,
    mut once: impl FnMut() -> Fallible<u64>,
) -> Fallible<Vec<u64>> {
    (0..=samples).map(|_| once()).skip(1).collect()
}

fn copy() -> Fallible<u64> {
    let replica = raw::full_fork(0)?;
    raw::reap()?;
    settle();
    Ok(replica.ticks)
}

fn fork() -> Fallible<u64> {
    let child = raw::fork()?;
    raw::reap()?;
    settle();
    Ok(child.ticks)
}

fn copies(size: Size, samples: usize) -> Fallible<Vec<Record>> {
    take_memory(size.mb, Pages::Small)?;
    become_threads(size.threads)?;
    let ordinary = repeat(samples, copy)?;
    run_before_others()?;
    Ok(vec![
        Record::new(Figure::Fork, size, repeat(samples, fork)?),
        Record::new(Figure::FullFork, size, repeat(samples, copy)?),
        Record::new(Figure::FullForkOrdinary, size, ordinary),
    ])
}

fn huge_copies(size: Size, samples: usize) -> Fallible<Vec<Record>> {
    take_memory(size.mb, Pages::Huge)?;
    become_threads(size.threads)?;
    run_before_others()?;
    Ok(vec![
        Record::new(Figure::ForkHuge, size, repeat(samples, fork)?),
        Record::new(Figure::FullForkHuge, size, repeat(samples, copy)?),
    ])
}

fn traced_copies(size: Size, samples: usize) -> Fallible<Vec<Record>> {
    take_memory(size.mb, Pages::Small)?;
    become_threads(size.threads)?;
    run_before_others()?;
    let trace = Trace::start()?;
    copy()?;
    trace.take()?;
    let mut figures = [
        (Figure::StoodStill, vec![]),
        (Figure::PhaseQuiesce, vec![]),
        (Figure::PhasePrepare, vec![]),
        (Figure::PhaseCommit, vec![]),
        (Figure::PhaseReturn, vec![]),
    ];
    for _ in 0..samples {
        let whole = copy()?;
        let phases = trace.take()?;
        let (quiesce, prepare, commit) = (phases.quiesce(), phases.prepare(), phases.commit());
        let rest = whole.saturating_sub(quiesce + prepare + commit);
        let values = [phases.stood_still_ns, quiesce, prepare, commit, rest];
        for ((_, all), value) in figures.iter_mut().zip(values) {
            all.push(value);
        }
    }
    Ok(figures.into_iter().map(|(figure, all)| Record::new(figure, size, all)).collect())
}

fn threads(count: u32, ordinary: bool) -> Fallible<Vec<Record>> {
    if !ordinary {
        run_before_others()?;
    }
    let made: Result<Vec<u64>, _> =
        (0..count).map(|_| raw::thread(never()).map(|thread| thread.ticks)).collect();
    let figure = if ordinary { Figure::ThreadOrdinary } else { Figure::Thread };
    Ok(vec![Record::new(figure, Size::threads(count + 1), made?)])
}

/// Both by turns: what they take depends on what the kernel's allocators were left with.
fn trees(size: Size, samples: usize) -> Fallible<Vec<Record>> {
    let tree = Tree::grow(size.processes)?;
    run_before_others()?;
    let mut forks = vec![];
    let copies = repeat(samples, || {
        forks.push(tree.forks()?);
        copy_of(&tree)
    })?;
    // The first one was not counted there either.
    forks.remove(0);
    Ok(vec![
        Record::new(Figure::ForksOfTree, size, forks),
        Record::new(Figure::FullForkOfTree, size, copies),
    ])
}

fn wide_trees(size: Size, samples: usize) -> Fallible<Vec<Record>> {
    let tree = Tree::grow_wide(size.processes)?;
    run_before_others()?;
    Ok(vec![Record::new(Figure::FullForkOfWideTree, size, repeat(samples, || copy_of(&tree))?)])
}

fn copy_of(tree: &Tree) -> Fallible<u64> {
    let ticks = tree.begin_full_fork()?;
    tree.end_full_fork()?;
    settle();
    Ok(ticks)
}
