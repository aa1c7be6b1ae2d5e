// SPDX-License-Identifier: MIT OR Apache-2.0

//! A fork that returns once: the calling thread itself moves into the child, and
//! comes back when it there runs a program, or exits.
//!
//! Memory is shared with the parent, as behind `vfork()`, but none of its
//! restrictions is left: the thread goes on with its stack, and does whatever it likes
//! to set up the child, in ordinary Rust. There is one flow of control, so an error is
//! a value that is returned.
//!
//! ```no_run
//! use std::env::set_current_dir;
//! use std::io::Error;
//!
//! use fullfork::sfork::{Program, Spawned, Subprocess};
//!
//! fn list(directory: &str) -> Result<Spawned, Error> {
//!     // SAFETY: no file is opened or closed in the child.
//!     let child = unsafe { Subprocess::start() }?;    // in the parent, then in the child
//!     set_current_dir(directory)?;                    // in the child; `?` leaves it
//!     let spawned = child.exec(&Program::new("ls"))?; // in the child, then in the parent
//!     Ok(spawned)                                     // in the parent
//! }
//! ```
//!
//! A [`Subprocess`] is the child as long as the thread is in it. [`Subprocess::exec`]
//! and [`Subprocess::exit`] consume it, and return in the parent. Dropping it exits the
//! child with status [`DROPPED`], and that is what the `?` above does. Children nest.
//!
//! # What goes where
//!
//! | | in the child | afterwards, in the parent |
//! |---|---|---|
//! | memory, locks, what other threads do | the parent's | the same |
//! | PID, TID, files, directory, limits, credentials, namespaces | its own copy | untouched |
//! | signal mask and handlers | its own copy | untouched |
//!
//! The other threads of the process are the parent's, and run on.
//!
//! # Signals
//!
//! A signal to the parent's PID waits for the thread, unless another thread takes it.
//! One that kills the child takes the thread with it: the parent gets the same.
//! Both get what a terminal sends to their process group.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::env;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpid, kill_process, waitid};

use crate::child::{ANY_EXIT_SIGNAL, Event, event};
use crate::error::{Error, Operation};
use crate::{Errno, sys};

/// The exit status of a child that was left by dropping its [`Subprocess`].
pub const DROPPED: i32 = 1;

bitflags::bitflags! {
    /// Namespaces of its own for a child.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Namespaces: u32 {
        /// Mounts.
        const MOUNT = libc::CLONE_NEWNS.unsigned_abs();
        /// Control groups.
        const CGROUP = libc::CLONE_NEWCGROUP.unsigned_abs();
        /// Host name.
        const UTS = libc::CLONE_NEWUTS.unsigned_abs();
        /// System V IPC and POSIX message queues.
        const IPC = libc::CLONE_NEWIPC.unsigned_abs();
        /// Users.
        const USER = libc::CLONE_NEWUSER.unsigned_abs();
        /// PIDs.
        const PID = libc::CLONE_NEWPID.unsigned_abs();
        /// Network.
        const NETWORK = libc::CLONE_NEWNET.unsigned_abs();
    }
}

/// What a child shares with the parent, and what it gets of its own.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Options<'fd> {
    flags: u64,
    exit_signal: Option<Signal>,
    cgroup: Option<BorrowedFd<'fd>>,
}

const CLONE_FILES: u64 = libc::CLONE_FILES.unsigned_abs() as u64;
const CLONE_FS: u64 = libc::CLONE_FS.unsigned_abs() as u64;
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
const CLONE_INTO_CGROUP: u64 = 1 << 33;

impl Default for Options<'_> {
    fn default() -> Self {
        Self { flags: 0, exit_signal: Some(Signal::CHILD), cgroup: None }
    }
}

impl<'fd> Options<'fd> {
    /// A child as `vfork()` makes it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Shares the table of file descriptors: what is opened or closed in the child
    /// is so in the parent, until a program runs in the child.
    pub const fn share_files(mut self) -> Self {
        self.flags |= CLONE_FILES;
        self
    }

    /// Shares the working directory, the root and the umask.
    pub const fn share_fs(mut self) -> Self {
        self.flags |= CLONE_FS;
        self
    }

    /// Gives the child namespaces of its own.
    pub const fn namespaces(mut self, namespaces: Namespaces) -> Self {
        self.flags |= namespaces.bits() as u64;
        self
    }

