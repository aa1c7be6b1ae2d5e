# SPDX-License-Identifier: GPL-2.0
"""The judge on stored logs: what must be red is red, and only that."""

import glob
import os
import sys
import unittest
import unittest.mock

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))

import common  # noqa: E402
import judge  # noqa: E402
import kselftest  # noqa: E402


def log(name):
    with open(os.path.join(HERE, "logs", name), encoding="utf-8") as f:
        return f.read()


EXPECTED = log("expected.txt").splitlines()
FAULT = """\
[  127.4] fail_nth_test: vmalloc error: size 9112, align 0x1, allocation failed
[  127.4] CPU: 0 UID: 0 PID: 99 Comm: fail_nth_test Not tainted
[  127.4] Call Trace:
"""
PROGRAMS = ["fullfork:basic_test", "fullfork:blocked_test"]


def failures(name, strict=("fullfork",)):
    rows = judge.judge_tests(judge.Tap(log(name)), strict,
                             {"fullfork": EXPECTED}, PROGRAMS)
    return {row: detail for row, ok, detail in rows if not ok}


class Tests(unittest.TestCase):
    def only(self, name, *needles):
        """Each needle is in one failure, and no failure is without one."""
        found = ["%s: %s" % f for f in failures(name).items()]
        for needle in needles:
            self.assertTrue(any(needle in f for f in found), (needle, found))
        self.assertEqual([f for f in found
                          if not any(n in f for n in needles)], [])

    def test_pass_is_green(self):
        self.assertEqual(failures("pass.tap"), {})

    def test_every_test_is_counted(self):
        rows = judge.judge_tests(judge.Tap(log("pass.tap")), ("fullfork",),
                                 {"fullfork": EXPECTED}, PROGRAMS)
        # Four tests, two programs, the list of names, all programs.
        self.assertEqual(len(rows), 8)

    def test_skip_is_red_where_the_feature_is_expected(self):
        self.only("skip.tap", "skipped: no CONFIG_FULLFORK")

    def test_skip_is_green_for_upstream(self):
        self.assertEqual(failures("skip.tap", strict=()), {})

    def test_failed_test_is_red(self):
        self.only("fail.tap", "process.rejects_clone_vm")

    def test_reason_of_a_failed_test_is_shown(self):
        self.assertEqual(judge.Tap(log("fail.tap")).programs[0].reasons(), [
            "# basic_test.c:61:rejects_clone_vm:Expected -22 (-22) == ret (-1)",
            "not ok 2 process.rejects_clone_vm"])

    def test_exit_status_without_failed_test_is_red(self):
        self.only("exit-without-not-ok.tap",
                  "exit status 1 without a failed test")

    def test_missing_test_breaks_the_plan(self):
        self.only("missing-test.tap", "planned 2 tests, ran 1",
                  "missing: blocked_test blocked.in_poll.restarts")

    def test_missing_test_with_its_plan_breaks_the_list(self):
        self.only("missing-test-plan-kept.tap",
                  "missing: blocked_test blocked.in_poll.restarts")

    def test_extra_test_breaks_the_list(self):
        self.only("extra-test.tap",
                  "not expected: blocked_test blocked.in_read.restarts")

    def test_timeout_is_red(self):
        self.only("timeout.tap", "did not end in time",
                  "missing: blocked_test blocked.in_poll.restarts")

    def test_leftover_process_is_red(self):
        self.only("leftover.tap", "left processes behind: 97 blocked_test")

    def test_cut_log_is_red(self):
        self.only("cut.tap", "did not end", "end of all programs seen 0 times")

    def test_programs_shared_by_two_guests_are_green(self):
        lines = log("pass.tap").splitlines()
        cut = next(i for i, line in enumerate(lines)
                   if "begin fullfork:blocked_test" in line)
        first = lines[:cut] + ["fullfork-ksft: done programs=1"]
        second = lines[cut:-1] + ["fullfork-ksft: done programs=1"]

        def rows(*texts):
            return judge.judge_tests(
                judge.Tap(*("\n".join(t) for t in texts)), ("fullfork",),
                {"fullfork": EXPECTED}, PROGRAMS)
        self.assertEqual([r for r in rows(first, second) if not r[1]], [])
        # Neither may lack its end, nor both run one program.
        for texts in ((first[:-1], second), (first, second + first[-1:]),
                      (first + first[-1:], second[:-1]), (first,),
                      (first, second, second)):
            self.assertNotEqual([r for r in rows(*texts) if not r[1]], [])

    def test_second_end_is_red(self):
        self.only("done-twice.tap", "end of all programs seen 2 times")

    def test_program_that_was_built_must_run(self):
        rows = judge.judge_tests(judge.Tap(log("pass.tap")), ("fullfork",),
                                 None, PROGRAMS + ["fullfork:exec_test"])
        self.assertEqual([r[0] for r in rows if not r[1]],
                         ["every program ran"])

    def test_one_name_for_two_tests_is_red(self):
        rows = judge.judge_tests(judge.Tap(log("same-name.tap")),
                                 ("fullfork",))
        self.assertEqual(
            [r[2] for r in rows if not r[1]],
            ["test process.returns_pid_and_zero ran twice"])

    def test_empty_log_is_red(self):
        rows = judge.judge_tests(judge.Tap(""), ("fullfork",),
                                 {"fullfork": EXPECTED}, PROGRAMS)
        self.assertEqual([r[1] for r in rows], [False, False])

    def test_program_without_plan_is_red(self):
        tap = judge.Tap("fullfork-ksft: begin a:b\nhello\n"
                        "fullfork-ksft: end a:b exit=0 secs=1\n"
                        "fullfork-ksft: done programs=1\n")
        self.assertIn(("a:b ends well", False, "no plan"),
                      judge.judge_tests(tap, ("a",)))
        self.assertIn(("a:b ends well", True, ""), judge.judge_tests(tap, ()))

    def test_program_killed_by_signal_is_red(self):
        tap = judge.Tap("fullfork-ksft: begin a:b\n1..1\n"
                        "fullfork-ksft: end a:b exit=-11 secs=1\n"
                        "fullfork-ksft: done programs=1\n")
        self.assertEqual(tap.programs[0].problems(),
                         ["killed by signal 11", "planned 1 tests, ran 0"])


