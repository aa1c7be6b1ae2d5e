// SPDX-License-Identifier: MIT OR Apache-2.0

//! The arguments of a call, and what the contract says about them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

pub(crate) const PIDFD: u64 = 0x1000;
pub(crate) const PARENT: u64 = 0x8000;
pub(crate) const PARENT_SETTID: u64 = 0x0010_0000;
pub(crate) const NEWPID: u64 = 0x2000_0000;
pub(crate) const AUTOREAP: u64 = 1 << 34;
pub(crate) const NNP: u64 = 1 << 35;
pub(crate) const PIDFD_AUTOKILL: u64 = 1 << 36;
pub(crate) const SFORK: u64 = 1 << 56;
pub(crate) const ISOLATE: u64 = 1 << 57;
pub(crate) const KEEP_TIDS: u64 = 1 << 58;
pub(crate) const FROM_PIDFD: u64 = 1 << 59;
pub(crate) const STOPPED: u64 = 1 << 60;
pub(crate) const SUBTREE: u64 = 1 << 61;
pub(crate) const ALL_THREADS: u64 = 1 << 62;

/// Flags that not every kernel with full fork knows; found out before the first step.
static KNOWN: AtomicU64 = AtomicU64::new(0);
pub(crate) const NEWER: &[u64] = &[ISOLATE];

pub(crate) fn set_known(flags: u64) {
    KNOWN.store(flags, Ordering::Relaxed);
}

/// One of these asks for a full fork, and the others need one of them.
const SCOPE: u64 = ALL_THREADS | SUBTREE;
const FULLFORK: u64 = SCOPE | STOPPED | FROM_PIDFD | KEEP_TIDS | ISOLATE;
const BESIDE: u64 = STOPPED
    | FROM_PIDFD
    | KEEP_TIDS
    | PIDFD
    | PARENT
    | PARENT_SETTID
    | AUTOREAP
    | NNP
    | PIDFD_AUTOKILL;

/// Where a result is to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Addr {
    #[default]
    Null,
    Good,
    /// Writable, but of no alignment.
    Odd,
    Unmapped,
    ReadOnly,
    /// The first byte can be written, the last cannot.
    Straddling,
    Kernel,
    NotCanonical,
    Last,
}

impl Addr {
    pub(crate) const BAD: &'static [Self] = &[
        Self::Unmapped,
        Self::ReadOnly,
        Self::Straddling,
        Self::Kernel,
        Self::NotCanonical,
        Self::Last,
    ];

    pub(crate) fn is_good(self) -> bool {
        matches!(self, Self::Good | Self::Odd)
    }
}

/// What `source_pidfd` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Source {
    #[default]
    Zero,
    Proc(usize),
    /// The pidfd of a thread of it.
    ThreadOf(usize),
    KernelThread,
    Init,
    /// A descriptor of another kind.
    NoPidfd,
    Closed,
    Huge,
}

impl Source {
    pub(crate) fn proc(self) -> Option<usize> {
        match self {
            Self::Proc(proc) | Self::ThreadOf(proc) => Some(proc),
            _ => None,
        }
    }
}

/// The size that is told to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Size {
    #[default]
    Full,
    /// So many bytes; what lies behind the struct is zero.
    Bytes(u64),
    /// The same, but the last byte is not zero.
    Garbage(u64),
}

/// `struct clone_args`, by what its fields mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Args {
    pub(crate) flags: u64,
    pub(crate) exit_signal: u64,
    pub(crate) pidfd: Addr,
    pub(crate) parent_tid: Addr,
    pub(crate) tid_map: Addr,
    /// Entries that fit there.
    pub(crate) tid_map_size: u64,
    pub(crate) source: Source,
    /// Fields that have to be zero: `child_tid`, `stack`, `stack_size`, `tls`,
    /// `set_tid`, `set_tid_size`, `cgroup`.
    pub(crate) zeros: [u64; 7],
    pub(crate) size: Size,
    /// Of the struct itself.
    pub(crate) address: ArgsAddr,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ArgsAddr {
    #[default]
    Good,
    Bad,
}

/// Bytes of the struct, and how many are told to the kernel.
pub(crate) const FULL_SIZE: usize = 112;
pub(crate) const ENTRY_SIZE: usize = 8;
const FIRST_SIZE: u64 = 64;
const PAGE: u64 = 4096;
/// Where the fields of this branch begin, and so the size without them.
pub(crate) const SOURCE_OFFSET: usize = 88;

/// What a call of a kind may answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The arguments go together.
    Valid,
    /// They do not, which is seen before anything else is looked at: one of these.
    Refused(BTreeSet<i32>),
    /// One of these, or another error that is found earlier.
    Fails(BTreeSet<i32>),
}

fn invalid(errors: &[i32]) -> Verdict {
    Verdict::Refused(errors.iter().copied().collect())
}

