// SPDX-License-Identifier: MIT OR Apache-2.0

//! The fork that returns once.

use std::cell::Cell;
use std::fs::{self, File, read_link};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::{Command, id};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use fullfork::sfork::{Namespaces, Options, Program, Spawned, Subprocess};
use fullfork::{Errno, Error, Signal};
use rustix::process::{Resource, Rlimit, getppid, getrlimit, setrlimit};
use rustix::stdio::dup2_stdout;

use crate::Test;
use crate::world::{Scratch, children, state, wait_until};

pub(crate) const TESTS: &[Test] = &[
    ("sfork_moves_into_a_child_and_back", moves_into_a_child_and_back),
    ("sfork_exec_returns_in_the_parent", exec_returns_in_the_parent),
    ("sfork_failed_exec_returns_in_the_child", failed_exec_returns_in_the_child),
    ("sfork_errors_come_out_in_the_parent", errors_come_out_in_the_parent),
    ("sfork_a_panic_comes_out_in_the_parent", a_panic_comes_out_in_the_parent),
    ("sfork_sets_up_the_child_alone", sets_up_the_child_alone),
    ("sfork_shares_memory", shares_memory),
    ("sfork_keeps_thread_locals", keeps_thread_locals),
    ("sfork_nests", nests),
    ("sfork_outer_child_left_first", outer_child_left_first),
    ("sfork_takes_locks_of_other_threads", takes_locks_of_other_threads),
    ("sfork_of_many_threads_at_once", of_many_threads_at_once),
    ("sfork_threads_in_the_child", threads_in_the_child),
    ("sfork_std_commands_in_the_child", std_commands_in_the_child),
    ("sfork_shares_what_is_asked_for", shares_what_is_asked_for),
    ("sfork_gives_namespaces", gives_namespaces),
    ("sfork_exit_signals_and_signals", exit_signals_and_signals),
    ("sfork_a_killed_child_takes_the_thread", a_killed_child_takes_the_thread),
];

fn start() -> Subprocess {
    // SAFETY: tests open no file in a child that they do not close there.
    unsafe { Subprocess::start() }.unwrap()
}

fn code(spawned: Spawned) -> Option<i32> {
    spawned.wait().unwrap().code()
}

fn shell(script: &str) -> Program {
    Program::new("sh").args(["-c", script])
}

fn no_child_is_left() {
    assert_eq!(children(id()), [0_u32; 0]);
}

fn moves_into_a_child_and_back() {
    let parent = id();
    let child = start();
    assert_ne!(id(), parent);
    assert_eq!(child.pid(), id());
    assert_eq!(getppid().unwrap().as_raw_pid().unsigned_abs(), parent);
    let pid = child.pid();
    let spawned = child.exit(42).unwrap();
    assert_eq!((id(), spawned.pid()), (parent, pid));
    assert_eq!(code(spawned), Some(42));
    no_child_is_left();
}

fn exec_returns_in_the_parent() {
    let parent = id();
    for round in 0..20 {
        let spawned = start().exec(&shell(&format!("exit {round}"))).unwrap();
        assert_eq!(id(), parent);
        assert_eq!(code(spawned), Some(round));
    }
    no_child_is_left();
}

fn failed_exec_returns_in_the_child() {
    let parent = id();
    let error = start().exec(&Program::new("/no/such/program")).unwrap_err();
    assert_eq!(error.errno(), Errno::ENOENT);
    assert_ne!(id(), parent);
    let error = error.into_subprocess().exec(&Program::new("/proc/version")).unwrap_err();
    assert_eq!(error.errno(), Errno::EACCES);
    assert_ne!(id(), parent);
    let spawned = error.into_subprocess().exec(&shell("exit 3")).unwrap();
    assert_eq!((id(), code(spawned)), (parent, Some(3)));
}

