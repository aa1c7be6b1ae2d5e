// SPDX-License-Identifier: MIT OR Apache-2.0

//! What has to be true after a call.

use std::collections::{BTreeMap, BTreeSet};

use crate::args::{self, Args};
use crate::model::{Expected, Model};
use crate::procfs::{Task, Tasks};
use crate::program::Thread;
use crate::shared::Results;

/// A call and what it answered.
pub(crate) struct Answer<'a> {
    pub(crate) by: Thread,
    pub(crate) args: &'a Args,
    pub(crate) returned: i64,
    pub(crate) results: &'a Results,
}

pub(crate) fn errno_name(errno: i32) -> String {
    let name = match errno {
        libc::EPERM => "EPERM",
        libc::ESRCH => "ESRCH",
        libc::EINTR => "EINTR",
        libc::E2BIG => "E2BIG",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::EINVAL => "EINVAL",
        libc::EMFILE => "EMFILE",
        libc::ENOSPC => "ENOSPC",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        _ => return format!("errno {errno}"),
    };
    name.into()
}

/// Is the return value one that is possible?
pub(crate) fn check_return(answer: &Answer, expected: &Expected) -> Result<(), String> {
    let returned = answer.returned;
    if returned >= 0 {
        if returned == 0 {
            return Err("an original got 0".into());
        }
        return match expected.must_fail {
            Some(why) => Err(format!("it succeeded, though {why}")),
            None => Ok(()),
        };
    }
    let errno = -returned as i32;
    if expected.errors.contains(&errno) {
        return Ok(());
    }
    let names: Vec<String> = expected.errors.iter().map(|e| errno_name(*e)).collect();
    Err(format!("it failed with {}, possible are: {}", errno_name(errno), names.join(" ")))
}

/// What a call that failed leaves: nothing.
pub(crate) fn check_failure(
    answer: &Answer,
    before: &Tasks,
    after: &Tasks,
    quiet: bool,
) -> Result<(), String> {
    if !answer.results.untouched {
        return Err("it failed, and changed a result".into());
    }
    if !quiet {
        return Ok(());
    }
    let tids = |tasks: &Tasks| tasks.keys().copied().collect::<BTreeSet<u32>>();
    if tids(before) != tids(after) {
        let what = |tasks: &Tasks, other: &Tasks| -> Vec<String> {
            let only = tasks.iter().filter(|(tid, _)| !other.contains_key(tid));
            only.map(|(tid, task)| format!("{tid} {} {}", task.name, task.state)).collect()
        };
        return Err(format!(
            "it failed, and left {:?}, took away {:?}",
            what(after, before),
            what(before, after)
        ));
    }
    check_originals(before, after)
}

/// Originals are what they were.
pub(crate) fn check_originals(before: &Tasks, after: &Tasks) -> Result<(), String> {
    for (tid, was) in before {
        let Some(is) = after.get(tid) else {
            return Err(format!("original {tid} {} is gone", was.name));
        };
        let differs = |what: &str| {
            Err(format!("original {tid} {}: its {what} changed: {was:?} -> {is:?}", was.name))
        };
        if (was.tgid, was.parent, was.group, was.session)
            != (is.tgid, is.parent, is.group, is.session)
        {
            return differs("place");
        }
        if (was.is_stopped(), was.is_zombie()) != (is.is_stopped(), is.is_zombie()) {
            return differs("state");
        }
        if (&was.name, &was.kept) != (&is.name, &is.kept) {
            return differs("attributes");
        }
    }
    Ok(())
}

/// Those who are new.
pub(crate) fn replicas_of(before: &Tasks, after: &Tasks) -> Tasks {
    let new = after.iter().filter(|(tid, _)| !before.contains_key(tid));
    new.map(|(tid, task)| (*tid, task.clone())).collect()
}

/// What holds of a map in any case.
pub(crate) fn check_map(map: &[(u32, u32)]) -> Result<BTreeMap<u32, u32>, String> {
    let end = map.iter().position(|pair| *pair == (0, 0)).unwrap_or(map.len());
    if map[end..].iter().any(|pair| *pair != (0, 0)) {
        return Err("tid_map: not zero behind its end".into());
    }
    let entries = &map[..end];
    let originals: BTreeMap<u32, u32> = entries.iter().copied().collect();
    let replicas: BTreeSet<u32> = entries.iter().map(|(_, replica)| *replica).collect();
    if entries.is_empty() || originals.len() != end || replicas.len() != end {
        return Err(format!("tid_map: empty, or a TID twice: {entries:?}"));
    }
    if replicas.contains(&0) || replicas.iter().any(|tid| originals.contains_key(tid)) {
        return Err(format!("tid_map: a replica that is none: {entries:?}"));
    }
    Ok(originals)
}

