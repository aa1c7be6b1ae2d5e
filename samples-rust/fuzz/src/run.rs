// SPDX-License-Identifier: MIT OR Apache-2.0

//! Does what a program says, and checks after each operation what has to be true.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::args::{self, ArgsAddr, Source};
use crate::check::{Answer, check_failure, check_map, check_return, check_success};
use crate::model::{Expected, Life, Model, Proc};
use crate::procfs::{Task, Tasks, tasks_below};
use crate::program::{Action, Call, Op, Program, Thread};
use crate::summary::Summary;
use crate::sys;
use crate::worker;
use crate::world::World;

/// More tasks than this are killed before they are copied once more.
const MANY_TASKS: usize = 90;
/// How long a call may take, before what was done to its caller is undone.
const GRACE: Duration = Duration::from_millis(400);
/// `fullfork_timeout_secs`, and where somebody is known not to quiesce.
const TIMEOUT: &str = "/proc/sys/kernel/fullfork_timeout_secs";
const LONG: u32 = 30;
const SHORT: u32 = 1;

/// What takes longer is told.
const SLOW: Duration = Duration::from_secs(3);
/// In the name of who became another program.
const ANOTHER: &str = "fuzz-exec";

/// What is not as it has to be.
pub(crate) type Failure = String;

/// One step at work.
pub(crate) struct Run<'a> {
    program: &'a Program,
    world: &'a mut World,
    model: Model<'a>,
    summary: &'a mut Summary,
    /// Who is in a call, and not to be told to do anything else.
    callers: Vec<Thread>,
    /// Orders that nobody waited for yet.
    orders: Vec<(Action, usize, u64)>,
    /// How long anything that has to happen may take.
    patience: Duration,
    /// A failed check may be one that looked a moment too early.
    settle: Duration,
}

/// Runs a program and ends all its processes; says what is wrong.
pub(crate) fn run(
    program: &Program,
    world: &mut World,
    summary: &mut Summary,
    patience: Duration,
) -> Result<(), Failure> {
    let settle = patience.min(Duration::from_secs(10));
    let model = Model::new(program);
    let (callers, orders) = (Vec::new(), Vec::new());
    let mut run = Run { program, world, model, summary, callers, orders, patience, settle };
    let begun = Instant::now();
    let started = run.start();
    run.summary.spent("start", begun);
    let outcome = started.and_then(|()| run.operations());
    let trapped = outcome.is_err().then(crate::procfs::dump);
    run.summary.sforks += run.world.shared.sforks.swap(0, Ordering::SeqCst);
    let begun = Instant::now();
    let ended = run.world.end(patience).map_err(|why| format!("at the end: {why}"));
    run.summary.spent("end", begun);
    if let Some(dump) = trapped.filter(|_| ended.is_err()) {
        eprintln!("{dump}");
    }
    outcome.and(ended)
}

