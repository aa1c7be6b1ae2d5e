// SPDX-License-Identifier: MIT OR Apache-2.0

//! What is known about a tree from what was done to it, and what a call may
//! therefore answer.

use std::collections::{BTreeMap, BTreeSet};

use crate::args::{self, Args, Size, Verdict};
use crate::procfs::{Tasks, tree_of};
use crate::program::{Action, Attr, Behaviour, Call, Program, Thread};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Life {
    #[default]
    Alive,
    /// It became a program that only waits.
    Another,
    /// A zombie, or not even that.
    Gone,
    /// Nobody can say.
    Unsure,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Proc {
    pub(crate) life: Life,
    pub(crate) stopped: bool,
    pub(crate) pid: u32,
}

#[derive(Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct ThreadState {
    pub(crate) gone: bool,
    pub(crate) unprivileged: bool,
    pub(crate) no_new_privs: bool,
    pub(crate) seccomp: bool,
    pub(crate) held: bool,
}

/// The state of the tree, and of those outside.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct Model<'a> {
    pub(crate) program: &'a Program,
    pub(crate) procs: Vec<Proc>,
    threads: BTreeMap<Thread, ThreadState>,
    /// What was put in place, and by whom.
    attrs: BTreeSet<(usize, u8)>,
    tracees: BTreeSet<Thread>,
    pub(crate) frozen: bool,
    pub(crate) traced: bool,
    pub(crate) limited: bool,
    /// Somebody died, whose group may have become an orphaned one.
    pub(crate) stops_unsure: bool,
    /// Signals were sent, or timers started, so that calls may be interrupted.
    pub(crate) signalled: bool,
    /// A reaper of a namespace may be there.
    pub(crate) kept_tids: bool,
    /// Somebody may change an attribute at any time.
    pub(crate) orders_left: bool,
}

/// What a call may answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Errors that are possible. If there is none, it has to succeed.
    pub(crate) errors: BTreeSet<i32>,
    /// Why it cannot succeed.
    pub(crate) must_fail: Option<&'static str>,
    /// Nothing moves but what the call moves: all can be counted.
    pub(crate) quiet: bool,
    /// The processes that are copied, as far as one can say.
    pub(crate) tree: BTreeSet<u32>,
}

impl Expected {
    /// The state changed from the one to the other, and nobody knows in which of them
    /// it was looked at. It cannot succeed if it could in neither.
    pub(crate) fn or(mut self, other: Self) -> Self {
        self.errors.extend(other.errors);
        self.must_fail = self.must_fail.and(other.must_fail);
        self.quiet &= other.quiet;
        self
    }
}

impl<'a> Model<'a> {
    pub(crate) fn new(program: &'a Program) -> Self {
        Self {
            program,
            procs: vec![Proc::default(); program.procs.len()],
            threads: program.threads().map(|t| (t, ThreadState::default())).collect(),
            attrs: BTreeSet::new(),
            tracees: BTreeSet::new(),
            frozen: false,
            traced: false,
            limited: false,
            stops_unsure: false,
            signalled: false,
            kept_tids: false,
            orders_left: false,
        }
    }

    pub(crate) fn thread(&self, thread: Thread) -> &ThreadState {
        &self.threads[&thread]
    }

    fn thread_mut(&mut self, thread: Thread) -> &mut ThreadState {
        self.threads.entry(thread).or_default()
    }

    /// Will it take an order?
    pub(crate) fn can_act(&self, thread: Thread) -> bool {
        let proc = &self.procs[thread.proc];
        let state = self.thread(thread);
        let frozen = self.frozen && self.program.is_in_tree(thread.proc);
        proc.life == Life::Alive && !(proc.stopped || state.gone || state.held || frozen)
    }

    /// Those whose progress has to be seen.
    pub(crate) fn running(&self) -> Vec<Thread> {
        self.program.threads().filter(|thread| self.can_act(*thread)).collect()
    }

    /// Who traces: the last one that stands outside.
    pub(crate) fn tracer(&self) -> Option<Thread> {
        let proc = (0..self.procs.len()).rfind(|proc| !self.program.is_in_tree(*proc))?;
        Some(Thread { proc, index: 0 })
    }

    pub(crate) fn proc_of(&self, pid: u32) -> Option<usize> {
        self.procs.iter().position(|proc| proc.pid == pid)
    }

