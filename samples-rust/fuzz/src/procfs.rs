// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the machine says about the tasks of a step.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// A task, as its files in `/proc` describe it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) tid: u32,
    pub(crate) tgid: u32,
    pub(crate) parent: u32,
    pub(crate) group: u32,
    pub(crate) session: u32,
    pub(crate) state: char,
    pub(crate) name: String,
    /// In each PID namespace, the outermost first.
    pub(crate) tids: Vec<u32>,
    pub(crate) nr_threads: u32,
    /// What a replica has as its original has it.
    pub(crate) kept: BTreeMap<&'static str, String>,
}

/// All tasks below a process, by TID.
pub(crate) type Tasks = BTreeMap<u32, Task>;

const KEPT: &[&str] = &[
    "Umask",
    "Uid",
    "Gid",
    "Groups",
    "SigIgn",
    "SigCgt",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "Cpus_allowed",
    "Mems_allowed",
];

impl Task {
    pub(crate) fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }

    /// Reads the two files; `None` if something is missing there.
    pub(crate) fn parse(status: &str, stat: &str) -> Option<Self> {
        let mut task = Self::default();
        for line in status.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match key {
                "Pid" => task.tid = value.parse().ok()?,
                "Tgid" => task.tgid = value.parse().ok()?,
                "PPid" => task.parent = value.parse().ok()?,
                "State" => task.state = value.chars().next()?,
                "Name" => value.clone_into(&mut task.name),
                "Threads" => task.nr_threads = value.parse().ok()?,
                "NSpid" => task.tids = value.split_whitespace().flat_map(str::parse).collect(),
                _ => {
                    if let Some(key) = KEPT.iter().find(|kept| **kept == key) {
                        task.kept.insert(key, value.to_owned());
                    }
                }
            }
        }
        // The name may contain anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        task.group = fields.get(2)?.parse().unwrap_or(0);
        task.session = fields.get(3)?.parse().unwrap_or(0);
        for (key, index) in [("nice", 16), ("rt_priority", 37), ("policy", 38)] {
            task.kept.insert(key, (*fields.get(index)?).to_owned());
        }
        // Who was reaped between open() and read() is in no process any more.
        (task.tid != 0 && task.tgid != 0).then_some(task)
    }

    pub(crate) fn read(tid: u32) -> Option<Self> {
        let read = |name| fs::read_to_string(format!("/proc/{tid}/{name}")).ok();
        Self::parse(&read("status")?, &read("stat")?)
    }
}

fn numbers_in(path: &Path) -> Vec<u32> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// All tasks of processes below `pid`, itself not included, at about one time.
pub(crate) fn tasks_below(pid: u32) -> Tasks {
    let mut tasks = Tasks::new();
    let mut left = vec![pid];
    while let Some(pid) = left.pop() {
        for tid in numbers_in(Path::new(&format!("/proc/{pid}/task"))) {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{tid}/children"));
            for child in children.unwrap_or_default().split_whitespace() {
                let Ok(child) = child.parse() else { continue };
                if tasks.contains_key(&child) {
                    continue;
                }
                for thread in numbers_in(Path::new(&format!("/proc/{child}/task"))) {
                    if let Some(task) = Task::read(thread) {
                        tasks.insert(thread, task);
                    }
                }
                left.push(child);
            }
        }
    }
    tasks
}

/// `root`, and with `whole` all that are below it.
pub(crate) fn tree_of(tasks: &Tasks, root: u32, whole: bool) -> BTreeSet<u32> {
    let mut tree = BTreeSet::from([root]);
    loop {
        let before = tree.len();
        if whole {
            let new = tasks.values().filter(|task| tree.contains(&task.parent));
            let new: Vec<u32> = new.map(|task| task.tgid).collect();
            tree.extend(new);
        }
        if tree.len() == before {
            return tree;
        }
    }
}

/// What each task of the machine is doing, for a step that does not go on.
pub(crate) fn dump() -> String {
    let mut text = String::new();
    for pid in numbers_in(Path::new("/proc")) {
        for tid in numbers_in(Path::new(&format!("/proc/{pid}/task"))) {
            let read = |name| {
                let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/{name}"));
                text.unwrap_or_default().trim().to_owned()
            };
            let status = read("status");
            // Kernel threads have no memory, and zombies are of interest.
            if !status.contains("VmSize") && !status.contains("(zombie)") {
                continue;
            }
            let line = |key: &str| {
                status.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned()
            };
            let _ = write!(
                text,
                "== {pid}/{tid} {} {} {} {} wchan {} syscall {}\n{}\n",
                read("comm"),
                line("State:"),
                line("PPid:"),
                line("SigPnd:"),
                read("wchan"),
                read("syscall"),
                read("stack"),
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_task_with_a_strange_name() {
        let status = "Name:\ta) b\nUmask:\t0022\nState:\tT (stopped)\nTgid:\t12\nPid:\t13\n\
                      PPid:\t4\nUid:\t0\t0\t0\t0\nNSpid:\t13\t2\nThreads:\t3\nSigBlk:\t0\n";
        let stat = "13 (a) b) T 4 10 9 0 -1 0 1 2 3 4 5 6 7 8 20 0 3 0 1 2 3 4 5 6 7 8 9 10 11 12 \
                    13 14 15 16 17 18 0 3 0 0 0";
        let task = Task::parse(status, stat).unwrap();
        assert_eq!((task.tid, task.tgid, task.parent), (13, 12, 4));
        assert_eq!((task.group, task.session, task.state), (10, 9, 'T'));
        assert_eq!(task.tids, vec![13, 2]);
        assert_eq!(task.name, "a) b");
        assert_eq!(task.kept["Umask"], "0022");
        assert_eq!(task.kept["nice"], "0");
        assert!(!task.kept.contains_key("SigBlk"));
    }

    #[test]
    fn a_task_that_is_going_is_none() {
        assert_eq!(Task::parse("Name:\tx\n", "1 (x) R 1 1 1"), None);
        let status = "Tgid:\t0\nPid:\t13\nPPid:\t4\n";
        let stat = "13 (a) T ".to_owned() + &"1 ".repeat(50);
        assert_eq!(Task::parse(status, &stat), None);
        assert!(Task::parse(&status.replace("\t0", "\t12"), &stat).is_some());
        assert_eq!(Task::read(u32::MAX), None);
    }

    #[test]
    fn trees() {
        let task = |tid, tgid, parent| (tid, Task { tid, tgid, parent, ..Task::default() });
        let tasks = Tasks::from([task(2, 2, 1), task(3, 2, 1), task(4, 4, 2), task(5, 5, 4)]);
        assert_eq!(tree_of(&tasks, 2, false), BTreeSet::from([2]));
        assert_eq!(tree_of(&tasks, 2, true), BTreeSet::from([2, 4, 5]));
    }

    #[test]
    fn finds_a_child() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let tasks = tasks_below(std::process::id());
        assert_eq!(tasks[&child.id()].parent, std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
