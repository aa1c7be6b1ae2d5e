# SPDX-License-Identifier: GPL-2.0
"""What fuzz.py makes of the output of the fuzzer."""

import json
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "lib"))
import fuzz  # noqa: E402


def summary(**more):
    values = {"seed": 1, "steps": 10, "operations": 30, "shapes": 9, "hangs": 0,
              "leaks": 0, "failures": [],
              "errors": {"EINVAL": 3, "EFAULT": 2, "EPERM": 1}}
    values.update(more)
    return values


class JudgeRun(unittest.TestCase):
    def failed(self, found, status=0, replayed=False):
        return [name for name, ok, _ in fuzz.judge_run(found, status, replayed)
                if not ok]

    def test_a_good_run(self):
        self.assertEqual(self.failed(summary()), [])

    def test_no_summary(self):
        self.assertEqual(self.failed(fuzz.summary_of("fuzz: seed 1\n{")),
                         ["the fuzzer came to its end"])

    def test_the_last_object_counts(self):
        text = "fuzz: seed 1\n%s\n%s\n" % (json.dumps(summary(steps=1)),
                                           json.dumps(summary(steps=2)))
        self.assertEqual(fuzz.summary_of(text)["steps"], 2)

    def test_a_failure_is_one(self):
        found = summary(failures=[{"step": 4, "why": "no progress"}])
        self.assertEqual(len(self.failed(found, 1)), 1)
        # It has to say so by its status as well.
        self.assertEqual(len(self.failed(found, 0)), 2)

    def test_hangs_leaks_and_signals(self):
        self.assertTrue(self.failed(summary(hangs=1)))
        self.assertTrue(self.failed(summary(leaks=1)))
        self.assertTrue(self.failed(summary(), 139))

    def test_a_run_that_did_nothing(self):
        self.assertTrue(self.failed(summary(shapes=0)))
        self.assertTrue(self.failed(summary(errors={})))
        self.assertEqual(self.failed(summary(shapes=0), 0, True), [])

    def test_a_short_run_did_less(self):
        little = {"shapes": 1, "errors": {"EINVAL": 1}}
        self.assertEqual(self.failed(summary(steps=11, **little)), [])
        self.assertTrue(self.failed(summary(steps=60, **little)))


if __name__ == "__main__":
    unittest.main()
