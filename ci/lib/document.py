# SPDX-License-Identifier: GPL-2.0
"""What the document says is shown by tests: which it names, and whether there are such.

A row of the table of kinds ends with "Tests: PROGRAM, FIXTURE.TEST, ...; PROGRAM, ...".
So does the last column of the table of who may copy what, and so do parentheses,
without the word. FIXTURE may be left out where it is that of the test before. All
variants of a test are meant."""

import collections
import os
import re

from common import REPO

FILES = os.path.join(REPO, "linux/files")
DOCUMENT = os.path.join(FILES, "Documentation/userspace-api/fullfork.rst")
SELFTESTS = os.path.join(FILES, "tools/testing/selftests/fullfork")
EXPECTED = os.path.join(SELFTESTS, "expected-tests.txt")

KINDS = ["kind", "is", "how"]
FATES = {"copied", "shared", "refused", "as fork"}
# The last words of its three columns' heads
SECURITY = "test (tools/testing/selftests/fullfork)"

BORDER = re.compile(r"^=+( +=+)+$")
PROGRAM = re.compile(r"^\w+(_test|\.py)$")

Row = collections.namedtuple("Row", "name fate text")


def tables(text):
    """(lines of the head, of the body) of each simple table, as lists of cells."""
    lines = text.splitlines()
    borders = [i for i, line in enumerate(lines) if BORDER.match(line)]
    for top, middle, bottom in zip(borders[::3], borders[1::3], borders[2::3]):
        starts = [m.start() for m in re.finditer("=+", lines[top])]
        ends = starts[1:] + [None]
        cells = [[line[a:b].strip() for a, b in zip(starts, ends)]
                 for line in lines[top + 1:bottom]]
        split = middle - top - 1
        yield cells[:split], cells[split + 1:]


def kinds(text):
    """Rows of the table of kinds: one starts where it says what the kind is."""
    rows = []
    for head, body in tables(text):
        if head != [KINDS]:
            continue
        for name, fate, how in body:
            if fate:
                rows.append(Row(name, fate, how))
            elif rows:
                old = rows[-1]
                rows[-1] = Row((old.name + " " + name).strip(), old.fate,
                               old.text + " " + how)
    return rows


def cited(text):
    """(program, test) of each that is named; the test is None for a whole program."""
    program = fixture = None
    alone = False
    for word in re.split(r"[,;\s]+", text):
        if PROGRAM.match(word):
            if alone:
                yield program, None
            program, fixture, alone = word, None, True
        elif word and program:
            if "." in word:
                fixture = word.split(".")[0]
            elif fixture:
                word = fixture + "." + word
            alone = False
            yield program, word
    if alone:
        yield program, None


def cited_by_row(row):
    """What comes last in a row of the table of kinds."""
    return list(cited(row.text.partition("Tests:")[2]))


def cited_elsewhere(text):
    found = []
    for head, body in tables(text):
        if head and head[0][-1] == SECURITY:
            found += cited(" ".join(cells[-1] for cells in body))
    for inner in re.findall(r"\((\w+_test, [\w.]+)\)", " ".join(text.split())):
        found += cited(inner)
    return found


def read_expected(lines):
    """program: set of (fixture, test), whatever the variant."""
    expected = collections.defaultdict(set)
    for line in lines:
        program, _, name = line.strip().partition(" ")
        parts = name.split(".")
        expected[program].add((parts[0], parts[-1]))
        expected[program].add(name)
    return expected


def is_there(program, test, expected, programs):
    if test is None:
        return program in programs
    parts = test.split(".")
    return test in expected[program] or \
        (len(parts) == 2 and tuple(parts) in expected[program])


def check(text, expected_lines, programs):
    """(what is checked, whether it is so, what is wrong) of the whole document."""
    expected = read_expected(expected_lines)
    rows = kinds(text)
    yield "there is a table of kinds", bool(rows), "no table %s" % KINDS

    def missing(citations):
        return ["%s %s" % (p, t or "") for p, t in citations
                if not is_there(p, t, expected, programs)]

    for row in rows:
        citations = cited_by_row(row)
        wrong = missing(citations)
        what = "kind: %s: %s" % (row.name, row.fate)
        yield what + ": is one of " + ", ".join(sorted(FATES)), \
            row.fate in FATES, row.fate
        yield what + ": names a test", bool(citations), "no Tests:"
        yield what + ": its tests are there", not wrong, "; ".join(wrong)
    wrong = missing(cited_elsewhere(text))
    yield "tests named elsewhere are there", not wrong, "; ".join(wrong)


def lint(results):
    with open(DOCUMENT, encoding="utf-8") as f:
        text = f.read()
    with open(EXPECTED, encoding="utf-8") as f:
        expected = f.readlines()
    programs = {os.path.splitext(name)[0] for name in os.listdir(SELFTESTS)
                if name.endswith("_test.c")}
    for what, ok, wrong in check(text, expected, programs):
        results.add("document: " + what, ok, wrong)