fn errors_come_out_in_the_parent() {
    fn run(name: &str) -> Result<Spawned, Error> {
        Ok(start().exec(&Program::new(name))?)
    }
    let parent = id();
    assert_eq!(run("no-such-program").unwrap_err().errno(), Errno::ENOENT);
    let failed = start().setup(|| std::env::set_current_dir("/no/such/directory"));
    assert_eq!(failed.unwrap_err().raw_os_error(), Some(libc::ENOENT));
    assert_eq!(id(), parent);
    // Who left so was reaped.
    no_child_is_left();
}

fn a_panic_comes_out_in_the_parent() {
    let parent = id();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let child = start();
        // A panic that prints nothing.
        resume_unwind(Box::new(child.pid()));
    }));
    let pid = panicked.unwrap_err().downcast::<u32>().unwrap();
    assert_eq!((id(), *pid != parent), (parent, true));
    no_child_is_left();
}

fn sets_up_the_child_alone() {
    let scratch = Scratch::new();
    let here = std::env::current_dir().unwrap();
    let limit = getrlimit(Resource::Nofile);
    let out = File::create(scratch.path().join("out")).unwrap();
    let child = start().setup(|| {
        dup2_stdout(&out)?;
        setrlimit(Resource::Nofile, Rlimit { current: Some(17), ..limit })?;
        std::env::set_current_dir(scratch.path())
    });
    let program = shell("pwd; ulimit -n; echo $NAME").env("NAME", "value");
    assert_eq!(code(child.unwrap().exec(&program).unwrap()), Some(0));
    let text = fs::read_to_string(scratch.path().join("out")).unwrap();
    assert_eq!(text, format!("{}\n17\nvalue\n", scratch.text()));
    assert_eq!(std::env::current_dir().unwrap(), here);
    assert_eq!(getrlimit(Resource::Nofile).current, limit.current);
}

fn shares_memory() {
    let mut numbers = vec![1];
    let child = start();
    numbers.push(2);
    numbers.extend(3..10_000);
    let text = format!("{}", numbers.len());
    child.exit(0).unwrap().wait().unwrap();
    assert_eq!((numbers.len(), &*text), (9999, "9999"));
}

thread_local! {
    static LOCAL: Cell<u32> = const { Cell::new(1) };
}

fn keeps_thread_locals() {
    let thread = thread::current().id();
    let child = start();
    LOCAL.set(LOCAL.get() + 1);
    assert_eq!(thread::current().id(), thread);
    child.exit(0).unwrap().wait().unwrap();
    assert_eq!((LOCAL.get(), thread::current().id()), (2, thread));
}

fn nests() {
    /// Sum of the statuses of a chain of children, one in the other.
    fn descend(depth: u32, pids: &mut Vec<u32>) -> u32 {
        if depth == 0 {
            return 0;
        }
        let child = start();
        pids.push(id());
        let below = descend(depth - 1, pids);
        assert_eq!(id(), child.pid());
        let spawned = child.exit(i32::try_from(depth).unwrap()).unwrap();
        u32::try_from(code(spawned).unwrap()).unwrap() + below
    }
    let (parent, mut pids) = (id(), Vec::new());
    assert_eq!(descend(12, &mut pids), 78);
    assert_eq!(id(), parent);
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 12);
    no_child_is_left();
}

fn outer_child_left_first() {
    let parent = id();
    let outer = start();
    let inner = start();
    assert_eq!(outer.exit(0).unwrap_err().errno(), Errno::EBUSY);
    assert_eq!(id(), parent);
    assert_eq!(inner.exec(&shell("true")).unwrap_err().errno(), Errno::ESRCH);
    assert_eq!(id(), parent);
    no_child_is_left();
}

