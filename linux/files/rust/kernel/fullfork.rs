// SPDX-License-Identifier: GPL-2.0

// Copyright (c) 2026 The full fork developers

//! Full fork: copies of processes with all their threads, and of trees of them.
//!
//! A [`Request`] says what is to be copied, and how. The replicas that it makes run, and go on by
//! themselves when the [`Replicas`] are dropped; or they are a [`Template`], which is stopped, can
//! be copied as often as one wants, and is killed when it is dropped.
//!
//! What can be copied, and by whom, is in `Documentation/userspace-api/fullfork.rst`. Copies of
//! processes are tested by the selftests in `tools/testing/selftests/fullfork`; the examples here
//! run in a kernel thread, which has no user memory that could be copied.
//!
//! C header: [`include/linux/fullfork_set.h`](srctree/include/linux/fullfork_set.h)

use crate::{
    bindings,
    error::from_err_ptr,
    impl_flags,
    prelude::*,
    sync::aref::ARef,
    task::{
        Pid,
        Task, //
    },
    types::NotThreadSafe,
    uaccess::UserPtr, //
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    },
    slice, //
};

/// The length of a task's name, with the zero at its end.
pub const TASK_COMM_LEN: usize = bindings::TASK_COMM_LEN as usize;

impl_flags!(
    /// What is copied, and how: a set of [`Flag`].
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::fullfork::{
    ///     Flag,
    ///     Flags, //
    /// };
    ///
    /// let tree = Flag::AllThreads | Flag::Subtree;
    /// assert!(tree.contains(Flag::Subtree));
    /// assert!(!tree.contains(Flag::KeepTids));
    ///
    /// // As in `struct clone_args`.
    /// let tree = u64::from(tree);
    /// assert_eq!(tree, 1 << 62 | 1 << 61);
    /// assert!(Flags::try_from(tree)? == Flag::AllThreads | Flag::Subtree);
    ///
    /// // `CLONE_VM` is not for a full fork.
    /// assert_eq!(Flags::try_from(0x100).err(), Some(EINVAL));
    /// # Ok::<(), Error>(())
    /// ```
    #[derive(Debug, Clone, Default, Copy, PartialEq, Eq)]
    pub struct Flags(u64);

    /// One thing that can be asked of a full fork.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Flag {
        /// `CLONE_ALL_THREADS`: copy every thread of the process.
        AllThreads = bindings::CLONE_ALL_THREADS,

        /// `CLONE_SUBTREE`: copy every descendant process too.
        Subtree = bindings::CLONE_SUBTREE,

        /// `CLONE_KEEP_TIDS`: keep the TIDs, in another PID namespace.
        KeepTids = bindings::CLONE_KEEP_TIDS,

        /// `CLONE_ISOLATE`: copy the objects that only members can reach, in place of sharing
        /// them.
        Isolate = bindings::CLONE_ISOLATE,

        /// `CLONE_NEWPID`: make that PID namespace, instead of using that of the caller's
        /// children.
        NewPid = bindings::CLONE_NEWPID as u64,

        /// `CLONE_NNP`: set `no_new_privs` for the replicas.
        NoNewPrivs = bindings::CLONE_NNP,

        /// `CLONE_AUTOREAP`: nobody waits for the replica of the root.
        AutoReap = bindings::CLONE_AUTOREAP,

        /// `CLONE_PARENT`: the replica of the root gets the parent of the root, not the caller.
        Parent = bindings::CLONE_PARENT as u64,
    }
);

impl TryFrom<u64> for Flags {
    type Error = Error;

    /// Takes the bits of `CLONE_*`; `EINVAL` if there are others than those of [`Flag`].
    fn try_from(bits: u64) -> Result<Self> {
        if bits & !Self::all_bits() != 0 {
            return Err(EINVAL);
        }
        Ok(Self(bits))
    }
}

/// A process that can be copied: a reference to its PID, not to its task.
///
/// The process may end at any time. Then it cannot be copied any more: `ESRCH`, even if another one
/// has got its number.
///
/// # Invariants
///
/// `pid` points to a `struct pid`, of which this owns a reference count.
///
/// # Examples
///
/// ```
/// use kernel::fullfork::Process;
///
/// assert_eq!(Process::from_pidfd(u32::MAX).err(), Some(EBADF));
/// ```
pub struct Process {
    pid: NonNull<bindings::pid>,
}

