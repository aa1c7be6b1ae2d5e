// SPDX-License-Identifier: MIT OR Apache-2.0

//! Makes a program that fails smaller, as long as it still fails.

use crate::args::{Addr, Source};
use crate::program::{Action, Behaviour, Group, Op, Program, Share, Thread};

/// `fails` says whether a program does what is looked for.
pub(crate) fn minimise(program: &Program, mut fails: impl FnMut(&Program) -> bool) -> Program {
    let mut best = program.clone();
    loop {
        let smaller = candidates(&best).into_iter().find(|program| fails(program));
        match smaller {
            Some(program) => best = program,
            None => return best,
        }
    }
}

/// All programs that are a bit smaller, those that are much smaller first.
fn candidates(program: &Program) -> Vec<Program> {
    let mut all = Vec::new();
    let mut add = |change: &dyn Fn(&mut Program)| {
        let mut smaller = program.clone();
        change(&mut smaller);
        if smaller != *program && smaller.check().is_ok() {
            all.push(smaller);
        }
    };
    let nr = program.ops.len();
    add(&|p| p.ops.truncate(nr / 2));
    add(&|p| drop(p.ops.drain(..nr / 2)));
    for i in (0..nr).rev() {
        add(&|p| drop(p.ops.remove(i)));
    }
    for i in (0..program.procs.len()).rev() {
        add(&|p| remove_proc(p, i));
    }
    for thread in program.threads().filter(|thread| thread.index > 0) {
        add(&|p| remove_thread(p, thread));
    }
    for (i, op) in program.ops.iter().enumerate() {
        let Op::Call { calls, during } = op else { continue };
        for j in 0..calls.len() {
            add(&|p| remove_call(p, i, j));
            for field in 0..8 {
                add(&|p| simplify_args(p, i, j, field));
            }
            for bit in 0..64 {
                add(&|p| clear_flag(p, i, j, bit));
            }
        }
        for j in 0..during.len() {
            add(&|p| remove_during(p, i, j));
        }
    }
    for thread in program.threads() {
        add(&|p| p.procs[thread.proc].threads[thread.index] = Behaviour::Nap);
    }
    for i in 0..program.procs.len() {
        add(&|p| p.procs[i].share = Share::default());
        add(&|p| p.procs[i].group = Group::Inherited);
        add(&|p| p.procs[i].pid_ns = false);
        add(&|p| p.procs[i].parent = p.procs[i].parent.map(|_| Thread { proc: 0, index: 0 }));
    }
    all
}

fn remove_call(program: &mut Program, op: usize, call: usize) {
    if let Op::Call { calls, .. } = &mut program.ops[op] {
        if calls.len() > 1 {
            calls.remove(call);
        }
    }
}

fn remove_during(program: &mut Program, op: usize, at: usize) {
    if let Op::Call { during, .. } = &mut program.ops[op] {
        during.remove(at);
    }
}

fn clear_flag(program: &mut Program, op: usize, call: usize, bit: u32) {
    if let Op::Call { calls, .. } = &mut program.ops[op] {
        let args = &mut calls[call].args;
        args.flags &= !(1 << bit);
        if !args.asks_for_full_fork() {
            args.flags |= 1 << bit;
        }
    }
}

fn simplify_args(program: &mut Program, op: usize, call: usize, field: usize) {
    let Op::Call { calls, .. } = &mut program.ops[op] else { return };
    let args = &mut calls[call].args;
    match field {
        0 => args.pidfd = Addr::Null,
        1 => args.parent_tid = Addr::Null,
        2 => (args.tid_map, args.tid_map_size) = (Addr::Null, 0),
        3 => args.zeros = [0; 7],
        4 => args.size = crate::args::Size::Full,
        5 => args.source = Source::Proc(0),
        6 => calls[call].fail_nth = 0,
        _ => args.exit_signal = 0,
    }
}

/// Every place that names a thread, and every other one that names a process.
fn names(
    program: &mut Program,
    mut thread: impl FnMut(&mut Thread),
    mut proc: impl FnMut(&mut usize),
) {
    let mut in_action = |action: &mut Action, proc: &mut dyn FnMut(&mut usize)| match action {
        Action::Signal { proc: p, .. }
        | Action::Migrate { proc: p, .. }
        | Action::Look { proc: p } => proc(p),
        Action::SignalThread { thread: t, .. }
        | Action::Attr { thread: t, .. }
        | Action::ExitThread(t)
        | Action::ExitProcess(t)
        | Action::Exec(t)
        | Action::Trace { thread: t, .. } => thread(t),
        _ => {}
    };
    for op in &mut program.ops {
        match op {
            Op::Do(action) => in_action(action, &mut proc),
            Op::Call { during, .. } => {
                for (_, action) in during {
                    in_action(action, &mut proc);
                }
            }
        }
    }
    let calls = program.ops.iter_mut().filter_map(|op| match op {
        Op::Call { calls, .. } => Some(calls),
        Op::Do(_) => None,
    });
    for call in calls.flatten() {
        thread(&mut call.by);
        if let Source::Proc(p) | Source::ThreadOf(p) = &mut call.args.source {
            proc(p);
        }
    }
    program.procs.iter_mut().filter_map(|p| p.parent.as_mut()).for_each(thread);
}

/// Removes a process that nobody names; else nothing.
fn remove_proc(program: &mut Program, index: usize) {
    let mut named = false;
    let mut seen = false;
    names(program, |t| named |= t.proc == index, |p| seen |= *p == index);
    if named || seen || index == 0 {
        return;
    }
    let renumber = |p: &mut usize| *p -= usize::from(*p > index);
    names(program, |t| renumber(&mut t.proc), renumber);
    program.procs.remove(index);
}

fn remove_thread(program: &mut Program, thread: Thread) {
    let mut named = false;
    names(program, |t| named |= *t == thread, |_| {});
    if named {
        return;
    }
    let renumber = |t: &mut Thread| {
        t.index -= usize::from(t.proc == thread.proc && t.index > thread.index);
    };
    names(program, renumber, |_| {});
    program.procs[thread.proc].threads.remove(thread.index);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::STOPPED;
    use crate::generate::generate;

    fn has_stopped_call(program: &Program) -> bool {
        program.ops.iter().any(|op| match op {
            Op::Call { calls, .. } => calls.iter().any(|call| call.args.has(STOPPED)),
            Op::Do(_) => false,
        })
    }

    #[test]
    fn what_fails_stays_and_the_rest_goes() {
        let steps = (0..300).map(|step| generate(9, step));
        for program in steps.filter(has_stopped_call).take(20) {
            let mut looked = 0;
            let small = minimise(&program, |program| {
                looked += 1;
                assert_eq!(program.check(), Ok(()));
                has_stopped_call(program)
            });
            assert!(has_stopped_call(&small), "{small:?}");
            assert_eq!(small.ops.len(), 1, "{small:?}");
            let Op::Call { calls, during } = &small.ops[0] else { panic!("no call") };
            assert_eq!((calls.len(), during.len()), (1, 0));
            assert_eq!(calls[0].args.flags, STOPPED);
            assert!(small.threads().count() <= 4, "{small:?}");
            assert!(looked < 5_000, "{looked}");
        }
    }

    #[test]
    fn what_fails_always_becomes_nearly_nothing() {
        let small = minimise(&generate(1, 1), |_| true);
        assert_eq!((small.procs.len(), small.ops.len(), small.threads().count()), (1, 0, 1));
    }

    #[test]
    fn what_never_fails_is_left_alone() {
        let program = generate(1, 2);
        assert_eq!(minimise(&program, |_| false), program);
    }
}
