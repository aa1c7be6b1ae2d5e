// SPDX-License-Identifier: MIT OR Apache-2.0

//! The processes of a step, in cgroups of their own, and orders to them.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::args;
use crate::program::{Program, Thread};
use crate::shared::Shared;
use crate::supervise::Pulse;
use crate::sys;
use crate::worker::{self, Files};

/// A program that makes one system call over and over, as a file of ELF. The first
/// number is that of the call.
fn tiny_program(call: u32) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let code: Vec<u8> = if cfg!(target_arch = "x86_64") {
        // xor %edi,%edi; mov $call,%eax; syscall; jmp back
        [&[0x31, 0xff, 0xb8], &call.to_le_bytes()[..], &[0x0f, 0x05, 0xeb, 0xf5]].concat()
    } else {
        // mov x8, #call; mov x0, #0; svc #0; b back
        let words = [0xd280_0008 | (call << 5), 0xd280_0000, 0xd400_0001, 0x17ff_fffd];
        words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect()
    };
    let machine: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0];
    elf.extend(machine.to_le_bytes());
    elf.extend(1_u32.to_le_bytes());
    for word in [BASE + HEADERS, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    // One segment that is loaded, read and executed.
    elf.extend(1_u32.to_le_bytes());
    elf.extend(5_u32.to_le_bytes());
    let size = HEADERS + code.len() as u64;
    for word in [0, BASE, BASE, size, size, 4096] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}

fn own(fd: i64) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: it was just opened, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn program_file(call: libc::c_long) -> io::Result<File> {
    let fd = sys::path(libc::SYS_memfd_create, c"fuzz-exec", 0, [0; 6]);
    let mut file = File::from(own(fd as i64)?);
    file.write_all(&tiny_program(call as u32))?;
    // What is open for writing is not executed.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    File::open(path)
}

/// What all steps use.
pub(crate) struct World {
    pub(crate) shared: &'static Shared,
    pub(crate) cgroup: PathBuf,
    files: &'static Files,
    bell: File,
    pipe: File,
    tree: File,
    outside: File,
    _open: Vec<OwnedFd>,
    orders: u64,
    pulse: &'static Pulse,
}

/// A call that waits for ever if its arguments are zero. There is no `pause()` on arm64.
#[cfg(target_arch = "x86_64")]
const WAIT: libc::c_long = libc::SYS_pause;
#[cfg(not(target_arch = "x86_64"))]
const WAIT: libc::c_long = libc::SYS_ppoll;

const CGROUPS: &str = "/sys/fs/cgroup";