class Console(unittest.TestCase):
    def check(self, name, needle):
        found = judge.judge_console(log(name + ".console"))
        self.assertTrue(any(needle in f for f in found), found)

    def test_pass_is_green(self):
        self.assertEqual(judge.judge_console(log("pass.console")), [])

    def test_oops_is_red(self):
        self.check("oops", "NULL pointer dereference")
        self.check("oops", "end marker seen 0 times")

    def test_hang_is_red_and_its_stacks_are_not_counted(self):
        self.assertEqual(judge.judge_console(log("hang.console")),
                         ["hang: hang: the job did not end within 90 s"])

    def test_cut_console_is_red(self):
        self.assertEqual(
            judge.judge_console(log("cut.console")),
            ["end marker seen 0 times, expected once (console cut?)"])

    def test_second_end_marker_is_red(self):
        self.assertEqual(judge.judge_console(log("twice.console")),
                         ["end marker seen 2 times, expected once"])

    def test_end_marker_that_was_written_again_is_green(self):
        text = log("replayed.console")
        self.assertEqual(judge.judge_console(text), [])
        self.assertEqual(judge.end_status(text), 0)

    def test_end_marker_behind_another_replay_is_red(self):
        text = log("replayed.console").replace("end status=0", "end status=1", 1)
        self.assertEqual(judge.judge_console(text),
                         ["end marker seen 2 times, expected once"])
        self.assertEqual(judge.end_status(text), None)

    def test_empty_console_is_red(self):
        self.assertEqual(len(judge.judge_console("")), 2)

    @staticmethod
    def console_with(lines):
        return log("pass.console").replace("fullfork-vm: end", "x\n" + lines +
                                           "fullfork-vm: end", 1)

    def test_allocation_that_a_test_lets_fail_is_green(self):
        self.assertEqual(judge.judge_console(self.console_with(FAULT)), [])

    def test_allocation_that_fails_for_others_is_red(self):
        text = self.console_with(FAULT.replace("fail_nth_test", "python3"))
        self.assertIn("Call Trace", " ".join(judge.judge_console(text)))

    def test_trouble_after_an_allocation_that_fails_is_red(self):
        text = self.console_with(FAULT + 12 * "x\n" + "[ 9.9] Call Trace:\n")
        self.assertIn("Call Trace", " ".join(judge.judge_console(text)))

    def test_oom_kill_inside_a_cgroup_is_green(self):
        self.assertEqual(judge.judge_console(log("oom-cgroup.console")), [])

    def test_timer_on_the_stack_of_an_example_is_green(self):
        self.assertEqual(judge.judge_console(log("odebug-example.console")), [])

    def test_other_object_on_a_stack_is_red(self):
        self.check("odebug", "ODEBUG: object")
        self.check("odebug", "WARNING: ")

    def test_trouble_after_such_an_example_is_red(self):
        text = log("odebug-example.console").replace(
            "[  900", "[  899.000000] BUG: KASAN: slab-use-after-free\n[  900")
        self.assertEqual(len(judge.judge_console(text)), 1)

    def test_other_oom_kill_is_red(self):
        self.check("oom", "Call Trace")
        self.check("oom", "Out of memory: Killed process")

    def test_trouble_after_an_oom_kill_is_red(self):
        found = judge.judge_console(log("oom-cgroup-then-oops.console"))
        self.assertEqual(len(found), 1)
        self.assertIn("9.200200", found[0])

    def test_each_kind_of_trouble_is_red(self):
        for name, needle in (("warning", "freezer.c:97"),
                             ("lockdep", "recursive locking"),
                             ("lockdep-circular", "circular locking"),
                             ("kasan", "slab-use-after-free"),
                             ("blocked", "blocked for more than"),
                             ("rcu-stall", "detected stalls"),
                             ("kmemleak", "3 new suspected"),
                             ("atomic-sleep", "sleeping function")):
            with self.subTest(name):
                self.check(name, needle)


