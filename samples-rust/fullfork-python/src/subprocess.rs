// SPDX-License-Identifier: MIT OR Apache-2.0

//! `sfork()` as a context manager. It is Rust down to `__enter__`, as a signal handler
//! of Python that raised something in the middle of one in Python would leave the thread
//! in the child for good.

use std::cell::RefCell;
use std::ffi::OsString;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fullfork::sfork::{Namespaces, Options, Program, Subprocess as Child};
use fullfork::{Flags, Signal};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMapping, PyString};

use crate::exception;

thread_local! {
    /// The children, one in the other, in which this thread is.
    static CHILDREN: RefCell<Vec<Entered>> = const { RefCell::new(Vec::new()) };
}

struct Entered {
    object: Py<Subprocess>,
    child: Child,
}

/// How a child is made.
#[derive(Clone, Copy)]
struct Wanted {
    options: Options<'static>,
    cgroup: Option<RawFd>,
}

/// Where the thread is, with respect to a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Before,
    Inside,
    After { pid: u32, returncode: Option<i32> },
}

/// A child, in which the calling thread is while the body of `with` runs.
///
/// sfork() makes it. The body leaves it by exec() or exit(), and goes on in the
/// parent. Where it ends without, the child exits with 0, or with 1 if an exception
/// ends it, which goes on in the parent.
#[pyclass(module = "fullfork", frozen)]
pub(crate) struct Subprocess {
    wanted: Wanted,
    state: Mutex<State>,
}

/// A fork that returns once: `with sfork() as p:` moves the calling thread into a
/// child, and p.exec() or p.exit() brings it back.
#[pyfunction]
#[pyo3(signature = (*, exit_signal = 17, share_files = false, share_fs = false, namespaces = 0,
                    cgroup = None, clear_signal_handlers = false))]
pub(crate) fn sfork(
    exit_signal: i32,
    share_files: bool,
    share_fs: bool,
    namespaces: u32,
    cgroup: Option<RawFd>,
    clear_signal_handlers: bool,
) -> PyResult<Subprocess> {
    let exit_signal = match exit_signal {
        0 => None,
        number => Some(
            Signal::from_named_raw(number)
                .ok_or_else(|| PyValueError::new_err(format!("no signal: {number}")))?,
        ),
    };
    let namespaces = Namespaces::from_bits(namespaces)
        .ok_or_else(|| PyValueError::new_err("namespaces: an or of os.CLONE_NEW..."))?;
    if cgroup.is_some_and(|fd| fd < 0) {
        return Err(PyValueError::new_err("negative file descriptor"));
    }
    let mut options = Options::new().exit_signal(exit_signal).namespaces(namespaces);
    if share_files {
        options = options.share_files();
    }
    if share_fs {
        options = options.share_fs();
    }
    if clear_signal_handlers {
        options = options.clear_signal_handlers();
    }
    Ok(Subprocess { wanted: Wanted { options, cgroup }, state: Mutex::new(State::Before) })
}

