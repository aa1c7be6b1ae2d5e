// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a thread takes of the kernel's memory, and what the replica of one does,
//! as their control group is charged.

use std::fs;
use std::path::Path;

use super::subject::{never, settle};
use super::{Fallible, raw};
use crate::record::{Figure, Record, Size, Unit};

const ROOT: &str = "/sys/fs/cgroup";

/// A control group that this process is in.
struct Group(String);

impl Group {
    fn new() -> Fallible<Self> {
        let group = Self(format!("{ROOT}/bench-{}", std::process::id()));
        fs::write(Path::new(ROOT).join("cgroup.subtree_control"), "+memory")?;
        fs::create_dir(&group.0)?;
        fs::write(format!("{}/cgroup.procs", group.0), "0")?;
        Ok(group)
    }

    /// Bytes of stacks and of objects.
    fn kernel_memory(&self) -> Fallible<u64> {
        settle();
        let text = fs::read_to_string(format!("{}/memory.stat", self.0))?;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse::<u64>().ok())
                .ok_or_else(|| format!("memory.stat has no {name}"))
        };
        Ok(value("kernel_stack")? + value("slab")?)
    }
}

pub(crate) fn measure(threads: u32) -> Fallible<Vec<Record>> {
    let group = Group::new()?;
    let empty = group.kernel_memory()?;
    for _ in 1..threads {
        raw::thread(never())?;
    }
    let with_threads = group.kernel_memory()?;
    // A copy has memory areas, files and signals too, whatever its threads are.
    // Both are stopped before they run.
    let one = raw::full_fork_of_caller(raw::CLONE_STOPPED)?;
    let with_one = group.kernel_memory()?;
    let all = raw::full_fork(raw::CLONE_STOPPED)?;
    let with_all = group.kernel_memory()?;
    for copy in [one, all] {
        // SAFETY: no memory is touched.
        unsafe { libc::kill(copy.pid, libc::SIGKILL) };
        raw::reap()?;
    }

    let others = u64::from(threads) - 1;
    let of_thread = (with_threads - empty) / others;
    let of_replica = (with_all - with_one).saturating_sub(with_one - with_threads) / others;
    let record = |figure, bytes| {
        Record::new(figure, Size::threads(threads), vec![bytes]).with_unit(Unit::Bytes)
    };
    Ok(vec![
        record(Figure::MemoryOfThread, of_thread),
        record(Figure::MemoryOfReplicaThread, of_replica),
    ])
}
