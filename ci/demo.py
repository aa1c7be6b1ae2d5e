#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The demonstration, in the guest: python3 computes with numpy's OpenBLAS
threads, and one clone3() call copies all of it in the middle of the work."""

import ctypes
import hashlib
import os
import signal
import struct
import sys
import threading
import time

import numpy

SYS_CLONE3 = 435
CLONE_ALL_THREADS = 1 << 62
CLONE_ARGS_SIZE = 88
# Large enough for OpenBLAS to use its threads, small enough for a QEMU that
# interprets every vector instruction.
SIZE = 160
libc = ctypes.CDLL(None, use_errno=True)


def clone3(flags):
    """clone3() with SIGCHLD as exit signal; the lock of Python is not held."""
    args = ctypes.create_string_buffer(struct.pack(
        "11Q", flags, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0))
    result = libc.syscall(SYS_CLONE3, args, ctypes.c_size_t(CLONE_ARGS_SIZE))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "clone3(CLONE_ALL_THREADS)")
    return result


def threads(pid):
    """(TID, name, state) of every thread of a process."""
    rows = []
    for tid in sorted(os.listdir("/proc/%d/task" % pid), key=int):
        with open("/proc/%d/task/%s/stat" % (pid, tid), encoding="utf-8") as f:
            head, _, tail = f.read().rpartition(")")
        rows.append((int(tid), head.partition("(")[2], tail.split()[0]))
    return rows


def name_thread(name):
    """What ps and /proc show; python3 names its threads only for itself."""
    with open("/proc/thread-self/comm", "w", encoding="utf-8") as f:
        f.write(name)


def show(title, pid):
    print("%s, PID %d:" % (title, pid))
    for tid, name, state in threads(pid):
        print("    TID %-6d %-16s %s" % (tid, name, state))


class Work(threading.Thread):
    """Multiply matrices for a while; every round depends on the one before."""

    def __init__(self, rounds):
        super().__init__(name="work")
        self.rounds, self.done, self.result = rounds, 0, None

    def run(self):
        name_thread(self.name)
        rng = numpy.random.default_rng(7)
        a = rng.integers(0, 7, (SIZE, SIZE)).astype(float)
        b = a.copy()
        for _ in range(self.rounds):
            b = (b @ a) % 8191
            self.done += 1
        self.result = hashlib.sha256(b.tobytes()).hexdigest()[:16]


def main():
    rounds = 40
    alone = Work(rounds)
    alone.start()
    alone.join()
    print("Computed without a copy:   %s" % alone.result, flush=True)

    work = Work(rounds)
    work.start()
    while work.done < rounds // 3:
        time.sleep(0.001)
    before = time.perf_counter()
    pid = clone3(CLONE_ALL_THREADS)
    took = time.perf_counter() - before
    if pid == 0:
        work.join()
        print("Result in the replica:     %s" % work.result, flush=True)
        os._exit(0 if work.result == alone.result else 1)
    print("clone3(CLONE_ALL_THREADS) took %.2f ms, in round %d of %d" %
          (took * 1000, work.done, rounds))
    show("The original", os.getpid())
    show("The replica", pid)
    sys.stdout.flush()
    work.join()
    print("Result in the original:    %s" % work.result, flush=True)
    _, status = os.waitpid(pid, 0)
    good = os.waitstatus_to_exitcode(status) == 0 and \
        work.result == alone.result
    print("Both copies finished with the right result." if good
          else "WRONG: a copy did not finish with the right result.")
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as e:
        print("demo: %s" % e)
        sys.exit(2)
