// SPDX-License-Identifier: MIT OR Apache-2.0

//! Do the originals copy themselves in parallel?

use std::fs;
use std::time::Instant;

use super::subject::{become_threads, pin, settle};
use super::{Fallible, raw};
use crate::record::{Figure, Record, Size, Unit};

pub(crate) fn measure(threads: u32, samples: usize) -> Fallible<Vec<Record>> {
    if std::thread::available_parallelism()?.get() < 2 {
        return Err("the clock on the wall tells nothing on one CPU: boot with two".into());
    }
    become_threads(threads)?;
    // In turns, so that what else the host does disturbs both alike.
    let (mut one, mut two) = (vec![], vec![]);
    for _ in 0..samples {
        one.push(on(1)?);
        two.push(on(2)?);
    }
    let size = Size::threads(threads);
    Ok(vec![
        Record::new(Figure::OnOneCpu, size, one).with_unit(Unit::Nanoseconds),
        Record::new(Figure::OnTwoCpus, size, two).with_unit(Unit::Nanoseconds),
    ])
}

fn on(cpus: u32) -> Fallible<u64> {
    for thread in fs::read_dir("/proc/self/task")? {
        let tid = thread?.file_name().to_string_lossy().parse()?;
        pin(tid, cpus)?;
    }
    settle();
    let start = Instant::now();
    raw::full_fork(0)?;
    let took = start.elapsed();
    raw::reap()?;
    Ok(u64::try_from(took.as_nanos())?)
}
