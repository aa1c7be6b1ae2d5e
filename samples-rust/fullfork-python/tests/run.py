#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs tests, and prints TAP.

    run.py MODULE [--list] [NAME]...

A test is a function of the module test_MODULE that is in its list TESTS; it fails by an
exception. With one NAME it runs in this process, else each has a process of its own.
"""

import faulthandler
import importlib
import os
import signal
import subprocess
import sys
import traceback

SECONDS = 60


def run_one(test):
    # SIGABRT tells where each thread is.
    faulthandler.enable()
    try:
        test()
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def run_apart(module, name):
    """None, or what went wrong."""
    command = [sys.executable, __file__, module, name]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        try:
            output, _ = process.communicate(timeout=SECONDS / 10)
        except subprocess.TimeoutExpired:
            output = "nor does who has its output"
        process.kill()
        return "it did not end within %d s\n%s" % (SECONDS, output)
    if process.returncode:
        return "exit status %d\n%s" % (process.returncode, output)
    return None


def run_all(module, tests):
    failed = 0
    print("TAP version 13\n1..%d" % len(tests))
    for number, test in enumerate(tests, 1):
        wrong = run_apart(module, test.__name__)
        if wrong:
            failed += 1
            print("# " + wrong.strip().replace("\n", "\n# "))
        print("%s %d %s" % ("not ok" if wrong else "ok", number, test.__name__))
    return 1 if failed else 0


def main(module, *names):
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    tests = importlib.import_module("test_" + module).TESTS
    if names == ("--list",):
        print("\n".join(test.__name__ for test in tests))
        return 0
    wanted = [test for test in tests if not names or test.__name__ in names]
    if len(wanted) < len(names):
        print("there is no such test", file=sys.stderr)
        return 2
    if len(names) == 1:
        return run_one(wanted[0])
    return run_all(module, wanted)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
