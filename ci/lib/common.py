# SPDX-License-Identifier: GPL-2.0
"""What every step shares: paths, words to the user, results."""

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time

REPO = os.environ.get("REPO") or os.path.realpath(
    os.path.join(os.path.dirname(__file__), "..", ".."))
BUILD = os.path.join(REPO, "build")
LINUX = os.path.join(REPO, "linux")
OUT = os.path.join(BUILD, "out")
LOG = os.path.join(BUILD, "log")
JOBS = os.cpu_count() or 2


class Failure(Exception):
    """An error that the user can act on; the text is all that is shown."""


def say(text):
    print(text, flush=True)


def note(text):
    """As say(), where stdout belongs to the output of a guest's command."""
    print(text, file=sys.stderr, flush=True)


def number(variable, default=None):
    """A variable that must be a number from 1 on, where it is set."""
    value = os.environ.get(variable)
    if not value:
        return default
    if not value.isascii() or not value.isdigit() or not int(value):
        raise Failure("%s=%s: a number from 1 on" % (variable, value))
    return int(value)


def run(cmd, **kw):
    """Run a command; return its output, fail with its errors."""
    kw.setdefault("check", True)
    check = kw.pop("check")
    text = kw.pop("text", True)
    p = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       text=text, **kw)
    if check and p.returncode:
        err = p.stderr if text else p.stderr.decode(errors="replace")
        raise Failure("%s: exit status %d\n%s" %
                      (" ".join(cmd), p.returncode, err.strip()))
    return p


def sha256(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def read_base(path=None):
    """linux/BASE as a dict."""
    values = {}
    with open(path or os.path.join(LINUX, "BASE"), encoding="utf-8") as f:
        for line in f:
            line = line.strip()
            if line and not line.startswith("#"):
                key, _, value = line.partition("=")
                values[key] = value
    return values


@contextlib.contextmanager
def timed(what, estimate=""):
    """Say what starts, and how long it took."""
    say("== %s%s" % (what, " (%s)" % estimate if estimate else ""))
    start = time.monotonic()
    yield
    say("== %s: %.0f s" % (what, time.monotonic() - start))


@contextlib.contextmanager
def locked(path):
    """One process at a time in what path guards."""
    with open(path, "a", encoding="utf-8") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another run that holds %s" % path)
            fcntl.flock(f, fcntl.LOCK_EX)
        yield


class Results:
    """The tests of one phase, kept for the summary that ci/run prints last."""

    def __init__(self, phase):
        self.phase = phase
        self.rows = []
        self.start = time.monotonic()

    def add(self, name, ok, detail=""):
        self.rows.append({"phase": self.phase, "name": name, "ok": bool(ok),
                          "detail": detail})
        if not ok:
            say("FAILED %s: %s%s" % (self.phase, name,
                                     ": " + detail if detail else ""))

    def extend(self, rows):
        for name, ok, detail in rows:
            self.add(name, ok, detail)

    def failed(self):
        return sum(not r["ok"] for r in self.rows)

    def passed(self):
        return sum(r["ok"] for r in self.rows)

    def write(self):
        """Write the file that the summary reads; return the exit status."""
        directory = os.path.join(LOG, "results")
        os.makedirs(directory, exist_ok=True)
        path = os.path.join(directory, self.phase + ".json")
        temporary = "%s.%d" % (path, os.getpid())
        with open(temporary, "w", encoding="utf-8") as f:
            json.dump({"phase": self.phase, "rows": self.rows,
                       "seconds": time.monotonic() - self.start}, f)
        os.replace(temporary, path)
        say("%s: %d passed, %d failed" %
            (self.phase, self.passed(), self.failed()))
        return 1 if self.failed() or not self.rows else 0


def main(function):
    """Entry of every script: a Failure is a message, not a traceback."""
    try:
        sys.exit(function(sys.argv[1:]) or 0)
    except Failure as e:
        sys.stdout.flush()
        print("error: %s" % e, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
