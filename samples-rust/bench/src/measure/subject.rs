// SPDX-License-Identifier: MIT OR Apache-2.0

//! Processes of a given size: many threads, much memory, a tree.

use std::io;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

use super::raw;

/// Nobody ever writes it, so that whoever waits for that sleeps.
static NEVER: AtomicU32 = AtomicU32::new(0);

const STACK: usize = 64 << 10;

/// Lets everybody else run until they sleep. The guest's clock leaps where
/// nobody does anything, so that this takes no time where instructions count.
pub(crate) fn settle() {
    sleep(Duration::from_millis(100));
}

extern "C" fn wait_for_ever(_: *mut libc::c_void) -> *mut libc::c_void {
    loop {
        raw::futex_wait(&NEVER, 0, true);
    }
}

/// Attributes of threads with small stacks.
pub(crate) struct SmallStack(libc::pthread_attr_t);

impl SmallStack {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: all zeros is a value of this type, and init() sets it anyhow.
        let mut attr = Self(unsafe { std::mem::zeroed() });
        // SAFETY: `attr` is writable; the second call finds it initialised.
        let error = unsafe {
            libc::pthread_attr_init(&raw mut attr.0);
            libc::pthread_attr_setstacksize(&raw mut attr.0, STACK)
        };
        if error == 0 { Ok(attr) } else { Err(io::Error::from_raw_os_error(error)) }
    }

    /// `pthread_create()` with them.
    pub(crate) fn create(
        &self,
        body: extern "C" fn(*mut libc::c_void) -> *mut libc::c_void,
    ) -> io::Result<libc::pthread_t> {
        let mut thread = 0;
        // SAFETY: the attributes are initialised, and `body` takes any argument.
        let error =
            unsafe { libc::pthread_create(&raw mut thread, &raw const self.0, body, null_mut()) };
        if error == 0 { Ok(thread) } else { Err(io::Error::from_raw_os_error(error)) }
    }
}

/// Makes so many threads in all, the calling one among them; the others sleep.
pub(crate) fn become_threads(threads: u32) -> io::Result<()> {
    let attr = SmallStack::new()?;
    for _ in 1..threads {
        attr.create(wait_for_ever)?;
    }
    settle();
    Ok(())
}

/// Which pages memory is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    Small,
    Huge,
}

