#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The demonstration, in the guest. python3 computes with numpy's OpenBLAS
threads, and one clone3() call copies all of it in the middle of the work. Then
a shell with two such programs below it is copied from outside, as a tree; and a
pipeline in full flight, with all that is in its pipes."""

import ctypes
import hashlib
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

SYS_CLONE3 = 435
CLONE_ALL_THREADS = 1 << 62
CLONE_SUBTREE = 1 << 61
CLONE_FROM_PIDFD = 1 << 59
CLONE_KEEP_TIDS = 1 << 58
CLONE_ISOLATE = 1 << 57
CLONE_NEWPID = 0x20000000
CLONE_ARGS_SIZE = 112
# Large enough for OpenBLAS to use its threads, small enough for a QEMU that
# interprets every vector instruction.
SIZE = 160
libc = ctypes.CDLL(None, use_errno=True)


def clone3(flags, source_pidfd=0, tid_map=None):
    """clone3() with SIGCHLD as exit signal; the lock of Python is not held."""
    where, size = (ctypes.addressof(tid_map), len(tid_map) // 8) \
        if tid_map else (0, 0)
    args = ctypes.create_string_buffer(struct.pack(
        "14Q", flags, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0,
        source_pidfd, where, size))
    result = libc.syscall(SYS_CLONE3, args, ctypes.c_size_t(CLONE_ARGS_SIZE))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "clone3()")
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
        import numpy  # it takes its time, and only this program needs it
        name_thread(self.name)
        rng = numpy.random.default_rng(7)
        a = rng.integers(0, 7, (SIZE, SIZE)).astype(float)
        b = a.copy()
        for _ in range(self.rounds):
            b = (b @ a) % 8191
            self.done += 1
        self.result = hashlib.sha256(b.tobytes()).hexdigest()[:16]


def copy_threads():
    """A program with threads copies itself."""
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


class Chain(threading.Thread):
    """Hash for a while; the member of a tree that is copied."""

    ROUNDS = 60000

    def __init__(self, seed):
        super().__init__(name="hash")
        self.value = seed

    def run(self):
        name_thread(self.name)
        for _ in range(self.ROUNDS):
            self.value = hashlib.sha256(self.value).digest()


def program():
    """Two threads work; right if they get what one gets alone."""
    work = [Chain(b"1"), Chain(b"2")]
    for t in work:
        t.start()
    for t in work:
        t.join()
    for t in (Chain(b"1"), Chain(b"2")):
        t.run()
        if t.value not in [w.value for w in work]:
            return 1
    return 0


def children(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid), encoding="utf-8") as f:
        return [int(word) for word in f.read().split()]


def copy_tree():
    """A shell and the programs below it are copied from outside."""
    shell = "'%s' '%s' program & '%s' '%s' program & " \
        "wait %%1 && wait %%2" % ((sys.executable, __file__) * 2)
    with subprocess.Popen(["/bin/sh", "-c", shell]) as root:
        # A name that is written while it is copied is that of the original.
        while sum(name == "hash" for p in children(root.pid)
                  for _, name, _ in threads(p)) < 4:
            time.sleep(0.001)
        tid_map = ctypes.create_string_buffer(8 * 64)
        pidfd = os.pidfd_open(root.pid)
        before = time.perf_counter()
        pid = clone3(CLONE_ALL_THREADS | CLONE_SUBTREE | CLONE_FROM_PIDFD |
                     CLONE_KEEP_TIDS | CLONE_NEWPID, pidfd, tid_map)
        took = time.perf_counter() - before
        os.close(pidfd)
        print("\nA shell with two programs below it, copied from outside, with "
              "the same TIDs\nin a PID namespace of their own, in %.2f ms:" %
              (took * 1000))
        for original, replica in struct.iter_unpack("2I", tid_map.raw):
            if original:
                with open("/proc/%d/comm" % replica, encoding="utf-8") as f:
                    print("    TID %-6d replica %-6d %s" %
                          (original, replica, f.read().strip()))
        sys.stdout.flush()
        _, status = os.waitpid(pid, 0)
        good = root.wait() == 0 and os.waitstatus_to_exitcode(status) == 0
    print("Both trees finished with the right result." if good
          else "WRONG: a tree did not finish with the right result.")
    return 0 if good else 1


def count(told):
    """The end of a pipeline: numbers come in order, and all of them. Goes on
    for a while when there is a file of that name."""
    last, end = 0, None
    for line in sys.stdin:
        if int(line) != last + 1:
            print("WRONG: %d came after %d" % (int(line), last), file=sys.stderr)
            return 1
        last += 1
        # A pipe's worth, so that there is something in every pipe.
        if last == 20000:
            print("flows", flush=True)
        if end is None and last % 100 == 0 and os.path.exists(told):
            end = last + 20000
        if last == end:
            break
    # By /proc, a replica has a PID of its own, which is not what getpid() says.
    print("%s %d" % (os.readlink("/proc/self"), last), flush=True)
    return 0 if end else 1


def copy_pipeline():
    """A pipeline is copied in full flight, and nothing that is in it is lost."""
    with tempfile.TemporaryDirectory() as directory:
        told = os.path.join(directory, "told")
        shell = "seq 100000000 | cat | '%s' '%s' count '%s'; exit" % (
            sys.executable, __file__, told)
        # What they tell goes through a pipe that is not theirs alone: it is shared.
        with subprocess.Popen(["/bin/sh", "-c", shell], text=True,
                              stdout=subprocess.PIPE) as root:
            root.stdout.readline()
            tid_map = ctypes.create_string_buffer(8 * 64)
            pidfd = os.pidfd_open(root.pid)
            before = time.perf_counter()
            pid = clone3(CLONE_ALL_THREADS | CLONE_SUBTREE | CLONE_FROM_PIDFD |
                         CLONE_KEEP_TIDS | CLONE_NEWPID | CLONE_ISOLATE, pidfd,
                         tid_map)
            took = time.perf_counter() - before
            os.close(pidfd)
            print("\nA pipeline, seq | cat | python3, copied in full flight with all "
                  "that is\nin its pipes, in %.2f ms:" % (took * 1000), flush=True)
            with open(told, "w", encoding="utf-8"):
                pass
            replicas = [row[1] for row in struct.iter_unpack("2I", tid_map.raw)]
            for line in root.stdout:
                reader, last = line.split(maxsplit=1)
                print("    the %s read all numbers up to %s" % (
                    "replica " if int(reader) in replicas else "original",
                    last.strip()))
            _, status = os.waitpid(pid, 0)
            good = root.wait() == 0 and os.waitstatus_to_exitcode(status) == 0
    print("Both pipelines had every number." if good
          else "WRONG: a pipeline has lost a number.")
    return 0 if good else 1


def main():
    if sys.argv[1:] == ["program"]:
        return program()
    if sys.argv[1:2] == ["count"]:
        return count(sys.argv[2])
    return copy_threads() or copy_tree() or copy_pipeline()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as e:
        print("demo: %s" % e)
        sys.exit(2)
