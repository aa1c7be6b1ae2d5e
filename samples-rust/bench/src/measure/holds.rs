// SPDX-License-Identifier: MIT OR Apache-2.0

//! How long others are kept off: by `tasklist_lock`, and by interrupts that are off.
//! Needs a kernel that keeps book of locks, which makes each many times as dear; so
//! these figures are to be compared with each other only.

use std::fs;

use super::subject::{Tree, become_threads, never, run_before_others, settle};
use super::{Fallible, raw};
use crate::record::{Figure, Record, Size, Unit};

const LOCKS: &str = "/proc/lock_stat";
const TRACER: &str = "/sys/kernel/tracing/current_tracer";
const LATENCY: &str = "/sys/kernel/tracing/tracing_max_latency";

/// The longest of each, in nanoseconds of the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Longest {
    write: u64,
    read: u64,
    irqs_off: u64,
}

/// The longest holds of `tasklist_lock` in `/proc/lock_stat`, which has microseconds:
/// those for writing and for reading, or 0 where it was not taken.
fn parse(text: &str) -> Fallible<(u64, u64)> {
    /// Which column it is, after the name.
    const HOLDTIME_MAX: usize = 9;
    let longest = |name: &str| {
        let Some(line) = text.lines().find_map(|line| line.trim().strip_prefix(name)) else {
            return Ok(0);
        };
        let column = line.split_whitespace().nth(HOLDTIME_MAX);
        let hundredths = column.map(|text| text.replace('.', ""));
        let hundredths: Option<u64> = hundredths.and_then(|text| text.parse().ok());
        hundredths.map(|value| value * 10).ok_or_else(|| format!("{LOCKS} has {line}"))
    };
    Ok((longest("tasklist_lock-W:")?, longest("tasklist_lock-R:")?))
}

/// Nobody else runs meanwhile: see `run_before_others()`.
fn watch(
    mut operation: impl FnMut() -> Fallible<()>,
    mut clean: impl FnMut() -> Fallible<()>,
) -> Fallible<Longest> {
    settle();
    fs::write(LOCKS, "0")?;
    operation()?;
    let (write, read) = parse(&fs::read_to_string(LOCKS)?)?;
    clean()?;

    fs::write(TRACER, "irqsoff")?;
    settle();
    fs::write(LATENCY, "0")?;
    operation()?;
    let microseconds: u64 = fs::read_to_string(LATENCY)?.trim().parse()?;
    clean()?;
    fs::write(TRACER, "nop")?;
    Ok(Longest { write, read, irqs_off: microseconds * 1000 })
}

fn reap() -> Fallible<()> {
    Ok(raw::reap()?)
}

pub(super) fn measure(size: Size) -> Fallible<Vec<Record>> {
    fs::write("/proc/sys/kernel/lock_stat", "1")?;
    let tree = if size.processes > 1 {
        Some(Tree::grow(size.processes)?)
    } else {
        become_threads(size.threads)?;
        None
    };
    run_before_others()?;
    let copy = match &tree {
        Some(tree) => watch(
            || tree.begin_full_fork().map(drop).map_err(Into::into),
            || Ok(tree.end_full_fork()?),
        )?,
        None => watch(|| raw::full_fork(0).map(drop).map_err(Into::into), reap)?,
    };
    let fork = watch(|| raw::fork().map(drop).map_err(Into::into), reap)?;
    let thread = watch(|| raw::thread(never()).map(drop).map_err(Into::into), || Ok(()))?;
    let own = Longest {
        write: fork.write.max(thread.write),
        read: fork.read.max(thread.read),
        irqs_off: fork.irqs_off.max(thread.irqs_off),
    };
    let record =
        |figure, value| Record::new(figure, size, vec![value]).with_unit(Unit::Nanoseconds);
    Ok(vec![
        record(Figure::WriteHold, copy.write),
        record(Figure::WriteHoldOfFork, own.write),
        record(Figure::ReadHold, copy.read),
        record(Figure::ReadHoldOfFork, own.read),
        record(Figure::IrqsOff, copy.irqs_off),
        record(Figure::IrqsOffOfFork, own.irqs_off),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_longest_holds() {
        let text = "lock_stat version 0.4\n\
            class name con-bounces ...\n\
            &p->pi_lock: 0 0 0.00 0.00 0.00 0.00 1 9 0.10 77.00 9.00 1.00\n\
            tasklist_lock-W: 0 0 0.00 0.00 0.00 0.00 1 100 0.10 12.34 99.00 1.00\n\
            tasklist_lock-R: 0 0 0.00 0.00 0.00 0.00 1 100 0.10 5.06 99.00 1.00\n";
        assert_eq!(parse(text).unwrap(), (12_340, 5_060));
        assert_eq!(parse("lock_stat version 0.4\n").unwrap(), (0, 0));
    }
}
