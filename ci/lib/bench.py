# SPDX-License-Identifier: GPL-2.0
"""What full fork costs: boot the guests that measure it, and judge the figures.

bench.py build    the program that measures, judges and draws
bench.py all      every suite, or PROGRAMS of them; plots
bench.py short    what a check needs
bench.py keep     put the table and the plots into docs/

Each boot leaves a JSON file in build/out/bench, or bench-short."""

import glob
import json
import os
import shutil
import subprocess
import sys

import kselftest
import user
import vm
from common import OUT, REPO, Failure, Results, main, say, timed

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
    Boot("copies", "fast", ["threads", "still", "trees", "kernel-memory",
                            "snapshot", "sfork", "isolate"]),
    Boot("criu", "criu", ["criu"]),
    Boot("plain-fast", "fast", ["plain"]),
    Boot("plain-base", "base", ["plain"]),
    Boot("plain-off", "off", ["plain"]),
    Boot("holds", "trace", ["holds"]),
    Boot("wall", "fast", ["wall"], counts=False),
]
SHORT = [
    Boot("copies", "fast", ["threads", "still", "trees", "sfork", "isolate"]),
    Boot("plain-fast", "fast", ["plain"]),
    Boot("plain-base", "base", ["plain"]),
]


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
    cmd = [PROGRAM, "report", directory] + ([] if short else ["--draw"])
    verdicts = os.path.join(directory, "rows.jsonl")
    if os.path.exists(verdicts):
        os.remove(verdicts)
    status = subprocess.run(cmd, check=False).returncode
    if not os.path.exists(verdicts):
        raise Failure("bench: nothing was judged")
    results = Results("bench-short" if short else "bench")
    with open(verdicts, encoding="utf-8") as f:
        for row in map(json.loads, f):
            results.add(row["name"], row["ok"], row["detail"])
    return results.write() or status


def cmd_keep():
    """What the last run left, as it is read in docs/."""
    source = os.path.join(OUT, "bench")
    plots = os.path.join(REPO, "docs/bench")
    document = plots + ".md"
    with open(document, encoding="utf-8") as f:
        text = f.read()
    with open(os.path.join(source, "table.md"), encoding="utf-8") as f:
        table = f.read()
    head, begin, rest = text.partition("<!-- table -->\n")
    _, end, tail = rest.partition("<!-- end of table -->\n")
    if not (begin and end):
        raise Failure("%s has no marks of a table" % document)
    os.makedirs(plots, exist_ok=True)
    for path in glob.glob(source + "/*.svg") + glob.glob(source + "/*.png"):
        shutil.copyfile(path, os.path.join(plots, os.path.basename(path)))
    with open(document, "w", encoding="utf-8") as f:
        f.write(head + begin + table + end + tail)
    return 0


def command(argv):
    commands = {
        "build": cmd_build,
        "keep": cmd_keep,
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