impl Args {
    pub(crate) fn has(&self, flags: u64) -> bool {
        self.flags & flags == flags
    }

    pub(crate) fn told_size(&self) -> u64 {
        match self.size {
            Size::Full => FULL_SIZE as u64,
            Size::Bytes(size) | Size::Garbage(size) => size,
        }
    }

    /// The bytes, for a resolver of addresses. The source is filled in by the
    /// caller, which alone can open it.
    pub(crate) fn encode(&self, address: impl Fn(Addr, Field) -> u64) -> Vec<u8> {
        let z = self.zeros;
        let fields = [
            self.flags,
            address(self.pidfd, Field::Pidfd),
            z[0],
            address(self.parent_tid, Field::ParentTid),
            self.exit_signal,
            z[1],
            z[2],
            z[3],
            z[4],
            z[5],
            z[6],
            match self.source {
                Source::Zero => 0,
                Source::Huge => u64::MAX - 1,
                _ => 0x3fff_ffff,
            },
            address(self.tid_map, Field::TidMap),
            self.tid_map_size,
        ];
        let mut bytes: Vec<u8> = fields.iter().flat_map(|field| field.to_ne_bytes()).collect();
        bytes.resize(PAGE as usize, 0);
        if let Size::Garbage(size) = self.size {
            if let Some(last) = usize::try_from(size).ok().and_then(|n| n.checked_sub(1)) {
                if let Some(byte) = bytes.get_mut(last) {
                    *byte |= 0x40;
                }
            }
        }
        bytes
    }

    /// What the kernel sees of a struct that is told to be shorter.
    pub(crate) fn seen(&self) -> Self {
        let size = self.told_size();
        let mut seen = *self;
        if size < 72 + 8 {
            seen.zeros[4] = 0;
            seen.zeros[5] = 0;
        }
        if size < 88 {
            seen.zeros[6] = 0;
        }
        if size < 96 {
            seen.source = Source::Zero;
        }
        if size < 104 {
            seen.tid_map = Addr::Null;
        }
        if size < 112 {
            seen.tid_map_size = 0;
        }
        seen
    }

    /// What can be said without looking at any process.
    pub(crate) fn verdict(&self) -> Verdict {
        let size = self.told_size();
        if size > PAGE {
            return invalid(&[libc::E2BIG]);
        }
        if size < FIRST_SIZE {
            return invalid(&[libc::EINVAL]);
        }
        if self.address == ArgsAddr::Bad {
            return invalid(&[libc::EFAULT]);
        }
        match self.size {
            Size::Garbage(size) if size > FULL_SIZE as u64 => return invalid(&[libc::E2BIG]),
            // Some field is not what it seems.
            Size::Garbage(_) => {
                return invalid(&[libc::EINVAL, libc::EFAULT, libc::E2BIG, libc::EBADF]);
            }
            _ => {}
        }
        let seen = self.seen();
        if !seen.flags_valid() || seen.zeros != [0; 7] {
            // set_tid is read before the flags are looked at.
            return if seen.zeros[4] == 0 {
                invalid(&[libc::EINVAL])
            } else {
                invalid(&[libc::EINVAL, libc::EFAULT])
            };
        }
        if !seen.fields_match() {
            return invalid(&[libc::EINVAL]);
        }
        seen.addresses()
    }

    fn flags_valid(&self) -> bool {
        let flags = self.flags;
        let mut allowed = SCOPE | BESIDE | KNOWN.load(Ordering::Relaxed);
        if flags & KEEP_TIDS != 0 {
            allowed |= NEWPID;
        }
        flags & SCOPE != 0
            && flags & !allowed == 0
            && self.exit_signal <= 64
            && !(flags & PARENT != 0 && self.exit_signal != 0)
            && !(flags & AUTOREAP != 0 && (self.exit_signal != 0 || flags & PARENT != 0))
            && !(flags & PIDFD_AUTOKILL != 0 && flags & (PIDFD | AUTOREAP) != (PIDFD | AUTOREAP))
    }

    fn fields_match(&self) -> bool {
        (self.has(FROM_PIDFD) || self.source == Source::Zero)
            && (self.has(PIDFD) || self.pidfd == Addr::Null)
            && (self.has(PARENT_SETTID) || self.parent_tid == Addr::Null)
    }