    /// Who is in a child is killed with it.
    pub(crate) fn killed_strangers(&mut self) {
        for thread in self.program.threads() {
            let proc = &mut self.procs[thread.proc];
            if self.program.behaviour(thread) == Behaviour::Sfork && proc.life == Life::Alive {
                proc.life = Life::Unsure;
            }
        }
        self.stops_unsure = true;
    }

    /// Nobody kills, or stops, or copies meanwhile what this does not know.
    fn end_proc(&mut self, proc: usize, life: Life) {
        self.procs[proc].life = life;
        self.stops_unsure |= life != Life::Another;
        if self.program.procs[proc].pid_ns && life != Life::Another {
            for below in 0..self.procs.len() {
                if below != proc && self.program.is_below(below, proc) {
                    self.procs[below].life = life;
                }
            }
        }
        if self.tracer().is_some_and(|tracer| tracer.proc == proc) {
            self.untrace();
        }
    }

    fn untrace(&mut self) {
        self.traced = false;
        self.tracees.clear();
        self.threads.values_mut().for_each(|thread| thread.held = false);
    }

    /// An action was done, and took effect.
    pub(crate) fn did(&mut self, action: &Action) {
        match *action {
            Action::Signal { proc, signal }
            | Action::SignalThread { thread: Thread { proc, .. }, signal } => {
                self.signalled = true;
                if self.procs[proc].life == Life::Gone {
                    return;
                }
                match signal {
                    libc::SIGKILL => self.end_proc(proc, Life::Gone),
                    libc::SIGSTOP => self.procs[proc].stopped = true,
                    libc::SIGCONT => self.procs[proc].stopped = false,
                    _ => {}
                }
            }
            Action::ExitThread(thread) => {
                self.thread_mut(thread).gone = true;
                let proc = thread.proc;
                let gone = |t: &Thread| t.proc != proc || self.threads[t].gone;
                if self.program.threads().all(|t| gone(&t)) {
                    self.end_proc(proc, Life::Gone);
                }
            }
            Action::ExitProcess(thread) => self.end_proc(thread.proc, Life::Gone),
            Action::Exec(thread) => self.end_proc(thread.proc, Life::Another),
            Action::Attr { thread, attr } => self.did_attr(thread, attr),
            Action::Freeze => self.frozen = true,
            Action::Thaw => self.frozen = false,
            Action::Trace { thread, hold, .. } => {
                self.traced = true;
                self.signalled = true;
                // It does the same with all that it traces.
                self.tracees.insert(thread);
                for tracee in self.tracees.clone() {
                    self.thread_mut(tracee).held = hold;
                }
            }
            Action::Untrace => {
                if let Some(tracer) = self.tracer() {
                    self.end_proc(tracer.proc, Life::Gone);
                }
            }
            Action::LimitTasks(_) => self.limited = true,
            Action::Unlimit => self.limited = false,
            // Stopped originals may be in a group with them.
            Action::SignalReplicas(_) => self.killed_strangers(),
            Action::Migrate { .. } | Action::Look { .. } | Action::Sleep { .. } => {}
        }
    }

    fn did_attr(&mut self, thread: Thread, attr: Attr) {
        match attr {
            Attr::Unprivileged => self.thread_mut(thread).unprivileged = true,
            Attr::NoNewPrivs => self.thread_mut(thread).no_new_privs = true,
            Attr::Seccomp => self.thread_mut(thread).seccomp = true,
            Attr::IntervalTimer | Attr::PosixTimer | Attr::ParentDeathSignal => {
                self.signalled = true;
            }
            _ => {}
        }
        self.attrs.insert((thread.proc, attr as u8));
    }

    fn anybody_has(&self, attr: Attr) -> bool {
        self.attrs.iter().any(|(_, has)| *has == attr as u8)
    }

    fn has_unsupported(&self) -> bool {
        Attr::ALL.iter().any(|attr| attr.is_unsupported() && self.anybody_has(*attr))
    }

    /// Does it hold something for which the whole is refused?
    fn is_unsupported(&self, proc: usize) -> bool {
        self.procs[proc].life == Life::Alive
            && [Attr::DontFork, Attr::Userfaultfd, Attr::Aio]
                .iter()
                .any(|attr| self.attrs.contains(&(proc, *attr as u8)))
    }

