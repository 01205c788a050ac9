#!/usr/bin/python3
"""Runs the benchmarks and writes what they found: report.json and report.md.

usage: bench.py --out=FOLDER [--quick] [--check] PROGRAM...

report.json is a list of rows {question, backend, threads, ours, peer, peer_name, unit, ratio, goal, at_most, holds}.
`goal` is null where the ratio is shown for comparison only. A row that was not measured has a null as its ratio, and one
of those that are missing as `ours` or `peer`; its `holds` is null too. Where there is no peer, `peer_name` is null, and
the ratio is what was measured itself.

Exit status: 1 when a program failed, wrote no rows or wrote rows that are none; with --check also when a row with a
goal missed it or was not measured. Each is named.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import time

FIELDS = {
    "question": str, "backend": str, "threads": int, "ours": (int, float, type(None)),
    "peer": (int, float, type(None)), "peer_name": (str, type(None)), "unit": str, "ratio": (int, float, type(None)),
    "goal": (int, float, type(None)), "at_most": bool, "holds": (bool, type(None)),
}  # fmt: skip

# What people compare with and no program here measures yet.
NOT_COMPARED = [
    ("memory", "std::shared_mutex"),
    ("memory", "Boost.Interprocess named mutex"),
    ("file", "flock(2)"),
    ("file", "flock(1)"),
    ("file", "python3-tooz"),
    ("postgres", "pgbench, the same two statements"),
    ("postgres", "python3-tooz"),
    ("redis", "python3-tooz"),
]


class BadRow(Exception):
    pass


def is_a(value, kind):
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) and not (isinstance(value, float) and not math.isfinite(value))


def checked(row):
    """The row, if it is one."""
    if not isinstance(row, dict) or set(row) != set(FIELDS):
        raise BadRow(f"not a row of a report: {json.dumps(row)}")
    for name, kind in FIELDS.items():
        if not is_a(row[name], kind):
            raise BadRow(f"{row['question']}: {name} is {json.dumps(row[name])}")
    if row["ratio"] is None:
        if row["holds"] is not None:
            raise BadRow(f"{row['question']}: it was not measured, yet holds is {json.dumps(row['holds'])}")
    elif row["holds"] is not reaches_goal(row):
        raise BadRow(f"{row['question']}: holds is {json.dumps(row['holds'])}, which its ratio and goal do not say")
    return row


def reaches_goal(row):
    if row["goal"] is None:
        return True
    return row["ratio"] <= row["goal"] if row["at_most"] else row["ratio"] >= row["goal"]


def read_rows(path):
    """What a program wrote."""
    try:
        rows = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadRow(f"{path.name}: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise BadRow(f"{path.name}: it has no rows")
    return [checked(row) for row in rows]


def not_compared(backend, peer):
    return {
        "question": f"{backend}: against {peer}", "backend": backend, "threads": 1, "ours": None, "peer": None,
        "peer_name": peer, "unit": "", "ratio": None, "goal": None, "at_most": False, "holds": None,
    }  # fmt: skip


def said(value):
    return "missing" if value is None else f"{value:.4g}"


def goal_of(row):
    return "" if row["goal"] is None else f"{'≤' if row['at_most'] else '≥'} {row['goal']:g}"


def verdict(row):
    if row["ratio"] is None:
        return "not measured"
    if row["goal"] is None:
        return ""
    return "holds" if row["holds"] else "**missed**"


def peer_of(row):
    if row["peer_name"] is None:
        return ""
    return f"{said(row['peer'])} ({row['peer_name']})"


def markdown(rows, quick):
    lines = ["# What the benchmarks found", ""]
    if quick:
        lines += ["A quick run: too short for figures.", ""]
    lines += ["| question | lockr | peer | unit | ratio | goal | |", "|---|---:|---|---|---:|---|---|"]
    for row in rows:
        cells = [row["question"], said(row["ours"]), peer_of(row), row["unit"], said(row["ratio"]), goal_of(row),
                 verdict(row)]  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def not_holding(rows):
    """What --check complains about, a line each."""
    complaints = []
    for row in rows:
        if row["goal"] is None or row["holds"]:
            continue
        found = "not measured" if row["ratio"] is None else f"{row['ratio']:.2f}"
        complaints.append(f"{row['question']}: {found}, the goal is {goal_of(row)}")
    return complaints


def run_program(program, out, quick):
    """The rows of one program. Its own output is shown as it comes."""
    path = out / (pathlib.Path(program).name + ".json")
    path.unlink(missing_ok=True)
    status = subprocess.run([program, f"--report={path}"] + (["--quick"] if quick else []), check=False).returncode
    if status != 0:
        raise BadRow(f"it failed with status {status}")
    return read_rows(path)


def run_all(programs, out, quick):
    rows, faults = [], []
    begin = time.monotonic()
    for number, program in enumerate(programs, 1):
        print(f"[{number}/{len(programs)}] {program}, {time.monotonic() - begin:.0f} s so far", flush=True)
        try:
            rows += run_program(program, out, quick)
        except (BadRow, OSError) as fault:
            faults.append(f"{program}: {fault}")
    return rows, faults


def main(arguments):
    parser = argparse.ArgumentParser(prog="bench.py", allow_abbrev=False)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("programs", nargs="+")
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    rows, faults = run_all(asked.programs, asked.out, asked.quick)
    rows += [not_compared(backend, peer) for backend, peer in NOT_COMPARED]
    (asked.out / "report.json").write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
    (asked.out / "report.md").write_text(markdown(rows, asked.quick))
    print(f"{asked.out}/report.json and report.md are written", flush=True)
    for fault in faults:
        print(fault, file=sys.stderr)
    complaints = not_holding(rows)
    for complaint in complaints:
        print(f"does not hold: {complaint}", file=sys.stderr)
    return 1 if faults or (asked.check and complaints) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