fn takes_locks_of_other_threads() {
    let lock = Arc::new(Mutex::new(0));
    let (held, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let other = thread::spawn({
        let (lock, held, asked) = (Arc::clone(&lock), Arc::clone(&held), Arc::clone(&asked));
        move || {
            let mut number = lock.lock().unwrap();
            held.store(true, Ordering::SeqCst);
            wait_until("the child asks for the lock", || asked.load(Ordering::SeqCst));
            *number = id();
        }
    });
    wait_until("the lock is held", || held.load(Ordering::SeqCst));
    let (parent, child) = (id(), start());
    asked.store(true, Ordering::SeqCst);
    assert_eq!(*lock.lock().unwrap(), parent);
    assert_ne!(id(), parent);
    child.exit(0).unwrap().wait().unwrap();
    other.join().unwrap();
}

fn of_many_threads_at_once() {
    let parent = id();
    let threads: Vec<_> = (0..8)
        .map(|index| {
            thread::spawn(move || {
                for round in 0..10 {
                    let status = index * 10 + round;
                    let spawned = if round % 2 == 0 {
                        start().exec(&shell(&format!("exit {status}"))).unwrap()
                    } else {
                        start().exit(status).unwrap()
                    };
                    assert_eq!((id(), code(spawned)), (parent, Some(status)));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    no_child_is_left();
}

fn threads_in_the_child() {
    let child = start();
    let pid = id();
    let seen = thread::spawn(id).join().unwrap();
    assert_eq!(code(child.exit(5).unwrap()), Some(5));
    assert_eq!(seen, pid);
    thread::spawn(|| ()).join().unwrap();
}

fn std_commands_in_the_child() {
    let child = start();
    let output = Command::new("sh").args(["-c", "echo $PPID"]).output().unwrap();
    let pid = id();
    child.exit(0).unwrap().wait().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), pid.to_string());
}

fn shares_what_is_asked_for() {
    let here = std::env::current_dir().unwrap();
    // SAFETY: the table of files is that of the parent.
    let child = unsafe { Options::new().share_files().share_fs().start() }.unwrap();
    let file = File::open("/proc/self/status").unwrap();
    std::env::set_current_dir("/proc").unwrap();
    child.exit(0).unwrap().wait().unwrap();
    assert!(rustix::io::fcntl_getfd(file.as_fd()).is_ok());
    assert_eq!(std::env::current_dir().unwrap(), Path::new("/proc"));
    std::env::set_current_dir(here).unwrap();
}

fn gives_namespaces() {
    let own = read_link("/proc/self/ns/uts").unwrap();
    let options = Options::new().namespaces(Namespaces::UTS | Namespaces::PID);
    // SAFETY: what the child opens it closes.
    let child = unsafe { options.start() }.unwrap();
    assert_eq!(child.pid(), 1);
    let other = read_link("/proc/thread-self/ns/uts");
    rustix::system::sethostname(b"sfork").unwrap();
    let spawned = child.exec(&shell("test $$ = 1 && test $(uname -n) = sfork")).unwrap();
    assert_ne!(spawned.pid(), 1);
    assert_eq!(code(spawned), Some(0));
    assert_ne!(other.unwrap(), own);
    assert_eq!(read_link("/proc/self/ns/uts").unwrap(), own);
    assert_ne!(rustix::system::uname().nodename().to_bytes(), b"sfork");
}

fn exit_signals_and_signals() {
    // SAFETY: no file is opened.
    let child = unsafe { Options::new().exit_signal(None).start() }.unwrap();
    let spawned = child.exec(&shell("kill -STOP $$; exit 9")).unwrap();
    wait_until("it is stopped", || state(spawned.pid()) == Some('T'));
    let spawned = spawned.try_wait().unwrap().unwrap_err();
    spawned.signal(Signal::CONT).unwrap();
    assert_eq!(code(spawned), Some(9));
    let spawned = start().exec(&Program::new("sleep").arg("1000")).unwrap();
    spawned.signal(Signal::TERM).unwrap();
    assert_eq!(spawned.wait().unwrap().signal(), Some(libc::SIGTERM));
}

/// A signal that ends the child ends the parent, which is a process of its own here.
fn a_killed_child_takes_the_thread() {
    let status = Command::new("/proc/self/exe").args(["--program", "sfork-killed"]).status();
    assert_eq!(status.unwrap().signal(), Some(libc::SIGKILL));
}

/// What `a_killed_child_takes_the_thread` runs: it does not return.
pub(crate) fn killed() -> std::process::ExitCode {
    let child = start();
    let _ = Command::new("kill").args(["-KILL", &child.pid().to_string()]).status();
    std::process::ExitCode::SUCCESS
}
