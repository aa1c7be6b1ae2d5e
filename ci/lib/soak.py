# SPDX-License-Identifier: GPL-2.0
"""Suite, stress and fuzz in the guest, again and again for SOAK_MINUTES on
KERNEL, and one table of what came of it."""

import json
import os
import random
import shlex
import sys
import time

import judge
import kbuild
import kselftest
import vm
from common import LOG, OUT, REPO, Failure, Results, main, say, timed

MINUTES = 60
# Of stress and fuzz in each round, in seconds.
SLICE = 120
GUEST = "/repo/ci/guest_soak.py"
FUZZER = os.path.join(OUT, "user", "debug", "fullfork-fuzz")
NAMES = ["fullfork"]


def commands(factor, seed):
    """(name, command, seconds that it may take) of one round. The suite runs in
    another order each time, a third of it per round."""
    order = random.Random(seed)
    install = kselftest.in_guest(kselftest.install_dir(NAMES))
    items = kselftest.programs(NAMES)
    part = order.sample(items, max(1, len(items) // 3))
    suite = ["python3", "/repo/ci/guest_kselftest.py", install, str(factor)] + part
    stress = ["env", "FULLFORK_STRESS_SECONDS=%d" % SLICE,
              "FULLFORK_STRESS_SEED=%d" % seed,
              install + "/fullfork/stress_test"]
    found = [("suite", suite, 120 * factor + 60 * len(part)),
             ("stress", stress, SLICE * 3 + 120)]
    if os.path.exists(FUZZER):
        found.append(("fuzz", [kselftest.in_guest(FUZZER), "--seed", str(seed),
                               "--seconds", str(SLICE)], SLICE * 3 + 240))
    return found


class Total:
    """Of all rounds of one kind."""

    def __init__(self):
        self.rounds = self.calls = self.made = self.longest = self.lost = 0
        self.seconds = 0.0
        self.errors = {}
        self.leaks = []
        self.problems = []

    def add(self, found):
        self.rounds += 1
        for name in ("calls", "made", "lost", "seconds"):
            setattr(self, name, getattr(self, name) + found[name])
        self.longest = max(self.longest, found["longest_ns"])
        for name, count in found["errors"].items():
            self.errors[name] = self.errors.get(name, 0) + count
        self.leaks += ["%s +%d" % leak for leak in found["leaks"].items()]


def last_object(text):
    for line in reversed(text.splitlines()):
        if line.startswith('{"soak"'):
            return json.loads(line)
    return None


def run_one(kernel, name, command, seconds, total):
    script = "export KSFT_FULLFORK_EXPECT=1\nexec python3 %s %s %s\n" % (
        GUEST, name, shlex.join(command))
    result = vm.boot(kernel, script, seconds, label="soak")
    text = result.output.decode(errors="replace")
    log = result.console.replace(".console", ".txt")
    with open(log, "w", encoding="utf-8") as f:
        f.write(text)
    found = last_object(text)
    problems = result.problems()
    if found is None:
        problems.append("it did not come to its end")
    else:
        total.add(found)
        if name == "suite":
            rows = judge.judge_tests(judge.Tap(text), NAMES)
            problems += ["%s: %s" % (r[0], r[2]) for r in rows if not r[1]]
        elif found["status"]:
            problems.append("exit status %d" % found["status"])
    total.problems += ["%s (%s)" % (p, os.path.relpath(log, REPO)) for p in problems]
    for p in problems:
        say("   %s: %s" % (name, p))
    if not problems:
        vm.discard(result)


def table(totals):
    say("")
    say("%-8s %7s %9s %9s %10s  %s" % ("what", "rounds", "calls", "copies",
                                       "stood still", "leaks"))
    for name, t in totals.items():
        say("%-8s %7d %9d %9d %8.1f ms  %s" % (
            name, t.rounds, t.calls, t.made, t.longest / 1e6,
            ", ".join(t.leaks) or "none"))
    say("")
    errors = {}
    for t in totals.values():
        for name, count in t.errors.items():
            errors[name] = errors.get(name, 0) + count
    say("failures by errno and reason:")
    for name, count in sorted(errors.items(), key=lambda e: -e[1]):
        say("%9d  %s" % (count, name))
    lost = sum(t.lost for t in totals.values())
    if lost:
        say("%9d events of the trace were lost" % lost)


def command(argv):
    if argv:
        raise Failure("usage: soak.py")
    kernel = kbuild.kernel()
    minutes = os.environ.get("SOAK_MINUTES") or str(MINUTES)
    if not minutes.isdigit() or not int(minutes):
        raise Failure("TIME is a number of minutes, not %s" % minutes)
    factor = kselftest.FACTOR[vm.choose_accel(kernel)] * (
        kselftest.DEBUG_FACTOR if kernel in kbuild.CHECKED else 1)
    end = time.monotonic() + 60 * int(minutes)
    seed = int(time.time())
    totals = {}
    results = Results("soak-" + kernel)
    with timed("soak on %s, seed %d" % (kernel, seed), "%s minutes" % minutes):
        while not totals or time.monotonic() < end:
            for name, cmd, seconds in commands(factor, seed):
                if totals and time.monotonic() > end and name in totals:
                    break
                run_one(kernel, name, cmd, seconds, totals.setdefault(name, Total()))
            seed += 1
    table(totals)
    for name, t in totals.items():
        results.add("%s: %d rounds" % (name, t.rounds), not t.problems,
                    "; ".join(t.problems[:5]))
        results.add("%s: nothing is left" % name, not t.leaks, ", ".join(t.leaks))
        results.add("%s: copies were made" % name, t.made > 0, "none")
    os.makedirs(LOG, exist_ok=True)
    return results.write()


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main(command)