class Negative(unittest.TestCase):
    def test_all_failing_is_green(self):
        rows = judge.judge_negative(judge.Tap(log("negative.tap")), "fullfork",
                                    EXPECTED)
        self.assertEqual([r for r in rows if not r[1]], [])
        self.assertEqual(len(rows), 4)

    def test_a_passing_test_is_red(self):
        rows = judge.judge_negative(judge.Tap(log("negative-leak.tap")),
                                    "fullfork", EXPECTED)
        self.assertEqual(len([r for r in rows if not r[1]]), 3)

    def test_a_skip_is_red(self):
        rows = judge.judge_negative(judge.Tap(log("skip.tap")), "fullfork",
                                    EXPECTED)
        self.assertEqual(len([r for r in rows if not r[1]]), 4)

    def test_a_test_that_did_not_run_is_red(self):
        rows = judge.judge_negative(judge.Tap(""), "fullfork", EXPECTED)
        self.assertEqual(len([r for r in rows if not r[1]]), 4)

    def test_nothing_expected_is_red(self):
        rows = judge.judge_negative(judge.Tap(""), "fullfork", [])
        self.assertFalse(rows[0][1])


class Compare(unittest.TestCase):
    def rows(self, name):
        return judge.judge_compare(judge.Tap(log("upstream-base.tap")),
                                   judge.Tap(log(name)))

    def test_same_is_green_although_a_test_fails_in_both(self):
        rows = self.rows("upstream-same.tap")
        self.assertEqual(len(rows), 5)
        self.assertEqual([r for r in rows if not r[1]], [])

    def test_worse_is_red(self):
        bad = [r for r in self.rows("upstream-worse.tap") if not r[1]]
        self.assertEqual([(b[0], b[2]) for b in bad],
                         [("clone3:clone3/clone3() in a new PID_NS",
                           "ok on base, not ok here")])

    def again(self, *rounds):
        """What is red after what was worse ran again: logs of base and of ours."""
        rows = judge.judge_again(self.rows("upstream-worse.tap"), [
            [judge.Tap(log("upstream-%s.tap" % name)) for name in pair]
            for pair in rounds])
        return [r[2] for r in rows if not r[1]]

    def test_worse_once_and_not_again_is_green(self):
        self.assertEqual(self.again(("base", "same"), ("base", "same")), [])

    def test_worse_again_is_red(self):
        self.assertEqual(
            self.again(("base", "same"), ("base", "worse")),
            ["ok on base, not ok here; then, of 2, 0 failed on base, 1 here"])

    def test_as_often_on_base_is_green(self):
        self.assertEqual(self.again(("worse", "worse"), ("base", "same")), [])

    def test_always_is_red_although_on_base_too(self):
        self.assertEqual(len(self.again(("worse", "worse"))), 1)

    def test_nothing_ran_again_is_red(self):
        self.assertEqual(len(self.again()), 1)

    def test_program_that_did_not_run_is_red(self):
        bad = [r for r in self.rows("pass.tap") if not r[1]]
        self.assertEqual(len(bad), 5)


