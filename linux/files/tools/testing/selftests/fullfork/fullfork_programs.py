# SPDX-License-Identifier: GPL-2.0
"""What the selftests share that copy other people's programs with CLONE_ISOLATE:
programs that run until they find that they are replicas, and look whether all
that they do is right.

FULLFORK_ROUNDS says how often each is copied."""

import os
import shutil
import subprocess
import tempfile

from fullfork_ksft import CLONE_ALL_THREADS, CLONE_KEEP_TIDS, CLONE_NEWPID, \
    CLONE_SUBTREE, DEADLINE, check, copy, end_everything, read, wait_for

CLONE_ISOLATE = 1 << 57
FLAGS = CLONE_ALL_THREADS | CLONE_SUBTREE | CLONE_KEEP_TIDS | CLONE_NEWPID | \
    CLONE_ISOLATE
ROUNDS = int(os.environ.get("FULLFORK_ROUNDS", "5"))

# The PID that /proc shows is another one in a replica, also where TIDs are kept.
PYTHON = r"""
import os, sys
directory = sys.argv[1]

# It is read without a position: until it is closed, a replica has the same one.
def stat():
    with open("/proc/self/stat") as f:
        return os.pread(f.fileno(), 4096, 0).decode().split()

def pid():
    return stat()[0]

def end(result):
    with open(directory + "/new." + pid(), "w") as f:
        f.write(result)
    os.rename(directory + "/new." + pid(), directory + "/result." + pid())

first, left = pid(), -1

def is_over(n, more=60):
    "True when more rounds are done since the copy, or since it was told to."
    global left
    if n == more:
        open(directory + "/ready", "w").close()
    if left < 0 and (pid() != first or os.path.exists(directory + "/stop")):
        left = more
    left -= left > 0
    return left == 0
"""


class Program:
    """One that runs until it is told to stop, or finds that it is a replica."""

    def __init__(self, command):
        self.directory = tempfile.mkdtemp(prefix="fullfork.")
        self.process = subprocess.Popen(
            command + [self.directory], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, start_new_session=True)
        wait_for(lambda: os.path.exists(self.path("ready")) or
                 self.process.poll() is not None, "the program is ready")
        self.expect_alive()

    def path(self, name):
        return os.path.join(self.directory, name)

    def result(self, pid):
        return read(self.path("result.%d" % pid)).strip()

    def expect_alive(self):
        check(self.process.poll() is None, "it has ended: " +
              self.result(self.process.pid))

    def copy_and_wait(self):
        pid, _ = copy(self.process.pid, FLAGS)
        self.wait_for_replica(pid)

    def wait_for_replica(self, pid):
        status = []

        def has_ended():
            found, value = os.waitpid(pid, os.WNOHANG)
            if found:
                status.append(value)
            return found

        wait_for(has_ended, "the replica has ended")
        check(self.result(pid) == "ok" and status == [0],
              "the replica ended with status 0x%x: %s" % (
                  status[0], self.result(pid) or "no result"))

    def touch(self, name):
        with open(self.path(name), "w", encoding="utf-8"):
            pass

    def stop(self):
        self.expect_alive()
        self.touch("stop")
        self.expect_end()

    def expect_end(self):
        self.process.wait(DEADLINE)
        check(self.result(self.process.pid) == "ok" and not self.process.returncode,
              "the original ended with %d: %s" % (
                  self.process.returncode, self.result(self.process.pid) or "no result"))

    def run(self):
        try:
            for _ in range(ROUNDS):
                self.copy_and_wait()
                self.expect_alive()
            self.stop()
        finally:
            self.clean_up()

    def clean_up(self):
        end_everything()
        shutil.rmtree(self.directory, ignore_errors=True)
