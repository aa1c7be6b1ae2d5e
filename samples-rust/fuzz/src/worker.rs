// SPDX-License-Identifier: MIT OR Apache-2.0

//! The threads of the tree, and so of its replicas. They use no lock, no thread-local
//! storage and no heap: a replica has to be able to go on wherever it was copied.

use std::ffi::c_void;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::args::{ALL_THREADS, AUTOREAP, FULL_SIZE, SFORK, SOURCE_OFFSET};
use crate::program::{Attr, Behaviour, Group, Proc, Program, Thread};
use crate::shared::{PAGE, Shared, Slot};
use crate::sys;

/// What an order says, in its low byte; its number is above.
pub(crate) const CALL: u64 = 1;
pub(crate) const ATTR: u64 = 2;
pub(crate) const EXIT_THREAD: u64 = 3;
pub(crate) const EXIT_PROCESS: u64 = 4;
pub(crate) const EXEC: u64 = 5;
pub(crate) const TRACE: u64 = 6;

/// How the source of a call is opened: the second parameter is the PID, or 0.
pub(crate) const SOURCE_GIVEN: u64 = 0;
pub(crate) const SOURCE_PIDFD: u64 = 1;
pub(crate) const SOURCE_THREAD: u64 = 2;
pub(crate) const SOURCE_PIPE: u64 = 3;

/// Descriptors that all processes have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Files {
    pub(crate) pipe: i32,
    pub(crate) eventfd: i32,
    pub(crate) epoll: i32,
    pub(crate) ends_at_once: i32,
    pub(crate) waits_for_ever: i32,
}

static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());
static PROGRAM: AtomicPtr<Program> = AtomicPtr::new(std::ptr::null_mut());
static FILES: AtomicPtr<Files> = AtomicPtr::new(std::ptr::null_mut());
/// A word of memory with `MADV_WIPEONFORK`: it is [`ORIGINAL`] in no replica.
static MARK: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
static SIGNALS_SEEN: AtomicU64 = AtomicU64::new(0);
/// What a tracer does with those who stop.
static TRACER: AtomicI32 = AtomicI32::new(0);
const GOES_ON: i32 = 1;
const HOLDS: i32 = 2;
const ORIGINAL: u64 = 0x0419_1741;

/// Says what there is to work with, before the first process is made.
pub(crate) fn set_up(shared: &'static Shared, program: &'static Program, files: &'static Files) {
    SHARED.store(std::ptr::from_ref(shared).cast_mut(), Ordering::SeqCst);
    PROGRAM.store(std::ptr::from_ref(program).cast_mut(), Ordering::SeqCst);
    FILES.store(std::ptr::from_ref(files).cast_mut(), Ordering::SeqCst);
}

fn shared() -> &'static Shared {
    // SAFETY: it was set to a reference of this life.
    unsafe { &*SHARED.load(Ordering::Relaxed) }
}

fn program() -> &'static Program {
    // SAFETY: the same.
    unsafe { &*PROGRAM.load(Ordering::Relaxed) }
}

fn files() -> Files {
    // SAFETY: the same.
    unsafe { *FILES.load(Ordering::Relaxed) }
}

fn is_original() -> bool {
    // SAFETY: it was set before the first thread looks, and is never unmapped.
    unsafe { &*MARK.load(Ordering::Relaxed) }.load(Ordering::SeqCst) == ORIGINAL
}

/// Private memory of its own, so that two replicas do not disturb each other.
fn mark_as_original(proc: &Proc) {
    if proc.parent.is_none() {
        let Some(page) = sys::map_private(PAGE) else { sys::exit_process(91) };
        // SAFETY: new memory, which begins with zeros.
        unsafe { sys::advise(libc::SYS_madvise, page, PAGE, libc::MADV_WIPEONFORK) };
        MARK.store(page as *mut AtomicU64, Ordering::SeqCst);
    }
    // SAFETY: the page was mapped by this process, or by one above it.
    unsafe { &*MARK.load(Ordering::SeqCst) }.store(ORIGINAL, Ordering::SeqCst);
}

extern "C" fn handler(_: i32) {
    SIGNALS_SEEN.fetch_add(1, Ordering::Relaxed);
}

const HANDLED: [i32; 4] = [libc::SIGUSR1, libc::SIGALRM, libc::SIGVTALRM, libc::SIGWINCH];