    /// Gives the child the default action for each signal that the parent handles.
    pub const fn clear_signal_handlers(mut self) -> Self {
        self.flags |= CLONE_CLEAR_SIGHAND;
        self
    }

    /// Makes the child in the cgroup of which this is the directory.
    pub const fn cgroup(mut self, directory: BorrowedFd<'fd>) -> Self {
        self.cgroup = Some(directory);
        self
    }

    /// What tells the parent of the child's end: `SIGCHLD` by default.
    pub const fn exit_signal(mut self, signal: Option<Signal>) -> Self {
        self.exit_signal = signal;
        self
    }

    /// Moves the calling thread into a child. The call returns once, there.
    ///
    /// # Safety
    ///
    /// Memory is as good in the child as before: it is the same, and other
    /// threads' locks are released by those threads, which run on. What the caller
    /// has to see to:
    ///
    /// * **A file descriptor belongs to one table.** With tables of their own
    ///   (without [`Options::share_files`]) a value that owns a file descriptor, and was
    ///   made in the child, is dropped or forgotten there: in the parent that
    ///   number is another file, or none. One that is dropped in the child stays
    ///   open in the parent.
    /// * **The child is left by its [`Subprocess`] only**, on the same thread.
    ///   `exec()` of [`std::os::unix::process::CommandExt`] believes that it has
    ///   failed when it comes back in the parent, and [`std::process::exit`] and
    ///   [`exit_now`](crate::exit_now) do not expect to come back at all. The
    ///   thread does not end while it is in a child.
    /// * **What the kernel knows of the thread by its TID** is not so in the child:
    ///   it holds no robust and no priority inheriting mutex of the parent's thread.
    ///   Mutexes of std are neither.
    pub unsafe fn start(&self) -> Result<Subprocess, Error> {
        // SAFETY: the same promise.
        unsafe { self.start_on(&Kernel) }
    }

    /// # Safety
    ///
    /// See [`Options::start`].
    unsafe fn start_on(&self, calls: &'static dyn Calls) -> Result<Subprocess, Error> {
        let parent = calls.pid();
        // SAFETY: the same promise.
        unsafe { calls.sfork(self) }.map_err(|errno| Error::new(Operation::Sfork, errno))?;
        let depth = DEPTH.get() + 1;
        DEPTH.set(depth);
        Ok(Subprocess { calls, pid: calls.pid(), parent, depth, thread: PhantomData })
    }
}

/// What the kernel does, or in unit tests something that plays it.
trait Calls: fmt::Debug {
    /// # Safety
    ///
    /// See [`Options::start`].
    unsafe fn sfork(&self, options: &Options<'_>) -> Result<(), Errno>;
    fn pid(&self) -> u32;
    fn exec(&self, path: &CStr, argv: &[CString], envp: &[CString]) -> Result<u32, Errno>;
    fn exit(&self, status: i32) -> u32;
    fn wait(&self, pid: u32, options: WaitIdOptions) -> Result<Option<Event>, Errno>;
}

#[derive(Debug)]
struct Kernel;

impl Calls for Kernel {
    unsafe fn sfork(&self, options: &Options<'_>) -> Result<(), Errno> {
        let mut flags = options.flags;
        let mut cgroup = 0;
        if let Some(directory) = options.cgroup {
            flags |= CLONE_INTO_CGROUP;
            cgroup = u64::from(directory.as_raw_fd().unsigned_abs());
        }
        let exit_signal = options.exit_signal.map_or(0, |signal| signal.as_raw().unsigned_abs());
        // SAFETY: the same promise.
        unsafe { sys::sfork(flags, exit_signal, cgroup) }
    }

    fn pid(&self) -> u32 {
        getpid().as_raw_pid().unsigned_abs()
    }

    fn exec(&self, path: &CStr, argv: &[CString], envp: &[CString]) -> Result<u32, Errno> {
        // The runtimes of Rust and Python ignore these for themselves, and the
        // program would inherit that.
        let ignored = [libc::SIGPIPE, libc::SIGXFSZ].map(|signal| (signal, sys::unignore(signal)));
        let answer = sys::execve(path, argv, envp);
        if answer.is_err() {
            ignored.iter().filter(|(_, was)| *was).for_each(|(signal, _)| sys::ignore(*signal));
        }
        answer
    }

    fn exit(&self, status: i32) -> u32 {
        sys::exit_group(status)
    }

