# SPDX-License-Identifier: GPL-2.0
"""What user.py makes of the output of cargo test."""

import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "lib"))
import user  # noqa: E402

TWO = """     Running unittests src/lib.rs (/t/debug/deps/fullfork-0123456789abcdef)

running 2 tests
test sys::tests::layout ... ok
test sys::tests::other ... %s

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out

   Doc-tests fullfork

running 1 test
test fullfork/src/lib.rs - fork (line 10) - compile ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out
"""


class JudgeCargo(unittest.TestCase):
    def failed(self, text):
        return [name for name, ok, _ in user.judge_cargo(text) if not ok]

    def test_every_test_is_a_row(self):
        rows = user.judge_cargo(TWO % "ok")
        self.assertEqual([name for name, _, _ in rows], [
            "fullfork src/lib.rs: sys::tests::layout",
            "fullfork src/lib.rs: sys::tests::other",
            "doc fullfork: fullfork/src/lib.rs - fork (line 10) - compile"])
        self.assertEqual(self.failed(TWO % "ok"), [])

    def test_a_failure_is_one(self):
        self.assertEqual(self.failed(TWO % "FAILED"),
                         ["fullfork src/lib.rs: sys::tests::other"])

    def test_an_ignored_test_is_a_failure(self):
        self.assertEqual(len(self.failed(TWO % "ignored")), 1)

    def test_a_test_that_nobody_saw_is_a_failure(self):
        self.assertEqual(self.failed(TWO % "o"),
                         ["fullfork src/lib.rs: every test was seen"])

    def test_a_binary_that_was_cut_is_a_failure(self):
        cut = (TWO % "ok").split("test result")[0]
        self.assertEqual(self.failed(cut),
                         ["fullfork src/lib.rs came to its end"])


if __name__ == "__main__":
    unittest.main()
