// SPDX-License-Identifier: MIT OR Apache-2.0

//! Programs from a seed. The same numbers make the same program, for ever as far as
//! this version of the fuzzer goes.

use crate::args::{
    self, ALL_THREADS, AUTOREAP, Addr, Args, ArgsAddr, FROM_PIDFD, ISOLATE, KEEP_TIDS, NEWPID, NNP,
    PARENT, PARENT_SETTID, PIDFD, PIDFD_AUTOKILL, ROOM, SFORK, STOPPED, SUBTREE, Size, Source,
};
use crate::program::{Action, Attr, Behaviour, Call, Group, Op, Proc, Program, Share, Thread};
use crate::rng::Rng;

/// The program of a step.
pub(crate) fn generate(seed: u64, step: u64) -> Program {
    let mut generator = Generator { rng: Rng::of_step(seed, step), storm: false };
    generator.storm = generator.rng.chance(35);
    let procs = generator.procs();
    let mut program = Program { procs, ops: Vec::new() };
    let nr_ops = 3 + generator.rng.below(6);
    for _ in 0..nr_ops {
        let op = generator.op(&program);
        program.ops.push(op);
    }
    program
}

struct Generator {
    rng: Rng,
    /// May threads make tasks all the time?
    storm: bool,
}

impl Generator {
    fn procs(&mut self) -> Vec<Proc> {
        let in_tree = 1 + self.rng.below(8);
        let outside = 1 + self.rng.below(2);
        let mut procs: Vec<Proc> = Vec::new();
        let mut left = Program::MAX_THREADS - in_tree - outside;
        for i in 0..in_tree {
            let parent = (i > 0).then(|| {
                let proc = self.rng.below(i);
                Thread { proc, index: self.rng.below(procs[proc].threads.len()) }
            });
            let more = if self.rng.chance(55) { 0 } else { self.rng.below(5).min(left) };
            left -= more;
            let vm = i > 0 && self.rng.chance(20);
            procs.push(Proc {
                parent,
                share: Share {
                    vm,
                    files: i > 0 && self.rng.chance(20),
                    fs: i > 0 && self.rng.chance(20),
                    sighand: vm && self.rng.chance(40),
                },
                pid_ns: i > 0 && self.rng.chance(7),
                group: match self.rng.below(10) {
                    0..6 => Group::Inherited,
                    6..9 => Group::Own,
                    _ => Group::Session,
                },
                threads: (0..=more).map(|_| self.behaviour()).collect(),
            });
        }
        for _ in 0..outside {
            procs.push(Proc {
                parent: None,
                share: Share::default(),
                pid_ns: false,
                group: Group::Inherited,
                threads: vec![Behaviour::Nap],
            });
        }
        procs
    }

    fn behaviour(&mut self) -> Behaviour {
        let stormy = self.storm && self.rng.chance(30);
        self.rng.pick(if stormy { Behaviour::STORMY } else { Behaviour::CALM })
    }

    fn thread(&mut self, program: &Program) -> Thread {
        let proc = self.rng.below(program.procs.len());
        Thread { proc, index: self.rng.below(program.procs[proc].threads.len()) }
    }

    fn thread_of_tree(&mut self, program: &Program) -> Thread {
        loop {
            let thread = self.thread(program);
            if program.is_in_tree(thread.proc) {
                return thread;
            }
        }
    }

    fn op(&mut self, program: &Program) -> Op {
        if self.rng.chance(40) {
            return Op::Do(self.action(program));
        }
        let first = self.call(program);
        let mut calls = vec![first];
        if self.rng.chance(12) {
            for _ in 0..=self.rng.below(3) {
                let another = self.call(program);
                if calls.iter().all(|call| call.by != another.by) {
                    calls.push(another);
                }
            }
        }
        let nr = if self.rng.chance(20) { 1 + self.rng.below(3) } else { 0 };
        let during = (0..nr).map(|_| (self.rng.below(4000) as u32, self.action(program))).collect();
        Op::Call { calls, during }
    }