// SAFETY: The reference count of a `struct pid` is atomic, and may be dropped by any task.
unsafe impl Send for Process {}

// SAFETY: Through a shared reference only the pointer is read, which never changes.
unsafe impl Sync for Process {}

impl Process {
    /// Takes the process that a pidfd of the current process names.
    ///
    /// `EBADF` if it is no pidfd. That of a thread is found out when it is to be copied: `EINVAL`.
    pub fn from_pidfd(fd: u32) -> Result<Self> {
        let mut flags = 0;

        // SAFETY: There are no requirements on `fd`; `flags` can be written to.
        let pid = from_err_ptr(unsafe { bindings::pidfd_get_pid(fd, &mut flags) })?;

        // INVARIANT: `pidfd_get_pid()` has taken a reference count for us.
        NonNull::new(pid).map(|pid| Self { pid }).ok_or(EBADF)
    }

    /// Takes the process of a task; `ESRCH` if it has been reaped.
    pub fn from_task(task: &Task) -> Result<Self> {
        // SAFETY: `task` is a valid task, by the type invariant of `Task`.
        let pid = unsafe { bindings::get_task_pid(task.as_ptr(), bindings::pid_type_PIDTYPE_TGID) };

        // INVARIANT: `get_task_pid()` has taken a reference count for us, unless it returns NULL.
        NonNull::new(pid).map(|pid| Self { pid }).ok_or(ESRCH)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the reference count is ours, and it is not used again.
        unsafe { bindings::put_pid(self.pid.as_ptr()) };
    }
}

/// A full fork that is to be made by the current process, and what it is to be like.
///
/// # Examples
///
/// A kernel thread has nothing that could be copied:
///
/// ```
/// use kernel::fullfork::{
///     Flag,
///     Process,
///     Request, //
/// };
///
/// let process = Process::from_task(current!())?;
/// let request = Request::new(&process, Flag::AllThreads | Flag::Subtree);
/// assert_eq!(request.copy().err(), Some(EINVAL));
/// # Ok::<(), Error>(())
/// ```
///
/// A template of a process, and a running copy of that:
///
/// ```
/// use kernel::fullfork::{
///     Flag,
///     Flags,
///     Process,
///     Request, //
/// };
///
/// fn copy_twice(pidfd: u32) -> Result {
///     let process = Process::from_pidfd(pidfd)?;
///     let template = Request::new(&process, Flag::AllThreads | Flag::AutoReap).copy_stopped()?;
///
///     // It runs, and goes on when we forget about it.
///     template.request(Flags::empty()).copy()?;
///
///     // The template is killed.
///     Ok(())
/// }
///
/// assert_eq!(copy_twice(u32::MAX), Err(EBADF));
/// ```
///
/// # Invariants
///
/// `raw.source`, and `raw.template` if it is not NULL, are valid for `'a`.
#[must_use = "nothing is copied before `copy()` or `copy_stopped()`"]
pub struct Request<'a> {
    raw: bindings::fullfork_request,
    /// The addresses are those of the current process, and so are the rights.
    _not_send: NotThreadSafe,
    _source: PhantomData<&'a Process>,
}

impl<'a> Request<'a> {
    /// Asks for a copy of `source`.
    pub fn new(source: &'a Process, flags: impl Into<Flags>) -> Self {
        // SAFETY: By the type invariant of `Process` the PID is valid for as long as `source` is.
        unsafe { Self::from_raw(source.pid.as_ptr(), ptr::null(), flags.into()) }
    }

    /// # Safety
    ///
    /// `source`, and `template` if it is not NULL, must be valid for `'a`.
    unsafe fn from_raw(
        source: *mut bindings::pid,
        template: *const bindings::fullfork_set,
        flags: Flags,
    ) -> Self {
        // INVARIANT: The caller promises it.
        Self {
            raw: bindings::fullfork_request {
                source,
                template,
                flags: flags.into(),
                ..pin_init::zeroed()
            },
            _not_send: NotThreadSafe,
            _source: PhantomData,
        }
    }