    fn addresses(&self) -> Verdict {
        let mut errors = BTreeSet::new();
        if self.has(PIDFD) && !self.pidfd.is_good()
            || self.has(PARENT_SETTID) && !self.parent_tid.is_good()
            || self.tid_map == Addr::Null && self.tid_map_size != 0
            || self.tid_map != Addr::Null && !self.tid_map.is_good()
            || self.tid_map_size > ROOM as u64
        {
            errors.insert(libc::EFAULT);
            // Both may be the reason where the address is bad as well.
            if self.tid_map != Addr::Null && self.tid_map_size < 32 {
                errors.insert(libc::E2BIG);
            }
        }
        // Both at the same place.
        if self.has(PIDFD | PARENT_SETTID) && self.pidfd == self.parent_tid && !self.pidfd.is_good()
        {
            errors.insert(libc::EINVAL);
        }
        match self.source {
            Source::Zero if self.has(FROM_PIDFD) => {
                // Descriptor 0 is /dev/null here.
                errors.insert(libc::EBADF);
            }
            Source::NoPidfd | Source::Closed | Source::Huge => {
                errors.insert(libc::EBADF);
            }
            // It may have exited.
            Source::ThreadOf(_) => errors.extend([libc::EINVAL, libc::EBADF, libc::ESRCH]),
            Source::KernelThread | Source::Init => {
                errors.insert(libc::EPERM);
                errors.insert(libc::ESRCH);
                errors.insert(libc::EBADF);
            }
            Source::Proc(_) | Source::Zero => {}
        }
        if errors.is_empty() { Verdict::Valid } else { Verdict::Fails(errors) }
    }

    /// Is this a call whose success would be a full fork?
    pub(crate) fn asks_for_full_fork(&self) -> bool {
        self.flags & (FULLFORK | SFORK) != 0
    }
}

/// A field that holds an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Pidfd,
    ParentTid,
    TidMap,
}

/// Entries for which there is room at [`Addr::Good`].
pub(crate) const ROOM: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Args {
        Args { flags: ALL_THREADS, exit_signal: 17, ..Args::default() }
    }

    fn errors(args: &Args) -> Vec<i32> {
        match args.verdict() {
            Verdict::Valid => Vec::new(),
            Verdict::Refused(errors) | Verdict::Fails(errors) => errors.into_iter().collect(),
        }
    }

    #[test]
    fn what_goes_together() {
        assert_eq!(plain().verdict(), Verdict::Valid);
        let tree = Args {
            flags: SUBTREE | KEEP_TIDS | NEWPID | STOPPED | PIDFD,
            pidfd: Addr::Good,
            tid_map: Addr::Odd,
            tid_map_size: 20,
            ..plain()
        };
        assert_eq!(tree.verdict(), Verdict::Valid);
    }

    #[test]
    fn what_does_not() {
        let einval = vec![libc::EINVAL];
        for flags in [STOPPED, KEEP_TIDS, FROM_PIDFD, ALL_THREADS | 0x100, ALL_THREADS | NEWPID] {
            assert_eq!(errors(&Args { flags, ..plain() }), einval, "{flags:x}");
        }
        assert_eq!(errors(&Args { flags: ALL_THREADS | PARENT, ..plain() }), einval);
        assert_eq!(errors(&Args { pidfd: Addr::Good, ..plain() }), einval);
        assert_eq!(errors(&Args { zeros: [0, 0, 0, 1, 0, 0, 0], ..plain() }), einval);
    }

    #[test]
    fn sizes() {
        for (size, error) in [(0, libc::EINVAL), (63, libc::EINVAL), (4097, libc::E2BIG)] {
            assert_eq!(errors(&Args { size: Size::Bytes(size), ..plain() }), vec![error]);
        }
        for size in [64, 80, 88, 112, 4096] {
            let args = Args { size: Size::Bytes(size), ..plain() };
            assert_eq!(args.verdict(), Verdict::Valid, "{size}");
        }
        let garbage = Args { size: Size::Garbage(200), ..plain() };
        assert_eq!(errors(&garbage), vec![libc::E2BIG]);
        assert_eq!(garbage.encode(|_, _| 0)[199], 0x40);
    }

    #[test]
    fn a_short_struct_hides_its_last_fields() {
        let args = Args { source: Source::Closed, size: Size::Bytes(88), ..plain() };
        assert_eq!(args.verdict(), Verdict::Valid);
    }

    #[test]
    fn bad_addresses() {
        for address in Addr::BAD {
            let args = Args { flags: ALL_THREADS | PIDFD, pidfd: *address, ..plain() };
            assert_eq!(errors(&args), vec![libc::EFAULT], "{address:?}");
        }
        let size_alone = Args { tid_map_size: 4, ..plain() };
        assert_eq!(errors(&size_alone), vec![libc::EFAULT]);
    }

    #[test]
    fn fields_lie_where_the_kernel_reads_them() {
        let args = Args { source: Source::Huge, tid_map_size: 77, ..plain() };
        let bytes = args.encode(|_, _| 5);
        assert_eq!(bytes[..8], ALL_THREADS.to_ne_bytes());
        assert_eq!(bytes[32..40], 17_u64.to_ne_bytes());
        assert_eq!(bytes[SOURCE_OFFSET..96], (u64::MAX - 1).to_ne_bytes());
        assert_eq!(bytes[104..112], 77_u64.to_ne_bytes());
    }
}
