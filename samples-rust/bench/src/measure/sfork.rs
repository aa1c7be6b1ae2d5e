// SPDX-License-Identifier: MIT OR Apache-2.0

//! A child that exits, or executes a program, by each way to make one.

use super::raw::{Way, spawn_and_wait};
use super::subject::{Pages, run_before_others, take_memory};
use super::work::repeat;
use super::{Fallible, elf};
use crate::record::{Figure, Record, Size};

pub(super) fn measure(size: Size, samples: usize) -> Fallible<Vec<Record>> {
    let program = elf::write("exit", elf::EXIT)?;
    take_memory(size.mb, Pages::Small)?;
    run_before_others()?;
    let of = |figure, way, program| {
        let all = repeat(samples, || Ok(spawn_and_wait(way, program)?))?;
        Ok::<_, Box<dyn std::error::Error>>(Record::new(figure, size, all))
    };
    let program = Some(program.as_c_str());
    Ok(vec![
        of(Figure::VforkExit, Way::Vfork, None)?,
        of(Figure::SforkExit, Way::Sfork, None)?,
        of(Figure::VforkExec, Way::Vfork, program)?,
        of(Figure::SforkExec, Way::Sfork, program)?,
        // Last, as it leaves the pages to be copied.
        of(Figure::ForkExec, Way::Fork, program)?,
    ])
}
