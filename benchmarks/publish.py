#!/usr/bin/python3
"""Puts the figures and plots of a run into a page of the docs.

usage: publish.py FOLDER PAGE     FOLDER is what bench.py wrote

What stands between <!-- bench: NAME --> and <!-- end --> is replaced: NAME is `machine` (what was measured, when and on
what), `figures` (all tables), `profile` (what cycle_profile.py wrote as FOLDER/profile.md; without it the old one stays) or a
plot's name without .svg. Plots go to a folder named like the page, beside it; those that the page does not show are not
copied.
"""

import datetime
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys

import bench

MARKED = re.compile(r"(<!-- bench: ([\w-]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)

# What decides over the figures besides lockr.
PACKAGES = ["postgresql-15", "redis-server", "libpq5", "libhiredis0.14", "libtbb12", "libboost1.74-dev", "g++",
            "python3-tooz", "python3-redis"]  # fmt: skip


def version_of(package):
    asked = ["dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Version}", package]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
    except OSError:
        answer = []
    return answer[1] if answer[:1] == ["ii"] else "missing"


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def revision():
    where = pathlib.Path(__file__).parent
    asked = ["git", "-C", where, "describe", "--always", "--dirty"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def machine(when):
    lines = [
        f"- {when:%Y-%m-%d}, revision {revision()}",
        f"- {len(os.sched_getaffinity(0))} CPUs, {processor()}; Linux {platform.release()}",
        "- " + ", ".join(f"{package} {version_of(package)}" for package in PACKAGES),
    ]
    return "\n".join(lines) + "\n"


def publish(folder, page):
    folder, page = pathlib.Path(folder), pathlib.Path(page)
    rows = json.loads((folder / "report.json").read_text())
    when = datetime.datetime.fromtimestamp((folder / "report.json").stat().st_mtime)
    plots = page.with_suffix("")
    made = {"machine": lambda: machine(when), "figures": lambda: bench.figures(rows)}

    def replacement(match):
        start, name, end = match.groups()
        if name in made:
            return start + made[name]() + end
        if name == "profile":
            profile = folder / "profile.md"
            return start + profile.read_text() + end if profile.exists() else match.group()
        plots.mkdir(exist_ok=True)
        shutil.copyfile(folder / "plots" / f"{name}.svg", plots / f"{name}.svg")
        return f"{start}![{name}]({plots.name}/{name}.svg)\n{end}"

    text = MARKED.sub(replacement, page.read_text())
    page.write_text(text)
    print(f"{page} and {plots}/ show this run", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    publish(*sys.argv[1:])