    /// Has the parent of the root's replica sent that signal when the replica ends, instead of
    /// none.
    pub fn exit_signal(mut self, signal: i32) -> Self {
        self.raw.exit_signal = signal;
        self
    }

    /// Has a pidfd of the root's replica made for the current process, and its number (an `int`)
    /// put there.
    pub fn pidfd(mut self, at: UserPtr) -> Self {
        self.raw.pidfd = at.as_mut_ptr().cast();
        self.raw.flags |= u64::from(bindings::CLONE_PIDFD);
        self
    }

    /// Has the PID of the root's replica (a `pid_t`) put there, as the current process sees it.
    pub fn parent_tid(mut self, at: UserPtr) -> Self {
        self.raw.parent_tid = at.as_mut_ptr().cast();
        self.raw.flags |= u64::from(bindings::CLONE_PARENT_SETTID);
        self
    }

    /// Copies it. The replicas run.
    ///
    /// Sleeps until all is done. No lock may be held that a member could need on its way to user
    /// mode.
    ///
    /// If the current process is a member, its replica does not return from here, but from the
    /// system call, with 0. `ERESTARTNOINTR` must be what the system call returns.
    pub fn copy(self) -> Result<Replicas> {
        self.run()
    }

    /// Copies it, as [`Self::copy`] does. The replicas are stopped, as after SIGSTOP.
    pub fn copy_stopped(mut self) -> Result<Template> {
        self.raw.flags |= bindings::CLONE_STOPPED;
        self.run().map(Template)
    }

    fn run(self) -> Result<Replicas> {
        // SAFETY:
        // - By the type invariant the source and the template are valid.
        // - The user addresses are written to by put_user(), which accepts any.
        // - If the current task is copied, its replica gets a kernel stack of its own: it neither
        //   returns to this frame nor drops what this one owns.
        let set = from_err_ptr(unsafe { bindings::fullfork_copy(&self.raw) })?;

        // INVARIANT: `fullfork_copy()` has made the set for us.
        NonNull::new(set).map(|set| Replicas { set }).ok_or(EINVAL)
    }
}

/// A process that a full fork has made.
///
/// # Invariants
///
/// The PIDs are valid, and do not change.
#[repr(transparent)]
pub struct Replica(bindings::fullfork_replica);

// SAFETY: All methods take shared references, read what does not change, and look at the process
// by functions that any task may call.
unsafe impl Sync for Replica {}

impl Replica {
    /// Its PID as the current process sees it, or 0 if it does not.
    pub fn pid_vnr(&self) -> Pid {
        // SAFETY: By the type invariant the PID is valid.
        unsafe { bindings::pid_vnr(self.0.pid) }
    }

    /// The PID of its original as the current process sees it, or 0 if it does not.
    ///
    /// The original may have ended since, and another process may have that number.
    pub fn original_vnr(&self) -> Pid {
        // SAFETY: By the type invariant the PID is valid.
        unsafe { bindings::pid_vnr(self.0.original) }
    }

    /// How many threads were copied.
    pub fn nr_threads(&self) -> u32 {
        self.0.nr_threads
    }

    /// Was the original stopped itself? Then the replica stays stopped when others are released.
    pub fn was_stopped(&self) -> bool {
        self.0.stopped
    }

    /// Had the original exited, so that the replica is a zombie?
    pub fn was_zombie(&self) -> bool {
        self.0.zombie
    }

    /// Has it ended since it was made? A template of which a process is gone cannot be copied.
    pub fn is_gone(&self) -> bool {
        // SAFETY: By the type invariant the PID in it is valid.
        unsafe { bindings::fullfork_replica_is_gone(&self.0) }
    }

    /// The name of its main thread, padded with zeroes; nothing else if it is gone.
    pub fn comm(&self) -> [u8; TASK_COMM_LEN] {
        let mut comm = [0; TASK_COMM_LEN];

        if let Some(task) = self.task() {
            // SAFETY: There is room for `TASK_COMM_LEN` bytes, and `task` is a valid task.
            unsafe { bindings::get_task_comm(comm.as_mut_ptr(), task.as_ptr()) };
        }
        comm
    }

