# SPDX-License-Identifier: GPL-2.0
"""The summary of ci/test: a table of the phases, every failed test, and as the
very last line "N passed, N failed"."""

import glob
import json
import os
import sys

from common import LOG, main, say

# The results file of a phase, where it does not bear the phase's name.
FILES = {
    "kselftest-fast": ["kselftest-fast-fullfork"],
    "yama-locked": ["kselftest-fast-fullfork-yama_locked_test"],
    "kselftest-debug": ["kselftest-debug-fullfork"],
    "upstream-as-base": ["upstream-fast"],
}


def load(directory):
    found = {}
    for path in glob.glob(os.path.join(directory, "*.json")):
        with open(path, encoding="utf-8") as f:
            data = json.load(f)
        found[data["phase"]] = data["rows"]
    return found


def command(argv):
    directory = os.path.join(LOG, "results")
    found = load(directory)
    passed = failed = 0
    bad = []
    table = []
    with open(os.path.join(directory, "phases"), encoding="utf-8") as f:
        phases = [line.split() for line in f]
    for name, status, seconds in phases:
        rows = []
        for key in FILES.get(name, [name]):
            rows += found.get(key, [])
        good = sum(r["ok"] for r in rows)
        wrong = len(rows) - good
        bad += [(name, r["name"], r["detail"]) for r in rows if not r["ok"]]
        # The phase itself is one test too: that it came to its end.
        if int(status) == 0:
            good += 1
        elif not wrong:
            wrong += 1
            bad.append((name, "exit status " + status, "see its output"))
        table.append((name, good, wrong, seconds))
        passed += good
        failed += wrong
    say("")
    say("%-22s %8s %8s %8s" % ("phase", "passed", "failed", "seconds"))
    for row in table:
        say("%-22s %8d %8d %8s" % row)
    if argv:
        say("%-22s %8s %8s %8s" % ("all", "", "", argv[0]))
    left_out = os.path.join(directory, "left-out")
    if os.path.exists(left_out):
        with open(left_out, encoding="utf-8") as f:
            for line in f:
                say("LEFT OUT " + line.rstrip("\n"))
    for phase, name, detail in bad:
        say("FAILED %s: %s%s" % (phase, name, ": " + detail if detail else ""))
    summary = "%d passed, %d failed" % (passed, failed)
    with open(os.path.join(directory, "summary"), "w", encoding="utf-8") as f:
        f.write(summary + "\n")
    say(summary)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main(command)
