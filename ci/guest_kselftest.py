#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs in the guest: every installed selftest program, one after another, each
under its own timeout. Writes markers that ci/lib/judge.py reads; judges nothing.
Where several guests share the list, each takes the next one that none has taken.

Usage: guest_kselftest.py INSTALL_DIR FACTOR [TARGET:PROGRAM...]"""

import os
import signal
import subprocess
import sys
import threading
import time

DEFAULT_TIMEOUT = 45
# Seconds; what takes longer hangs, on the slowest machine too, unless somebody says
# that he can wait.
MOST = int(os.environ.get("KSFT_MOST") or 1800)
SHARED = "/shared"


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def setting(directory, key, default):
    try:
        with open(os.path.join(directory, "settings"), encoding="utf-8") as f:
            for line in f:
                name, _, value = line.strip().partition("=")
                if name == key:
                    return int(value)
    except OSError:
        pass
    return default


def read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read()
    except OSError as e:
        return "(%s)\n" % e.strerror


def processes():
    """User processes that are neither this one nor its ancestors: pid -> comm."""
    mine = set()
    pid = os.getpid()
    while pid:
        mine.add(pid)
        pid = int(read("/proc/%d/stat" % pid).rpartition(")")[2].split()[1])
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in mine:
            continue
        fields = read("/proc/%s/stat" % name).rpartition(")")[2].split()
        if len(fields) < 7:
            continue        # gone meanwhile
        # Flag 0x200000 is PF_KTHREAD; the watchdog of PID 1 is its child.
        if int(fields[6]) & 0x200000 or int(name) in KEEP:
            continue
        found[int(name)] = "%s (state %s)" % (
            read("/proc/%s/comm" % name).strip(), fields[0])
    return found


def dump(path):
    """Where every thread of every user process stands."""
    with open(path, "w", encoding="utf-8") as out:
        for pid in sorted(processes()):
            try:
                threads = os.listdir("/proc/%d/task" % pid)
            except OSError:
                continue
            for tid in sorted(threads, key=int):
                task = "/proc/%d/task/%s/" % (pid, tid)
                status = read(task + "status")
                out.write("== %d/%s %s" % (pid, tid, read(task + "comm")))
                out.writelines(line + "\n" for line in status.splitlines()
                               if line.startswith(("State", "Sig", "Shd",
                                                   "PPid", "NSpid")))
                for name in ("wchan", "syscall", "stack"):
                    out.write("%s: %s\n" % (name, read(task + name)))


def kill_leftovers():
    """Kill what a program left behind; say what that was."""
    deadline = time.monotonic() + 2
    left = processes()
    while left and time.monotonic() < deadline:
        # Orphans that are just ending are not left over.
        time.sleep(0.05)
        left = processes()
    found = left
    while left:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        time.sleep(0.05)
        left = processes()
        if time.monotonic() > deadline + 10:
            break
    return found, left


def run_program(install, item, factor):
    target, program = item.split(":", 1)
    directory = os.path.join(install, target)
    timeout = min(setting(directory, "timeout", DEFAULT_TIMEOUT) * factor, MOST)
    say("fullfork-ksft: begin %s" % item)
    start = time.monotonic()
    p = subprocess.Popen(["./" + program], cwd=directory,
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, start_new_session=True)

    def copy():
        for line in p.stdout:
            say(line.decode(errors="replace").rstrip("\n"))
    reader = threading.Thread(target=copy, daemon=True)
    reader.start()
    late = ""
    try:
        status = p.wait(timeout if timeout > 0 else None)
    except subprocess.TimeoutExpired:
        late = " timeout"
        dump("/results/hang-%s.txt" % item.replace(":", "-").replace("/", "-"))
        os.killpg(p.pid, signal.SIGKILL)
        try:
            status = p.wait(10)
        except subprocess.TimeoutExpired:
            status = -signal.SIGKILL
    found, stuck = kill_leftovers()
    reader.join(5)
    for pid, what in found.items():
        say("fullfork-ksft: leftover %d %s%s" %
            (pid, what, " cannot be killed" if pid in stuck else ""))
    say("fullfork-ksft: end %s exit=%d%s secs=%.1f" %
        (item, status, late, time.monotonic() - start))


def take(item):
    """False if another guest has taken it."""
    if not os.path.ismount(SHARED):
        return True
    try:
        os.mkdir(os.path.join(SHARED, item))
    except FileExistsError:
        return False
    return True


def main(argv):
    install, factor, items = argv[0], int(argv[1]), argv[2:]
    count = 0
    for item in items:
        if take(item):
            count += 1
            run_program(install, item, factor)
    say("fullfork-ksft: done programs=%d" % count)


KEEP = set()
if __name__ == "__main__":
    KEEP.update(processes())
    main(sys.argv[1:])