    fn action(&mut self, program: &Program) -> Action {
        let thread = self.thread_of_tree(program);
        let proc = thread.proc;
        match self.rng.below(44) {
            0..15 => {
                // What is refused makes all that comes later less interesting.
                let mut attr = self.rng.pick(Attr::ALL);
                if attr.is_unsupported() && self.rng.chance(60) {
                    attr = Attr::Name;
                }
                Action::Attr { thread, attr }
            }
            15..18 => Action::Signal { proc, signal: libc::SIGSTOP },
            18..20 => Action::Signal { proc, signal: libc::SIGCONT },
            20..22 => Action::Signal { proc, signal: libc::SIGUSR1 },
            22 => Action::SignalThread { thread, signal: libc::SIGWINCH },
            23 => Action::Signal { proc, signal: libc::SIGKILL },
            24 => Action::SignalThread { thread, signal: libc::SIGKILL },
            25 => Action::ExitProcess(thread),
            26 | 27 => Action::ExitThread(thread),
            28 => Action::Exec(thread),
            29 => Action::Freeze,
            30 => Action::Thaw,
            31 | 32 => {
                Action::Trace { thread, follow: self.rng.chance(60), hold: self.rng.chance(15) }
            }
            33 => Action::Untrace,
            34 => Action::SignalReplicas(libc::SIGCONT),
            35 => Action::SignalReplicas(libc::SIGKILL),
            36 => Action::LimitTasks(self.rng.below(12) as u32),
            37 => Action::Unlimit,
            38 | 39 => Action::Migrate { proc, away: self.rng.chance(60) },
            40 | 41 => Action::Look { proc },
            _ => Action::Sleep { us: self.rng.below(3000) as u32 },
        }
    }

    fn call(&mut self, program: &Program) -> Call {
        let by = self.thread(program);
        let mut args = self.valid(program, by);
        if self.rng.chance(30) {
            for _ in 0..=self.rng.below(2) {
                self.spoil(program, by, &mut args);
            }
        }
        let fail_nth = if self.rng.chance(12) { 1 + self.rng.below(60) as u32 } else { 0 };
        Call { by, args, fail_nth }
    }

    fn valid(&mut self, program: &Program, by: Thread) -> Args {
        let mut flags = match self.rng.below(10) {
            0..4 => ALL_THREADS,
            4..9 => ALL_THREADS | SUBTREE,
            _ => SUBTREE,
        };
        let mut args = Args { exit_signal: libc::SIGCHLD as u64, ..Args::default() };
        if !program.is_in_tree(by.proc) || self.rng.chance(10) {
            flags |= FROM_PIDFD;
            // Mostly the root: who stands outside is not of much interest.
            let root = if self.rng.chance(60) { 0 } else { self.rng.below(program.procs.len()) };
            args.source = Source::Proc(root);
        }
        if self.rng.chance(25) {
            flags |= STOPPED;
        }
        if self.rng.chance(25) {
            flags |= KEEP_TIDS | if self.rng.chance(90) { NEWPID } else { 0 };
        }
        // Refused by kernels that do not know it.
        if self.rng.chance(6) {
            flags |= ISOLATE;
        }
        match self.rng.below(12) {
            0 => {
                flags |= PARENT;
                args.exit_signal = 0;
            }
            1 => {
                flags |= AUTOREAP;
                args.exit_signal = 0;
            }
            2 => {
                flags |= AUTOREAP | PIDFD_AUTOKILL | PIDFD | NNP;
                args.exit_signal = 0;
            }
            // Nobody is killed by them.
            3 => {
                let signals = [0, libc::SIGUSR1, libc::SIGWINCH, libc::SIGURG];
                args.exit_signal = self.rng.pick(&signals) as u64;
            }
            _ => {}
        }
        if self.rng.chance(8) {
            flags |= NNP;
        }
        if self.rng.chance(25) {
            flags |= PIDFD;
        }
        if flags & PIDFD != 0 {
            args.pidfd = self.good();
        }
        if self.rng.chance(25) {
            flags |= PARENT_SETTID;
            args.parent_tid = self.good();
        }
        if self.rng.chance(70) {
            args.tid_map = self.good();
            args.tid_map_size = ROOM as u64;
        }
        args.flags = flags;
        args
    }

    fn good(&mut self) -> Addr {
        if self.rng.chance(15) { Addr::Odd } else { Addr::Good }
    }

