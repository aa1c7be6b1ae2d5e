# SPDX-License-Identifier: GPL-2.0
"""What the full fork selftests in Python share: clone3(), and tests that say
so one by one, whatever happens."""

import ctypes
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time

sys.path.append(os.path.join(os.path.dirname(os.path.realpath(__file__)),
                             "../kselftest/"))
import ksft  # noqa: E402

SYS_CLONE3 = 435
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWPID = 0x20000000
CLONE_KEEP_TIDS = 1 << 58
CLONE_FROM_PIDFD = 1 << 59
CLONE_STOPPED = 1 << 60
CLONE_SUBTREE = 1 << 61
CLONE_ALL_THREADS = 1 << 62

# Seconds that any wait may take, and all tests of a program together.  A kernel that
# looks at each lock takes long to start an interpreter.
SLOWER = 8 if os.path.exists("/proc/lockdep") else 1
DEADLINE = 60 * SLOWER
LIMIT = 300 * SLOWER

libc = ctypes.CDLL(None, use_errno=True)


class Failure(Exception):
    """What a test ends with that does not pass."""


def check(condition, what):
    if not condition:
        raise Failure(what)


def wait_for(condition, what, seconds=DEADLINE):
    """The first true value of condition(); fails after a while."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        check(time.monotonic() < end, "not within %d s: %s" % (seconds, what))
        time.sleep(0.01)


def copy(pid, flags, entries=64):
    """Copy the process pid: the PID of its replica, and {TID: replica's}."""
    table = (ctypes.c_uint32 * (2 * entries))()
    pidfd = os.pidfd_open(pid)
    try:
        args = ctypes.create_string_buffer(struct.pack(
            "14Q", flags | CLONE_FROM_PIDFD, 0, 0, 0, signal.SIGCHLD, 0, 0, 0,
            0, 0, 0, pidfd, ctypes.addressof(table), entries))
        result = libc.syscall(SYS_CLONE3, args, ctypes.c_size_t(112))
        error = ctypes.get_errno()
    finally:
        os.close(pidfd)
    if result < 0:
        raise OSError(error, os.strerror(error), "clone3(0x%x)" % flags)
    if result == 0:
        os._exit(1)     # a manager is no member
    pairs = zip(table[0::2], table[1::2])
    return result, {original: replica for original, replica in pairs
                    if original}


def read(path):
    """The content of a file, or an empty string where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read()
    except OSError:
        return ""


def stat(pid, tid=None):
    """The fields of /proc/PID/stat from the state on; empty if it is gone."""
    path = "/proc/%d/stat" % pid if tid is None else \
        "/proc/%d/task/%d/stat" % (pid, tid)
    return read(path).rpartition(")")[2].split()


def threads(pid):
    try:
        return [int(tid) for tid in os.listdir("/proc/%d/task" % pid)]
    except OSError:
        return []


def state(pid):
    """The states of all threads, each letter once: "T" if all are stopped."""
    fields = [stat(pid, tid) for tid in threads(pid)]
    return "".join(sorted({f[0] for f in fields if f}))


def parent(pid):
    fields = stat(pid)
    return int(fields[1]) if fields else 0


def descendants():
    """All processes below this one, zombies included."""
    parents = {int(name): parent(int(name)) for name in os.listdir("/proc")
               if name.isdigit()}
    found, more = {os.getpid()}, True
    while more:
        more = {pid for pid, up in parents.items() if up in found} - found
        found |= more
    return found - {os.getpid()}


def end_everything(seconds=DEADLINE, spare=()):
    """Kill and reap all that was started; fails if something is left."""
    end = time.monotonic() + seconds
    while True:
        left = descendants() - set(spare)
        if not left:
            return
        check(time.monotonic() < end, "left over: %s" % sorted(left))
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
            except OSError:
                pass
        time.sleep(0.01)


def has_fullfork():
    """None, or why the kernel cannot do what the tests need."""
    try:
        child = subprocess.Popen(["sleep", "1000"])
        copy(child.pid, CLONE_ALL_THREADS | CLONE_SUBTREE | CLONE_STOPPED)
    except OSError as e:
        return str(e)
    finally:
        end_everything()
    return None


class Tests:
    """Tests that run in order; where one fails, those that follow do too."""

    def __init__(self, limit=LIMIT):
        self.limit = limit
        self.tests = []
        self.said = 0
        self.lock = threading.Lock()
        self.failed = False

    def add(self, function):
        self.tests.append(function)
        return function

    def say(self, result, reason=""):
        with self.lock:
            if self.said == len(self.tests):
                return
            if reason:
                ksft.print_msg(reason)
            name = self.tests[self.said].__name__.replace("__", ".")
            self.said += 1
            result(name)
            sys.stdout.flush()

    def give_up(self):
        """Run by a timer: the main thread hangs."""
        for pid in descendants():
            for tid in threads(pid):
                ksft.print_msg("process %d thread %d %s state %s wchan %s" % (
                    pid, tid, read("/proc/%d/comm" % pid).strip(),
                    stat(pid, tid)[:1], read("/proc/%d/task/%d/wchan" %
                                             (pid, tid))))
        while self.said < len(self.tests):
            self.say(ksft.test_result_fail, "not done within %d s" % self.limit)
        try:
            end_everything(10)
        except Failure as e:
            ksft.print_msg(str(e))
        sys.stdout.flush()
        os._exit(ksft.KSFT_FAIL)

    def list(self):
        """As -l of the programs in C does it."""
        fixture = "# FIXTURE"
        print("%-20s %-25s %s" % (fixture, "VARIANT", "TEST"),
              file=sys.stderr)
        for test in self.tests:
            name, test = test.__name__.split("__", 1)
            if name != fixture:
                print("-" * 80, file=sys.stderr)
            print("%-20s %-25s %s" % ("" if name == fixture else name, "",
                                      test), file=sys.stderr)
            fixture = name

    def run(self, programs):
        """Run all; what is missing skips them, or fails them all."""
        if sys.argv[1:] == ["-l"]:
            self.list()
            sys.exit(ksft.KSFT_SKIP)
        ksft.print_header()
        ksft.set_plan(len(self.tests))
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        timer = threading.Timer(self.limit, self.give_up)
        timer.daemon = True
        timer.start()
        result, reason = None, ""
        missing = [p for p in programs if not shutil.which(p)]
        lack = has_fullfork()
        if not lack and (missing or os.geteuid()):
            lack = "needs root and " + ", ".join(programs)
        if lack:
            # Where full fork is expected, so is all that its tests need.
            result, reason = ksft.test_result_skip, lack
            if os.environ.get("KSFT_FULLFORK_EXPECT"):
                result = ksft.test_result_fail
        for function in self.tests:
            if result:
                self.say(result, reason)
                continue
            try:
                function()
            except (Failure, OSError) as e:
                self.say(ksft.test_result_fail, "%s: %s" %
                         (type(e).__name__, e))
                result, reason = ksft.test_result_fail, "the one before failed"
            else:
                self.say(ksft.test_result_pass)
        end_everything()
        ksft.finished()
