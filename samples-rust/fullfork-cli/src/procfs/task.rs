// SPDX-License-Identifier: MIT OR Apache-2.0

//! One thread: what its `status` and `stat` say.

use std::fs;
use std::io;
use std::path::Path;

/// One thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) tid: u32,
    /// PID of its process.
    pub(crate) process: u32,
    /// PID of the parent of its process.
    pub(crate) parent: u32,
    pub(crate) name: String,
    /// `R`, `S`, `D`, ...
    pub(crate) state: char,
    /// Its TID in each PID namespace, from that of the procfs inwards.
    pub(crate) ns_tids: Vec<u32>,
    /// Real user ID.
    pub(crate) uid: Option<u32>,
    /// TID of its tracer, or 0.
    pub(crate) tracer: u32,
    pub(crate) no_new_privs: bool,
    pub(crate) seccomp_filters: u32,
    flags: u32,
    policy: u32,
}

impl Task {
    /// Reads `status` and `stat` below `path`.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let status = fs::read_to_string(path.join("status"))?;
        let stat = fs::read_to_string(path.join("stat"))?;
        Self::parse(&status, &stat).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: not understood", path.display()),
            )
        })
    }

    fn parse(status: &str, stat: &str) -> Option<Self> {
        let field = |key: &str| {
            status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':').map(str::trim))
        };
        let number = |key| field(key).and_then(|text| text.split_whitespace().next()?.parse().ok());
        // The name may contain anything, parentheses as well.
        let (head, tail) = stat.rsplit_once(')')?;
        let rest: Vec<&str> = tail.split_whitespace().collect();
        let tid = head.split_whitespace().next()?.parse().ok()?;
        Some(Self {
            tid,
            process: number("Tgid")?,
            parent: number("PPid")?,
            name: field("Name").unwrap_or_default().to_owned(),
            state: rest.first()?.chars().next()?,
            ns_tids: field("NSpid").map_or_else(|| vec![tid], numbers),
            uid: number("Uid"),
            tracer: number("TracerPid").unwrap_or(0),
            no_new_privs: number("NoNewPrivs") == Some(1),
            seccomp_filters: number("Seccomp_filters").unwrap_or(0),
            flags: rest.get(6)?.parse().ok()?,
            policy: rest.get(38)?.parse().ok()?,
        })
    }

    pub(crate) const fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    pub(crate) const fn is_kernel_thread(&self) -> bool {
        const PF_KTHREAD: u32 = 0x0020_0000;
        self.flags & PF_KTHREAD != 0
    }

    /// A kernel thread that is part of a process: of vhost, of `io_uring`, or the
    /// reaper of a PID namespace.
    pub(crate) const fn is_kernel_worker(&self) -> bool {
        const PF_IO_WORKER: u32 = 0x10;
        const PF_USER_WORKER: u32 = 0x4000;
        self.flags & (PF_IO_WORKER | PF_USER_WORKER) != 0
    }

    pub(crate) const fn has_deadline_policy(&self) -> bool {
        const SCHED_DEADLINE: u32 = 6;
        self.policy == SCHED_DEADLINE
    }
}

fn numbers(text: &str) -> Vec<u32> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::stat;
    use super::*;

    const STATUS: &str = "Name:\tserver (1)\nTgid:\t70\nPid:\t71\nPPid:\t7\nTracerPid:\t9\n\
                          Uid:\t1000\t0\t0\t0\nNSpid:\t71\t3\nNoNewPrivs:\t1\n\
                          Seccomp:\t2\nSeccomp_filters:\t4\n";

    #[test]
    fn reads_a_thread() {
        let task = Task::parse(STATUS, &stat(71, 'D', 0x4000, 6)).unwrap();
        assert_eq!((task.tid, task.process, task.parent), (71, 70, 7));
        assert_eq!((task.name.as_str(), task.state), ("server (1)", 'D'));
        assert_eq!(task.ns_tids, [71, 3]);
        assert_eq!((task.uid, task.tracer), (Some(1000), 9));
        assert!(task.no_new_privs && task.has_deadline_policy() && task.is_kernel_worker());
        assert_eq!(task.seccomp_filters, 4);
        assert!(!task.is_kernel_thread() && !task.is_zombie());
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        assert_eq!(Task::parse(STATUS, "71 (server"), None);
        assert_eq!(Task::parse("Name:\tx\n", &stat(71, 'S', 0, 0)), None);
    }

    #[test]
    fn agrees_with_the_kernel_about_this_test() {
        let task = Task::read(Path::new("/proc/thread-self")).unwrap();
        assert_eq!(task.process, std::process::id());
        assert_eq!(task.state, 'R');
        assert!(!task.is_kernel_worker() && !task.has_deadline_policy());
    }
}
