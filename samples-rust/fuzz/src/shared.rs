// SPDX-License-Identifier: MIT OR Apache-2.0

//! Memory that the fuzzer, the tree and all replicas share, at one address.

use std::io;
use std::mem::{offset_of, size_of};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use crate::args::{Addr, Args, ENTRY_SIZE, Field, ROOM};
use crate::program::Program;
use crate::sys;

pub(crate) const PAGE: usize = 4096;
const WORDS: usize = PAGE / 8;
/// What the places of results hold before a call.
const PATTERN: u64 = 0xa5a5_a5a5_a5a5_a5a5;

/// One thread of the tree, and all its replicas.
#[repr(C, align(64))]
pub(crate) struct Slot {
    /// Rounds that the original made, and all replicas together.
    pub(crate) progress: AtomicU64,
    pub(crate) replica_progress: AtomicU64,
    /// System calls that returned `EINTR`, in either.
    pub(crate) interrupted: AtomicU64,
    /// What a call returned in a replica that is neither 0 nor `EAGAIN`.
    pub(crate) wrong: AtomicI64,
    pub(crate) tid: AtomicU32,
    pub(crate) ready: AtomicU32,
    /// Its number, above the word for what to do; a new one is an order.
    pub(crate) command: AtomicU64,
    pub(crate) params: [AtomicU64; 5],
    /// The number of the last one that was done, and its result.
    pub(crate) done: AtomicU64,
    pub(crate) result: AtomicI64,
}

/// Arguments and results of the calls of a thread.
#[repr(C, align(4096))]
pub(crate) struct Area {
    pub(crate) args: [AtomicU64; WORDS],
    results: [AtomicU64; WORDS],
}

#[repr(C, align(4096))]
pub(crate) struct Shared {
    /// Changes, and is woken, to let all go on that wait for it.
    pub(crate) gate: AtomicU32,
    /// Threads that moved into a child and came back.
    pub(crate) sforks: AtomicU64,
    /// What one of them was told, which is not the PID of a child.
    pub(crate) lost: AtomicU64,
    pub(crate) slots: [Slot; Program::MAX_THREADS],
    pub(crate) areas: [Area; Program::MAX_THREADS],
    /// The last page that can be written; one that can be read; one that is not there.
    last: [AtomicU64; WORDS],
    read_only: [AtomicU64; WORDS],
    unmapped: [AtomicU64; WORDS],
}

/// Results after a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Results {
    pub(crate) pidfd: u32,
    pub(crate) parent_tid: u32,
    pub(crate) tid_map: Vec<(u32, u32)>,
    /// Nothing was written.
    pub(crate) untouched: bool,
}

const fn place(field: Field) -> usize {
    match field {
        Field::Pidfd => 0,
        Field::ParentTid => 16,
        Field::TidMap => 64,
    }
}

const _: () = assert!(place(Field::TidMap) + ROOM * ENTRY_SIZE < PAGE);

