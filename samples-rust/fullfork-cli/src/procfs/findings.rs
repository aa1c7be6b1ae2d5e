// SPDX-License-Identifier: MIT OR Apache-2.0

//! What would stop a copy of a process, as far as `/proc` tells.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;

use super::{Proc, Process, Task, is_gone};

/// How sure it is that the copy fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Certainty {
    /// It fails unless this changes.
    Fails,
    /// It may fail.
    MayFail,
}

/// Something that would stop a copy.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Finding {
    /// The word that the tracepoint has for it.
    pub(crate) reason: &'static str,
    pub(crate) errno: &'static str,
    pub(crate) certainty: Certainty,
    pub(crate) detail: String,
}

impl Finding {
    fn fails(reason: &'static str, errno: &'static str, detail: impl Into<String>) -> Self {
        Self { reason, errno, certainty: Certainty::Fails, detail: detail.into() }
    }

    fn may_fail(reason: &'static str, errno: &'static str, detail: impl Into<String>) -> Self {
        Self { certainty: Certainty::MayFail, ..Self::fails(reason, errno, detail) }
    }
}

/// Looks at the processes of one tree.
pub(crate) struct Inspector<'p> {
    proc: &'p Proc,
    caller: Task,
    members: HashSet<u32>,
    /// How many PID namespaces the root is in.
    depth: usize,
    /// Below that, those depths at which some member is the init.
    inits: HashSet<usize>,
}

impl<'p> Inspector<'p> {
    pub(crate) fn new(proc: &'p Proc, caller: Task, tree: &[Process]) -> Self {
        let tids = tree.iter().flat_map(|process| &process.threads);
        let members = tids.map(|thread| thread.tid).collect();
        let depth = tree.first().map_or(1, |root| root.leader.ns_tids.len());
        let inits = tree.iter().filter(|process| process.leader.ns_tids.last() == Some(&1));
        let inits = inits.map(|process| process.leader.ns_tids.len()).collect();
        Self { proc, caller, members, depth, inits }
    }

    /// All that would stop a copy, each reason once.
    pub(crate) fn inspect(&self, process: &Process) -> Vec<Finding> {
        let leader = &process.leader;
        if leader.is_kernel_thread() {
            return vec![Finding::fails("root", "EPERM", "a kernel thread")];
        }
        let mut findings = Vec::new();
        if process.pid() == 1 && leader.ns_tids.len() == 1 {
            findings.push(Finding::fails("root", "EPERM", "the init of the system"));
        }
        findings.extend(process.threads.iter().flat_map(|thread| self.inspect_thread(thread)));
        // A zombie holds nothing.
        if !leader.is_zombie() {
            findings.extend(self.inspect_rights(process));
            findings.extend(self.inspect_files(process));
            findings.extend(self.inspect_memory(process));
            findings.extend(self.inspect_namespace(process));
        }
        let mut seen = HashSet::new();
        findings.retain(|finding| seen.insert((finding.reason, finding.certainty as u8)));
        findings
    }

    fn inspect_thread(&self, thread: &Task) -> Vec<Finding> {
        let mut findings = Vec::new();
        let who = format!("thread {} ({})", thread.tid, thread.name);
        if thread.is_kernel_worker() {
            let detail = format!("{who} is one of the kernel");
            findings.push(Finding::fails("kernel-worker", "EOPNOTSUPP", detail));
        }
        if thread.has_deadline_policy() {
            let detail = format!("{who} has SCHED_DEADLINE");
            findings.push(Finding::fails("deadline-policy", "EOPNOTSUPP", detail));
        }
        if self.members.contains(&thread.tracer) {
            let detail = format!("{who} is traced by {}, which would be copied too", thread.tracer);
            findings.push(Finding::fails("traced", "EBUSY", detail));
        } else if thread.state == 't' {
            let detail = format!("{who} is in a ptrace stop of {}", thread.tracer);
            findings.push(Finding::may_fail("timeout", "EBUSY", detail));
        }
        if thread.state == 'D' {
            let detail = format!("{who} is in an uninterruptible wait");
            findings.push(Finding::may_fail("timeout", "EBUSY", detail));
        }
        findings.extend(self.less_confined(thread));
        findings
    }

    /// A caller copies only what is confined as it is itself.
    fn less_confined(&self, thread: &Task) -> Option<Finding> {
        if thread.process == self.caller.process || thread.is_zombie() {
            return None;
        }
        let lacks = if self.caller.no_new_privs && !thread.no_new_privs {
            "no_new_privs"
        } else if self.caller.seccomp_filters > thread.seccomp_filters {
            "seccomp filters"
        } else {
            return None;
        };
        let detail = format!("thread {} lacks the {lacks} of this command", thread.tid);
        Some(Finding::fails("rights", "EPERM", detail))
    }