/// The shape of what a call made, where nothing else moved.
pub(crate) fn check_success(
    answer: &Answer,
    expected: &Expected,
    model: &Model,
    before: &Tasks,
    after: &Tasks,
) -> Result<(), String> {
    check_originals(before, after)?;
    let args = answer.args;
    let mut replicas = replicas_of(before, after);
    if args.has(args::KEEP_TIDS) {
        replicas.retain(|_, task| task.name != "fullfork-reaper");
    }
    let nr = model.nr_copied(answer.by, args, before, &expected.tree);
    if replicas.len() != nr {
        return Err(format!(
            "{nr} tasks were to be copied, {} are new: {replicas:?}",
            replicas.len()
        ));
    }
    if model.program.is_nested(answer.by.proc) {
        // It tells TIDs of its own namespace.
        return Ok(());
    }
    let Some(root) = replicas.get(&(answer.returned as u32)) else {
        return Err(format!("it returned {}, which is no replica", answer.returned));
    };
    check_root(answer, model, before, root, expected)?;
    if args.has(args::PARENT_SETTID) && i64::from(answer.results.parent_tid) != answer.returned {
        return Err(format!("parent_tid is {}", answer.results.parent_tid));
    }
    if args.has(args::PIDFD) {
        check_pidfd(answer, model)?;
    }
    if !args.tid_map.is_good() || args.tid_map_size == 0 {
        return Ok(());
    }
    let map = check_map(&answer.results.tid_map)?;
    if answer.results.tid_map[0].1 != root.tid {
        return Err("tid_map: the root's leader is not the first".into());
    }
    if map.values().copied().collect::<BTreeSet<_>>() != replicas.keys().copied().collect() {
        return Err(format!("tid_map: {map:?}, but replicas are {:?}", replicas.keys()));
    }
    for (original, replica) in &map {
        let (Some(original), Some(replica)) = (before.get(original), replicas.get(replica)) else {
            return Err(format!("tid_map: there is no original {original}"));
        };
        if !original.is_zombie() && cgroup_of(original) != cgroup_of(replica) {
            return Err(format!("replica {} is in another cgroup", replica.tid));
        }
        let pair = Pair { original, replica, map: &map, before, args };
        pair.check(root.tid).map_err(|why| {
            format!("replica {}: {why}: {original:?} -> {replica:?}", replica.tid)
        })?;
    }
    Ok(())
}

fn cgroup_of(task: &Task) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{}/cgroup", task.tid)).ok()
}

fn check_root(
    answer: &Answer,
    model: &Model,
    before: &Tasks,
    root: &Task,
    expected: &Expected,
) -> Result<(), String> {
    let caller = model.procs[answer.by.proc].pid;
    let source = answer.args.source.proc().filter(|_| answer.args.has(args::FROM_PIDFD));
    let original = model.procs[source.unwrap_or(answer.by.proc)].pid;
    let parent = if answer.args.has(args::PARENT) {
        before.get(&original).map_or(0, |task| task.parent)
    } else {
        caller
    };
    if root.parent != parent {
        return Err(format!("the parent of the replica is {}, not {parent}", root.parent));
    }
    if root.tgid != root.tid || !expected.tree.contains(&original) {
        return Err("the replica does not lead".into());
    }
    Ok(())
}

fn check_pidfd(answer: &Answer, model: &Model) -> Result<(), String> {
    let caller = model.procs[answer.by.proc].pid;
    let path = format!("/proc/{caller}/task/{caller}/fdinfo/{}", answer.results.pidfd);
    // A thread may have a table of its own.
    let Ok(info) = std::fs::read_to_string(path) else { return Ok(()) };
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim);
    if pid == Some(answer.returned.to_string().as_str()) {
        return Ok(());
    }
    Err(format!("the pidfd is of {pid:?}"))
}

struct Pair<'a> {
    original: &'a Task,
    replica: &'a Task,
    map: &'a BTreeMap<u32, u32>,
    before: &'a Tasks,
    args: &'a Args,
}