impl Run<'_> {
    fn start(&mut self) -> Result<(), Failure> {
        set_timeout(LONG);
        self.world.start(self.program).map_err(|e| format!("cannot start: {e}"))?;
        let slots: Vec<usize> = self.program.threads().map(|t| self.program.slot(t)).collect();
        let ready = |world: &World| {
            slots.iter().all(|i| world.shared.slots[*i].ready.load(Ordering::SeqCst) != 0)
        };
        if !self.world.wait(self.patience, ready) {
            return Err("the tree did not start".into());
        }
        for (proc, p) in self.model.procs.iter_mut().enumerate() {
            p.pid = self.world.tid(self.program, Thread { proc, index: 0 });
        }
        Ok(())
    }

    fn operations(&mut self) -> Result<(), Failure> {
        for (i, op) in self.program.ops.iter().enumerate() {
            let start = Instant::now();
            let outcome = match op {
                Op::Do(action) => {
                    self.act(action, true);
                    Ok(())
                }
                Op::Call { calls, during } => self.call(calls, during),
            };
            self.summary.spent(if matches!(op, Op::Do(_)) { "actions" } else { "calls" }, start);
            let outcome = outcome.and_then(|()| self.check_progress());
            if start.elapsed() > SLOW {
                eprintln!("fuzz: slow: {:?}: {op:?}", start.elapsed());
            }
            outcome.map_err(|why| format!("operation {i}: {why}"))?;
        }
        // Nobody is left behind that cannot go on.
        self.unblock();
        self.check_progress().map_err(|why| format!("at the end: {why}"))
    }

    fn tid(&self, thread: Thread) -> u32 {
        self.world.tid(self.program, thread)
    }

    // ---- actions

    /// With `wait`, also waits until it took effect.
    fn act(&mut self, action: &Action, wait: bool) {
        if self.do_it(action, wait) {
            self.model.did(action);
            self.summary.actions += 1;
            if wait {
                self.await_effect(action);
            }
        }
    }

    fn do_it(&mut self, action: &Action, wait: bool) -> bool {
        match *action {
            Action::Signal { proc, signal } => {
                self.is_there(proc) && sys::kill_pid(self.model.procs[proc].pid, signal) == 0
            }
            Action::SignalThread { thread, signal } => {
                let (pid, tid) = (self.model.procs[thread.proc].pid, self.tid(thread));
                self.is_there(thread.proc)
                    && sys::tgkill(pid as usize, tid as usize, signal as usize) == 0
            }
            Action::Attr { thread, attr } => {
                let params = [attr as u64, 0, 0, 0, 0];
                if wait {
                    self.order(thread, worker::ATTR, params).is_some_and(|result| result >= 0)
                } else {
                    self.order_later(action, thread, params);
                    false
                }
            }
            Action::ExitThread(thread) => self.end_by(thread, worker::EXIT_THREAD),
            Action::ExitProcess(thread) => self.end_by(thread, worker::EXIT_PROCESS),
            Action::Exec(thread) => self.end_by(thread, worker::EXEC),
            Action::Freeze => self.world.freeze(true).is_ok(),
            Action::Thaw => self.world.freeze(false).is_ok(),
            Action::Trace { thread, follow, hold } => {
                let Some(tracer) = self.model.tracer() else { return false };
                let tid = u64::from(self.tid(thread));
                let params = [tid, u64::from(follow), u64::from(hold), 0, 0];
                self.model.can_act(thread)
                    && thread.proc != tracer.proc
                    && self.order(tracer, worker::TRACE, params) == Some(0)
            }
            Action::Untrace => self.model.tracer().is_some_and(|tracer| {
                self.model.traced
                    && sys::kill_pid(self.model.procs[tracer.proc].pid, libc::SIGKILL) == 0
            }),
            Action::SignalReplicas(signal) => {
                self.signal_replicas(signal);
                true
            }
            Action::LimitTasks(more) => {
                self.world.limit_tasks(Some(self.world.charged().saturating_add(more))).is_ok()
            }
            Action::Unlimit => self.world.limit_tasks(None).is_ok(),
            Action::Migrate { proc, away } => {
                self.is_there(proc)
                    && self.program.is_in_tree(proc)
                    && self.world.migrate(self.model.procs[proc].pid, away).is_ok()
            }
            Action::Look { proc } => {
                look_at(self.model.procs[proc].pid);
                true
            }
            Action::Sleep { us } => {
                sys::nap(u64::from(us) * 1000);
                true
            }
        }
    }

    fn is_there(&self, proc: usize) -> bool {
        // Not once it may be reaped, and its PID be that of another.
        matches!(self.model.procs[proc].life, Life::Alive | Life::Another)
    }

    /// An order after which the thread does not come back.
    fn end_by(&mut self, thread: Thread, what: u64) -> bool {
        if !self.can_be_told(thread) {
            return false;
        }
        let slot = self.program.slot(thread);
        self.world.order(slot, what, [0; 5]);
        self.world.poke();
        true
    }

    fn order(&mut self, thread: Thread, what: u64, params: [u64; 5]) -> Option<i64> {
        if !self.can_be_told(thread) {
            return None;
        }
        let slot = self.program.slot(thread);
        let order = self.world.order(slot, what, params);
        self.world.wait(self.settle, |world| world.result(slot, order).is_some());
        let result = self.world.result(slot, order);
        self.model.orders_left |= result.is_none();
        result
    }

    fn order_later(&mut self, action: &Action, thread: Thread, params: [u64; 5]) {
        if self.can_be_told(thread) {
            let slot = self.program.slot(thread);
            let order = self.world.order(slot, worker::ATTR, params);
            self.orders.push((*action, slot, order));
            self.world.poke();
        }
    }

    fn can_be_told(&self, thread: Thread) -> bool {
        self.model.can_act(thread) && !self.callers.contains(&thread)
    }

    /// What was done is seen before one goes on, so that the state is known.
    fn await_effect(&mut self, action: &Action) {
        let (proc, tid) = match *action {
            Action::Signal { proc, .. } => (proc, self.model.procs[proc].pid),
            Action::SignalThread { thread, .. } => (thread.proc, self.model.procs[thread.proc].pid),
            Action::ExitThread(thread) => (thread.proc, self.tid(thread)),
            Action::ExitProcess(thread) | Action::Exec(thread) => {
                (thread.proc, self.model.procs[thread.proc].pid)
            }
            Action::Untrace => match self.model.tracer() {
                Some(tracer) => (tracer.proc, self.tid(tracer)),
                None => return,
            },
            _ => return,
        };
        let Proc { life, stopped, .. } = self.model.procs[proc].clone();
        let pid = self.model.procs[proc].pid;
        let gone = matches!(action, Action::ExitThread(_)) || life == Life::Gone;
        let effective = |_: &World| match (gone, life) {
            (true, _) => Task::read(tid).is_none_or(|task| task.is_zombie() || task.tgid != pid),
            (_, Life::Another) => Task::read(pid).is_none_or(|task| task.name.contains(ANOTHER)),
            _ => threads_of(pid).all(|task| task.is_zombie() || task.is_stopped() == stopped),
        };
        if !self.world.wait(self.settle, effective) {
            self.model.procs[proc].life = Life::Unsure;
        }
        if life == Life::Gone {
            self.await_end_of(proc);
        }
    }

    /// All threads, and in its PID namespace all processes.
    fn await_end_of(&mut self, proc: usize) {
        let below: Vec<u32> = (0..self.model.procs.len())
            .filter(|other| self.program.is_below(*other, proc))
            .filter(|other| self.model.procs[*other].life == Life::Gone)
            .map(|other| self.model.procs[other].pid)
            .collect();
        self.world.wait(self.settle, |_| {
            below.iter().all(|pid| threads_of(*pid).all(|task| task.is_zombie()))
        });
    }

    /// The processes that no one of the program is.
    fn signal_replicas(&mut self, signal: i32) {
        let known = |pid: u32| self.model.proc_of(pid).is_some();
        let strangers: Vec<u32> =
            all_tasks().values().map(|task| task.tgid).filter(|pid| !known(*pid)).collect();
        for pid in &strangers {
            sys::kill_pid(*pid, signal);
        }
        if signal == libc::SIGKILL {
            self.world.wait(self.settle, |_| {
                strangers.iter().all(|pid| Task::read(*pid).is_none_or(|task| task.is_zombie()))
            });
            while sys::wait_child(-1, libc::WNOHANG | libc::__WALL).0 > 0 {}
        }
    }

    /// Takes away what keeps somebody from going on.
    fn unblock(&mut self) {
        if self.model.frozen {
            self.act(&Action::Thaw, false);
        }
        if self.model.traced {
            self.act(&Action::Untrace, true);
        }
        for proc in 0..self.model.procs.len() {
            if self.model.procs[proc].stopped && self.is_there(proc) {
                self.act(&Action::Signal { proc, signal: libc::SIGCONT }, true);
            }
        }
    }

    // ---- calls

    fn call(&mut self, calls: &[Call], during: &[(u32, Action)]) -> Result<(), Failure> {
        let mut before = all_tasks();
        if before.len() > MANY_TASKS {
            self.signal_replicas(libc::SIGKILL);
            self.model.killed_strangers();
            before = all_tasks();
        }
        let calls: Vec<&Call> = calls.iter().filter(|c| self.model.can_act(c.by)).collect();
        if calls.is_empty() {
            self.summary.skipped += 1;
            return Ok(());
        }
        let disturbed = calls.len() > 1 || !during.is_empty();
        let held =
            self.model.running().len() + self.model.procs.iter().filter(|p| p.stopped).count();
        let is_slow = self.model.traced || self.model.frozen || held == 0;
        set_timeout(if is_slow { SHORT } else { LONG });

        let slot_of = |call: &Call| self.program.slot(call.by);
        for call in &calls {
            self.world.shared.slots[slot_of(call)].wrong.store(0, Ordering::SeqCst);
            self.world.shared.prepare(slot_of(call), &call.args);
        }
        let replicas_before = self.replica_progress();
        // What is done meanwhile may come too late to change the answer.
        let begun_with = self.model.clone();
        let mut orders = BTreeMap::new();
        for call in &calls {
            let slot = slot_of(call);
            let bad = call.args.address == ArgsAddr::Bad;
            let address = self.world.shared.args_address(slot, bad);
            let (how, pid) = self.source_of(call);
            let fail_nth = u64::from(call.fail_nth);
            let params = [address, call.args.told_size(), how, pid, fail_nth];
            orders.insert(slot, self.world.order(slot, worker::CALL, params));
        }
        self.world.poke();
        let started = Instant::now();
        self.callers = calls.iter().map(|call| call.by).collect();
        for (us, action) in during {
            sys::nap(u64::from(*us) * 1000);
            self.act(action, false);
        }
        self.await_calls(&calls, &orders, disturbed)?;
        self.callers.clear();
        self.summary.took(started.elapsed());
        if disturbed {
            // What was done without waiting may have had any effect by now.
            self.resync(during);
        }
        let after = all_tasks();
        for call in &calls {
            let slot = slot_of(call);
            let Some(returned) = self.world.result(slot, orders[&slot]) else {
                self.summary.killed += 1;
                continue;
            };
            let expected = begun_with
                .expect(call, &before, disturbed)
                .or(self.model.expect(call, &before, disturbed));
            self.judge(call, returned, expected, &before, &after, disturbed)
                .map_err(|why| format!("{:?} by {:?}: {why}", call.args, call.by))?;
        }
        if !disturbed && before.len() < MANY_TASKS {
            self.check_replicas(calls[0], &before, &replicas_before)?;
        }
        Ok(())
    }

    fn source_of(&self, call: &Call) -> (u64, u64) {
        let pid = |proc: usize| {
            let own = proc == call.by.proc;
            if own { 0 } else { u64::from(self.model.procs[proc].pid) }
        };
        match call.args.source {
            Source::Proc(proc) => (worker::SOURCE_PIDFD, pid(proc)),
            Source::ThreadOf(proc) => {
                let index = self.program.procs[proc].threads.len() - 1;
                let tid = self.tid(Thread { proc, index });
                (worker::SOURCE_THREAD, u64::from(tid))
            }
            Source::KernelThread => (worker::SOURCE_PIDFD, 2),
            Source::Init => (worker::SOURCE_PIDFD, 1),
            Source::NoPidfd => (worker::SOURCE_PIPE, 1),
            Source::Zero | Source::Closed | Source::Huge => (worker::SOURCE_GIVEN, 0),
        }
    }

    /// Waits until each call has returned, or its caller has ended.
    fn await_calls(
        &mut self,
        calls: &[&Call],
        orders: &BTreeMap<usize, u64>,
        disturbed: bool,
    ) -> Result<(), Failure> {
        let program = self.program;
        let over = move |world: &World| {
            calls.iter().all(|call| {
                let slot = program.slot(call.by);
                world.result(slot, orders[&slot]).is_some() || is_over(world.tid(program, call.by))
            })
        };
        if disturbed || self.model.traced {
            if self.world.wait(GRACE, over) {
                return Ok(());
            }
            self.unblock();
        }
        if self.world.wait(self.patience, over) {
            return Ok(());
        }
        self.summary.hangs += 1;
        Err(format!("a call did not return\n{}", crate::procfs::dump()))
    }

    /// After actions that nobody waited for: who is still there?
    fn resync(&mut self, during: &[(u32, Action)]) {
        for (action, slot, order) in std::mem::take(&mut self.orders) {
            self.world.wait(GRACE, |world| world.result(slot, order).is_some());
            match self.world.result(slot, order) {
                Some(0..) => self.model.did(&action),
                Some(_) => {}
                None => self.model.orders_left = true,
            }
        }
        for (_, action) in during {
            self.await_effect(action);
        }
        for proc in 0..self.model.procs.len() {
            let p = &self.model.procs[proc];
            let is_gone = is_over(p.pid) && threads_of(p.pid).all(|task| task.is_zombie());
            if p.life == Life::Alive && is_gone {
                self.model.procs[proc].life = Life::Gone;
                self.model.stops_unsure = true;
            }
        }
    }

    fn judge(
        &mut self,
        call: &Call,
        returned: i64,
        mut expected: Expected,
        before: &Tasks,
        after: &Tasks,
        disturbed: bool,
    ) -> Result<(), Failure> {
        let (by, args) = (&call.by, &call.args.seen());
        let slot = self.program.slot(*by);
        let results = self.world.shared.results(slot, args);
        let answer = Answer { by: *by, args, returned, results: &results };
        self.summary.count(returned);
        // Deaths in the middle make it a different one.
        expected.quiet &= !disturbed;
        check_return(&answer, &expected)?;
        if returned < 0 {
            return self
                .again(after, |after| check_failure(&answer, before, after, expected.quiet));
        }
        self.model.kept_tids |= args.has(args::KEEP_TIDS);
        let silent = [0, libc::SIGCHLD as u64, libc::SIGURG as u64];
        self.model.signalled |= !silent.contains(&args.exit_signal);
        if expected.quiet && !self.model.is_strange_source(*by, args) {
            let model = &self.model;
            self.summary.shapes += 1;
            self.again(after, |after| check_success(&answer, &expected, model, before, after))?;
        } else if args.tid_map.is_good()
            && args.tid_map_size > 0
            && !self.program.is_nested(by.proc)
        {
            check_map(&results.tid_map)?;
        }
        // Another call may copy the caller once its own has returned.
        match self.world.shared.slots[slot].wrong.load(Ordering::SeqCst) {
            wrong if expected.quiet && wrong != 0 => {
                Err(format!("the replica of the caller got {wrong}"))
            }
            _ => Ok(()),
        }
    }

    /// A check of what is there, until it holds; for stops, which take a moment.
    fn again(
        &self,
        after: &Tasks,
        check: impl Fn(&Tasks) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut outcome = check(after);
        if outcome.is_err() {
            self.world.wait(self.settle, |_| {
                outcome = check(&all_tasks());
                outcome.is_ok()
            });
        }
        outcome
    }

    // ---- progress

    fn replica_progress(&self) -> Vec<u64> {
        let slots = self.world.shared.slots.iter();
        slots.map(|slot| slot.replica_progress.load(Ordering::SeqCst)).collect()
    }

    /// Every original that can go on does.
    fn check_progress(&mut self) -> Result<(), Failure> {
        let begun = Instant::now();
        let running = self.model.running();
        let count = |world: &World, thread: Thread| {
            world.shared.slots[self.program.slot(thread)].progress.load(Ordering::SeqCst)
        };
        let start: Vec<u64> = running.iter().map(|t| count(self.world, *t)).collect();
        let stands = |world: &World| -> Vec<Thread> {
            let pairs = running.iter().zip(&start);
            pairs.filter(|(t, was)| count(world, **t) < **was + 3).map(|(t, _)| *t).collect()
        };
        let goes_on = self.world.wait(self.patience, |world| stands(world).is_empty());
        self.summary.spent("progress", begun);
        if goes_on {
            return self.check_interruptions();
        }
        // It may have been killed by what it shares, or with its PID namespace.
        let stuck: Vec<String> = stands(self.world)
            .into_iter()
            .filter(|thread| !is_over(self.tid(*thread)))
            .map(|thread| format!("{thread:?} (TID {})", self.tid(thread)))
            .collect();
        if stuck.is_empty() {
            return Ok(());
        }
        self.summary.hangs += 1;
        Err(format!("no progress: {}\n{}", stuck.join(", "), crate::procfs::dump()))
    }

    /// The replicas of a call that was alone go on as well.
    fn check_replicas(
        &mut self,
        call: &Call,
        before: &Tasks,
        start: &[u64],
    ) -> Result<(), Failure> {
        let slot = self.program.slot(call.by);
        let result = self.world.shared.slots[slot].result.load(Ordering::SeqCst);
        let expected = self.model.expect(call, before, false);
        let stopped = self.model.procs.iter().any(|proc| proc.stopped);
        if result <= 0
            || !expected.quiet
            || stopped
            || call.args.has(args::STOPPED)
            || !call.args.has(args::ALL_THREADS)
            || self.model.is_strange_source(call.by, &call.args)
        {
            return Ok(());
        }
        let copied: Vec<Thread> = self
            .model
            .running()
            .into_iter()
            .filter(|t| expected.tree.contains(&self.model.procs[t.proc].pid))
            .collect();
        let stands = |world: &World| -> Vec<Thread> {
            let at = |t: &Thread| self.program.slot(*t);
            let now =
                |t: &Thread| world.shared.slots[at(t)].replica_progress.load(Ordering::SeqCst);
            copied.iter().filter(|t| now(t) < start[at(t)] + 2).copied().collect()
        };
        if self.world.wait(self.patience, |world| stands(world).is_empty()) {
            return Ok(());
        }
        self.summary.hangs += 1;
        let stuck = stands(self.world);
        Err(format!("no progress in the replicas of {stuck:?}\n{}", crate::procfs::dump()))
    }

    /// Nobody sees `EINTR` because of a full fork, or a wrong PID.
    fn check_interruptions(&self) -> Result<(), Failure> {
        if let pid @ 1.. = self.world.shared.lost.load(Ordering::SeqCst) {
            return Err(format!("a thread came back from {pid}, which is no child of its"));
        }
        if self.model.signalled || self.program_stops() {
            return Ok(());
        }
        for thread in self.program.threads() {
            let slot = &self.world.shared.slots[self.program.slot(thread)];
            let nr = slot.interrupted.load(Ordering::SeqCst);
            if nr != 0 {
                let does = self.program.behaviour(thread);
                return Err(format!("{thread:?} saw EINTR {nr} times in {does:?}"));
            }
        }
        Ok(())
    }

    /// Are there stops, after which signal(7) lets calls return `EINTR`?
    fn program_stops(&self) -> bool {
        self.program.ops.iter().any(|op| match op {
            Op::Call { calls, during } => {
                !during.is_empty() || calls.iter().any(|call| call.args.has(args::STOPPED))
            }
            Op::Do(action) => matches!(action, Action::SignalReplicas(_) | Action::Freeze),
        })
    }
}

fn threads_of(pid: u32) -> impl Iterator<Item = Task> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| Task::read(entry.file_name().to_str()?.parse().ok()?))
}

fn all_tasks() -> Tasks {
    tasks_below(std::process::id())
}

/// Reads all that others may read of it while it is copied.
fn look_at(pid: u32) {
    for name in ["maps", "smaps_rollup", "status", "stat", "cmdline", "environ", "wchan", "cgroup"]
    {
        let _ = fs::read(format!("/proc/{pid}/{name}"));
    }
    for directory in ["fd", "fdinfo", "task", "ns"] {
        let entries = fs::read_dir(format!("/proc/{pid}/{directory}")).into_iter().flatten();
        for entry in entries.flatten() {
            let _ = fs::read_link(entry.path());
            if directory == "fdinfo" {
                let _ = fs::read(entry.path());
            }
        }
    }
}

/// Has the thread ended?
fn is_over(tid: u32) -> bool {
    Task::read(tid).is_none_or(|task| task.is_zombie() || task.name.contains(ANOTHER))
}

fn set_timeout(seconds: u32) {
    // Without the feature it is not there, and all calls fail.
    let _ = fs::write(TIMEOUT, seconds.to_string());
}
