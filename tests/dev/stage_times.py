#!/usr/bin/python3
"""How long the stages of `./dev` took, beside what they took when that was last kept.

usage: stage_times.py show TIMES KEPT NAME=BUILD_DIR... [--limit MINUTES]
       stage_times.py keep TIMES KEPT PAGE NAME=BUILD_DIR...

TIMES is what `./dev` wrote: a stage and its seconds a line; a later line of a stage replaces an earlier one. The test
programs of a build are read from its meson-logs. KEPT is a JSON file of an earlier run. `show` prints both and fails
when the stages took longer than the limit together, naming what grew. `keep` writes KEPT, and the table of PAGE.
What was kept is scaled by a calibration: a loop that both runs did, so that a slower machine is not taken for growth.
"""

import argparse
import hashlib
import json
import pathlib
import sys
import time

# A stage or a program has grown when it takes so many times, and so many seconds, longer than what was kept.
GREW_BY, GREW_SECONDS = 1.25, 10
# Programs below this share of a line are not worth one.
LONG_PROGRAM = 5
BEGIN, END = "<!-- stage times -->\n", "<!-- end -->\n"


def calibrate(rounds=5):
    """The seconds of a fixed amount of work on one processor: the best of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        digest = b""
        for number in range(200_000):
            digest = hashlib.sha256(digest + number.to_bytes(4, "little")).digest()
        best = min(best, time.perf_counter() - start)
    return best


def read_stages(path):
    stages = {}
    for line in pathlib.Path(path).read_text().splitlines():
        name, _, seconds = line.partition("\t")
        stages.pop(name, None)
        stages[name] = float(seconds)
    if not stages:
        raise ValueError(f"{path} names no stage; run ./dev test or .ci/run first")
    return stages


def read_programs(builds):
    """Each test program of the builds that took long, and its seconds; none of a build that was not tested."""
    programs = {}
    for build in builds:
        name, _, directory = build.partition("=")
        for log in sorted(pathlib.Path(directory, "meson-logs").glob("testlog*.json")):
            for line in log.read_text().splitlines():
                test = json.loads(line)
                if test["duration"] >= LONG_PROGRAM:
                    programs[name + ": " + test["name"].rpartition(" / ")[2]] = test["duration"]
    return dict(sorted(programs.items(), key=lambda entry: -entry[1]))


def grown(now, kept, scale):
    """Those that took longer than what was kept allows, as (name, seconds, seconds kept and scaled), the worst first."""
    found = []
    for name, seconds in now.items():
        before = kept.get(name, 0) * scale
        if seconds > before * GREW_BY and seconds > before + GREW_SECONDS:
            found.append((name, seconds, before))
    return sorted(found, key=lambda entry: entry[2] - entry[1])


def duration(seconds):
    return f"{int(seconds // 60)}:{int(seconds % 60):02}"


def table(now, kept, scale):
    width = max(map(len, now))
    for name, seconds in now.items():
        before = duration(kept[name] * scale) if name in kept else "new"
        yield f"  {name:{width}}  {duration(seconds):>6}  {before:>6}"


def show(arguments):
    stages, programs = read_stages(arguments.times), read_programs(arguments.builds)
    kept = {"calibration": None, "stages": {}, "programs": {}}
    if pathlib.Path(arguments.kept).exists():
        kept = json.loads(pathlib.Path(arguments.kept).read_text())
    # What waits does not become faster with the processor, so a faster machine is given no less.
    scale = max(1.0, calibrate() / kept["calibration"]) if kept["calibration"] else 1.0
    total = sum(stages.values())
    print(f"  Minutes and seconds of each stage, and when they were last kept (times {scale:.2f}, the speed of this machine):")
    print(*table(stages, kept["stages"], scale), sep="\n")
    print(f"  in all: {duration(total)}; a run may take {arguments.limit} minutes")
    if programs:
        print("  The longest test programs:")
        print(*table(dict(list(programs.items())[:15]), kept["programs"], scale), sep="\n")
    growth = grown(stages, kept["stages"], scale) + grown(programs, kept["programs"], scale)
    for name, seconds, before in growth:
        print(f"  grew: {name}: {duration(seconds)}, was {duration(before)}")
    if total > arguments.limit * 60:
        print(f"  This took longer than {arguments.limit} minutes. Make what grew shorter, or move it to ./dev soak.")
        return 1
    return 0


def keep(arguments):
    stages, programs = read_stages(arguments.times), read_programs(arguments.builds)
    kept = {
        "calibration": round(calibrate(), 4),
        "stages": {name: round(seconds) for name, seconds in stages.items()},
        "programs": {name: round(seconds) for name, seconds in programs.items()},
    }
    page = pathlib.Path(arguments.page)
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no place for the table: a line {BEGIN.strip()} and a line {END.strip()}")
    rows = [f"| {name} | {duration(seconds)} |\n" for name, seconds in stages.items()]
    total = f"| in all | {duration(sum(stages.values()))} |\n"
    page.write_text(before + begin + "| stage | min:s |\n|---|---|\n" + "".join(rows) + total + end + after)
    pathlib.Path(arguments.kept).write_text(json.dumps(kept, indent=2) + "\n")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for command in (show, keep):
        words = commands.add_parser(command.__name__)
        words.set_defaults(command=command)
        words.add_argument("times")
        words.add_argument("kept")
        if command is show:
            words.add_argument("--limit", type=float, default=75)
        else:
            words.add_argument("page")
        words.add_argument("builds", nargs="*")
    arguments = parser.parse_args()
    try:
        return arguments.command(arguments)
    except (OSError, ValueError) as error:
        print(f"stage times: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
