#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs in the guest: one round of a soak. Counts by the tracepoints of full fork
what happens while a command runs, and looks for what is left afterwards.

Usage: guest_soak.py NAME COMMAND...

The command's output is passed on; the last line is a JSON object."""

import json
import os
import re
import select
import subprocess
import sys
import threading
import time

TRACE = "/sys/kernel/tracing/instances/soak-%d" % os.getpid()
CACHES = ("task_struct", "signal_cache", "sighand_cache", "mm_struct",
          "files_cache", "pid", "cred_jar", "nsproxy", "pid_namespace", "vm_area_struct")
# Objects of a kind that may stay in use for reasons of their own.
SLACK = {"vm_area_struct": 2000, "cred_jar": 200, "pid": 100}
SLACK_OF_ANY = 60
SETTLE = 20


def write(path, text):
    with open(path, "w", encoding="ascii") as f:
        f.write(text)


def read(path):
    try:
        with open(path, encoding="ascii", errors="replace") as f:
            return f.read()
    except OSError:
        return ""


class Trace:
    """What the tracepoints say, from start() to stop()."""
    LINE = re.compile(r"(fullfork_\w+): (.*)")
    LOST = re.compile(r"LOST (\d+) EVENTS")

    def __init__(self):
        self.calls = self.made = self.lost = 0
        self.errors = {}
        self.longest = 0
        self.ends = threading.Event()

    def start(self):
        os.mkdir(TRACE)
        write(TRACE + "/buffer_size_kb", "8192")
        for event in ("start", "release", "abort"):
            write(TRACE + "/events/fullfork/fullfork_%s/enable" % event, "1")
        self.thread = threading.Thread(target=self.follow, daemon=True)
        self.thread.start()

    def follow(self):
        fd = os.open(TRACE + "/trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
        rest = b""
        while True:
            try:
                data = os.read(fd, 1 << 16)
            except BlockingIOError:
                if self.ends.is_set():
                    break
                select.select([fd], [], [], 0.5)
                continue
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self.take(line.decode(errors="replace"))
        os.close(fd)

    def take(self, line):
        m = self.LOST.search(line)
        if m:
            self.lost += int(m.group(1))
        m = self.LINE.search(line)
        if not m:
            return
        event, rest = m.groups()
        fields = dict(re.findall(r"(\w+)=(\S+)", rest))
        if event == "fullfork_start":
            self.calls += 1
        elif event == "fullfork_release":
            self.made += 1
            self.longest = max(self.longest, int(fields["stood_still_ns"]))
        elif event == "fullfork_abort":
            name = "%s (%s)" % (errno_name(-int(fields["err"])), fields["reason"])
            self.errors[name] = self.errors.get(name, 0) + 1

    def stop(self):
        self.ends.set()
        self.thread.join(30)
        for event in ("start", "release", "abort"):
            write(TRACE + "/events/fullfork/fullfork_%s/enable" % event, "0")
        os.rmdir(TRACE)


def errno_name(number):
    import errno
    return {513: "ERESTARTNOINTR"}.get(number) or errno.errorcode.get(
        number, str(number))


def objects():
    """Objects in use of each kind, once what RCU and the CPUs keep is freed."""
    write("/proc/sys/vm/drop_caches", "2")
    for cache in CACHES:
        path = "/sys/kernel/slab/%s/shrink" % cache
        if os.path.exists(path):
            write(path, "1")
    found = {}
    for line in read("/proc/slabinfo").splitlines():
        fields = line.split()
        if fields and fields[0] in CACHES:
            found[fields[0]] = int(fields[1])
    if "task_struct" not in found:
        sys.exit("there is no /proc/slabinfo to look for leaks in")
    return found


def tasks():
    m = re.search(r"\d+/(\d+) ", read("/proc/loadavg"))
    return int(m.group(1)) if m else -1


def leaks(before, tasks_before):
    """What there is more of than before, and stays."""
    deadline = time.monotonic() + SETTLE
    while True:
        found = {k: v - before.get(k, 0) for k, v in objects().items()
                 if v - before.get(k, 0) > SLACK.get(k, SLACK_OF_ANY)}
        # A kernel thread more or less is none of ours.
        more = tasks() - tasks_before
        if more > 8:
            found["tasks"] = more
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


def main(argv):
    name, command = argv[0], argv[1:]
    tasks_before, before = tasks(), objects()
    trace = Trace()
    trace.start()
    start = time.monotonic()
    status = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    seconds = time.monotonic() - start
    trace.stop()
    print(json.dumps({
        "soak": name, "status": status, "seconds": round(seconds, 1),
        "calls": trace.calls, "made": trace.made, "errors": trace.errors,
        "longest_ns": trace.longest, "lost": trace.lost,
        "leaks": leaks(before, tasks_before)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
