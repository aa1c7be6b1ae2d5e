// SPDX-License-Identifier: MIT OR Apache-2.0

//! Copies of snapshots, which the sample driver makes, against plain forks.

use fullfork::{Relation, Signal, SnapshotOptions, SnapshotStore, SpawnOptions};

use super::program::Program;
use super::subject::run_before_others;
use super::{Fallible, Work, in_new_process, raw, work};
use crate::record::{Figure, Record, Size};

const SAMPLES: usize = 9;

pub(super) fn measure() -> Fallible<Vec<Record>> {
    let mut records = in_new_process(Work::Threads { count: 7, ordinary: false })?;
    for size in [Size::threads(1), Size::threads(1).with_mb(100), Size::threads(8)] {
        records.extend(in_new_process(Work::Copies { size, samples: SAMPLES })?);
        records.push(Record::new(Figure::Spawn, size, spawns(size)?));
    }
    Ok(records)
}

fn spawns(size: Size) -> Fallible<Vec<u64>> {
    let program = Program::start(size)?;
    let store = SnapshotStore::open()?;
    let snapshot = store.take(program.pidfd()?, SnapshotOptions::default())?;
    program.end()?;
    let options = SpawnOptions {
        relation: Relation::Child { exit_signal: Some(Signal::CHILD) },
        ..SpawnOptions::default()
    };
    let mut samples = vec![];
    run_before_others()?;
    for _ in 0..=SAMPLES {
        let before = raw::ticks();
        let copy = snapshot.spawn(options)?;
        samples.push(raw::ticks() - before);
        copy.signal(Signal::KILL)?;
        copy.wait()?;
        work::settle_down()?;
    }
    // The first one does what is done once only.
    samples.remove(0);
    Ok(samples)
}
