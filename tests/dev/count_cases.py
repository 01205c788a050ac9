#!/usr/bin/python3
"""Counts the test cases of one or more builds after `meson test`, and prints the closing total.

usage: count_cases.py NAME=BUILD_DIR...

A GoogleTest program counts each of its cases, any other test counts as one. A program that failed beside its cases (a
crash, a leak, a time-out) and a build that left no results count as one failed case more, so that nothing that went
wrong is counted as passed. Fails on a failed case and on no case at all.
"""

import json
import pathlib
import sys
import xml.etree.ElementTree as ElementTree


class Count:
    def __init__(self):
        self.passed, self.failed, self.skipped = 0, 0, 0

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def cases(self):
        return self.passed + self.failed + self.skipped


def count_gtest(suites):
    """The cases that a GoogleTest program reported."""
    count = Count()
    for suite in suites:
        for case in suite.iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                count.failed += 1
            elif case.find("skipped") is not None or case.get("status") != "run":
                count.skipped += 1
            else:
                count.passed += 1
    return count


def count_test(test, suites):
    """One test of Meson's: `test` is its line of testlog.json, `suites` what it reported in JUnit's format."""
    count = count_gtest(suites)
    if test["result"] == "SKIP":
        count.skipped += count.cases() == 0
    elif test["result"] not in ("OK", "EXPECTEDFAIL"):
        count.failed += count.failed == 0
    elif count.cases() == 0:
        ran_nothing = test["result"] == "OK" and "[==========] Running 0 tests" in test.get("stdout", "")
        count.failed += ran_nothing
        count.passed += not ran_nothing
    return count


def suites_by_test(junit, names):
    """Meson writes one JUnit suite a GoogleTest suite, named PROJECT.TEST.SUITE; tests without cases share one."""
    found = {name: [] for name in names}
    for suite in junit.iter("testsuite"):
        of_project = suite.get("name", "").partition(".")[2]
        owners = [name for name in names if of_project.startswith(name + ".")]
        if owners:
            found[max(owners, key=len)].append(suite)
    return found


def count_build(directory):
    logs = list(pathlib.Path(directory, "meson-logs").glob("testlog*.json"))  # a wrapper's name follows "testlog"
    if len(logs) != 1:
        raise ValueError(f"{len(logs)} results in {directory}")
    tests = [json.loads(line) for line in logs[0].read_text().splitlines()]
    own_names = [test["name"].rpartition(" / ")[2] for test in tests]
    if twice := {name for name in own_names if own_names.count(name) > 1}:
        raise ValueError(f"tests of one name write to one file of results: {', '.join(sorted(twice))}")
    suites = suites_by_test(ElementTree.parse(logs[0].with_suffix(".junit.xml")), [test["name"] for test in tests])
    count = Count()
    for test in tests:
        count.add(count_test(test, suites[test["name"]]))
    if count.cases() == 0:
        raise ValueError("no tests")
    return count


def main(builds):
    total = Count()
    for name, _, directory in (build.partition("=") for build in builds):
        try:
            count = count_build(directory)
            print(f"{name}: {count.cases()} cases, of which {count.failed} failed and {count.skipped} were skipped")
        except (OSError, ValueError, ElementTree.ParseError) as error:
            count = Count()
            count.failed = 1
            print(f"{name}: did not run ({error})")
        total.add(count)
    skipped = f", {total.skipped} skipped" if total.skipped else ""
    print(f"{total.passed} passed, {total.failed} failed{skipped}")
    return 0 if total.passed and not total.failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
