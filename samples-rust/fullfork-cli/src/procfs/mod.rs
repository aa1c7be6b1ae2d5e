// SPDX-License-Identifier: MIT OR Apache-2.0

//! Processes as `/proc` shows them.

mod findings;
mod task;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub(crate) use findings::{Certainty, Finding, Inspector};
pub(crate) use task::Task;

/// A process with its threads.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    /// The leader, which stands for the process.
    pub(crate) leader: Task,
    /// All threads, the leader first.
    pub(crate) threads: Vec<Task>,
}

impl Process {
    pub(crate) const fn pid(&self) -> u32 {
        self.leader.tid
    }
}

/// A mounted procfs.
#[derive(Clone, Debug)]
pub(crate) struct Proc {
    root: PathBuf,
}

impl Proc {
    pub(crate) fn system() -> Self {
        Self::at("/proc")
    }

    pub(crate) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(crate) fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.root.join(below)
    }

    /// A thread or process by its number alone.
    pub(crate) fn task(&self, tid: u32) -> io::Result<Task> {
        Task::read(&self.path(tid.to_string()))
    }

    pub(crate) fn process(&self, pid: u32) -> io::Result<Process> {
        let leader = self.task(pid)?;
        let tasks = self.path(format!("{pid}/task"));
        let mut threads = Vec::new();
        for tid in numbers(&tasks)? {
            match Task::read(&tasks.join(tid.to_string())) {
                Ok(thread) => threads.push(thread),
                // It has ended since.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        threads.sort_by_key(|thread| (thread.tid != pid, thread.tid));
        Ok(Process { leader, threads })
    }

    /// A process and all below it, parents first.
    pub(crate) fn tree(&self, root: u32) -> io::Result<Vec<Process>> {
        let children = self.children()?;
        let mut tree = vec![self.process(root)?];
        let mut next = 0;
        while let Some(parent) = tree.get(next).map(Process::pid) {
            for child in children.get(&parent).into_iter().flatten() {
                match self.process(*child) {
                    Ok(process) => tree.push(process),
                    Err(error) if is_gone(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            next += 1;
        }
        Ok(tree)
    }

    fn children(&self) -> io::Result<HashMap<u32, Vec<u32>>> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for pid in numbers(&self.root)? {
            if let Ok(task) = self.task(pid) {
                children.entry(task.parent).or_default().push(pid);
            }
        }
        Ok(children)
    }
}

/// The entries of a directory that are numbers, in order.
fn numbers(directory: &Path) -> io::Result<Vec<u32>> {
    let mut numbers: Vec<u32> = fs::read_dir(directory)?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// A process that ends while it is looked at is `ENOENT` or `ESRCH`.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    const ESRCH: i32 = 3;
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A directory that looks like procfs.
    pub(crate) struct FakeProc {
        pub(crate) directory: tempfile::TempDir,
    }

    impl FakeProc {
        pub(crate) fn new() -> Self {
            Self { directory: tempfile::tempdir().unwrap() }
        }

        pub(crate) fn proc(&self) -> Proc {
            Proc::at(self.directory.path())
        }

        pub(crate) fn add(&self, pid: u32, parent: u32, name: &str, threads: &[u32]) {
            let path = self.directory.path().join(pid.to_string());
            Self::write_task(&path, pid, pid, parent, name, "");
            fs::create_dir(path.join("fd")).unwrap();
            fs::write(path.join("mem"), "").unwrap();
            fs::write(path.join("smaps"), "").unwrap();
            for tid in std::iter::once(&pid).chain(threads) {
                let task = path.join("task").join(tid.to_string());
                Self::write_task(&task, *tid, pid, parent, name, "");
            }
        }

        /// Writes a file of a process anew.
        pub(crate) fn write(&self, pid: u32, file: &str, text: &str) {
            fs::write(self.directory.path().join(pid.to_string()).join(file), text).unwrap();
        }

        pub(crate) fn link(&self, pid: u32, fd: u32, target: &str) {
            let path = self.directory.path().join(format!("{pid}/fd/{fd}"));
            std::os::unix::fs::symlink(target, path).unwrap();
        }

        /// A thread whose status has more lines.
        pub(crate) fn status(&self, pid: u32, tid: u32, lines: &str) {
            let path = self.directory.path().join(format!("{pid}/task/{tid}"));
            Self::write_task(&path, tid, pid, 1, "x", lines);
        }

        fn write_task(path: &Path, tid: u32, pid: u32, parent: u32, name: &str, lines: &str) {
            fs::create_dir_all(path).unwrap();
            let status =
                format!("{lines}Name:\t{name}\nTgid:\t{pid}\nPPid:\t{parent}\nNSpid:\t{tid}\n");
            fs::write(path.join("status"), status).unwrap();
            fs::write(path.join("stat"), stat(tid, 'S', 0, 0)).unwrap();
        }
    }

    /// A line of `/proc/TID/stat`, with what is read of it.
    pub(crate) fn stat(tid: u32, state: char, flags: u32, policy: u32) -> String {
        let zeros = vec!["0"; 31].join(" ");
        format!("{tid} (a ) b) {state} 1 1 1 0 -1 {flags} {zeros} {policy} 0 0\n")
    }

    #[test]
    fn a_tree_has_parents_first() {
        let fake = FakeProc::new();
        fake.add(10, 1, "root", &[11, 12]);
        fake.add(30, 10, "late", &[]);
        fake.add(20, 30, "wrapped", &[]);
        fake.add(40, 1, "other", &[]);
        let tree = fake.proc().tree(10).unwrap();
        let pids: Vec<_> = tree.iter().map(Process::pid).collect();
        assert_eq!(pids, [10, 30, 20]);
        let tids: Vec<_> = tree[0].threads.iter().map(|thread| thread.tid).collect();
        assert_eq!(tids, [10, 11, 12]);
    }

    #[test]
    fn no_such_process_is_gone() {
        let error = FakeProc::new().proc().tree(10).unwrap_err();
        assert!(is_gone(&error));
    }

    #[test]
    fn finds_the_test_itself() {
        let process = Proc::system().process(std::process::id()).unwrap();
        assert_eq!(process.pid(), std::process::id());
        assert!(!process.threads.is_empty());
    }
}