class Listing(unittest.TestCase):
    def test_names_of_a_program(self):
        text = """\
# FIXTURE            VARIANT                   TEST
workers              in_futex_wait             keeps_robust_list
                     in_poll                   keeps_name
                                               keeps_affinity
--------------------------------------------------------------------------------
process                                        returns_pid
--------------------------------------------------------------------------------
a_fixture_with_a_very_long_name one                       first
                     a_variant_with_a_very_long_name
"""
        self.assertEqual(kselftest.parse_list(text), [
            "workers.in_futex_wait.keeps_robust_list",
            "workers.in_futex_wait.keeps_name",
            "workers.in_futex_wait.keeps_affinity",
            "workers.in_poll.keeps_robust_list",
            "workers.in_poll.keeps_name",
            "workers.in_poll.keeps_affinity",
            "process.returns_pid",
            "a_fixture_with_a_very_long_name.one.first",
            "a_fixture_with_a_very_long_name."
            "a_variant_with_a_very_long_name.first"])


class Choice(unittest.TestCase):
    def wanted(self, names):
        with unittest.mock.patch.dict(os.environ, PROGRAMS=names), \
                unittest.mock.patch.object(kselftest, "programs",
                                           lambda names: PROGRAMS):
            return kselftest.wanted_programs(["fullfork"])

    def test_some_or_all(self):
        self.assertEqual(self.wanted("blocked_test"), PROGRAMS[1:])
        self.assertEqual(self.wanted(""), PROGRAMS)

    def test_unknown_name_is_refused(self):
        with self.assertRaises(common.Failure):
            self.wanted("blocked_test blocked_tset")


class Numbers(unittest.TestCase):
    def number(self, value):
        with unittest.mock.patch.dict(os.environ, REPEAT=value):
            return common.number("REPEAT", 7)

    def test_numbers(self):
        self.assertEqual(self.number(""), 7)
        self.assertEqual(self.number("10"), 10)
        for bad in ("0", "-1", "x", "1.5", "\u0661"):
            with self.assertRaises(common.Failure):
                self.number(bad)


class Logs(unittest.TestCase):
    def test_every_stored_log_is_used(self):
        with open(os.path.abspath(__file__), encoding="utf-8") as f:
            text = f.read()
        for path in glob.glob(os.path.join(HERE, "logs", "*")):
            name = os.path.basename(path)
            self.assertTrue('"%s' % name.removesuffix(".console") in text,
                            name)


if __name__ == "__main__":
    unittest.main()