fn set_handlers() {
    let take: extern "C" fn(i32) = handler;
    // SAFETY: the handler does nothing but add to an atomic word.
    unsafe {
        for signal in HANDLED {
            libc::signal(signal, take as libc::sighandler_t);
        }
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// The first thread of a process that was just made.
pub(crate) fn process_main(proc: usize) -> ! {
    let p = &program().procs[proc];
    mark_as_original(p);
    if p.parent.is_none() {
        set_handlers();
    }
    match p.group {
        Group::Inherited => 0,
        Group::Own => sys::setpgid(0, 0),
        Group::Session => sys::setsid(),
    };
    for index in 1..p.threads.len() {
        start_thread(thread_entry, program().slot(Thread { proc, index }), THREAD, &NO_WORD);
    }
    work(Thread { proc, index: 0 })
}

const THREAD: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM;
static NO_WORD: AtomicU32 = AtomicU32::new(0);

fn start_thread(
    entry: extern "C" fn(*mut c_void) -> i32,
    arg: usize,
    flags: i32,
    cleared: &AtomicU32,
) {
    let Some(stack) = sys::map_private(sys::STACK_SIZE) else { sys::exit_process(92) };
    let top = (stack + sys::STACK_SIZE) as *mut c_void;
    // SAFETY: the stack is new and stays.
    if unsafe { sys::clone_on(flags, top, entry, arg, cleared.as_ptr()) } < 0 {
        sys::exit_process(93);
    }
}

extern "C" fn thread_entry(slot: *mut c_void) -> i32 {
    let slot = slot as usize;
    match program().threads().find(|thread| program().slot(*thread) == slot) {
        Some(thread) => work(thread),
        None => sys::exit_process(94),
    }
}

extern "C" fn process_entry(proc: *mut c_void) -> i32 {
    process_main(proc as usize)
}

fn start_process(proc: usize, p: &Proc) {
    let mut flags = libc::SIGCHLD;
    for (shares, flag) in [
        (p.share.vm, libc::CLONE_VM),
        (p.share.files, libc::CLONE_FILES),
        (p.share.fs, libc::CLONE_FS),
        (p.share.sighand, libc::CLONE_SIGHAND),
        (p.pid_ns, libc::CLONE_NEWPID),
    ] {
        flags |= if shares { flag } else { 0 };
    }
    if p.share.vm {
        start_thread(process_entry, proc, flags, &NO_WORD);
        return;
    }
    // SAFETY: the child goes on by itself.
    match unsafe { sys::fork_with(flags as usize) } {
        0 => process_main(proc),
        error if error < 0 => sys::exit_process(95),
        _ => {}
    }
}

/// What a thread keeps from round to round.
struct Worker {
    slot: &'static Slot,
    index: usize,
    /// The last order that it took.
    taken: u64,
    rounds: u64,
}

fn work(thread: Thread) -> ! {
    let index = program().slot(thread);
    let slot = &shared().slots[index];
    slot.tid.store(sys::global_tid(), Ordering::SeqCst);
    for (proc, p) in program().procs.iter().enumerate() {
        if p.parent == Some(thread) {
            start_process(proc, p);
        }
    }
    slot.ready.store(1, Ordering::SeqCst);
    let mut worker = Worker { slot, index, taken: 0, rounds: 0 };
    loop {
        worker.round(program().behaviour(thread));
    }
}

impl Worker {
    fn round(&mut self, behaviour: Behaviour) {
        self.rounds = self.rounds.wrapping_add(1);
        if is_original() {
            self.slot.progress.fetch_add(1, Ordering::SeqCst);
            self.take_order();
        } else {
            self.slot.replica_progress.fetch_add(1, Ordering::SeqCst);
            // There may be many.
            sys::nap(2_000_000);
        }
        self.behave(behaviour);
        if TRACER.load(Ordering::Relaxed) == GOES_ON {
            serve_tracees();
        }
    }

    fn take_order(&mut self) {
        let command = self.slot.command.load(Ordering::SeqCst);
        let number = command >> 8;
        if number == self.taken {
            return;
        }
        self.taken = number;
        let params = [0, 1, 2, 3, 4].map(|i| self.slot.params[i].load(Ordering::SeqCst));
        // It may have been copied since it looked.
        if !is_original() {
            return;
        }
        let result = match command & 0xff {
            CALL => self.call(params),
            ATTR => Attr::ALL.get(params[0] as usize).map_or(0, |attr| apply(*attr)),
            EXIT_THREAD => sys::exit_thread(0),
            EXIT_PROCESS => sys::exit_process(7),
            EXEC => sys::exec(files().waits_for_ever),
            TRACE => trace(params),
            _ => 0,
        };
        if is_original() {
            self.slot.result.store(result as i64, Ordering::SeqCst);
            self.slot.done.store(number, Ordering::SeqCst);
        } else if command & 0xff == CALL && result != 0 && result != -(libc::EAGAIN as isize) {
            self.slot.wrong.store(result as i64, Ordering::SeqCst);
        }
    }

    fn call(&self, [address, size, how, pid, fail_nth]: [u64; 5]) -> isize {
        const THREAD_PIDFD: usize = libc::O_EXCL as usize;
        let pid = if pid == 0 { sys::getpid() as usize } else { pid as usize };
        let source = match how {
            SOURCE_PIDFD => sys::pidfd_open(pid, 0),
            SOURCE_THREAD => sys::pidfd_open(pid, THREAD_PIDFD),
            SOURCE_PIPE => files().pipe as isize,
            _ => -1,
        };
        if how != SOURCE_GIVEN {
            let word = &shared().areas[self.index].args[SOURCE_OFFSET / 8];
            word.store(source.max(-1) as i32 as u32 as u64, Ordering::SeqCst);
        }
        let faults = if fail_nth == 0 { -1 } else { sys::open_faults() };
        sys::set_fault(faults, fail_nth);
        // SAFETY: what is written goes to memory that is there for it.
        let ret = unsafe { sys::clone3(address, size) };
        sys::set_fault(faults, 0);
        if faults >= 0 {
            sys::close(faults as usize);
        }
        if source >= 0 && how != SOURCE_PIPE {
            sys::close(source as usize);
        }
        ret
    }

    /// Takes note of a result that nobody should see.
    fn note(&self, ret: isize) {
        if ret == -(libc::EINTR as isize) {
            self.slot.interrupted.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Moves into a child, which soon ends, and is back; or finds that this kernel
    /// cannot.
    fn sfork(&self, program: i32) -> isize {
        const FLAGS: u64 = SFORK | libc::CLONE_VM as u64 | libc::CLONE_VFORK as u64;
        let mut args = [0_u64; FULL_SIZE / 8];
        args[0] = FLAGS;
        args[4] = libc::SIGCHLD as u64;
        // SAFETY: it returns once, in the child, where this goes on.
        let mut pid = unsafe { sys::clone3(args.as_ptr() as u64, FULL_SIZE as u64) };
        if pid == 0 {
            if self.rounds % 2 == 0 {
                churn_files(program);
            }
            let ends = [sys::End::Exec(program), sys::End::Process, sys::End::Thread];
            // SAFETY: it has moved; and if nobody waits for it any more it just ends.
            pid = unsafe { sys::end_elsewhere(ends[(self.rounds % 3) as usize]) };
        }
        if pid < 0 {
            return sys::nap(1_000_000);
        }
        let (waited, _) = sys::wait_child(pid, libc::__WALL);
        if waited == pid {
            shared().sforks.fetch_add(1, Ordering::SeqCst);
        } else if waited != -(libc::EINTR as isize) && is_original() {
            shared().lost.store(pid as u64, Ordering::SeqCst);
        }
        sys::nap(300_000);
        waited
    }

    fn behave(&self, behaviour: Behaviour) {
        let files = files();
        let ret = match behaviour {
            Behaviour::Spin => {
                for _ in 0..20_000 {
                    std::hint::spin_loop();
                }
                sys::yield_now()
            }
            Behaviour::Nap => sys::nap(500_000),
            Behaviour::Futex => {
                let gate = &shared().gate;
                sys::futex_wait(gate, gate.load(Ordering::SeqCst), 0)
            }
            Behaviour::ReadPipe => sys::read_byte(files.pipe),
            Behaviour::ReadEventfd => sys::read_u64(files.eventfd),
            Behaviour::Poll => sys::poll_in(-1, 1_500_000),
            Behaviour::Epoll => sys::epoll_wait(files.epoll, 2),
            Behaviour::SigTimedWait => sys::sigtimedwait(1 << (libc::SIGUSR2 - 1), 1_000_000),
            Behaviour::TouchMemory => touch_memory(self.rounds),
            Behaviour::ChurnMappings => churn_mappings(),
            Behaviour::ChurnFiles => churn_files(files.pipe),
            Behaviour::WaitChild => {
                // Of its own kind, so that it takes nobody else's.
                sys::wait_child(-1, libc::WNOHANG | libc::__WCLONE);
                sys::nap(700_000)
            }
            Behaviour::Fork => fork_and_wait(None),
            Behaviour::ForkExec => fork_and_wait(Some(files.ends_at_once)),
            Behaviour::Vfork => vfork_and_wait(),
            Behaviour::CreateThread => create_and_join(),
            Behaviour::FullFork => full_fork(),
            Behaviour::Sfork => self.sfork(files.ends_at_once),
        };
        self.note(ret);
    }
}

fn touch_memory(round: u64) -> isize {
    static MEMORY: AtomicU64 = AtomicU64::new(0);
    let mut at = MEMORY.load(Ordering::Relaxed) as usize;
    if at == 0 {
        let Some(new) = sys::map_private(16 * PAGE) else { return 0 };
        MEMORY.store(new as u64, Ordering::Relaxed);
        at = new;
    }
    let word = (at + (round as usize % 16) * PAGE) as *const AtomicU64;
    // SAFETY: memory of this process that is never unmapped, used by atomics alone.
    unsafe { &*word }.fetch_add(1, Ordering::Relaxed);
    sys::nap(300_000)
}

fn churn_mappings() -> isize {
    if let Some(at) = sys::map_private(8 * PAGE) {
        // SAFETY: of this thread's own.
        unsafe {
            (at as *mut u64).write_volatile(1);
            sys::advise(libc::SYS_mprotect, at + 4 * PAGE, PAGE, libc::PROT_READ);
            sys::unmap(at, 8 * PAGE);
        }
    }
    sys::nap(300_000)
}

fn churn_files(fd: i32) -> isize {
    let copy = sys::dup(fd as usize);
    if copy >= 0 {
        sys::close(copy as usize);
    }
    sys::nap(300_000)
}

fn fork_and_wait(exec: Option<i32>) -> isize {
    // SAFETY: the child only ends, or becomes another program.
    let pid = unsafe { sys::fork() };
    if pid == 0 {
        if let Some(fd) = exec {
            sys::exec(fd);
        }
        sys::exit_process(0);
    }
    if pid > 0 { sys::wait_child(pid, 0).0 } else { sys::nap(1_000_000) }
}

extern "C" fn end_soon(_: *mut c_void) -> i32 {
    sys::nap(200_000);
    sys::exit_process(0)
}

fn vfork_and_wait() -> isize {
    let Some(stack) = sys::map_private(sys::STACK_SIZE) else { return sys::nap(1_000_000) };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let top = (stack + sys::STACK_SIZE) as *mut c_void;
    // SAFETY: this thread waits until the child has ended.
    let pid = unsafe { sys::clone_on(flags, top, end_soon, 0, NO_WORD.as_ptr()) };
    let ret = if pid > 0 { sys::wait_child(pid as isize, 0).0 } else { sys::nap(1_000_000) };
    // SAFETY: nobody runs there any more.
    unsafe { sys::unmap(stack, sys::STACK_SIZE) };
    ret
}

extern "C" fn end_thread(_: *mut c_void) -> i32 {
    sys::exit_thread(0)
}

fn create_and_join() -> isize {
    let Some(stack) = sys::map_private(sys::STACK_SIZE) else { return sys::nap(1_000_000) };
    // The word is at the bottom, where the thread's stack does not reach.
    let word = stack as *const AtomicU32;
    // SAFETY: new memory.
    let word = unsafe { &*word };
    word.store(1, Ordering::SeqCst);
    let top = (stack + sys::STACK_SIZE) as *mut c_void;
    let flags = THREAD | libc::CLONE_CHILD_CLEARTID;
    let mut ret = 0;
    // SAFETY: the stack is unmapped only once the thread has ended.
    if unsafe { sys::clone_on(flags, top, end_thread, 0, word.as_ptr()) } > 0 {
        while word.load(Ordering::SeqCst) != 0 {
            ret = sys::futex_wait(word, 1, 0);
        }
    } else {
        sys::nap(1_000_000);
    }
    // SAFETY: nobody runs there any more.
    unsafe { sys::unmap(stack, sys::STACK_SIZE) };
    ret
}

/// A full fork of one's own, whose replica ends at once.
fn full_fork() -> isize {
    if !is_original() {
        return sys::nap(1_000_000);
    }
    let mut args = [0_u64; FULL_SIZE / 8];
    args[0] = ALL_THREADS | AUTOREAP;
    // SAFETY: the arguments are valid, and name no place for results.
    let pid = unsafe { sys::clone3(args.as_ptr() as u64, FULL_SIZE as u64) };
    if !is_original() {
        sys::exit_process(0);
    }
    if pid > 0 {
        sys::kill(pid as usize, libc::SIGKILL as usize);
    }
    sys::nap(5_000_000)
}

fn trace([tid, follow, hold, ..]: [u64; 5]) -> isize {
    const FOLLOW: i32 =
        libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACEVFORK;
    let options = if follow == 0 { 0 } else { FOLLOW as usize };
    let ret = sys::seize(libc::PTRACE_SEIZE as usize, tid as usize, 0, options);
    if ret == 0 && hold != 0 {
        sys::seize(libc::PTRACE_INTERRUPT as usize, tid as usize, 0, 0);
    }
    if ret == 0 {
        TRACER.store(if hold == 0 { GOES_ON } else { HOLDS }, Ordering::Relaxed);
    }
    ret
}

/// Lets whoever stopped go on, with its signal; or leaves it stopped.
fn serve_tracees() {
    const EVENT_STOP: i32 = 128;
    loop {
        let (tid, status) = sys::wait_child(-1, libc::WNOHANG | libc::__WALL);
        if tid <= 0 {
            return;
        }
        if status & 0xff != 0x7f {
            continue;
        }
        let signal = (status >> 8) & 0xff;
        let (request, signal) = match status >> 16 {
            0 => (libc::PTRACE_CONT, signal),
            EVENT_STOP if signal != libc::SIGTRAP => (libc::PTRACE_LISTEN, 0),
            _ => (libc::PTRACE_CONT, 0),
        };
        sys::seize(request as usize, tid as usize, 0, signal as usize);
    }
}

#[allow(clippy::too_many_lines)]
fn apply(attr: Attr) -> isize {
    const UNPRIVILEGED: usize = 1000;
    match attr {
        Attr::NoNewPrivs => sys::prctl(libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0),
        Attr::Seccomp => allow_all(),
        Attr::NotDumpable => sys::prctl(libc::PR_SET_DUMPABLE as usize, 0, 0, 0),
        Attr::Unprivileged => {
            sys::setresgid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED);
            sys::setresuid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
        }
        Attr::Subreaper => sys::prctl(libc::PR_SET_CHILD_SUBREAPER as usize, 1, 0, 0),
        Attr::ParentDeathSignal => {
            sys::prctl(libc::PR_SET_PDEATHSIG as usize, libc::SIGUSR1 as usize, 0, 0)
        }
        Attr::Name => {
            let option = libc::PR_SET_NAME as usize;
            sys::path(libc::SYS_prctl, c"another-name", 1, [option, 0, 0, 0, 0, 0])
        }
        Attr::LockMemory => with_new_memory(libc::SYS_mlock, 0),
        Attr::DontFork => with_new_memory(libc::SYS_madvise, libc::MADV_DONTFORK),
        Attr::Userfaultfd => register_userfaultfd(),
        Attr::IoUring => {
            let mut params = [0_u64; 15];
            sys::with(libc::SYS_io_uring_setup, &mut params, 1, [4, 0, 0, 0, 0, 0])
        }
        Attr::Aio => sys::with(libc::SYS_io_setup, &mut 0_u64, 1, [4, 0, 0, 0, 0, 0]),
        Attr::IntervalTimer => {
            let mut often = [0_i64, 3_000, 0, 3_000];
            let which = libc::ITIMER_REAL as usize;
            sys::with(libc::SYS_setitimer, &mut often, 1, [which, 0, 0, 0, 0, 0])
        }
        Attr::PosixTimer => posix_timer(),
        Attr::TimerFd => sys::timerfd_create(libc::CLOCK_MONOTONIC as usize, 0),
        Attr::BatchPolicy => {
            let policy = libc::SCHED_BATCH as usize;
            sys::with(libc::SYS_sched_setscheduler, &mut 0_i32, 2, [0, policy, 0, 0, 0, 0])
        }
        Attr::Nice => sys::setpriority(libc::PRIO_PROCESS as usize, 0, 5),
        Attr::OneCpu => sys::with(libc::SYS_sched_setaffinity, &mut 1_u64, 2, [0, 8, 0, 0, 0, 0]),
        Attr::AltStack => alt_stack(),
        Attr::BlockSignals => sys::block_signals(1 << (libc::SIGWINCH - 1)),
        Attr::IgnoreSignal => {
            // SAFETY: nobody needs it to be handled.
            unsafe { libc::signal(libc::SIGWINCH, libc::SIG_IGN) };
            0
        }
        Attr::Umask => sys::umask(0o077),
        Attr::Directory => sys::path(libc::SYS_chdir, c"/tmp", 0, [0; 6]),
        Attr::UnshareFiles => sys::unshare(libc::CLONE_FILES as usize),
        Attr::UnshareFs => sys::unshare(libc::CLONE_FS as usize),
        Attr::UnshareUts => sys::unshare(libc::CLONE_NEWUTS as usize),
        Attr::UnshareIpc => sys::unshare(libc::CLONE_NEWIPC as usize),
        Attr::UnshareMounts => sys::unshare(libc::CLONE_NEWNS as usize),
        Attr::OwnGroup => sys::setpgid(0, 0),
        Attr::OwnSession => sys::setsid(),
        Attr::Memfd => sys::path(libc::SYS_memfd_create, c"fuzz", 0, [0; 6]),
        Attr::Socketpair => {
            let kind = [libc::AF_UNIX as usize, libc::SOCK_STREAM as usize, 0, 0, 0, 0];
            sys::with(libc::SYS_socketpair, &mut 0_u64, 3, kind)
        }
        Attr::Inotify => sys::inotify_init1(0),
        Attr::SignalFd => {
            let mut set = 1_u64 << (libc::SIGWINCH - 1);
            sys::with(libc::SYS_signalfd4, &mut set, 1, [usize::MAX, 0, 8, 0, 0, 0])
        }
        Attr::FewFiles => {
            let mut limit = [0_u64; 2];
            let which = libc::RLIMIT_NOFILE as usize;
            sys::with(libc::SYS_prlimit64, &mut limit, 2, [0, which, 0, 0, 0, 0])
        }
    }
}

fn with_new_memory(nr: libc::c_long, advice: i32) -> isize {
    match sys::map_private(4 * PAGE) {
        // SAFETY: nobody else uses that memory.
        Some(at) => unsafe { sys::advise(nr, at, 4 * PAGE, advice) },
        None => -1,
    }
}

fn allow_all() -> isize {
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    let filter = [libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: ALLOW }];
    let mut program = libc::sock_fprog { len: 1, filter: filter.as_ptr().cast_mut() };
    sys::with(libc::SYS_seccomp, &mut program, 2, [1, 0, 0, 0, 0, 0])
}

fn register_userfaultfd() -> isize {
    const UFFDIO_API: usize = 0xc018_aa3f;
    const UFFDIO_REGISTER: usize = 0xc020_aa00;
    let fd = sys::userfaultfd(0);
    let Some(at) = sys::map_private(4 * PAGE) else { return -1 };
    if fd < 0 {
        return fd;
    }
    let mut api = [0xaa_u64, 0, 0];
    sys::with(libc::SYS_ioctl, &mut api, 2, [fd as usize, UFFDIO_API, 0, 0, 0, 0]);
    // Memory that nobody touches; for pages that are missing.
    let mut register = [at as u64, 4 * PAGE as u64, 1, 0];
    sys::with(libc::SYS_ioctl, &mut register, 2, [fd as usize, UFFDIO_REGISTER, 0, 0, 0, 0])
}

fn posix_timer() -> isize {
    let mut id = 0_i32;
    let clock = libc::CLOCK_MONOTONIC as usize;
    // Without a sigevent it sends SIGALRM.
    let ret = sys::with(libc::SYS_timer_create, &mut id, 2, [clock, 0, 0, 0, 0, 0]);
    if ret < 0 {
        return ret;
    }
    let mut often = [0_i64, 4_000_000, 0, 4_000_000];
    sys::with(libc::SYS_timer_settime, &mut often, 2, [id as usize, 0, 0, 0, 0, 0])
}

fn alt_stack() -> isize {
    let Some(at) = sys::map_private(sys::STACK_SIZE) else { return -1 };
    let mut stack =
        libc::stack_t { ss_sp: at as *mut c_void, ss_flags: 0, ss_size: sys::STACK_SIZE };
    sys::with(libc::SYS_sigaltstack, &mut stack, 0, [0; 6])
}