    fn is_storm(&self) -> bool {
        self.program.threads().any(|thread| {
            self.program.behaviour(thread).is_stormy()
                && self.procs[thread.proc].life != Life::Gone
                && self.procs[thread.proc].life != Life::Another
        })
    }

    pub(crate) fn expect(
        &self,
        Call { by, args, fail_nth }: &Call,
        before: &Tasks,
        disturbed: bool,
    ) -> Expected {
        let (by, args) = (*by, &args.seen());
        let mut expected = Expected::default();
        match args.verdict() {
            Verdict::Refused(errors) => {
                expected.errors = errors;
                expected.must_fail = Some("these arguments are refused");
            }
            Verdict::Fails(errors) => {
                expected.errors = errors;
                expected.must_fail = Some("these arguments cannot work");
                self.expect_of_state(by, args, before, disturbed, &mut expected);
            }
            Verdict::Valid => self.expect_of_state(by, args, before, disturbed, &mut expected),
        }
        if args.has(args::ISOLATE) {
            expected.errors.insert(libc::EOPNOTSUPP);
        }
        if *fail_nth > 0 {
            expected.errors.extend([libc::ENOMEM, libc::EFAULT, libc::EAGAIN]);
        }
        expected.quiet = self.is_quiet(before, disturbed);
        expected
    }

    /// Nothing moves, and all tasks are known.
    fn is_quiet(&self, before: &Tasks, disturbed: bool) -> bool {
        !disturbed
            && !self.is_storm()
            && !self.frozen
            && !self.traced
            && !self.orders_left
            && self.procs.iter().all(|proc| proc.life != Life::Unsure)
            && before.values().all(|task| self.proc_of(task.tgid).is_some())
    }

    fn expect_of_state(
        &self,
        by: Thread,
        args: &Args,
        before: &Tasks,
        disturbed: bool,
        expected: &mut Expected,
    ) {
        let from_pidfd = args.has(args::FROM_PIDFD);
        let nested_caller = self.program.is_nested(by.proc);
        let quiet = self.is_quiet(before, disturbed);
        let root = args.source.proc().filter(|_| from_pidfd).unwrap_or(by.proc);
        let mut may = |errors: &[i32]| expected.errors.extend(errors);

        if !quiet {
            may(&[libc::EAGAIN, libc::EBUSY, libc::ESRCH]);
            if self.kept_tids {
                may(&[libc::EOPNOTSUPP]);
            }
            if self.orders_left {
                may(&[libc::EOPNOTSUPP, libc::EPERM, libc::EMFILE, libc::EBADF]);
            }
        }
        if from_pidfd {
            let strange = nested_caller || self.anybody_has(Attr::FewFiles);
            if self.procs[root].life == Life::Gone || strange {
                may(&[libc::ESRCH, libc::EBADF]);
            }
            if strange {
                may(&[libc::EINVAL, libc::EPERM, libc::EAGAIN, libc::EBUSY, libc::EOPNOTSUPP]);
            }
            if self.procs[root].life == Life::Gone && !strange {
                expected.must_fail = expected.must_fail.or(Some("its source has exited"));
            }
        }
        let mut may = |errors: &[i32]| expected.errors.extend(errors);
        if self.has_unsupported() {
            may(&[libc::EOPNOTSUPP]);
        }
        if self.program.procs.iter().any(|proc| proc.pid_ns) {
            if args.has(args::KEEP_TIDS) {
                may(&[libc::EOPNOTSUPP, libc::EINVAL]);
            }
            if self.stops_unsure || !quiet {
                may(&[libc::ENOMEM]);
            }
            if args.has(args::PARENT) {
                may(&[libc::EINVAL]);
            }
        }
        if args.has(args::KEEP_TIDS) && !args.has(args::NEWPID) {
            may(&[libc::EINVAL, libc::EEXIST]);
        }
        let odd = |t: &ThreadState| t.unprivileged || t.no_new_privs || t.seccomp;
        if self.threads.values().any(odd) {
            may(&[libc::EPERM]);
        }
        if self.limited {
            may(&[libc::EAGAIN]);
        }
        if self.anybody_has(Attr::FewFiles) && args.has(args::PIDFD) {
            may(&[libc::EMFILE]);
        }
        if self.traced {
            may(&[libc::EBUSY]);
        }
        if expected.must_fail.is_none() && !(from_pidfd && nested_caller) {
            self.expect_of_tree(by, args, before, root, quiet, expected);
        }
    }

