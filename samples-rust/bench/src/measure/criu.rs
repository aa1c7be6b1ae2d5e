// SPDX-License-Identifier: MIT OR Apache-2.0

//! The same programs, copied by CRIU: dumped to memory, and restored.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper};

use super::program::Program;
use super::subject::run_before_others;
use super::{Fallible, raw, work};
use crate::record::{Figure, Record, Size};

const SAMPLES: usize = 3;
const IMAGES: &str = "/dev/shm/fullfork-bench-images";

/// What is said about it is in the document.
const DUMP: &[&str] = &["dump", "--leave-running"];
const RESTORE: &[&str] = &["restore", "--restore-detached"];

pub(super) fn measure() -> Fallible<Vec<Record>> {
    set_child_subreaper(Some(getpid()))?;
    run_before_others()?;
    let sizes = [
        Size::threads(8),
        Size::threads(100),
        Size::threads(1000),
        Size::threads(8).with_mb(10),
        Size::threads(8).with_mb(100),
        Size::processes(10),
    ];
    let mut records = vec![];
    for size in sizes {
        let program = Program::start(size)?;
        let copies: Fallible<Vec<u64>> = (0..SAMPLES).map(|_| program.full_fork()).collect();
        drop(program);
        records.push(Record::new(Figure::FullForkByPidfd, size, copies?));
        match criu(size) {
            Ok((dumps, restores)) => {
                records.push(Record::new(Figure::CriuDump, size, dumps));
                records.push(Record::new(Figure::CriuRestore, size, restores));
            }
            // There is a row that says that it has no value.
            Err(error) => eprintln!("criu, {size:?}: {error}"),
        }
    }
    Ok(records)
}

/// Dumps and restores. The first time reads the files of CRIU from the host.
fn criu(size: Size) -> Fallible<(Vec<u64>, Vec<u64>)> {
    let (mut dumps, mut restores) = (vec![], vec![]);
    for _ in 0..=SAMPLES {
        let (dump, restore) = once(size)?;
        dumps.push(dump);
        restores.push(restore);
    }
    dumps.remove(0);
    restores.remove(0);
    Ok((dumps, restores))
}

fn once(size: Size) -> Fallible<(u64, u64)> {
    let images = Path::new(IMAGES);
    let _ = fs::remove_dir_all(images);
    fs::create_dir(images)?;
    let program = Program::start(size)?;
    let pid = program.pid();
    let dump = run(DUMP, &["--tree", &pid.to_string()])?;
    // Only where the PIDs are free again can it be restored without a PID
    // namespace, which would be one more thing to make.
    program.end()?;
    let restore = run(RESTORE, &[])?;
    let restored = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or("no PID")?;
    kill_process(restored, Signal::KILL)?;
    work::settle_down()?;
    Ok((dump, restore))
}

fn run(words: &[&str], more: &[&str]) -> Fallible<u64> {
    let log = Path::new(IMAGES).join(format!("{}.log", words[0]));
    let said = File::create(&log)?;
    let mut command = Command::new("criu");
    command.args(words).args(more).args(["--images-dir", IMAGES]);
    command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
    let before = raw::ticks();
    let status = command.status()?;
    let took = raw::ticks() - before;
    if status.success() {
        return Ok(took);
    }
    let text = fs::read_to_string(&log)?;
    Err(format!("criu {words:?}: {status}\n{text}").into())
}
