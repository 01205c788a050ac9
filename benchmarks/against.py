#!/usr/bin/python3
"""Runs the same benchmarks of two builds in turn, and says how they compare.

usage: against.py --here=FOLDER --there=FOLDER --name=REVISION --out=FOLDER [--quick] [--rounds=N] PROGRAM...

A PROGRAM is a name in both folders; one that is only in one of them is named and left out. In each round both are run,
once each, the one that was second in the round before first. What is compared of a benchmark is its cycles or turns a
second where it counts them, else its time. A ratio is here / there, of medians; beside it the least and the most of the
rounds' own ratios: where 1 lies between them, the difference may be noise. Peers, which are the same on both sides, show
how much of that there is. Writes against.json and against.md.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

RATES = ["cycles_per_s", "turns_per_s"]


class Failed(Exception):
    pass


def figure_of(run):
    """The name and value of what counts in one run of a benchmark."""
    for rate in RATES:
        if rate in run:
            return rate, run[rate]
    return f"time, {run['time_unit']}", run["real_time"]


def name_of(run):
    """Without what Google Benchmark adds on how it was run."""
    added = ("iterations:", "repeats:", "min_time:", "threads:", "real_time", "manual_time")
    return "/".join(part for part in run["run_name"].split("/") if not part.startswith(added))


def run_once(program, out, quick):
    """(benchmark, figure) and its value, of one run."""
    path = out / "against-run.json"
    path.unlink(missing_ok=True)
    command = [str(program), f"--benchmark_out={path}", "--benchmark_out_format=json", "--benchmark_repetitions=1"]
    done = subprocess.run(command + (["--quick"] if quick else []), check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{program} failed with status {done.returncode}\n{done.stderr}")
    try:
        runs = json.loads(path.read_text())["benchmarks"]
        found = {}
        for run in runs:
            if run["run_type"] == "iteration":
                figure, value = figure_of(run)
                found.setdefault((name_of(run), figure), []).append(value)
    except (OSError, ValueError, KeyError) as error:
        raise Failed(f"{program} wrote no figures: {error!r}") from error
    return {key: statistics.median(values) for key, values in found.items()}


def rounds_of(here, there, rounds, out, quick):
    """What each round found, here and there."""
    found = []
    for number in range(rounds):
        pair = {}
        for side in ["here", "there"] if number % 2 == 0 else ["there", "here"]:
            pair[side] = run_once({"here": here, "there": there}[side], out, quick)
        found.append((pair["here"], pair["there"]))
    return found


def compared(program, rounds):
    """A row for each benchmark that both have."""
    rows = []
    for key in rounds[0][0]:
        pairs = [(here.get(key), there.get(key)) for here, there in rounds]
        if any(not here or not there for here, there in pairs):
            continue
        ratios = sorted(here / there for here, there in pairs)
        here, there = (statistics.median(side) for side in zip(*pairs))
        rows.append({"program": program, "benchmark": key[0], "figure": key[1], "here": here, "there": there,
                     "ratio": here / there, "least": ratios[0], "most": ratios[-1]})  # fmt: skip
    return rows


def line(row):
    range_of_rounds = f"{row['least']:.2f} to {row['most']:.2f}"
    differs = "" if row["least"] <= 1 <= row["most"] else "differs"
    return [row["benchmark"], row["figure"], f"{row['here']:.4g}", f"{row['there']:.4g}", f"{row['ratio']:.2f}",
            range_of_rounds, differs]  # fmt: skip


def markdown(rows, name):
    header = ["program", "benchmark", "figure", "here", name, "ratio", "of the rounds", ""]
    lines = [header, ["---"] * 3 + ["---:"] * 3 + ["---"] * 2, *([row["program"], *line(row)] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def main(arguments):
    parser = argparse.ArgumentParser(prog="against.py", allow_abbrev=False)
    for folder in ["--here", "--there", "--out"]:
        parser.add_argument(folder, required=True, type=pathlib.Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("programs", nargs="+")
    asked = parser.parse_args(arguments)
    if asked.rounds < 1:
        parser.error("--rounds: at least 1")
    asked.out.mkdir(parents=True, exist_ok=True)
    rows, status = [], 0
    for number, program in enumerate(asked.programs, 1):
        print(f"[{number}/{len(asked.programs)}] {program}, {asked.rounds} rounds", flush=True)
        sides = [asked.here / program, asked.there / program]
        absent = [str(side) for side in sides if not side.exists()]
        if absent:
            print(f"  left out: there is no {' and no '.join(absent)}", flush=True)
            continue
        try:
            found = compared(program, rounds_of(*sides, asked.rounds, asked.out, asked.quick))
        except (Failed, OSError) as error:
            print(f"against.py: {error}", file=sys.stderr)
            status = 1
            continue
        rows += found
        for row in found:
            print("  {:<44} {:<16} {:>10} {:>10} {:>7}  {:<16} {}".format(*line(row)), flush=True)
    (asked.out / "against.json").write_text(json.dumps(rows, indent=2) + "\n")
    (asked.out / "against.md").write_text(markdown(rows, asked.name))
    print(f"{asked.out}/against.md and against.json are written", flush=True)
    return status if rows else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