impl Pair<'_> {
    fn mapped(&self, pid: u32) -> u32 {
        self.map.get(&pid).copied().unwrap_or(pid)
    }

    fn check(&self, root: u32) -> Result<(), &'static str> {
        let Self { original, replica, args, .. } = self;
        let all_threads = args.has(args::ALL_THREADS);
        // Alone, SUBTREE makes the calling thread a leader.
        let leads = replica.tgid == replica.tid;
        if all_threads && replica.tgid != self.mapped(original.tgid) {
            return Err("it is in another process");
        }
        if all_threads && replica.nr_threads != original.nr_threads {
            return Err("its process has another number of threads");
        }
        let is_below = leads && replica.tgid != root && all_threads;
        if is_below && replica.parent != self.mapped(original.parent) {
            return Err("it has another parent");
        }
        if all_threads {
            if replica.group != self.mapped(original.group) {
                return Err("it is in another process group");
            }
            if replica.session != self.mapped(original.session) {
                return Err("it is in another session");
            }
        }
        if replica.name != original.name {
            return Err("it has another name");
        }
        if replica.is_zombie() != original.is_zombie() {
            return Err("one is a zombie");
        }
        self.check_tids(root)?;
        if original.is_zombie() {
            return Ok(());
        }
        if replica.is_stopped() != (original.is_stopped() || args.has(args::STOPPED)) {
            return Err("one is stopped");
        }
        let differs = |key: &&&str| {
            original.kept.get(**key) != replica.kept.get(**key)
                && !(**key == "NoNewPrivs" && args.has(args::NNP))
        };
        match original.kept.keys().find(differs) {
            Some(_) => Err("what it keeps differs"),
            None => Ok(()),
        }
    }

    fn check_tids(&self, root: u32) -> Result<(), &'static str> {
        let last = |task: &Task| task.tids.last().copied();
        if !self.args.has(args::KEEP_TIDS) {
            return Ok(());
        }
        let root = self.map.iter().find(|(_, replica)| **replica == root);
        let depth = |tid: Option<&u32>| {
            tid.and_then(|tid| self.before.get(tid)).map_or(1, |task| task.tids.len())
        };
        // Below the namespace of the root they are the same as well.
        let below = self.original.tids.get(depth(root.map(|(tid, _)| tid)) - 1..);
        let kept = below.is_some_and(|below| self.replica.tids.ends_with(below));
        if last(self.replica) != last(self.original) || !kept {
            return Err("its TID was not kept");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer<'a>(args: &'a Args, returned: i64, results: &'a Results) -> Answer<'a> {
        Answer { by: Thread { proc: 0, index: 0 }, args, returned, results }
    }

    fn results(untouched: bool) -> Results {
        Results { pidfd: 0, parent_tid: 0, tid_map: Vec::new(), untouched }
    }

    #[test]
    fn returns() {
        let args = Args::default();
        let results = results(true);
        let check = |returned, expected: &Expected| {
            check_return(&answer(&args, returned, &results), expected).is_ok()
        };
        let quiet = Expected::default();
        assert!(check(5, &quiet));
        assert!(!check(0, &quiet) && !check(-11, &quiet));
        let busy = Expected {
            errors: BTreeSet::from([libc::EBUSY]),
            must_fail: Some("it is busy"),
            ..Expected::default()
        };
        assert!(check(i64::from(-libc::EBUSY), &busy));
        assert!(!check(5, &busy));
    }

    #[test]
    fn a_failure_changes_nothing() {
        let task = |tid| (tid, Task { tid, tgid: tid, state: 'S', ..Task::default() });
        let before = Tasks::from([task(1), task(2)]);
        let more = Tasks::from([task(1), task(2), task(3)]);
        let args = Args::default();
        let check = |untouched, after: &Tasks, quiet| {
            let results = results(untouched);
            check_failure(&answer(&args, -1, &results), &before, after, quiet).is_ok()
        };
        assert!(check(true, &before, true));
        assert!(check(true, &more, false));
        assert!(!check(true, &more, true));
        assert!(!check(false, &before, true));
        let mut stopped = before.clone();
        stopped.insert(2, Task { state: 'T', ..before[&2].clone() });
        assert!(!check(true, &stopped, true));
    }

    #[test]
    fn maps() {
        assert!(check_map(&[(1, 5), (2, 6), (0, 0)]).is_ok());
        assert!(check_map(&[(1, 5), (0, 0), (2, 6)]).is_err());
        assert!(check_map(&[(1, 5), (1, 6)]).is_err());
        assert!(check_map(&[(1, 5), (2, 5)]).is_err());
        assert!(check_map(&[(1, 5), (2, 1)]).is_err());
        assert!(check_map(&[(1, 0)]).is_err());
        assert!(check_map(&[(0, 0)]).is_err());
    }

    #[test]
    fn a_replica_of_another_group_is_seen() {
        let original =
            Task { tid: 2, tgid: 2, group: 2, session: 1, state: 'S', ..Task::default() };
        let replica = Task { tid: 7, tgid: 7, group: 7, ..original.clone() };
        let map = BTreeMap::from([(2, 7)]);
        let args = Args { flags: args::ALL_THREADS, ..Args::default() };
        let before = Tasks::from([(2, original.clone())]);
        let check = |replica: &Task| {
            Pair { original: &original, replica, map: &map, before: &before, args: &args }.check(7)
        };
        assert!(check(&replica).is_ok());
        assert!(check(&Task { group: 2, ..replica.clone() }).is_err());
        assert!(check(&Task { state: 'T', ..replica.clone() }).is_err());
        assert!(check(&Task { name: "x".into(), ..replica.clone() }).is_err());
    }
}
