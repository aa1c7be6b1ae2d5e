# SPDX-License-Identifier: GPL-2.0
"""Tests of the check that what the document says is shown by tests."""

import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../lib"))

import document  # noqa: E402

EXPECTED = """\
pipe_test pipe.is_copied
pipe_test pipe.is_shared
file_test file.ext4.is_copied
file_test file.xfs.is_copied
many.py many.queues
""".splitlines()

TEXT = """\
A text before it (file_test, file.is_copied).

==================  =======  ==========================
kind                is       how
==================  =======  ==========================
pipe                copied   contents, size.
                             Tests: pipe_test, pipe.is_copied, is_shared; file_test,
                             file.xfs.is_copied
file of a long      shared   anybody can open it
name
                             Tests: many.py, many.queues
==================  =======  ==========================

====  ======  =======================================
who   result  test (tools/testing/selftests/fullfork)
====  ======  =======================================
me    copied  pipe_test, pipe.is_copied; other_test
====  ======  =======================================
"""


def failed(text=TEXT, expected=EXPECTED, programs=("other_test",)):
    return [(what, wrong) for what, ok, wrong in
            document.check(text, expected, set(programs)) if not ok]


class Document(unittest.TestCase):
    def test_is_accepted(self):
        self.assertEqual(failed(), [])

    def test_rows(self):
        rows = document.kinds(TEXT)
        self.assertEqual([(r.name, r.fate) for r in rows],
                         [("pipe", "copied"), ("file of a long name", "shared")])
        self.assertEqual(document.cited_by_row(rows[0]),
                         [("pipe_test", "pipe.is_copied"), ("pipe_test", "pipe.is_shared"),
                          ("file_test", "file.xfs.is_copied")])

    def test_row_without_a_test(self):
        for text in (TEXT.replace("Tests: many.py, many.queues", ""),
                     TEXT.replace("Tests: many.py, many.queues", "Tests:")):
            self.assertEqual([what for what, _ in failed(text)],
                             ["kind: file of a long name: shared: names a test"])

    def test_test_that_is_not_there(self):
        for old, new in (("is_copied, is_shared", "is_copied, is_lost"),
                         ("file.xfs.is_copied", "file.fat.is_copied"),
                         ("many.py, many.queues", "few.py, many.queues"),
                         ("many.py, many.queues", "gone_test")):
            self.assertIn(old, TEXT)
            found = failed(TEXT.replace(old, new))
            self.assertEqual(len(found), 1, new)
            self.assertRegex(found[0][0], "its tests are there$")

    def test_test_that_is_expected_no_more(self):
        for line in (EXPECTED[1], EXPECTED[3], EXPECTED[4]):
            rest = [other for other in EXPECTED if other != line]
            self.assertEqual(len(failed(expected=rest)), 1, line)
        # Another variant is left.
        self.assertEqual(failed(expected=EXPECTED[:2] + EXPECTED[3:]), [])

    def test_test_that_is_named_elsewhere(self):
        for text in (TEXT.replace("(file_test, file.is_copied)", "(file_test, file.is_lost)"),
                     TEXT.replace("pipe_test, pipe.is_copied; other_test",
                                  "pipe_test, pipe.is_lost; other_test")):
            self.assertEqual([what for what, _ in failed(text)],
                             ["tests named elsewhere are there"])
        self.assertEqual(len(failed(programs=())), 1)

    def test_other_fate(self):
        found = failed(TEXT.replace("shared   anybody", "lost     anybody"))
        self.assertEqual(len(found), 1)

    def test_no_table(self):
        self.assertEqual([what for what, _ in failed(TEXT.replace("kind  ", "kinds "))],
                         ["there is a table of kinds"])


if __name__ == "__main__":
    unittest.main()