    /// What follows from who is copied.
    fn expect_of_tree(
        &self,
        by: Thread,
        args: &Args,
        before: &Tasks,
        root: usize,
        quiet: bool,
        expected: &mut Expected,
    ) {
        expected.tree = tree_of(before, self.procs[root].pid, args.has(args::SUBTREE));
        let others: Vec<usize> =
            expected.tree.iter().filter_map(|pid| self.proc_of(*pid)).collect();
        if !args.has(args::ALL_THREADS) {
            let callers = self.procs[by.proc].pid;
            let many = |pid: &&u32| {
                **pid != callers && before.values().filter(|task| task.tgid == **pid).count() > 1
            };
            if expected.tree.iter().any(|pid| many(&pid)) {
                expected.errors.insert(libc::EOPNOTSUPP);
                if quiet {
                    expected.must_fail = Some("a descendant has several threads");
                }
            }
        }
        if quiet && others.iter().any(|proc| self.is_unsupported(*proc)) {
            expected.must_fail = Some("it holds what cannot be copied");
        }
        let caller = self.thread(by);
        for proc in others.iter().filter(|proc| **proc != by.proc) {
            let mut threads =
                self.threads.iter().filter(|(t, state)| t.proc == *proc && !state.gone);
            let alive = self.procs[*proc].life == Life::Alive;
            if alive && caller.unprivileged && threads.clone().any(|(_, t)| !t.unprivileged) {
                expected.must_fail = Some("the caller may not copy a process");
            }
            if alive && caller.no_new_privs && threads.any(|(_, t)| !t.no_new_privs) {
                expected.must_fail = Some("the caller is more confined than a process");
            }
        }
        if quiet && args.tid_map.is_good() && !matches!(args.size, Size::Bytes(0..112)) {
            let nr = self.nr_copied(by, args, before, &expected.tree);
            if (args.tid_map_size as usize) < nr {
                expected.errors.insert(libc::E2BIG);
                expected.must_fail = Some("the map is too small");
            }
        } else if args.tid_map.is_good() {
            expected.errors.insert(libc::E2BIG);
        }
    }

    /// Does it name a process that a caller in a PID namespace sees otherwise?
    pub(crate) fn is_strange_source(&self, by: Thread, args: &Args) -> bool {
        args.has(args::FROM_PIDFD)
            && (self.program.is_nested(by.proc) || self.anybody_has(Attr::FewFiles))
    }