    /// Makes it a call that is refused, or that may be.
    fn spoil(&mut self, program: &Program, by: Thread, args: &mut Args) {
        const SIZES: &[u64] =
            &[0, 1, 63, 64, 80, 88, 96, 104, 112, 113, 200, 4096, 4097, 1 << 31, u64::MAX];
        match self.rng.below(16) {
            0..3 => args.flags ^= 1 << self.rng.below(64),
            3 => args.flags ^= self.rng.pick(&[ALL_THREADS, SUBTREE, STOPPED, KEEP_TIDS, NEWPID]),
            4 => args.flags |= self.rng.pick(&[SFORK, ISOLATE, PARENT, AUTOREAP, PIDFD_AUTOKILL]),
            5 => args.flags = self.rng.next() | ALL_THREADS,
            6 => args.exit_signal = self.rng.pick(&[65, 200, 255, 256, 0x1_0000_0011, u64::MAX]),
            7 => args.pidfd = self.bad(),
            8 => args.parent_tid = self.bad(),
            9 => {
                args.tid_map = self.bad();
                args.tid_map_size = self.rng.pick(&[4, 40, 400]);
            }
            10 => {
                args.tid_map_size =
                    self.rng.pick(&[0, 1, 2, 5, 1 << 40, 1 << 61, (1 << 61) + 1, u64::MAX]);
            }
            11 => {
                let proc = self.rng.below(program.procs.len());
                let mut sources = vec![Source::Zero, Source::NoPidfd, Source::Closed, Source::Huge];
                // There, the same number is that of another.
                if !program.is_nested(by.proc) {
                    sources.extend([Source::Proc(proc), Source::KernelThread, Source::Init]);
                    if program.procs[proc].threads.len() > 1 {
                        sources.push(Source::ThreadOf(proc));
                    }
                }
                args.source = self.rng.pick(&sources);
            }
            12 => {
                let place = self.rng.below(args.zeros.len());
                args.zeros[place] = self.rng.pick(&[1, 8, 4096, 1 << 40, u64::MAX]);
            }
            13 => args.size = Size::Bytes(self.rng.pick(SIZES)),
            14 => {
                let size = self.rng.pick(&[64, 80, 88, 104, 112, 113, 128, 4096]);
                args.size = Size::Garbage(size);
            }
            _ => args.address = ArgsAddr::Bad,
        }
        // Anything else could make a thread without a stack.
        if !args.asks_for_full_fork() {
            args.flags |= args::ALL_THREADS;
        }
    }

    fn bad(&mut self) -> Addr {
        if self.rng.chance(15) { Addr::Good } else { self.rng.pick(Addr::BAD) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::args::Verdict;

    fn calls(steps: u64) -> impl Iterator<Item = Call> {
        (0..steps).flat_map(|step| generate(5, step).ops).flat_map(|op| match op {
            Op::Call { calls, .. } => calls,
            Op::Do(_) => Vec::new(),
        })
    }

    #[test]
    fn a_seed_makes_the_same_programs() {
        for step in 0..50 {
            assert_eq!(generate(1, step), generate(1, step));
            assert_ne!(generate(1, step), generate(2, step));
        }
    }

    #[test]
    fn programs_hold_together() {
        for step in 0..2000 {
            let program = generate(3, step);
            assert_eq!(program.check(), Ok(()), "step {step}");
        }
    }

    #[test]
    fn programs_survive_a_file() {
        for step in 0..200 {
            let program = generate(4, step);
            let text = serde_json::to_string(&program).unwrap();
            assert_eq!(serde_json::from_str::<Program>(&text).unwrap(), program);
        }
    }

    #[test]
    fn calls_are_valid_and_not() {
        let verdicts: Vec<Verdict> = calls(1000).map(|call| call.args.verdict()).collect();
        let valid = verdicts.iter().filter(|verdict| **verdict == Verdict::Valid).count();
        assert!(valid * 10 > verdicts.len() * 5 && valid * 10 < verdicts.len() * 9, "{valid}");
    }

    #[test]
    fn every_call_asks_for_a_full_fork() {
        assert!(calls(1000).all(|call| call.args.asks_for_full_fork()));
    }

    #[test]
    fn everything_happens() {
        let mut seen = BTreeSet::new();
        for program in (0..2000).map(|step| generate(6, step)) {
            for thread in program.threads() {
                seen.insert(format!("{:?}", program.behaviour(thread)));
            }
            for op in &program.ops {
                if let Op::Do(Action::Attr { attr, .. }) = op {
                    seen.insert(format!("{attr:?}"));
                }
            }
        }
        for all in [Behaviour::CALM, Behaviour::STORMY] {
            assert!(all.iter().all(|one| seen.contains(&format!("{one:?}"))));
        }
        assert!(Attr::ALL.iter().all(|attr| seen.contains(&format!("{attr:?}"))));
    }
}