#[pymethods]
impl Subprocess {
    /// The PID of the child, once the thread has left it, else None.
    #[getter]
    fn pid(&self) -> Option<u32> {
        match *self.state() {
            State::After { pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// How the child ended, once wait() or poll() has told: its exit status, or
    /// minus the number of a signal.
    #[getter]
    fn returncode(&self) -> Option<i32> {
        match *self.state() {
            State::After { returncode, .. } => returncode,
            _ => None,
        }
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        let this = slf.get();
        if *this.state() != State::Before {
            return Err(PyRuntimeError::new_err("this sfork() was entered before"));
        }
        let Wanted { mut options, cgroup } = this.wanted;
        if let Some(directory) = cgroup {
            // SAFETY: it is open as long as the caller, whose it is, waits here; and if it
            // is not, nothing happens but that the kernel says so.
            options = options.cgroup(unsafe { BorrowedFd::borrow_raw(directory) });
        }
        // SAFETY: the interpreter's locks are ordinary ones, and its memory, which
        // thread holds its lock among it, is the parent's. Of file descriptors, and of
        // leaving a child otherwise, the documentation speaks to those who write the body.
        let child = unsafe { options.start() }.map_err(|error| exception(error, Flags::SFORK))?;
        let object = slf.clone().unbind();
        CHILDREN.with_borrow_mut(|children| children.push(Entered { object, child }));
        *this.state() = State::Inside;
        Ok(slf)
    }

    /// Leaves the child if exec() and exit() have not; never swallows the exception.
    #[pyo3(signature = (exc_type, exc_value, traceback, /))]
    fn __exit__(
        slf: &Bound<'_, Self>,
        exc_type: &Bound<'_, PyAny>,
        exc_value: &Bound<'_, PyAny>,
        traceback: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let _ = (exc_value, traceback);
        let this = slf.get();
        if *this.state() != State::Inside {
            return Ok(false);
        }
        if !CHILDREN.with_borrow(|children| children.iter().any(|e| e.object.is(slf))) {
            return Err(PyRuntimeError::new_err("another thread is in this child"));
        }
        loop {
            let Some(entered) = CHILDREN.with_borrow_mut(Vec::pop) else { return Ok(false) };
            let own = entered.object.is(slf);
            let status = i32::from(!own || !exc_type.is_none());
            entered.exit(status);
            if own {
                return Ok(false);
            }
        }
    }

    /// Runs a program in the child, and returns in the parent.
    ///
    /// path: the program. With search=True a name without a slash is looked for in
    ///     the PATH of its environment.
    /// argv: its arguments, the first of which is its name; path alone by default.
    /// env: its environment, a mapping; os.environ by default.
    ///
    /// An OSError is raised in the child, which goes on: it may try another program.
    #[pyo3(signature = (path, argv = None, env = None, *, search = false))]
    fn exec(
        slf: &Bound<'_, Self>,
        path: &Bound<'_, PyAny>,
        argv: Option<&Bound<'_, PyAny>>,
        env: Option<&Bound<'_, PyAny>>,
        search: bool,
    ) -> PyResult<()> {
        let program = program(path, argv, env, search)?;
        let Entered { object, child } = take(slf)?;
        match child.exec(&program) {
            Ok(spawned) => {
                slf.get().left(spawned.pid());
                Ok(())
            }
            Err(error) => {
                let number = error.errno().number();
                let text = error.error().to_string();
                let child = error.into_subprocess();
                CHILDREN.with_borrow_mut(|children| children.push(Entered { object, child }));
                Err(PyOSError::new_err((number, text, path.clone().unbind())))
            }
        }
    }

    /// Exits the child with a status of 8 bits, and returns in the parent. No buffer
    /// is written and no exit handler runs: those are the parent's.
    #[pyo3(signature = (status = 0))]
    fn exit(slf: &Bound<'_, Self>, status: i32) -> PyResult<()> {
        take(slf)?.exit(status);
        Ok(())
    }

    /// Waits until the child ends, reaps it, and returns its returncode. Other
    /// threads of Python run meanwhile.
    fn wait(&self, py: Python<'_>) -> PyResult<i32> {
        loop {
            if let Some(returncode) = self.reap(py, 0)? {
                return Ok(returncode);
            }
        }
    }

    /// The returncode if the child has ended, which is reaped then; else None.
    fn poll(&self, py: Python<'_>) -> PyResult<Option<i32>> {
        const WNOHANG: i32 = 1;
        self.reap(py, WNOHANG)
    }

    fn __repr__(&self) -> String {
        match *self.state() {
            State::Before => "<fullfork.Subprocess, not entered>".into(),
            State::Inside => "<fullfork.Subprocess, the thread is in it>".into(),
            State::After { pid, returncode: None } => format!("<fullfork.Subprocess {pid}>"),
            State::After { pid, returncode: Some(code) } => {
                format!("<fullfork.Subprocess {pid}, ended with {code}>")
            }
        }
    }
}

impl Entered {
    /// In the parent, the object knows the PID then.
    fn exit(self, status: i32) {
        // Of whom left otherwise, by os.execv() say, this is all that is known.
        let known = self.child.pid();
        let pid = self.child.exit(status).map_or(known, |spawned| spawned.pid());
        self.object.get().left(pid);
    }
}

impl Subprocess {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self, pid: u32) {
        *self.state() = State::After { pid, returncode: None };
    }

    /// `os.waitpid()` sees to signal handlers and to the lock of the interpreter.
    fn reap(&self, py: Python<'_>, options: i32) -> PyResult<Option<i32>> {
        /// Children with any exit signal.
        const WALL: i32 = 0x4000_0000;
        let pid = match *self.state() {
            State::After { returncode: Some(returncode), .. } => return Ok(Some(returncode)),
            State::After { pid, .. } => pid,
            State::Before => return Err(PyRuntimeError::new_err("there is no child yet")),
            State::Inside => return Err(PyRuntimeError::new_err("the thread is in this child")),
        };
        let os = py.import("os")?;
        let (ended, status): (u32, i32) =
            os.call_method1("waitpid", (pid, options | WALL))?.extract()?;
        if ended == 0 {
            return Ok(None);
        }
        let code: i32 = os.call_method1("waitstatus_to_exitcode", (status,))?.extract()?;
        *self.state() = State::After { pid, returncode: Some(code) };
        Ok(Some(code))
    }
}

/// The child of `object`, in which the thread must be, to leave it.
fn take(object: &Bound<'_, Subprocess>) -> PyResult<Entered> {
    let wrong = PyRuntimeError::new_err;
    match *object.get().state() {
        State::Before => return Err(wrong("the child is not entered: with sfork() as p")),
        State::After { .. } => return Err(wrong("the thread has left this child already")),
        State::Inside => {}
    }
    let entered = CHILDREN.with_borrow_mut(|children| {
        match children.iter().rposition(|entered| entered.object.is(object)) {
            None => Err(wrong("another thread is in this child")),
            Some(index) if index + 1 < children.len() => {
                Err(wrong("the thread is in a child of this child, which has to be left first"))
            }
            Some(index) => Ok(children.swap_remove(index)),
        }
    })?;
    if entered.child.is_current() {
        return Ok(entered);
    }
    let pid = entered.child.pid();
    entered.object.get().left(pid);
    Err(wrong("the thread has left this child otherwise: p.exec() and p.exit() are the ways out"))
}

fn program(
    path: &Bound<'_, PyAny>,
    argv: Option<&Bound<'_, PyAny>>,
    env: Option<&Bound<'_, PyAny>>,
    search: bool,
) -> PyResult<Program> {
    let name = encode(path)?;
    let mut file = name.clone();
    if !search && !name.is_empty() && !name.as_bytes().contains(&b'/') {
        file = OsString::from("./");
        file.push(&name);
    }
    let mut program = Program::new(file).argv([name]);
    if let Some(argv) = argv {
        if argv.is_instance_of::<PyString>() || argv.is_instance_of::<PyBytes>() {
            return Err(PyTypeError::new_err("argv is a sequence of arguments"));
        }
        let arguments = argv.try_iter()?.map(|argument| encode(&argument?));
        program = program.argv(arguments.collect::<PyResult<Vec<_>>>()?);
    }
    let os = path.py().import("os")?;
    let env = env.map_or_else(|| os.getattr("environ"), |env| Ok(env.clone()))?;
    program = program.env_clear();
    for item in env.cast::<PyMapping>()?.items()? {
        let (name, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
        program = program.env(encode(&name)?, encode(&value)?);
    }
    Ok(program)
}

/// As all of Python does with what it gives to the kernel.
fn encode(text: &Bound<'_, PyAny>) -> PyResult<OsString> {
    let bytes = text.py().import("os")?.call_method1("fsencode", (text,))?;
    let bytes = bytes.cast_into::<PyBytes>()?;
    if bytes.as_bytes().contains(&0) {
        return Err(PyValueError::new_err("embedded null byte"));
    }
    Ok(OsString::from_vec(bytes.as_bytes().to_vec()))
}