    fn wait(&self, pid: u32, options: WaitIdOptions) -> Result<Option<Event>, Errno> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::ECHILD)?;
        loop {
            match waitid(WaitId::Pid(pid), options | ANY_EXIT_SIGNAL) {
                Ok(status) => return Ok(status.as_ref().and_then(event)),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

thread_local! {
    /// In how many children, one in the other, this thread is.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// A child, in which the calling thread is.
#[derive(Debug)]
#[must_use = "dropping it exits the child"]
pub struct Subprocess {
    calls: &'static dyn Calls,
    pid: u32,
    parent: u32,
    depth: usize,
    /// It is this thread that is in the child.
    thread: PhantomData<*mut ()>,
}

impl Subprocess {
    /// Moves the calling thread into a child with the default [`Options`].
    ///
    /// # Safety
    ///
    /// See [`Options::start`].
    pub unsafe fn start() -> Result<Self, Error> {
        // SAFETY: the same promise.
        unsafe { Options::new().start() }
    }

    /// Its PID, as it sees it itself.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Calls a function in the child. If it fails, the child has exited with
    /// [`DROPPED`] when this returns, in the parent.
    pub fn setup<E>(self, set_up: impl FnOnce() -> Result<(), E>) -> Result<Self, E> {
        set_up()?;
        Ok(self)
    }

    /// Runs a program in the child, and returns in the parent. If that fails, this
    /// returns in the child; dropping the error exits it, as its conversion to
    /// another type does.
    ///
    /// As with [`std::process::Command`] the program does not ignore `SIGPIPE` because
    /// this one does; nor `SIGXFSZ`. Its signal mask is that of the child.
    pub fn exec(self, program: &Program) -> Result<Spawned, ExecError> {
        match self.try_exec(program) {
            Ok(pid) => {
                let spawned = Spawned { calls: self.calls, pid };
                self.left();
                Ok(spawned)
            }
            Err(errno) => {
                let error = Error::new(Operation::Exec, errno);
                Err(ExecError { error, program: program.file.clone(), subprocess: self })
            }
        }
    }

    /// Exits the child with a status, of which 8 bits count, and returns in the
    /// parent. Nothing is flushed and no exit handler runs: buffers and handlers are
    /// the parent's.
    ///
    /// Fails with `EBUSY` if the thread is in a child of this child, and exits both,
    /// with [`DROPPED`]. Fails with `ESRCH` if the thread has left this child already.
    pub fn exit(self, status: i32) -> Result<Spawned, Error> {
        self.check().map_err(|errno| Error::new(Operation::Exit, errno))?;
        let pid = self.calls.exit(status);
        let spawned = Spawned { calls: self.calls, pid };
        self.left();
        Ok(spawned)
    }

    /// Tells whether the thread is in this child: not in a child of it, and not
    /// back in the parent behind this type's back.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.check().is_ok()
    }

    fn try_exec(&self, program: &Program) -> Result<u32, Errno> {
        self.check()?;
        program.run(self.calls)
    }

    fn check(&self) -> Result<(), Errno> {
        if DEPTH.get() > self.depth {
            Err(Errno::EBUSY)
        } else if DEPTH.get() < self.depth || !self.is_inside() {
            Err(Errno::ESRCH)
        } else {
            Ok(())
        }
    }

    /// Who forks in the child, or calls `execve()` without this type, is elsewhere. Of
    /// a child that has the PID of its parent, in another namespace, nobody can tell.
    fn is_inside(&self) -> bool {
        self.pid == self.parent || self.calls.pid() == self.pid
    }

    /// The thread is back in the parent.
    fn left(self) {
        DEPTH.set(self.depth - 1);
        std::mem::forget(self);
    }
}

impl Drop for Subprocess {
    /// Exits the child, and the children in it that the thread is still in, and
    /// returns in the parent. The child is reaped, as nobody knows its PID.
    fn drop(&mut self) {
        while DEPTH.get() >= self.depth {
            // In a forked process, or behind an exec of somebody else, an exit would
            // be that of an innocent.
            if DEPTH.get() == self.depth && !self.is_inside() {
                DEPTH.set(self.depth - 1);
                return;
            }
            let pid = self.calls.exit(DROPPED);
            DEPTH.set(DEPTH.get() - 1);
            // ECHILD where the parent ignores SIGCHLD: it is gone then.
            let _ = self.calls.wait(pid, WaitIdOptions::EXITED);
        }
    }
}

/// A program that could not be run, with the child in which it could not.
#[derive(Debug)]
pub struct ExecError {
    error: Error,
    program: OsString,
    subprocess: Subprocess,
}

impl ExecError {
    /// What failed.
    #[must_use]
    pub const fn error(&self) -> Error {
        self.error
    }

    /// What the kernel answered.
    #[must_use]
    pub const fn errno(&self) -> Errno {
        self.error.errno()
    }

    /// The child, to try another program in it.
    pub fn into_subprocess(self) -> Subprocess {
        self.subprocess
    }
}

impl fmt::Display for ExecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.program.to_string_lossy(), self.error)
    }
}