impl Shared {
    pub(crate) fn new() -> io::Result<&'static Self> {
        let size = size_of::<Self>();
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let address =
            sys::map(size, prot, libc::MAP_SHARED).ok_or_else(io::Error::last_os_error)?;
        for (offset, prot) in [
            (offset_of!(Self, read_only), libc::PROT_READ),
            (offset_of!(Self, unmapped), libc::PROT_NONE),
        ] {
            // SAFETY: nobody reads or writes these pages but the kernel.
            unsafe { sys::advise(libc::SYS_mprotect, address + offset, PAGE, prot) };
        }
        // SAFETY: that many zero bytes are a value, aligned to a page, that is never
        // unmapped; other processes access it only as the atomics that it is made of.
        Ok(unsafe { &*(address as *const Self) })
    }

    /// As at the start of a step.
    pub(crate) fn reset(&self) {
        self.lost.store(0, Ordering::SeqCst);
        for slot in &self.slots {
            for word in [
                &slot.progress,
                &slot.replica_progress,
                &slot.interrupted,
                &slot.command,
                &slot.done,
            ] {
                word.store(0, Ordering::SeqCst);
            }
            slot.wrong.store(0, Ordering::SeqCst);
            slot.ready.store(0, Ordering::SeqCst);
            slot.tid.store(0, Ordering::SeqCst);
        }
    }

    pub(crate) fn address(&self, slot: usize, address: Addr, field: Field) -> u64 {
        let results = self.areas[slot].results.as_ptr() as u64 + place(field) as u64;
        let read_only = self.read_only.as_ptr() as u64;
        match address {
            Addr::Null => 0,
            Addr::Good => results,
            Addr::Odd => results + 1,
            Addr::Unmapped => self.unmapped.as_ptr() as u64,
            Addr::ReadOnly => read_only,
            Addr::Straddling => read_only - 2,
            Addr::Kernel => 0xffff_ffff_8100_0000,
            Addr::NotCanonical => 0x1234_5678_9abc_def0,
            Addr::Last => u64::MAX - 3,
        }
    }

    pub(crate) fn args_address(&self, slot: usize, bad: bool) -> u64 {
        if bad { self.unmapped.as_ptr() as u64 } else { self.areas[slot].args.as_ptr() as u64 }
    }

    /// Puts the arguments of a call where its caller finds them.
    pub(crate) fn prepare(&self, slot: usize, args: &Args) {
        let area = &self.areas[slot];
        for word in &area.results {
            word.store(PATTERN, Ordering::SeqCst);
        }
        let bytes = args.encode(|address, field| self.address(slot, address, field));
        for (word, bytes) in area.args.iter().zip(bytes.chunks_exact(8)) {
            let bytes = bytes.try_into().unwrap_or_default();
            word.store(u64::from_ne_bytes(bytes), Ordering::SeqCst);
        }
    }

    pub(crate) fn results(&self, slot: usize, args: &Args) -> Results {
        let words: Vec<u64> =
            self.areas[slot].results.iter().map(|word| word.load(Ordering::SeqCst)).collect();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let at = |field, odd: Addr| place(field) + usize::from(odd == Addr::Odd);
        let number = |offset: usize| {
            u32::from_ne_bytes(bytes[offset..offset + 4].try_into().unwrap_or_default())
        };
        let map = at(Field::TidMap, args.tid_map);
        let entries = (args.tid_map_size as usize).min(ROOM);
        let pairs = (0..entries)
            .map(|i| (number(map + i * ENTRY_SIZE), number(map + i * ENTRY_SIZE + 4)))
            .collect();
        Results {
            pidfd: number(at(Field::Pidfd, args.pidfd)),
            parent_tid: number(at(Field::ParentTid, args.parent_tid)),
            tid_map: if args.tid_map.is_good() { pairs } else { Vec::new() },
            untouched: words.iter().all(|word| *word == PATTERN)
                && self.last.iter().all(|word| word.load(Ordering::SeqCst) == 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{ALL_THREADS, SOURCE_OFFSET};

    #[test]
    fn results_are_read_where_they_are_written() {
        let shared = Shared::new().unwrap();
        let args = Args {
            flags: ALL_THREADS,
            tid_map: Addr::Odd,
            tid_map_size: 3,
            pidfd: Addr::Good,
            ..Args::default()
        };
        shared.prepare(2, &args);
        assert!(shared.results(2, &args).untouched);
        assert_eq!(shared.areas[2].args[0].load(Ordering::SeqCst), ALL_THREADS);
        assert_eq!(shared.areas[2].args[SOURCE_OFFSET / 8].load(Ordering::SeqCst), 0);

        let address = shared.address(2, Addr::Odd, Field::TidMap) as *mut u8;
        // SAFETY: the address of eight bytes of a result.
        unsafe { address.cast::<[u8; 8]>().write_unaligned([7, 0, 0, 0, 9, 0, 0, 0]) };
        let results = shared.results(2, &args);
        assert!(!results.untouched);
        assert_eq!(results.tid_map[0], (7, 9));
        assert_eq!(results.tid_map.len(), 3);
    }

    #[test]
    fn bad_addresses_cannot_be_written() {
        let shared = Shared::new().unwrap();
        let null = std::fs::File::open("/dev/zero").unwrap();
        for bad in Addr::BAD {
            let address = shared.address(0, *bad, Field::Pidfd) as usize;
            let fd = std::os::fd::AsRawFd::as_raw_fd(&null) as usize;
            // SAFETY: what is written, if anything, is a result that nobody reads.
            let ret = unsafe { sys::syscall(libc::SYS_read, [fd, address, 4, 0, 0, 0]) };
            assert!(ret < 4, "{bad:?}: {ret}");
        }
    }
}
