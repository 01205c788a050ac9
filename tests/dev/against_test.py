#!/usr/bin/python3
"""Tests of benchmarks/against.py and of what `./dev bench` refuses, with programs that write what a test wants."""

import contextlib
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import against  # noqa: E402


def run(name, time, **counters):
    return {"name": name, "run_name": name, "run_type": "iteration", "real_time": time, "time_unit": "ns", **counters}


class Against(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def program(self, side, *rounds, status=0, name="some_bench"):
        """One that writes the runs of the next round at each start, and notes the start."""
        path = self.folder / side / name
        path.parent.mkdir(exist_ok=True)
        texts = [json.dumps({"benchmarks": runs}) for runs in rounds]
        path.write_text(
            "#!/usr/bin/python3\nimport pathlib, sys\n"
            f"log = pathlib.Path({str(self.folder / 'starts')!r})\n"
            f"before = log.read_text() if log.exists() else ''\n"
            f"log.write_text(before + '{side} ' + ' '.join(sys.argv[1:]) + '\\n')\n"
            f"texts = {texts!r}\nout = sys.argv[1][len('--benchmark_out='):]\n"
            f"open(out, 'w').write(texts[[each.split()[0] for each in before.splitlines()].count({side!r}) % len(texts)]) if texts else None\n"
            f"sys.exit({status})\n"
        )
        path.chmod(0o755)

    def compare(self, *arguments):
        out, errors = io.StringIO(), io.StringIO()
        options = [f"--{side}={self.folder / side}" for side in ("here", "there", "out")]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            status = against.main([*options, "--name=HEAD~1", *arguments])
        return status, out.getvalue(), errors.getvalue()

    def rows(self):
        return json.loads((self.folder / "out" / "against.json").read_text())

    def starts(self):
        return [line.split() for line in (self.folder / "starts").read_text().splitlines()]

    def test_ratios_are_here_to_there_with_the_spread_of_the_rounds(self):
        self.program("here", [run("cycle", 80)], [run("cycle", 100)], [run("cycle", 90)])
        self.program("there", [run("cycle", 100)], [run("cycle", 100)], [run("cycle", 100)])
        self.assertEqual(self.compare("--rounds=3", "some_bench")[0], 0)
        [row] = self.rows()
        self.assertEqual([row[name] for name in ("here", "there", "ratio", "least", "most")], [90, 100, 0.9, 0.8, 1.0])
        self.assertNotIn("differs", (self.folder / "out" / "against.md").read_text())

    def test_what_no_round_denies_is_marked(self):
        self.program("here", [run("cycle", 80)], [run("cycle", 90)])
        self.program("there", [run("cycle", 100)])
        status, out, _ = self.compare("--rounds=2", "some_bench")
        self.assertEqual(status, 0)
        self.assertIn("differs", out)

    def test_both_run_in_turn_and_change_places(self):
        self.program("here", [run("cycle", 80)])
        self.program("there", [run("cycle", 80)])
        self.compare("--rounds=3", "--quick", "some_bench")
        starts = self.starts()
        self.assertEqual([words[0] for words in starts], ["here", "there", "there", "here", "here", "there"])
        for words in starts:
            self.assertEqual(words[2:], ["--benchmark_out_format=json", "--benchmark_repetitions=1", "--quick"])

    def test_rates_count_where_there_are_some_and_names_are_plain(self):
        name = "crowd/64_threads/iterations:1/repeats:5/manual_time"
        self.program("here", [run(name, 7e8, cycles_per_s=300.0, worst_share=0.9)])
        self.program("there", [run(name, 7e8, cycles_per_s=200.0, worst_share=0.1)])
        self.compare("--rounds=1", "some_bench")
        [row] = self.rows()
        self.assertEqual((row["benchmark"], row["figure"], row["ratio"]), ("crowd/64_threads", "cycles_per_s", 1.5))

    def test_a_benchmark_that_only_one_has_is_left_out(self):
        self.program("here", [run("cycle", 80), run("new", 1)])
        self.program("there", [run("cycle", 80), run("old", 1)])
        self.compare("--rounds=1", "some_bench")
        self.assertEqual([row["benchmark"] for row in self.rows()], ["cycle"])

    def test_a_program_that_only_one_has_is_named(self):
        self.program("here", [run("cycle", 80)], name="new_bench")
        self.program("here", [run("cycle", 80)])
        self.program("there", [run("cycle", 80)])
        status, out, _ = self.compare("--rounds=1", "new_bench", "some_bench")
        self.assertEqual(status, 0)
        self.assertIn(f"left out: there is no {self.folder / 'there' / 'new_bench'}", out)
        self.assertEqual(self.compare("--rounds=1", "new_bench")[0], 1)

    def test_a_program_that_fails_or_writes_nothing_fails(self):
        for rounds, status in [([[run("cycle", 80)]], 3), ([], 0)]:
            with self.subTest(status):
                self.program("here", *rounds, status=status)
                self.program("there", [run("cycle", 80)])
                code, _, errors = self.compare("--rounds=1", "some_bench")
                self.assertEqual(code, 1)
                self.assertIn("some_bench", errors)

    def test_no_round_is_none_to_compare(self):
        with self.assertRaises(SystemExit):
            self.compare("--rounds=0", "some_bench")


class DevBench(unittest.TestCase):
    """What is wrong is said before anything is installed or built."""

    def refusal(self, *arguments):
        done = subprocess.run([ROOT / "dev", "bench", *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        return done.stderr

    def test_a_revision_that_there_is_not(self):
        for arguments in (["--against", "no-such-revision"], ["--against=no-such-revision"]):
            self.assertIn("'no-such-revision' is no revision; give one as git knows it", self.refusal(*arguments))
        self.assertIn("'' is no revision", self.refusal("--against"))

    def test_options_that_do_not_go_together(self):
        self.assertIn("--publish takes the figures of a whole run", self.refusal("--quick", "--publish"))
        self.assertIn("--publish takes a run of all", self.refusal("--publish", "--only=file"))

    def test_an_argument_that_nobody_knows(self):
        self.assertIn("unknown argument '--fast'; there are --quick, --check", self.refusal("--fast"))


if __name__ == "__main__":
    unittest.main()