    /// How many tasks are copied.
    pub(crate) fn nr_copied(
        &self,
        by: Thread,
        args: &Args,
        before: &Tasks,
        tree: &BTreeSet<u32>,
    ) -> usize {
        let callers = self.procs[by.proc].pid;
        let counts = |pid: u32| {
            let all = before.values().filter(|task| task.tgid == pid).count();
            if !args.has(args::ALL_THREADS) && pid == callers { all.min(1) } else { all }
        };
        tree.iter().map(|pid| counts(*pid)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{ALL_THREADS, Addr, FROM_PIDFD, SUBTREE, Source};
    use crate::procfs::Task;
    use crate::program::{Behaviour, Proc, Share};

    fn proc(parent: Option<usize>, nr_threads: usize) -> Proc {
        Proc {
            parent: parent.map(|proc| Thread { proc, index: 0 }),
            share: Share::default(),
            pid_ns: false,
            group: crate::program::Group::Inherited,
            threads: vec![Behaviour::Nap; nr_threads],
        }
    }

    /// A root with a child of two threads, and one outside; PIDs 10, 20 and 30.
    fn program() -> Program {
        Program { procs: vec![proc(None, 1), proc(Some(0), 2), proc(None, 1)], ops: Vec::new() }
    }

    fn model(program: &Program) -> Model<'_> {
        let mut model = Model::new(program);
        for (proc, pid) in model.procs.iter_mut().zip([10, 20, 30]) {
            proc.pid = pid;
        }
        model
    }

    fn tasks() -> Tasks {
        let task = |tid, tgid, parent| (tid, Task { tid, tgid, parent, ..Task::default() });
        Tasks::from([task(10, 10, 1), task(20, 20, 10), task(21, 20, 10), task(30, 30, 1)])
    }

    fn call(proc: usize, flags: u64) -> Call {
        let by = Thread { proc, index: 0 };
        let source = if flags & FROM_PIDFD == 0 { Source::Zero } else { Source::Proc(0) };
        let args = Args { flags, source, ..Args::default() };
        Call { by, args, fail_nth: 0 }
    }

    #[test]
    fn what_nothing_disturbs_succeeds() {
        let program = program();
        let expected = model(&program).expect(&call(0, ALL_THREADS | SUBTREE), &tasks(), false);
        assert!(expected.errors.is_empty() && expected.must_fail.is_none() && expected.quiet);
        assert_eq!(expected.tree, BTreeSet::from([10, 20]));
        let disturbed = model(&program).expect(&call(0, ALL_THREADS), &tasks(), true);
        assert!(!disturbed.quiet && disturbed.errors.contains(&libc::EBUSY));
    }

    #[test]
    fn threads_are_counted() {
        let program = program();
        let model = model(&program);
        let alone = model.expect(&call(0, SUBTREE), &tasks(), false);
        assert!(alone.must_fail.is_some() && alone.errors.contains(&libc::EOPNOTSUPP));
        let mut call = call(0, ALL_THREADS | SUBTREE);
        (call.args.tid_map, call.args.tid_map_size) = (Addr::Good, 2);
        let small = model.expect(&call, &tasks(), false);
        assert!(small.must_fail.is_some() && small.errors.contains(&libc::E2BIG));
        call.args.tid_map_size = 3;
        assert!(model.expect(&call, &tasks(), false).errors.is_empty());
    }

    #[test]
    fn rights_are_known() {
        let program = program();
        let mut model = model(&program);
        let by = Thread { proc: 2, index: 0 };
        model.did(&Action::Attr { thread: by, attr: Attr::Unprivileged });
        let other = model.expect(&call(2, ALL_THREADS | FROM_PIDFD), &tasks(), false);
        assert!(other.must_fail.is_some() && other.errors.contains(&libc::EPERM));
        let own = model.expect(&call(2, ALL_THREADS), &tasks(), false);
        assert!(own.must_fail.is_none());
    }

    #[test]
    fn who_cannot_act_is_not_expected_to() {
        let program = program();
        let mut model = model(&program);
        model.did(&Action::Signal { proc: 1, signal: libc::SIGSTOP });
        assert_eq!(model.running().len(), 2);
        model.did(&Action::Freeze);
        assert_eq!(model.running(), vec![Thread { proc: 2, index: 0 }]);
        model.did(&Action::Thaw);
        model.did(&Action::Signal { proc: 1, signal: libc::SIGCONT });
        model.did(&Action::ExitThread(Thread { proc: 1, index: 1 }));
        assert_eq!(model.running().len(), 3);
        model.did(&Action::ExitThread(Thread { proc: 1, index: 0 }));
        assert_eq!(model.procs[1].life, Life::Gone);
        let gone = model.expect(&call(2, ALL_THREADS | FROM_PIDFD), &tasks(), false);
        assert!(gone.must_fail.is_none());
        model.did(&Action::Signal { proc: 0, signal: libc::SIGKILL });
        let gone = model.expect(&call(2, ALL_THREADS | FROM_PIDFD), &tasks(), false);
        assert!(gone.must_fail.is_some() && gone.errors.contains(&libc::ESRCH));
    }

    #[test]
    fn who_is_killed_meanwhile_may_have_been_copied() {
        let program = program();
        let mut model = model(&program);
        let call = call(2, ALL_THREADS | FROM_PIDFD);
        let alive = model.expect(&call, &tasks(), true);
        model.did(&Action::Signal { proc: 0, signal: libc::SIGKILL });
        let gone = model.expect(&call, &tasks(), true);
        let either = alive.or(gone.clone());
        assert!(either.must_fail.is_none() && either.errors.contains(&libc::ESRCH));
        assert!(gone.clone().or(gone).must_fail.is_some());
    }

    #[test]
    fn what_is_refused_is_known() {
        let program = program();
        let mut model = model(&program);
        let thread = Thread { proc: 1, index: 1 };
        model.did(&Action::Attr { thread, attr: Attr::DontFork });
        assert!(model.expect(&call(0, ALL_THREADS | SUBTREE), &tasks(), false).must_fail.is_some());
        // The root alone has none.
        assert!(model.expect(&call(0, ALL_THREADS), &tasks(), false).must_fail.is_none());
    }
}
