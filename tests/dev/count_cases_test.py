#!/usr/bin/python3
"""Tests of count_cases.py, on results as Meson writes them."""

import contextlib
import io
import json
import pathlib
import tempfile
import unittest

import count_cases

GTEST_SUITE = '<testsuite name="lockr.lockr:unit / key.Key">{}</testsuite>'
PASSED = '<testcase name="a" status="run"/>'
FAILED = '<testcase name="b" status="run"><failure message="no"/></testcase>'
SKIPPED = '<testcase name="c" status="run"><skipped message="no"/></testcase>'
DISABLED = '<testcase name="DISABLED_d" status="notrun"/>'


class CountCases(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def build(self, name, tests, suites="", log="testlog"):
        """A build folder whose log has `tests`, pairs of name and result, and these JUnit suites."""
        logs = pathlib.Path(self.folder.name, name, "meson-logs")
        logs.mkdir(parents=True)
        lines = [json.dumps({"name": test, "result": result, "stdout": stdout}) for test, result, stdout in tests]
        (logs / f"{log}.json").write_text("\n".join(lines))
        (logs / f"{log}.junit.xml").write_text(f"<testsuites>{suites}</testsuites>")
        return f"{name}={logs.parent}"

    def count(self, *builds):
        """The last line printed, and the exit status."""
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            status = count_cases.main(builds)
        return output.getvalue().splitlines()[-1], status

    def test_counts_the_cases_of_a_gtest_program(self):
        build = self.build("release", [("lockr:unit / key", "OK", "")], GTEST_SUITE.format(PASSED * 3))
        self.assertEqual(self.count(build), ("3 passed, 0 failed", 0))

    def test_failed_skipped_and_disabled_cases_are_told_apart(self):
        suite = GTEST_SUITE.format(PASSED + FAILED + SKIPPED + DISABLED)
        build = self.build("release", [("lockr:unit / key", "FAIL", "")], suite)
        self.assertEqual(self.count(build), ("1 passed, 1 failed, 2 skipped", 1))

    def test_a_program_that_fails_beside_its_cases_counts_as_failed(self):
        for result in ("FAIL", "ERROR", "TIMEOUT", "INTERRUPT", "UNEXPECTEDPASS"):
            with self.subTest(result):
                build = self.build(result, [("lockr:unit / key", result, "")], GTEST_SUITE.format(PASSED))
                self.assertEqual(self.count(build), ("1 passed, 1 failed", 1))

    def test_a_program_without_cases_counts_as_one(self):
        tests = [("lockr / a", "OK", ""), ("lockr / b", "SKIP", ""), ("lockr / c", "TIMEOUT", "")]
        self.assertEqual(self.count(self.build("release", tests)), ("1 passed, 1 failed, 1 skipped", 1))

    def test_a_gtest_program_that_ran_nothing_failed(self):
        tests = [("lockr / a", "OK", ""), ("lockr:unit / key", "OK", "[==========] Running 0 tests from 0 suites.")]
        self.assertEqual(self.count(self.build("release", tests)), ("1 passed, 1 failed", 1))

    def test_a_name_that_starts_like_another_keeps_its_cases(self):
        tests = [("lockr:unit / key", "OK", ""), ("lockr:unit / key.parse", "OK", "")]
        suites = GTEST_SUITE.format(PASSED) + '<testsuite name="lockr.lockr:unit / key.parse.Key">' + PASSED * 2
        build = self.build("release", tests, suites + "</testsuite>")
        self.assertEqual(self.count(build), ("3 passed, 0 failed", 0))

    def test_results_of_a_wrapper_are_found(self):
        self.assertEqual(self.count(self.build("asan", [("lockr / a", "OK", "")], log="testlog-setarch")), ("1 passed, 0 failed", 0))

    def test_builds_are_added_up(self):
        builds = [self.build(name, [("lockr / a", "OK", "")]) for name in ("release", "asan")]
        self.assertEqual(self.count(*builds), ("2 passed, 0 failed", 0))

    def test_a_build_without_results_or_tests_failed(self):
        builds = [self.build("release", [("lockr / a", "OK", "")]), self.build("asan", []), "tsan=/nonexistent"]
        self.assertEqual(self.count(*builds), ("1 passed, 2 failed", 1))

    def test_two_tests_of_one_name_are_refused(self):
        build = self.build("release", [("lockr:unit / text", "OK", ""), ("lockr:cli / text", "OK", "")])
        self.assertEqual(self.count(build), ("0 passed, 1 failed", 1))

    def test_nothing_passed_is_a_failure(self):
        self.assertEqual(self.count(self.build("release", [("lockr / a", "SKIP", "")])), ("0 passed, 0 failed, 1 skipped", 1))


if __name__ == "__main__":
    unittest.main()
