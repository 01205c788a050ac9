#!/usr/bin/python3
"""Tests of stage_times.py, on made-up times."""

import contextlib
import io
import json
import pathlib
import tempfile
import unittest
from unittest import mock

import stage_times


class StageTimes(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.times, self.kept, self.page = (self.folder / name for name in ("times.tsv", "kept.json", "page.md"))
        self.page.write_text(f"before\n{stage_times.BEGIN}old\n{stage_times.END}after\n")
        # The speed of the machine that the tests run on is no part of what they judge.
        calibration = mock.patch.object(stage_times, "calibrate", lambda: self.calibration)
        calibration.start()
        self.addCleanup(calibration.stop)
        self.calibration = 1.0

    def run_it(self, *arguments):
        """What the program printed, and its exit status."""
        output = io.StringIO()
        with mock.patch("sys.argv", ["stage_times.py", *map(str, arguments)]):
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                status = stage_times.main()
        return output.getvalue(), status

    def write_times(self, **stages):
        self.times.write_text("".join(f"{name}\t{seconds}\n" for name, seconds in stages.items()))

    def build(self, **programs):
        logs = self.folder / "build" / "meson-logs"
        logs.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"name": f"lockr:unit / {name}", "duration": time}) for name, time in programs.items()]
        (logs / "testlog.json").write_text("\n".join(lines) + "\n")
        return f"release={self.folder / 'build'}"

    def keep(self, *builds):
        return self.run_it("keep", self.times, self.kept, self.page, *builds)

    def show(self, *arguments):
        return self.run_it("show", self.times, self.kept, *arguments)

    def test_a_run_shows_its_stages_and_its_longest_programs(self):
        self.write_times(check=61, tests=600)
        output, status = self.show(self.build(slow=42.2, quick=0.1))
        self.assertEqual(status, 0)
        self.assertRegex(output, r"check +1:01 +new\n")
        self.assertRegex(output, r"in all: 11:01;")
        self.assertRegex(output, r"release: slow +0:42 +new\n")
        self.assertNotIn("quick", output)

    def test_a_stage_that_ran_again_counts_once(self):
        self.times.write_text("tests\t500\ncheck\t10\ntests\t20\n")
        self.assertIn("in all: 0:30;", self.show()[0])

    def test_above_the_limit_it_fails_and_names_what_grew(self):
        self.write_times(check=60, tests=600)
        self.keep(self.build(slow=100))
        self.write_times(check=60, tests=1000)
        output, status = self.show(self.build(slow=300), "--limit", 15)
        self.assertEqual(status, 1)
        self.assertIn("grew: tests: 16:40, was 10:00", output)
        self.assertIn("grew: release: slow: 5:00, was 1:40", output)
        self.assertNotIn("grew: check", output)

    def test_below_the_limit_growth_is_named_and_passes(self):
        self.write_times(tests=600)
        self.keep()
        self.write_times(tests=1000)
        output, status = self.show()
        self.assertEqual(status, 0)
        self.assertIn("grew: tests", output)

    def test_a_slower_machine_is_not_taken_for_growth(self):
        self.write_times(tests=600)
        self.keep()
        self.write_times(tests=1100)
        self.calibration = 2.0
        self.assertNotIn("grew", self.show()[0])

    def test_a_faster_machine_may_take_as_long(self):
        self.write_times(tests=600)
        self.keep()
        self.calibration = 0.5
        self.assertNotIn("grew", self.show()[0])

    def test_what_is_kept_stands_in_the_page(self):
        self.write_times(check=61, tests=600)
        self.assertEqual(self.keep(), ("", 0))
        table = "| stage | min:s |\n|---|---|\n| check | 1:01 |\n| tests | 10:00 |\n| in all | 11:01 |\n"
        self.assertEqual(self.page.read_text(), f"before\n{stage_times.BEGIN}{table}{stage_times.END}after\n")

    def test_without_times_it_says_what_to_run(self):
        self.times.write_text("")
        output, status = self.show()
        self.assertEqual(status, 1)
        self.assertIn("run ./dev test or .ci/run first", output)

    def test_a_page_without_a_place_is_left_alone(self):
        self.write_times(tests=1)
        self.page.write_text("nothing\n")
        self.assertEqual(self.keep()[1], 1)
        self.assertEqual(self.page.read_text(), "nothing\n")
        self.assertFalse(self.kept.exists())


if __name__ == "__main__":
    unittest.main()
