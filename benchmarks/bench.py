#!/usr/bin/python3
"""Runs the benchmarks and writes what they found: report.json, report.md, points.json and a folder plots/ of SVG.

usage: bench.py --out=FOLDER [--quick] [--check] PROGRAM...

report.json is a list of rows {question, backend, threads, ours, ours_spread, peer, peer_spread, peer_name, unit, ratio,
goal, at_most, holds}. Values are medians, a spread is the least and the most of the repetitions. `goal` is null where the
ratio is shown for comparison only. A row that was not measured has a null as its ratio, and one of those that are missing
as `ours` or `peer`; its `holds` is null too. Where there is no peer, `peer_name` is null, and the ratio is what was
measured itself. points.json is what the plots show.

Exit status: 1 when a program failed, wrote no rows and points or wrote what are none; with --check also when a row with
a goal missed it or was not measured. Each is named.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import time

NUMBER = (int, float)
FIELDS = {
    "question": str, "backend": str, "threads": int, "ours": (*NUMBER, type(None)), "ours_spread": (list, type(None)),
    "peer": (*NUMBER, type(None)), "peer_spread": (list, type(None)), "peer_name": (str, type(None)), "unit": str,
    "ratio": (*NUMBER, type(None)), "goal": (*NUMBER, type(None)), "at_most": bool, "holds": (bool, type(None)),
}  # fmt: skip
POINT_FIELDS = {
    "plot": str, "backend": str, "line": str, "x": NUMBER, "value": NUMBER, "least": NUMBER, "most": NUMBER, "unit": str,
}  # fmt: skip


class BadReport(Exception):
    pass


def is_a(value, kind):
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, list):
        return list in kinds and len(value) == 2 and all(is_a(each, NUMBER) for each in value)
    return isinstance(value, kinds) and not (isinstance(value, float) and not math.isfinite(value))


def has_fields(entry, fields, what):
    if not isinstance(entry, dict) or set(entry) != set(fields):
        raise BadReport(f"not a {what} of a report: {json.dumps(entry)}")
    for name, kind in fields.items():
        if not is_a(entry[name], kind):
            raise BadReport(f"{entry.get('question', what)}: {name} is {json.dumps(entry[name])}")
    return entry


def checked(row):
    """The row, if it is one."""
    has_fields(row, FIELDS, "row")
    if row["ratio"] is None:
        if row["holds"] is not None:
            raise BadReport(f"{row['question']}: it was not measured, yet holds is {json.dumps(row['holds'])}")
    elif row["holds"] is not reaches_goal(row):
        raise BadReport(f"{row['question']}: holds is {json.dumps(row['holds'])}, which its ratio and goal do not say")
    return row


def reaches_goal(row):
    if row["goal"] is None:
        return True
    return row["ratio"] <= row["goal"] if row["at_most"] else row["ratio"] >= row["goal"]


def read_report(path):
    """The rows and points that a program wrote."""
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadReport(f"{path.name}: {error}") from error
    if not isinstance(report, dict) or set(report) != {"rows", "points"}:
        raise BadReport(f"{path.name}: it is not rows and points")
    if not all(isinstance(each, list) for each in report.values()) or not any(report.values()):
        raise BadReport(f"{path.name}: it has no rows and no points")
    return [checked(row) for row in report["rows"]], [
        has_fields(point, POINT_FIELDS, "point") for point in report["points"]
    ]


# ---- the page


def said(value):
    return "missing" if value is None else f"{value:.4g}"


def large(value):
    """For cells where a hundredth more or less is noise."""
    if value is None:
        return "missing"
    for size, letter in [(1e6, " M"), (1e3, " k")]:
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def with_spread(value, spread):
    return said(value) if spread is None or spread[0] == spread[1] else f"{said(value)} ({said(spread[0])} to {said(spread[1])})"


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
    return f"{with_spread(row['peer'], row['peer_spread'])} ({row['peer_name']})"


def table(header, alignment, lines):
    cells = [header, alignment, *lines]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells]


def comparisons(rows):
    """The questions that several peers were asked: by backend, the rows of each."""
    found = {}
    for row in rows:
        if row["goal"] is None and row["peer_name"] is not None:
            found.setdefault(row["backend"], {}).setdefault(row["question"], []).append(row)
    return {
        backend: {question: asked for question, asked in questions.items() if len(asked) > 1}
        for backend, questions in found.items()
        if any(len(asked) > 1 for asked in questions.values())
    }


def figures_table(rows):
    compared = {question for questions in comparisons(rows).values() for question in questions}
    lines = [
        [row["question"], with_spread(row["ours"], row["ours_spread"]), peer_of(row), row["unit"], said(row["ratio"]),
         goal_of(row), verdict(row)]
        for row in rows if row["question"] not in compared
    ]  # fmt: skip
    header = ["question", "lockr", "peer", "unit", "ratio", "goal", ""]
    return table(header, ["---", "---:", "---", "---", "---:", "---", "---"], lines)


def comparison_table(questions):
    peers = list(dict.fromkeys(row["peer_name"] for asked in questions.values() for row in asked))
    lines = []
    for question, asked in questions.items():
        by_peer = {row["peer_name"]: row for row in asked}
        cells = [large(by_peer[peer]["peer"]) if peer in by_peer else "" for peer in peers]
        lines.append([question.split(": ", 1)[-1], f"**{large(asked[0]['ours'])}**", *cells])
    return table(["cycles/s", "lockr", *peers], ["---"] + ["---:"] * (1 + len(peers)), lines)


def figures(rows):
    """The tables, as Markdown."""
    lines = figures_table(rows)
    for backend, questions in comparisons(rows).items():
        lines += ["", f"The same work for everybody, {backend}:", "", *comparison_table(questions)]
    return "\n".join(lines) + "\n"


def markdown(rows, plots, quick):
    lines = ["# What the benchmarks found", ""]
    if quick:
        lines += ["A quick run: too short for figures.", ""]
    return "\n".join(lines) + "\n" + figures(rows) + "".join(f"\n![{name}](plots/{name})\n" for name in plots)


def not_holding(rows):
    """What --check complains about, a line each."""
    complaints = []
    for row in rows:
        if row["goal"] is None or row["holds"]:
            continue
        found = "not measured" if row["ratio"] is None else f"{row['ratio']:.2f}"
        complaints.append(f"{row['question']}: {found}, the goal is {goal_of(row)}")
    return complaints


# ---- the run


def run_program(program, out, quick):
    """The rows and points of one program. Its own output is shown as it comes."""
    path = out / (pathlib.Path(program).name + ".json")
    path.unlink(missing_ok=True)
    status = subprocess.run([program, f"--report={path}"] + (["--quick"] if quick else []), check=False).returncode
    if status != 0:
        raise BadReport(f"it failed with status {status}")
    return read_report(path)


def run_all(programs, out, quick):
    rows, points, faults = [], [], []
    begin = time.monotonic()
    for number, program in enumerate(programs, 1):
        print(f"[{number}/{len(programs)}] {program}, {time.monotonic() - begin:.0f} s so far", flush=True)
        try:
            more_rows, more_points = run_program(program, out, quick)
            rows += more_rows
            points += more_points
        except (BadReport, OSError) as fault:
            faults.append(f"{program}: {fault}")
    print(f"{time.monotonic() - begin:.0f} s in all", flush=True)
    return rows, points, faults


def draw(points, folder):
    """The names of the plots. They take a library that a row does not need."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    try:
        import plots
    except ImportError as error:
        raise BadReport(f"no plots: {error}; install python3-matplotlib") from error
    return plots.draw(points, folder)


def main(arguments):
    parser = argparse.ArgumentParser(prog="bench.py", allow_abbrev=False)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("programs", nargs="+")
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    rows, points, faults = run_all(asked.programs, asked.out, asked.quick)
    names = []
    try:
        names = draw(points, asked.out / "plots")
    except BadReport as fault:
        faults.append(str(fault))
    (asked.out / "report.json").write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
    (asked.out / "points.json").write_text(json.dumps(points, indent=2, ensure_ascii=False) + "\n")
    (asked.out / "report.md").write_text(markdown(rows, names, asked.quick))
    print(f"{asked.out}/report.md, report.json and {len(names)} plots are written", flush=True)
    for fault in faults:
        print(fault, file=sys.stderr)
    complaints = not_holding(rows)
    for complaint in complaints:
        print(f"does not hold: {complaint}", file=sys.stderr)
    return 1 if faults or (asked.check and complaints) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