impl std::error::Error for ExecError {}

impl From<ExecError> for Error {
    /// Exits the child.
    fn from(error: ExecError) -> Self {
        error.error
    }
}

impl From<ExecError> for std::io::Error {
    /// Exits the child.
    fn from(error: ExecError) -> Self {
        Self::new(Self::from(error.errno()).kind(), error.to_string())
    }
}

/// A child that the thread has left.
///
/// It is known by its PID, which is its own until it is waited for, in the process
/// that made it. Dropping this neither ends the child nor waits for it.
#[derive(Debug)]
#[must_use = "who ends stays a zombie until it is waited for"]
pub struct Spawned {
    calls: &'static dyn Calls,
    pid: u32,
}

impl Spawned {
    /// Its PID, as its parent sees it.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until it ends, and reaps it.
    pub fn wait(self) -> Result<ExitStatus, Error> {
        loop {
            if let Some(Event::Ended(status)) = self.wait_with(WaitIdOptions::EXITED)? {
                return Ok(status);
            }
        }
    }

    /// The exit status if it has ended; it is reaped then.
    pub fn try_wait(self) -> Result<Result<ExitStatus, Self>, Error> {
        match self.wait_with(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)? {
            Some(Event::Ended(status)) => Ok(Ok(status)),
            _ => Ok(Err(self)),
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        pid.ok_or(Errno::ESRCH)
            .and_then(|pid| Ok(kill_process(pid, signal)?))
            .map_err(|errno| Error::new(Operation::Signal, errno))
    }

    fn wait_with(&self, options: WaitIdOptions) -> Result<Option<Event>, Error> {
        self.calls.wait(self.pid, options).map_err(|errno| Error::new(Operation::Wait, errno))
    }
}

/// A program, with its arguments and environment.
#[derive(Clone, Debug)]
#[must_use]
pub struct Program {
    file: OsString,
    arguments: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
}

/// Where programs are where no `PATH` says so.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

impl Program {
    /// A program with the environment of this one, and no arguments but its name. A
    /// name without a slash is looked for in the `PATH` of that environment.
    pub fn new(file: impl Into<OsString>) -> Self {
        let file = file.into();
        Self { arguments: vec![file.clone()], file, environment: env::vars_os().collect() }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Takes another list of arguments, of which the first is the name.
    pub fn argv<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments = arguments.into_iter().map(Into::into).collect();
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Takes no variable of this program.
    pub fn env_clear(mut self) -> Self {
        self.environment.clear();
        self
    }

    /// Calls `execve()` until it succeeds, and returns in the parent then.
    fn run(&self, calls: &dyn Calls) -> Result<u32, Errno> {
        let argv = self.arguments.iter().map(c_string).collect::<Result<Vec<_>, _>>()?;
        let envp = self.environment.iter().map(variable).collect::<Result<Vec<_>, _>>()?;
        let mut reason = Errno::ENOENT;
        for path in self.candidates() {
            match calls.exec(&c_string(&path)?, &argv, &envp) {
                Ok(pid) => return Ok(pid),
                // The next directory may have it.
                Err(Errno::EACCES) => reason = Errno::EACCES,
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Err(reason)
    }

    fn candidates(&self) -> Vec<OsString> {
        if self.file.as_bytes().contains(&b'/') || self.file.is_empty() {
            return vec![self.file.clone()];
        }
        let path = self.environment.get(OsStr::new("PATH"));
        let path = path.map_or(OsStr::new(DEFAULT_PATH), OsString::as_os_str);
        env::split_paths(path).map(|directory| directory.join(&self.file).into()).collect()
    }
}

fn c_string(text: &OsString) -> Result<CString, Errno> {
    CString::new(text.as_bytes()).map_err(|_| Errno::EINVAL)
}

fn variable((name, value): (&OsString, &OsString)) -> Result<CString, Errno> {
    if name.is_empty() || name.as_bytes().contains(&b'=') {
        return Err(Errno::EINVAL);
    }
    let mut variable = name.clone();
    variable.push("=");
    variable.push(value);
    CString::new(variable.into_vec()).map_err(|_| Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::sync::Mutex;

    use super::*;

    /// A kernel that keeps a stack of processes, from PID 1 on.
    #[derive(Debug, Default)]
    struct Mock {
        processes: Mutex<Vec<u32>>,
        ended: Mutex<Vec<(u32, String)>>,
        made: Mutex<u32>,
    }

    const REFUSED: &str = "/bin/refused";
    const FOUND: &str = "/bin/found";

    impl Mock {
        fn new() -> &'static Self {
            let mock = Self::default();
            mock.processes.lock().unwrap().push(1);
            *mock.made.lock().unwrap() = 1;
            Box::leak(Box::new(mock))
        }

        fn end(&self, how: String) -> u32 {
            let pid = self.processes.lock().unwrap().pop().unwrap();
            self.ended.lock().unwrap().push((pid, how));
            pid
        }

        fn ended(&self) -> Vec<(u32, String)> {
            self.ended.lock().unwrap().clone()
        }

        fn start(&'static self) -> Subprocess {
            // SAFETY: the mock makes no process.
            unsafe { Options::new().start_on(self) }.unwrap()
        }
    }

    impl Calls for Mock {
        unsafe fn sfork(&self, options: &Options<'_>) -> Result<(), Errno> {
            if options.exit_signal.is_none() {
                return Err(Errno::EAGAIN);
            }
            let mut made = self.made.lock().unwrap();
            *made += 1;
            self.processes.lock().unwrap().push(*made);
            Ok(())
        }

        fn pid(&self) -> u32 {
            *self.processes.lock().unwrap().last().unwrap()
        }

        fn exec(&self, path: &CStr, argv: &[CString], envp: &[CString]) -> Result<u32, Errno> {
            match path.to_str().unwrap() {
                FOUND => Ok(self.end(format!("{argv:?} {}", envp.len()))),
                REFUSED => Err(Errno::EACCES),
                _ => Err(Errno::ENOENT),
            }
        }

        fn exit(&self, status: i32) -> u32 {
            self.end(format!("exit {status}"))
        }

        fn wait(&self, pid: u32, _: WaitIdOptions) -> Result<Option<Event>, Errno> {
            let ended = self.ended.lock().unwrap();
            let found = ended.iter().any(|(ended, _)| *ended == pid);
            found.then_some(Some(Event::Ended(ExitStatus::from_raw(0)))).ok_or(Errno::ECHILD)
        }
    }

    fn program() -> Program {
        Program::new(FOUND).env_clear()
    }

    #[test]
    fn exec_returns_in_the_parent() {
        let mock = Mock::new();
        let child = mock.start();
        assert_eq!((mock.pid(), child.pid()), (2, 2));
        let spawned = child.exec(&program().arg("x").env("A", "b")).unwrap();
        assert_eq!((mock.pid(), spawned.pid()), (1, 2));
        assert_eq!(mock.ended(), [(2, r#"["/bin/found", "x"] 1"#.into())]);
        assert!(spawned.wait().unwrap().success());
        assert_eq!(DEPTH.get(), 0);
    }

    #[test]
    fn exec_that_fails_returns_in_the_child() {
        let mock = Mock::new();
        let error = mock.start().exec(&Program::new("/bin/none")).unwrap_err();
        assert_eq!((mock.pid(), error.errno()), (2, Errno::ENOENT));
        assert!(error.to_string().starts_with("/bin/none: exec: ENOENT"));
        let spawned = error.into_subprocess().exec(&program()).unwrap();
        assert_eq!((mock.pid(), spawned.pid()), (1, 2));
    }

    #[test]
    fn a_question_mark_leaves_the_child() {
        fn run(mock: &'static Mock) -> Result<Spawned, Error> {
            Ok(mock.start().exec(&Program::new("/bin/none"))?)
        }
        let mock = Mock::new();
        assert_eq!(run(mock).unwrap_err().operation(), Operation::Exec);
        assert_eq!((mock.pid(), mock.ended()), (1, vec![(2, "exit 1".into())]));
    }

    #[test]
    fn a_set_up_that_fails_leaves_the_child() {
        let mock = Mock::new();
        let child = mock.start().setup(|| Ok::<_, &str>(())).unwrap();
        assert_eq!(mock.pid(), 2);
        assert_eq!(child.setup(|| Err("no such directory")).unwrap_err(), "no such directory");
        assert_eq!((mock.pid(), mock.ended()), (1, vec![(2, "exit 1".into())]));
    }

    #[test]
    fn a_panic_leaves_the_child() {
        let mock = Mock::new();
        let panicked = std::panic::catch_unwind(|| {
            let _ = mock.start().setup::<()>(|| panic!("in the child"));
        });
        assert!(panicked.is_err());
        assert_eq!((mock.pid(), mock.ended()), (1, vec![(2, "exit 1".into())]));
    }

    #[test]
    fn children_nest() {
        let mock = Mock::new();
        let outer = mock.start();
        let inner = mock.start();
        assert_eq!(inner.exit(7).unwrap().pid(), 3);
        assert_eq!(mock.pid(), 2);
        assert_eq!(outer.exit(8).unwrap().pid(), 2);
        assert_eq!(mock.ended(), [(3, "exit 7".into()), (2, "exit 8".into())]);
    }

    #[test]
    fn leaving_the_outer_child_first_leaves_the_inner_one_too() {
        let mock = Mock::new();
        let outer = mock.start();
        let inner = mock.start();
        assert!(!outer.is_current() && inner.is_current());
        assert_eq!(outer.exit(0).unwrap_err().errno(), Errno::EBUSY);
        assert_eq!(mock.pid(), 1);
        assert_eq!(mock.ended(), [(3, "exit 1".into()), (2, "exit 1".into())]);
        assert_eq!(inner.exit(0).unwrap_err().errno(), Errno::ESRCH);
        assert_eq!((mock.pid(), DEPTH.get()), (1, 0));
    }

    #[test]
    fn who_left_otherwise_is_not_made_to_exit() {
        let mock = Mock::new();
        let child = mock.start();
        mock.end("an exec of somebody else".into());
        assert_eq!(child.exec(&program()).unwrap_err().errno(), Errno::ESRCH);
        drop(mock.start());
        assert_eq!((mock.pid(), mock.ended().len(), DEPTH.get()), (1, 2, 0));
    }

    #[test]
    fn names_are_looked_for_in_the_path() {
        let mock = Mock::new();
        let path = |path: &str| Program::new("found").env("PATH", path);
        let error = mock.start().exec(&path("/usr/bin:/sbin")).unwrap_err();
        assert_eq!(error.errno(), Errno::ENOENT);
        let refused = Program::new("refused").env("PATH", "/bin:/usr/bin");
        let error = error.into_subprocess().exec(&refused).unwrap_err();
        assert_eq!(error.errno(), Errno::EACCES);
        assert_eq!(error.into_subprocess().exec(&path("/usr/bin:/bin")).unwrap().pid(), 2);
    }

    #[test]
    fn a_program_that_cannot_be_written_down_is_invalid() {
        let mock = Mock::new();
        for program in [program().arg("a\0b"), program().env("A=", "b"), program().env("", "b")] {
            assert_eq!(mock.start().exec(&program).unwrap_err().errno(), Errno::EINVAL);
        }
        assert_eq!(Program::new("").run(mock), Err(Errno::ENOENT));
        assert_eq!(mock.pid(), 1);
    }

    #[test]
    fn an_error_of_the_kernel_comes_back_in_the_parent() {
        let options = Options::new().exit_signal(None);
        // SAFETY: the mock makes no process.
        let error = unsafe { options.start_on(Mock::new()) }.unwrap_err();
        assert_eq!((error.operation(), error.errno()), (Operation::Sfork, Errno::EAGAIN));
        assert_eq!(DEPTH.get(), 0);
    }

    #[test]
    fn the_kernel_does_it_or_refuses() {
        let known = crate::Support::probe().has(crate::Flags::SFORK);
        // SAFETY: no file is opened.
        match unsafe { Subprocess::start() } {
            Ok(child) => {
                let status = child.exit(3).unwrap().wait().unwrap();
                assert_eq!((known, status.code()), (true, Some(3)));
            }
            Err(error) => assert_eq!((known, error.operation()), (false, Operation::Sfork)),
        }
    }
}
