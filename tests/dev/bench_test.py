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
import publish  # noqa: E402

ROW = {"question": "x: a cycle", "backend": "x", "threads": 1, "ours": 2.0, "ours_spread": [1.5, 2.5], "peer": 4.0,
       "peer_spread": [4.0, 4.0], "peer_name": "a peer", "unit": "ns", "ratio": 0.5, "goal": 0.6, "at_most": True,
       "holds": True}  # fmt: skip
MISSED = {**ROW, "question": "x: a slow cycle", "ratio": 0.7, "holds": False}
ABSENT = {**ROW, "question": "x: a cycle without its peer", "peer": None, "peer_spread": None, "ratio": None,
          "holds": None}  # fmt: skip
# Two peers in one contest, of which one is not installed.
CONTEST = [
    {**ROW, "question": "x: one hot key, 8 threads", "ours": 7_660_000.0, "peer": 1234.0, "peer_name": "slow peer",
     "ratio": 6207.0, "goal": None},
    {**ABSENT, "question": "x: one hot key, 8 threads", "ours": 7_660_000.0, "peer_name": "absent peer", "goal": None},
]  # fmt: skip
POINT = {"plot": "throughput", "backend": "memory", "line": "lockr", "x": 1, "value": 5.0, "least": 4.0, "most": 6.0,
         "unit": "cycles/s"}  # fmt: skip


def report(rows, points=()):
    return json.dumps({"rows": list(rows), "points": list(points)})


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
        programs = [self.program(report([ROW])), self.program(report([other]), name="other_bench")]
        self.assertEqual(self.run_bench("--check", *programs), (0, ""))
        self.assertEqual(self.report(), [ROW, other])
        self.assertIn("| x: a cycle | 2 (1.5 to 2.5) | 4 (a peer) | ns | 0.5 | ≤ 0.6 | holds |", self.markdown())
        self.assertIn("y: another", self.markdown())

    def test_check_names_a_missed_goal(self):
        program = self.program(report([ROW, MISSED]))
        self.assertEqual(self.run_bench(program)[0], 0)
        status, errors = self.run_bench("--check", program)
        self.assertEqual(status, 1)
        self.assertIn("x: a slow cycle: 0.70, the goal is ≤ 0.6", errors)
        self.assertNotIn("x: a cycle:", errors)

    def test_a_row_without_a_goal_is_not_checked(self):
        row = {**MISSED, "goal": None, "holds": True}
        self.assertEqual(self.run_bench("--check", self.program(report([row]))), (0, ""))

    def test_a_missing_peer_is_listed_and_does_not_hold(self):
        program = self.program(report([ABSENT]))
        status, errors = self.run_bench("--check", program)
        self.assertEqual(status, 1)
        self.assertIn("x: a cycle without its peer: not measured", errors)
        self.assertIn("| missing (a peer) | ns | missing | ≤ 0.6 | not measured |", self.markdown())

    def test_a_contest_is_a_table_of_its_own_with_those_that_are_missing(self):
        self.assertEqual(self.run_bench("--check", self.program(report([ROW, *CONTEST]))), (0, ""))
        self.assertIn("| cycles/s | lockr | slow peer | absent peer |", self.markdown())
        self.assertIn("| one hot key, 8 threads | **7.66 M** | 1.23 k | missing |", self.markdown())
        self.assertIn("| x: a cycle |", self.markdown())

    def test_bad_reports_fail(self):
        bad_rows = [
            1, {**ROW, "more": 1}, {**ROW, "threads": "one"}, {**ROW, "ours": True}, {**ROW, "ratio": float("nan")},
            {**ROW, "ours_spread": [1.0]}, {key: ROW[key] for key in ROW if key != "goal"}, {**MISSED, "holds": True},
            {**ABSENT, "holds": True},
        ]  # fmt: skip
        bad_points = [{**POINT, "x": "many"}, {**POINT, "more": 1}, 7]
        bad = [
            "", "[]", "{}", report([]), json.dumps({"rows": 1, "points": []}), *(report([row]) for row in bad_rows),
            *(report([ROW], [point]) for point in bad_points),
        ]  # fmt: skip
        for text in bad:
            with self.subTest(text):
                status, errors = self.run_bench(self.program(text))
                self.assertEqual(status, 1)
                self.assertIn("some_bench: ", errors)

    def test_a_program_that_fails_or_writes_nothing_fails(self):
        good = self.program(report([ROW]), name="good_bench")
        for text, status in [(report([ROW]), 3), (None, 0)]:
            with self.subTest(status):
                self.assertEqual(self.run_bench(self.program(text, status), good)[0], 1)
                self.assertEqual(self.report()[0], ROW)
        self.assertEqual(self.run_bench(str(self.folder / "none_such"))[0], 1)

    def test_rows_of_an_earlier_run_do_not_count(self):
        self.run_bench(self.program(report([ROW])))
        self.assertEqual(self.run_bench(self.program(None))[0], 1)

    def test_plots_of_an_earlier_run_do_not_stay(self):
        self.run_bench(self.program(report([], [POINT])))
        plot = self.folder / "out" / "plots" / "throughput.svg"
        self.assertTrue(plot.exists())
        self.assertIn("![throughput.svg](plots/throughput.svg)", self.markdown())
        self.run_bench(self.program(report([ROW])))
        self.assertFalse(plot.exists())

    def test_quick_is_passed_on_and_said(self):
        self.run_bench("--quick", self.program(report([ROW])))
        self.assertTrue((self.folder / "some_bench.args").read_text().endswith(" --quick"))
        self.assertIn("too short for figures", self.markdown())

    def publish(self, page):
        with contextlib.redirect_stdout(io.StringIO()):
            publish.publish(self.folder / "out", page)
        return page.read_text()

    def test_publish_puts_tables_and_plots_between_the_marks(self):
        page = self.folder / "performance.md"
        page.write_text(
            "before\n<!-- bench: figures -->\nold figures\n<!-- end -->\nbetween\n<!-- bench: machine -->\n<!-- end -->\n"
            "<!-- bench: throughput -->\n<!-- end -->\n<!-- bench: profile -->\nold profile\n<!-- end -->\nafter\n"
        )
        self.run_bench(self.program(report([ROW], [POINT])))
        text = self.publish(page)
        self.assertTrue(text.startswith("before\n<!-- bench: figures -->\n| question |"))
        self.assertNotIn("old figures", text)
        self.assertIn("\nbetween\n<!-- bench: machine -->\n- 2", text)
        self.assertIn("<!-- bench: throughput -->\n![throughput](performance/throughput.svg)\n<!-- end -->\n", text)
        self.assertTrue((self.folder / "performance" / "throughput.svg").exists())
        self.assertTrue(text.endswith("<!-- bench: profile -->\nold profile\n<!-- end -->\nafter\n"))
        self.assertEqual(self.publish(page), text)
        (self.folder / "out" / "profile.md").write_text("new profile\n")
        self.assertIn("<!-- bench: profile -->\nnew profile\n<!-- end -->", self.publish(page))

    def test_a_page_that_asks_for_a_plot_that_there_is_not_stays_as_it_is(self):
        page = self.folder / "performance.md"
        page.write_text("<!-- bench: nothing -->\n<!-- end -->\n<!-- bench: figures -->\n<!-- end -->\n")
        before = page.read_text()
        self.run_bench(self.program(report([ROW])))
        with self.assertRaises(FileNotFoundError):
            self.publish(page)
        self.assertEqual(page.read_text(), before)


if __name__ == "__main__":
    unittest.main()
