// SPDX-License-Identifier: MIT OR Apache-2.0

//! Programs that tests copy.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;

use rustix::fs::{CWD, Mode, mkfifoat};

use crate::sfork;
use crate::world::{Running, Scratch, threads, wait_until};

pub(crate) fn run(name: &str, args: &[&str]) -> ExitCode {
    match (name, args) {
        ("workers", [directory, number]) => workers(Path::new(directory), number.parse().unwrap()),
        ("sfork-killed", []) => sfork::killed(),
        _ => ExitCode::from(2),
    }
}

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Threads that wait for the end of the FIFO `go`, and each write a line then. The
/// process ends with 0 if every thread was what it had been before it was copied.
fn workers(directory: &Path, number: usize) -> ExitCode {
    let workers: Vec<_> = (0..number)
        .map(|index| {
            let directory = directory.to_owned();
            thread::spawn(move || work(&directory, index))
        })
        .collect();
    let right = workers.into_iter().map(|worker| worker.join().is_ok_and(|right| right));
    // All are joined, whatever the first says.
    let right: Vec<bool> = right.collect();
    if right.len() == number && right.iter().all(|right| *right) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn work(directory: &Path, index: usize) -> bool {
    INDEX.set(index);
    let canary = vec![index; 1000];
    let mut go = File::open(directory.join("go")).unwrap();
    File::create(directory.join(format!("up.{index}"))).unwrap();
    // There may be a thousand of them: whoever waits must not run.
    let at_end = go.read(&mut [0]).unwrap() == 0;
    let line = format!("{} {index}\n", std::process::id());
    let lines = OpenOptions::new().append(true).create(true).open(directory.join("lines"));
    lines.unwrap().write_all(line.as_bytes()).unwrap();
    at_end && INDEX.get() == index && canary.iter().all(|word| *word == index)
}

/// The program `workers`, running.
pub(crate) struct Workers {
    pub(crate) process: Running,
    directory: PathBuf,
    /// The only end of the FIFO `go` that can write.
    go: Cell<Option<File>>,
}

impl Workers {
    pub(crate) fn start(scratch: &Scratch, number: usize) -> Self {
        let mut command = Command::new("/proc/self/exe");
        command.args(["--program", "workers", scratch.text(), &number.to_string()]);
        Self::start_with(command, scratch, number)
    }

    /// Starts `command`, which runs this program.
    pub(crate) fn start_with(command: Command, scratch: &Scratch, number: usize) -> Self {
        let directory = scratch.path().to_owned();
        let fifo = directory.join("go");
        mkfifoat(CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
        // Not to wait for a reader.
        let go = OpenOptions::new().read(true).write(true).open(fifo).unwrap();
        let process = Running::start(command);
        let workers = Self { process, directory, go: Cell::new(Some(go)) };
        wait_until("all workers are up", || {
            (0..number).all(|index| workers.directory.join(format!("up.{index}")).exists())
        });
        workers
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn nr_threads(&self) -> usize {
        threads(self.pid()).len()
    }

    /// Lets all workers end, in all copies.
    pub(crate) fn go(&self) {
        self.go.take();
    }

    /// How many workers wrote their line. A line is written in one piece.
    pub(crate) fn lines(&self) -> usize {
        let lines = fs::read_to_string(self.directory.join("lines")).unwrap_or_default();
        lines.lines().count()
    }
}