/// Maps so many megabytes, and writes to each page.
pub(crate) fn take_memory(mb: u32, pages: Pages) -> io::Result<()> {
    let size = (mb as usize) << 20;
    if size == 0 {
        return Ok(());
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: new memory at an address that the kernel chooses.
    let area =
        unsafe { libc::mmap(null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if area == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let advice = match pages {
        Pages::Small => libc::MADV_NOHUGEPAGE,
        Pages::Huge => libc::MADV_HUGEPAGE,
    };
    // SAFETY: this memory was just mapped, and nobody else knows of it.
    unsafe {
        if libc::madvise(area, size, advice) != 0 {
            return Err(io::Error::last_os_error());
        }
        for page in (0..size).step_by(4096) {
            area.cast::<u8>().add(page).write_volatile(1);
        }
    }
    Ok(())
}

/// What the processes of a tree share: one of these for each.
#[repr(C)]
pub(crate) struct Node {
    turn: AtomicU32,
    ticks: AtomicU32,
    /// Of its last fork.
    child: AtomicI32,
}

const IDLE: u32 = 0;
const FORK: u32 = 1;
const END_CHILD: u32 = 2;
const DONE: u32 = 3;
const FAILED: u32 = 4;

/// Memory that processes share, all zeros.
fn shared_nodes(processes: u32) -> io::Result<&'static [Node]> {
    let count = processes as usize;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let size = count * size_of::<Node>();
    // SAFETY: new memory at an address that the kernel chooses.
    let area =
        unsafe { libc::mmap(null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if area == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it has room for them, zeros are valid, and it is never unmapped.
    Ok(unsafe { std::slice::from_raw_parts(area.cast::<Node>(), count) })
}

/// A tree of processes. This process is its root, and leads a process group that all
/// are in.
pub(crate) struct Tree {
    nodes: &'static [Node],
    /// How many children a process has at most.
    fan_out: usize,
    replica: AtomicI32,
}

impl Tree {
    /// Each process has up to ten children.
    pub(crate) fn grow(processes: u32) -> io::Result<Self> {
        Self::with_fan_out(processes, 10)
    }

    /// All are children of the root.
    pub(crate) fn grow_wide(processes: u32) -> io::Result<Self> {
        Self::with_fan_out(processes, processes as usize)
    }

    fn with_fan_out(processes: u32, fan_out: usize) -> io::Result<Self> {
        let nodes = shared_nodes(processes)?;
        let tree = Self { nodes, fan_out, replica: AtomicI32::new(0) };
        // SAFETY: these two concern this process, and touch no memory.
        unsafe {
            libc::setpgid(0, 0);
            libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        }
        tree.grow_children(0)?;
        settle();
        Ok(tree)
    }

    fn grow_children(&self, parent: usize) -> io::Result<()> {
        let first = parent * self.fan_out + 1;
        for node in first..(first + self.fan_out).min(self.nodes.len()) {
            // SAFETY: this process has one thread.
            match unsafe { libc::fork() } {
                -1 => return Err(io::Error::last_os_error()),
                0 => self.live(node),
                _ => {}
            }
        }
        Ok(())
    }

    /// What a process below the root does until it is killed.
    fn live(&self, node: usize) -> ! {
        // SAFETY: no memory is touched.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        let grown = self.grow_children(node);
        let turn = &self.nodes[node].turn;
        loop {
            match turn.load(Ordering::Acquire) {
                what @ (FORK | END_CHILD) => {
                    let answer = if grown.is_ok() { self.act_here(node, what) } else { FAILED };
                    turn.store(answer, Ordering::Release);
                    raw::futex_wake(turn);
                }
                other => raw::futex_wait(turn, other, false),
            }
        }
    }

    fn act_here(&self, node: usize, what: u32) -> u32 {
        let done = if what == FORK { self.fork_here(node) } else { self.end_child_here(node) };
        if done.is_ok() { DONE } else { FAILED }
    }

    fn fork_here(&self, node: usize) -> io::Result<()> {
        // The first fork of a process breaks up what it shares with its parent.
        let first = raw::fork()?;
        // SAFETY: no status is asked for.
        unsafe { libc::waitpid(first.pid, null_mut(), 0) };
        let child = raw::fork_that_lives()?;
        let ticks = u32::try_from(child.ticks).unwrap_or(u32::MAX);
        self.nodes[node].ticks.store(ticks, Ordering::Relaxed);
        self.nodes[node].child.store(child.pid, Ordering::Relaxed);
        Ok(())
    }

    fn end_child_here(&self, node: usize) -> io::Result<()> {
        let child = self.nodes[node].child.load(Ordering::Relaxed);
        // SAFETY: it is a child that was not waited for, and no status is asked for.
        match unsafe { libc::kill(child, libc::SIGKILL) + libc::waitpid(child, null_mut(), 0) } {
            pid if pid == child => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Sleeps.
    pub(crate) fn wait(&self) {
        raw::futex_wait(&self.nodes[0].turn, IDLE, false);
    }

    /// Has every process do this, one after the other.
    fn act(&self, what: u32) -> io::Result<()> {
        for (number, node) in self.nodes.iter().enumerate() {
            if number == 0 {
                node.turn.store(self.act_here(0, what), Ordering::Relaxed);
            } else {
                node.turn.store(what, Ordering::Release);
                raw::futex_wake(&node.turn);
                while node.turn.load(Ordering::Acquire) == what {
                    raw::futex_wait(&node.turn, what, false);
                }
            }
            if node.turn.swap(IDLE, Ordering::Acquire) != DONE {
                return Err(io::Error::other(format!("process {number} of the tree cannot fork")));
            }
        }
        Ok(())
    }

    /// Has every process fork, one after the other, and adds up what it took. As the
    /// replicas of a full fork, no child ends before all are made: who takes the memory
    /// of one that has just ended has it cheaper.
    pub(crate) fn forks(&self) -> io::Result<u64> {
        self.act(FORK)?;
        self.act(END_CHILD)?;
        Ok(self.nodes.iter().map(|node| u64::from(node.ticks.load(Ordering::Relaxed))).sum())
    }

    /// A full fork of all.
    pub(crate) fn begin_full_fork(&self) -> io::Result<u64> {
        let replica = raw::full_fork(raw::CLONE_SUBTREE)?;
        self.replica.store(replica.pid, Ordering::Relaxed);
        Ok(replica.ticks)
    }

    /// The end of its replicas.
    pub(crate) fn end_full_fork(&self) -> io::Result<()> {
        // SAFETY: no memory is touched. The replica leads a group of its own, in
        // which all replicas are.
        unsafe { libc::kill(-self.replica.load(Ordering::Relaxed), libc::SIGKILL) };
        for _ in self.nodes {
            raw::reap()?;
        }
        Ok(())
    }
}

/// From now on nobody who is made or woken runs before the calling thread sleeps.
/// So what they do is not counted as what making or waking them takes.
pub(crate) fn run_before_others() -> io::Result<()> {
    let param = libc::sched_param { sched_priority: 1 };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: `param` is readable.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const param) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs on one CPU only, or on all again.
pub(crate) fn pin(tid: i32, cpus: u32) -> io::Result<()> {
    // SAFETY: all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in 0..cpus {
        // SAFETY: `set` is writable, and has room for this CPU.
        unsafe { libc::CPU_SET(cpu as usize, &mut set) };
    }
    // SAFETY: `set` is readable for its size.
    match unsafe { libc::sched_setaffinity(tid, size_of_val(&set), &raw const set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends this process and all its threads at once.
pub(crate) fn end() -> ! {
    fullfork::exit_now(0)
}

/// A word that lives for ever.
pub(crate) fn never() -> &'static AtomicU32 {
    &NEVER
}