    /// Opening `mem` needs the right to attach, and does not disturb.
    fn inspect_rights(&self, process: &Process) -> Option<Finding> {
        if process.pid() == self.caller.process {
            return None;
        }
        let path = self.proc.path(process.pid().to_string());
        match File::open(path.join("mem")) {
            Err(error) if !is_gone(&error) => {}
            _ => return None,
        }
        let uid = process.leader.uid;
        let owner = fs::metadata(&path).ok().map(|metadata| metadata.uid());
        let detail = if uid != self.caller.uid {
            format!("belongs to user {}", uid.map_or("?".into(), |uid| uid.to_string()))
        } else if owner != uid {
            "is not dumpable".into()
        } else {
            "may not be traced (capabilities, a security module, or Yama's ptrace_scope)".into()
        };
        Some(Finding::fails("rights", "EPERM", detail))
    }

    fn inspect_namespace(&self, process: &Process) -> Option<Finding> {
        let depth = process.leader.ns_tids.len();
        if (self.depth + 1..=depth).all(|depth| self.inits.contains(&depth)) {
            return None;
        }
        let detail = "with --keep-tids: the init of its PID namespace is not copied";
        Some(Finding::may_fail("pid-namespace", "EOPNOTSUPP", detail))
    }

    fn inspect_files(&self, process: &Process) -> Option<Finding> {
        let directory = self.proc.path(format!("{}/fd", process.pid()));
        let links = fs::read_dir(directory).ok()?.filter_map(|entry| {
            let target = fs::read_link(entry.ok()?.path()).ok()?;
            Some(target.to_string_lossy().into_owned())
        });
        for link in links {
            // A ring may be open without any thread that uses it.
            if link.starts_with("anon_inode:[io_uring]") {
                let detail = "has an io_uring instance";
                return Some(Finding::may_fail("io_uring", "EOPNOTSUPP", detail));
            }
        }
        None
    }

    fn inspect_memory(&self, process: &Process) -> Vec<Finding> {
        let path = self.proc.path(format!("{}/smaps", process.pid()));
        match File::open(path).and_then(|file| inspect_smaps(BufReader::new(file))) {
            Ok(findings) => findings,
            Err(error) if is_gone(&error) => Vec::new(),
            Err(_) => vec![Finding::may_fail(
                "memory",
                "EOPNOTSUPP",
                "its memory cannot be looked at from here",
            )],
        }
    }
}

fn inspect_smaps(smaps: impl BufRead) -> io::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut mapping = String::new();
    for line in smaps.lines() {
        let line = line?;
        let Some(flags) = line.strip_prefix("VmFlags:") else {
            if is_header(&line) {
                if line.contains("/[aio]") {
                    findings.push(Finding::fails("aio", "EOPNOTSUPP", "has an AIO context"));
                }
                mapping = line;
            }
            continue;
        };
        let place = place(&mapping);
        for flag in flags.split_whitespace() {
            findings.extend(match flag {
                "dc" if place.contains("[uprobes]") => None,
                "dc" => {
                    let detail = format!("memory with MADV_DONTFORK, or of a driver: {place}");
                    Some(Finding::fails("dontfork", "EOPNOTSUPP", detail))
                }
                "um" | "uw" | "ui" => {
                    let detail = format!("memory registered with userfaultfd: {place}");
                    Some(Finding::fails("userfaultfd", "EOPNOTSUPP", detail))
                }
                _ => None,
            });
        }
    }
    Ok(findings)
}

/// "7f00-7f01 rw-p ...", where others are "Rss: ...".
fn is_header(line: &str) -> bool {
    line.split_whitespace().next().is_some_and(|word| word.contains('-') && !word.ends_with(':'))
}

