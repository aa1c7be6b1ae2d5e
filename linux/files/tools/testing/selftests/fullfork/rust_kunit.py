#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The KUnit suites of full fork in Rust are run once more, when the kernel is
up: the examples in the documentation of the abstraction, and the tests of the
store of snapshots."""

import os
import re

from fullfork_ksft import Tests, check, read

KUNIT = "/sys/kernel/debug/kunit"

tests = Tests()


def run_suite(suite):
    """Run a suite: {case: passed}; fails unless the suite has passed."""
    directory = os.path.join(KUNIT, suite)
    check(os.path.exists(directory), "there is no suite " + suite)
    with open(os.path.join(directory, "run"), "w", encoding="utf-8") as f:
        f.write("1")
    results = read(os.path.join(directory, "results"))
    plan = re.search(r"^ +1\.\.(\d+)$", results, re.M)
    check(plan, "%s has no plan:\n%s" % (suite, results))
    cases = {m.group(2): m.group(1) == "ok" and not m.group(3) for m in
             re.finditer(r"^ +(ok|not ok) \d+ (\S+)( # SKIP.*)?$", results,
                         re.M)}
    check(len(cases) == int(plan.group(1)), "%s: %d results of %s" %
          (suite, len(cases), plan.group(1)))
    check(re.search(r"^ok 1 %s$" % re.escape(suite), results, re.M),
          "%s has not passed:\n%s" % (suite, results))
    return cases


@tests.add
def abstraction__has_examples_that_work():
    cases = run_suite("rust_doctests_kernel")
    ours = [passed for name, passed in cases.items()
            if name.startswith("rust_doctest_kernel_fullfork_rs_")]
    check(len(ours) >= 4, "%d examples" % len(ours))
    check(all(ours), "skipped or failed")


@tests.add
def store__passes_its_own_tests():
    cases = run_suite("rust_fullfork")
    check(len(cases) >= 11, "%d tests" % len(cases))
    check(all(cases.values()), "skipped or failed: %s" %
          [name for name, passed in cases.items() if not passed])


if __name__ == "__main__":
    tests.run([])