    fn task(&self) -> Option<ARef<Task>> {
        // SAFETY: By the type invariant the PID is valid.
        let task = unsafe { bindings::get_pid_task(self.0.pid, bindings::pid_type_PIDTYPE_TGID) };

        // SAFETY: `get_pid_task()` has taken a reference count for us, unless it returns NULL.
        // CAST: `Task` is a transparent wrapper of `struct task_struct`.
        NonNull::new(task).map(|task| unsafe { ARef::from_raw(task.cast()) })
    }
}

/// The processes that one full fork has made.
///
/// When this is dropped they go on as they are.
///
/// # Invariants
///
/// `set` points to what `fullfork_copy()` has returned, with at least one process in it. It is ours
/// alone, and does not change.
pub struct Replicas {
    set: NonNull<bindings::fullfork_set>,
}

// SAFETY: The set has references to PIDs, which may be dropped by any task.
unsafe impl Send for Replicas {}

// SAFETY: By the type invariant the set does not change; for what is in it, see `Replica`.
unsafe impl Sync for Replicas {}

impl Replicas {
    fn raw(&self) -> &bindings::fullfork_set {
        // SAFETY: By the type invariant the set is valid, and does not change.
        unsafe { self.set.as_ref() }
    }

    /// What was asked for, but for what the methods of [`Request`] say.
    pub fn flags(&self) -> Flags {
        Flags(self.raw().flags & Flags::all_bits())
    }

    /// The processes: that of the root first, parents before children.
    pub fn processes(&self) -> &[Replica] {
        let set = self.raw();

        // SAFETY: There are `nr` elements, valid for as long as the set is. `Replica` is a
        // transparent wrapper of them, and its invariants hold for a set that is complete.
        unsafe { slice::from_raw_parts(set.replicas.as_ptr().cast(), set.nr as usize) }
    }

    /// The replica of the root.
    pub fn root(&self) -> &Replica {
        &self.processes()[0]
    }

    /// How many threads were copied, of all processes.
    pub fn nr_threads(&self) -> u32 {
        self.processes().iter().map(Replica::nr_threads).sum()
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the set is ours, and it is not used again.
        unsafe { bindings::fullfork_set_free(self.set.as_ptr()) };
    }
}

/// Stopped replicas, which can be copied as often as one wants.
///
/// When this is dropped they are killed.
///
/// They get the signals that others send to them or to their process group, and so can be
/// continued and killed by others. Processes that they start then are nobody's to kill.
pub struct Template(Replicas);

impl Template {
    /// Asks for a copy of it, which has all that the template has.
    ///
    /// [`Flag::AllThreads`] and [`Flag::Subtree`] are as they are for the template. The replicas of
    /// processes that were stopped before the template was made are stopped, the others run.
    ///
    /// `ESRCH` if one of the processes is gone.
    pub fn request(&self, flags: impl Into<Flags>) -> Request<'_> {
        // SAFETY: By the type invariants the set, and the PIDs in it, are valid for as long as the
        // template is.
        unsafe { Request::from_raw(self.root().0.pid, self.raw(), flags.into()) }
    }

    /// Lets it run: sends SIGCONT to all that were not stopped before it was made.
    pub fn release(self) -> Replicas {
        // SAFETY: By the type invariant of `Replicas` the set is valid.
        unsafe { bindings::fullfork_set_continue(self.set.as_ptr()) };
        self.leave_stopped()
    }

    /// Leaves it to others to let it run.
    pub fn leave_stopped(self) -> Replicas {
        // INVARIANT: What is not dropped does not own the set any more.
        Replicas {
            set: ManuallyDrop::new(self).set,
        }
    }
}

impl Deref for Template {
    type Target = Replicas;

    fn deref(&self) -> &Replicas {
        &self.0
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        // SAFETY: By the type invariant of `Replicas` the set is valid.
        unsafe { bindings::fullfork_set_kill(self.set.as_ptr()) };
    }
}