/// The addresses of a mapping and its name.
fn place(header: &str) -> String {
    let mut words = header.split_whitespace();
    let addresses = words.next().unwrap_or_default();
    let name: Vec<&str> = words.skip(4).collect();
    format!("{addresses} {}", name.join(" ")).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{FakeProc, stat};
    use super::*;

    const CALLER: u32 = 5;

    fn findings(fake: &FakeProc) -> Vec<Finding> {
        let proc = fake.proc();
        let tree = proc.tree(10).unwrap();
        let caller = proc.task(CALLER).unwrap();
        Inspector::new(&proc, caller, &tree).inspect(&tree[0])
    }

    fn reasons(fake: &FakeProc) -> Vec<&'static str> {
        findings(fake).iter().map(|finding| finding.reason).collect()
    }

    fn fake() -> FakeProc {
        let fake = FakeProc::new();
        fake.add(CALLER, 1, "fullfork", &[]);
        fake.add(10, 1, "server", &[11]);
        fake
    }

    #[test]
    fn nothing_stops_an_ordinary_process() {
        let fake = fake();
        fake.write(10, "smaps", "10-20 rw-p 0 0 0 [heap]\nRss: 4 kB\nVmFlags: rd wr mr mw ac\n");
        assert_eq!(findings(&fake), []);
    }

    #[test]
    fn sees_memory_that_cannot_be_copied() {
        let fake = fake();
        let smaps = "10-20 rw-p 0 0 0 /dev/x y\nVmFlags: rd dc\n\
                     20-30 rw-p 0 0 0\nVmFlags: rd um\n\
                     30-40 rw-s 0 0 0 /[aio] (deleted)\nVmFlags: rd\n";
        fake.write(10, "smaps", smaps);
        assert_eq!(reasons(&fake), ["dontfork", "userfaultfd", "aio"]);
        assert!(findings(&fake)[0].detail.ends_with("10-20 /dev/x y"));
    }

    #[test]
    fn the_area_of_uprobes_is_copied() {
        let fake = fake();
        fake.write(10, "smaps", "10-20 --xp 0 0 0 [uprobes]\nVmFlags: ex dc\n");
        assert_eq!(findings(&fake), []);
    }

    #[test]
    fn sees_an_io_uring() {
        let fake = fake();
        fake.link(10, 3, "anon_inode:[eventpoll]");
        assert_eq!(findings(&fake), []);
        fake.link(10, 4, "anon_inode:[io_uring]");
        assert_eq!(reasons(&fake), ["io_uring"]);
        assert_eq!(findings(&fake)[0].certainty, Certainty::MayFail);
    }

    #[test]
    fn sees_threads_that_do_not_quiesce_or_copy() {
        let fake = fake();
        fake.write(10, "task/11/stat", &stat(11, 'D', 0, 0));
        assert_eq!(reasons(&fake), ["timeout"]);
        fake.write(10, "task/11/stat", &stat(11, 'S', 0x4000, 6));
        assert_eq!(reasons(&fake), ["kernel-worker", "deadline-policy"]);
    }

    #[test]
    fn a_tracer_matters_only_if_it_is_copied_too() {
        let fake = fake();
        fake.status(10, 11, "TracerPid:\t99\n");
        assert_eq!(findings(&fake), []);
        fake.write(10, "task/11/status", "Tgid:\t10\nPPid:\t1\nTracerPid:\t10\n");
        assert_eq!(reasons(&fake), ["traced"]);
    }

    #[test]
    fn sees_who_is_less_confined_than_the_caller() {
        let fake = fake();
        let status = "Tgid:\t5\nPPid:\t1\nNoNewPrivs:\t1\nSeccomp_filters:\t1\n";
        fake.write(CALLER, "status", status);
        fake.status(10, 10, "NoNewPrivs:\t1\nSeccomp_filters:\t1\n");
        fake.status(10, 11, "NoNewPrivs:\t1\nSeccomp_filters:\t0\n");
        let findings = findings(&fake);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].detail.contains("thread 11 lacks the seccomp filters"));
    }

    #[test]
    fn a_deeper_pid_namespace_needs_its_init() {
        let fake = fake();
        fake.add(20, 10, "wrapped", &[]);
        let inside = "NSpid:\t20\t7\n";
        fake.write(20, "status", &format!("Tgid:\t20\nPPid:\t10\n{inside}"));
        let reasons = |fake: &FakeProc| {
            let proc = fake.proc();
            let tree = proc.tree(10).unwrap();
            let inspector = Inspector::new(&proc, proc.task(CALLER).unwrap(), &tree);
            let findings = inspector.inspect(&tree[1]);
            findings.iter().map(|finding| finding.reason).collect::<Vec<_>>()
        };
        assert_eq!(reasons(&fake), ["pid-namespace"]);
        fake.write(20, "status", "Tgid:\t20\nPPid:\t10\nNSpid:\t20\t1\n");
        assert!(reasons(&fake).is_empty());
    }

    #[test]
    fn a_zombie_holds_nothing() {
        let fake = fake();
        fake.write(10, "stat", &stat(10, 'Z', 0, 0));
        fs::remove_file(fake.proc().path("10/smaps")).unwrap();
        assert_eq!(findings(&fake), []);
    }

    #[test]
    fn a_kernel_thread_is_no_root() {
        let fake = fake();
        fake.write(10, "stat", &stat(10, 'I', 0x0020_0000, 0));
        assert_eq!(reasons(&fake), ["root"]);
    }
}
