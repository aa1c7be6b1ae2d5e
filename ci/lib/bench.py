# SPDX-License-Identifier: GPL-2.0
"""What full fork costs: boot the guests that measure it, and judge the figures.

bench.py build    the program that measures, judges and draws
bench.py all      every suite, or PROGRAMS of them; plots
bench.py short    what a check needs

Each boot leaves a JSON file in build/out/bench, or bench-short."""

import os
import subprocess
import sys

import kselftest
import user
import vm
from common import OUT, REPO, Failure, main, say, timed

PROGRAM = os.path.join(user.TARGET, "release", "fullfork-bench")
TIMEOUT = 1200
MEMORY = "3G"


class Boot:
    """One guest: a kernel, suites, and whether its clock counts instructions."""

    def __init__(self, name, kernel, suites, counts=True):
        self.name = name
        self.kernel = kernel
        self.suites = suites
        self.counts = counts


BOOTS = [
    Boot("copies", "fast", ["threads", "still", "trees"]),
    Boot("plain-fast", "fast", ["plain"]),
    Boot("plain-base", "base", ["plain"]),
    Boot("plain-off", "off", ["plain"]),
]
SHORT = [Boot("short", "fast", ["threads", "still", "trees"])]


def cmd_build():
    user.demand("bench", user.cargo("build", "--release", "-p",
                                    "fullfork-bench"))
    return 0


def measure(boot, directory, short):
    path = os.path.join(directory, boot.name + ".json")
    if os.path.exists(path):
        os.remove(path)
    os.environ["ICOUNT"] = "1" if boot.counts else ""
    os.environ.setdefault("MEM", MEMORY)
    words = ["measure", "--out", "/results/bench.json", "--kernel", boot.kernel]
    if short:
        words.append("--short")
    with timed("bench: %s on kernel %s" % (" ".join(boot.suites), boot.kernel)):
        result = vm.boot(boot.kernel, "echo 0 >/proc/sys/kernel/"
                         "randomize_va_space\nexec %s %s\n" % (
                             kselftest.in_guest(PROGRAM),
                             " ".join(words + boot.suites)),
                         int(os.environ.get("TIMEOUT") or TIMEOUT),
                         progress=lambda line: say("   " + line),
                         label="bench")
    problems = result.problems()
    if result.status != 0:
        problems.append("exit status %s" % result.status)
    if problems:
        raise Failure("bench %s: %s; console in %s" % (
            boot.name, "; ".join(problems),
            os.path.relpath(result.console, REPO)))
    os.replace(os.path.join(result.directory, "bench.json"), path)
    vm.discard(result)


def measure_and_judge(boots, directory, short):
    os.makedirs(directory, exist_ok=True)
    only = (os.environ.get("PROGRAMS") or "").split()
    for boot in boots:
        if only:
            boot.suites = [s for s in boot.suites if s in only]
        if boot.suites:
            measure(boot, directory, short)
    return subprocess.run([PROGRAM, "report", directory], check=False).returncode


def command(argv):
    commands = {
        "build": cmd_build,
        "all": lambda: measure_and_judge(
            BOOTS, os.path.join(OUT, "bench"), False),
        "short": lambda: measure_and_judge(
            SHORT, os.path.join(OUT, "bench-short"), True),
    }
    if len(argv) != 1 or argv[0] not in commands:
        raise Failure("usage: bench.py " + "|".join(commands))
    return commands[argv[0]]()


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main(command)