fn write(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// Which flags does this kernel know? One that does looks at the map before it looks at
/// any process.
fn probe() {
    let mut known = 0;
    for flag in args::NEWER {
        let mut fields = [0_u64; args::FULL_SIZE / 8];
        fields[0] = args::ALL_THREADS | flag;
        fields[13] = 1;
        // SAFETY: it cannot succeed.
        let ret = unsafe { sys::clone3(fields.as_ptr() as u64, args::FULL_SIZE as u64) };
        known |= if ret == -(libc::EFAULT as isize) { *flag } else { 0 };
    }
    args::set_known(known);
}

/// Where there is fault injection, every allocation may fail for who asks for it, and
/// nothing is said about it.
fn allow_faults() {
    let debugfs = Path::new("/sys/kernel/debug");
    for (file, value) in [
        ("failslab/verbose", "0"),
        ("failslab/ignore-gfp-wait", "N"),
        ("fail_page_alloc/verbose", "0"),
        ("fail_page_alloc/ignore-gfp-wait", "N"),
        ("fail_page_alloc/min-order", "0"),
        ("fail_usercopy/verbose", "0"),
    ] {
        let _ = fs::write(debugfs.join(file), value);
    }
}

impl World {
    pub(crate) fn new(shared: &'static Shared, pulse: &'static Pulse) -> io::Result<Self> {
        probe();
        allow_faults();
        let cgroup = Path::new(CGROUPS).join(format!("fullfork-fuzz.{}", std::process::id()));
        write(&Path::new(CGROUPS).join("cgroup.subtree_control"), "+pids")?;
        for name in ["", "tree", "outside", "other"] {
            fs::create_dir(cgroup.join(name))?;
        }
        let mut fds = [0_u64; 1];
        sys::with(libc::SYS_pipe2, &mut fds, 0, [0; 6]);
        let (read, write) = (own((fds[0] & 0xffff_ffff) as i64)?, own((fds[0] >> 32) as i64)?);
        // The other end has to wait.
        sys::fcntl(write.as_raw_fd() as usize, libc::F_SETFL as usize, libc::O_NONBLOCK as usize);
        let bell = own(sys::eventfd2(0, libc::EFD_SEMAPHORE as usize) as i64)?;
        let epoll = own(sys::epoll_create1(0) as i64)?;
        let ends = OwnedFd::from(program_file(libc::SYS_exit_group)?);
        let waits = OwnedFd::from(program_file(WAIT)?);
        let files = Files {
            pipe: read.as_raw_fd(),
            eventfd: bell.as_raw_fd(),
            epoll: epoll.as_raw_fd(),
            ends_at_once: ends.as_raw_fd(),
            waits_for_ever: waits.as_raw_fd(),
        };
        // A child may keep them over an exec.
        for fd in [&ends, &waits] {
            sys::fcntl(fd.as_raw_fd() as usize, libc::F_SETFD as usize, 0);
        }
        Ok(Self {
            shared,
            tree: File::open(cgroup.join("tree"))?,
            outside: File::open(cgroup.join("outside"))?,
            cgroup,
            files: Box::leak(Box::new(files)),
            bell: File::from(bell),
            pipe: File::from(write),
            _open: vec![read, epoll, ends, waits],
            orders: 0,
            pulse,
        })
    }

    /// Starts all processes of a program.
    pub(crate) fn start(&mut self, program: &Program) -> io::Result<()> {
        self.shared.reset();
        // Read by processes that may be there after this one has gone on.
        let program: &'static Program = Box::leak(Box::new(program.clone()));
        worker::set_up(self.shared, program, self.files);
        for (proc, p) in program.procs.iter().enumerate() {
            if p.parent.is_none() {
                self.start_process(proc)?;
            }
        }
        Ok(())
    }

    fn start_process(&self, proc: usize) -> io::Result<()> {
        let cgroup = if proc == 0 { &self.tree } else { &self.outside };
        let mut args = [0_u64; 11];
        args[0] = 1 << 33; // CLONE_INTO_CGROUP
        args[4] = libc::SIGCHLD as u64;
        args[10] = cgroup.as_raw_fd() as u64;
        // SAFETY: as fork(), in a process with one thread.
        match unsafe { sys::clone3(args.as_ptr() as u64, size_of_val(&args) as u64) } {
            0 => worker::process_main(proc),
            error if error < 0 => Err(io::Error::from_raw_os_error(-error as i32)),
            _ => Ok(()),
        }
    }

    /// Wakes all that wait for something.
    pub(crate) fn poke(&self) {
        self.shared.gate.fetch_add(1, Ordering::SeqCst);
        sys::futex_wake(&self.shared.gate);
        sys::write_u64(self.pipe.as_raw_fd(), 0, 8);
        sys::write_u64(self.bell.as_raw_fd(), 8, 8);
    }

    /// Tells a thread to do something, and returns the number of the order.
    pub(crate) fn order(&mut self, slot: usize, what: u64, params: [u64; 5]) -> u64 {
        self.orders += 1;
        let slot = &self.shared.slots[slot];
        for (word, param) in slot.params.iter().zip(params) {
            word.store(param, Ordering::SeqCst);
        }
        slot.command.store((self.orders << 8) | what, Ordering::SeqCst);
        self.orders
    }

    pub(crate) fn result(&self, slot: usize, order: u64) -> Option<i64> {
        let slot = &self.shared.slots[slot];
        let done = slot.done.load(Ordering::SeqCst) == order;
        done.then(|| slot.result.load(Ordering::SeqCst))
    }

    /// Pokes until something is so; false if that takes too long.
    pub(crate) fn wait(&self, patience: Duration, mut is_so: impl FnMut(&Self) -> bool) -> bool {
        let end = Instant::now() + patience;
        let mut pause = 100_000;
        loop {
            if is_so(self) {
                return true;
            }
            if Instant::now() > end {
                return false;
            }
            self.poke();
            self.pulse.beat();
            sys::nap(pause);
            pause = (pause * 3 / 2).min(4_000_000);
        }
    }

    pub(crate) fn tid(&self, program: &Program, thread: Thread) -> u32 {
        self.shared.slots[program.slot(thread)].tid.load(Ordering::SeqCst)
    }

    pub(crate) fn migrate(&self, pid: u32, away: bool) -> io::Result<()> {
        let name = if away { "other" } else { "tree" };
        fs::write(self.cgroup.join(name).join("cgroup.procs"), pid.to_string())
    }

    pub(crate) fn freeze(&self, frozen: bool) -> io::Result<()> {
        write(&self.cgroup.join("tree/cgroup.freeze"), if frozen { "1" } else { "0" })
    }

    pub(crate) fn limit_tasks(&self, limit: Option<u32>) -> io::Result<()> {
        let text = limit.map_or("max".into(), |limit| limit.to_string());
        write(&self.cgroup.join("pids.max"), &text)
    }

    /// Tasks that are charged, zombies that nobody waited for included.
    pub(crate) fn charged(&self) -> u32 {
        let mut text = String::new();
        let file = File::open(self.cgroup.join("pids.current"));
        let read = file.and_then(|mut file| file.read_to_string(&mut text));
        read.ok().and_then(|_| text.trim().parse().ok()).unwrap_or(u32::MAX)
    }

    /// Kills all, and waits until nobody is left; else how many are.
    pub(crate) fn end(&self, patience: Duration) -> Result<(), String> {
        let kill = || write(&self.cgroup.join("cgroup.kill"), "1");
        kill().map_err(|e| e.to_string())?;
        let _ = self.freeze(false);
        let gone = self.wait(patience, |world| {
            let _ = kill();
            while sys::wait_child(-1, libc::WNOHANG | libc::__WALL).0 > 0 {}
            world.charged() == 0
        });
        let _ = self.limit_tasks(None);
        if gone { Ok(()) } else { Err(format!("{} tasks do not end", self.charged())) }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in ["tree", "outside", "other", ""] {
            let _ = fs::remove_dir(self.cgroup.join(name));
        }
    }
}
