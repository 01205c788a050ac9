#!/usr/bin/python3
"""Tests of benchmarks/bench.py, with programs that write what a test wants."""

import contextlib
import io
import json
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "benchmarks"))
import bench  # noqa: E402

ROW = {"question": "x: a cycle", "backend": "x", "threads": 1, "ours": 2.0, "peer": 4.0, "peer_name": "a peer",
       "unit": "ns", "ratio": 0.5, "goal": 0.6, "at_most": True, "holds": True}  # fmt: skip
MISSED = {**ROW, "question": "x: a slow cycle", "ratio": 0.7, "holds": False}
ABSENT = {**ROW, "question": "x: a cycle without its peer", "peer": None, "ratio": None, "holds": None}


class Bench(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def program(self, text, status=0, name="some_bench"):
        """One that writes `text`, none if null, where it is told, and says with what arguments it was started."""
        path = self.folder / name
        path.write_text(
            f"#!/usr/bin/python3\nimport sys\nopen({str(path) + '.args'!r}, 'w').write(' '.join(sys.argv[1:]))\n"
            f"text = {text!r}\nif text is not None: open(sys.argv[1][len('--report='):], 'w').write(text)\n"
            f"sys.exit({status})\n"
        )
        path.chmod(0o755)
        return str(path)

    def run_bench(self, *arguments):
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            status = bench.main([f"--out={self.folder / 'out'}", *arguments])
        return status, errors.getvalue()

    def report(self):
        return json.loads((self.folder / "out" / "report.json").read_text())

    def markdown(self):
        return (self.folder / "out" / "report.md").read_text()

    def test_rows_of_all_programs_are_in_both_reports(self):
        other = {**ROW, "question": "y: another", "backend": "y"}
        programs = [self.program(json.dumps([ROW])), self.program(json.dumps([other]), name="other_bench")]
        self.assertEqual(self.run_bench("--check", *programs), (0, ""))
        self.assertEqual(self.report()[:2], [ROW, other])
        self.assertIn("| x: a cycle | 2 | 4 (a peer) | ns | 0.5 | ≤ 0.6 | holds |", self.markdown())
        self.assertIn("y: another", self.markdown())

    def test_check_names_a_missed_goal(self):
        program = self.program(json.dumps([ROW, MISSED]))
        self.assertEqual(self.run_bench(program)[0], 0)
        status, errors = self.run_bench("--check", program)
        self.assertEqual(status, 1)
        self.assertIn("x: a slow cycle: 0.70, the goal is ≤ 0.6", errors)
        self.assertNotIn("x: a cycle:", errors)

    def test_a_row_without_a_goal_is_not_checked(self):
        row = {**MISSED, "goal": None, "holds": True}
        self.assertEqual(self.run_bench("--check", self.program(json.dumps([row]))), (0, ""))

    def test_a_missing_peer_is_listed_and_does_not_hold(self):
        program = self.program(json.dumps([ABSENT]))
        status, errors = self.run_bench("--check", program)
        self.assertEqual(status, 1)
        self.assertIn("x: a cycle without its peer: not measured", errors)
        self.assertIn("| missing (a peer) | ns | missing | ≤ 0.6 | not measured |", self.markdown())

    def test_peers_that_nothing_measures_are_listed(self):
        self.run_bench(self.program(json.dumps([ROW])))
        listed = [(row["backend"], row["peer_name"]) for row in self.report()[1:]]
        self.assertEqual(listed, bench.NOT_COMPARED)
        self.assertIn("file: against flock(1) | missing", self.markdown())

    def test_bad_rows_fail(self):
        bad = [
            "", "{}", "[]", "[1]", json.dumps([{**ROW, "more": 1}]), json.dumps([{**ROW, "threads": "one"}]),
            json.dumps([{**ROW, "ours": True}]), json.dumps([{**ROW, "ratio": float("nan")}]),
            json.dumps([{key: ROW[key] for key in ROW if key != "goal"}]), json.dumps([{**MISSED, "holds": True}]),
            json.dumps([{**ABSENT, "holds": True}]),
        ]  # fmt: skip
        for text in bad:
            with self.subTest(text):
                status, errors = self.run_bench(self.program(text))
                self.assertEqual(status, 1)
                self.assertIn("some_bench: ", errors)

    def test_a_program_that_fails_or_writes_nothing_fails(self):
        good = self.program(json.dumps([ROW]), name="good_bench")
        for text, status in [(json.dumps([ROW]), 3), (None, 0)]:
            with self.subTest(status):
                self.assertEqual(self.run_bench(self.program(text, status), good)[0], 1)
                self.assertEqual(self.report()[0], ROW)
        self.assertEqual(self.run_bench(str(self.folder / "none_such"))[0], 1)

    def test_rows_of_an_earlier_run_do_not_count(self):
        self.run_bench(self.program(json.dumps([ROW])))
        self.assertEqual(self.run_bench(self.program(None))[0], 1)

    def test_quick_is_passed_on_and_said(self):
        self.run_bench("--quick", self.program(json.dumps([ROW])))
        self.assertTrue((self.folder / "some_bench.args").read_text().endswith(" --quick"))
        self.assertIn("too short for figures", self.markdown())


if __name__ == "__main__":
    unittest.main()
