#!/usr/bin/python3
"""Where does the CPU time of one cycle go? Samples one thread's lock + release over each backend with perf.

usage: cycle_profile.py --build=FOLDER --out=FILE

Writes a table as Markdown. Client and server have different CPUs; each side's shares are of its own samples. perf must be
allowed to look at all CPUs (root, or kernel.perf_event_paranoid below 1).
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

# Of each backend: program, benchmark, and the server's name as the kernel has it.
CYCLES = {
    "memory": ("memory_bench", "^memory_cycle$", None),
    "file": ("file_bench", "^file_cycle$", None),
    "postgres": ("postgres_bench", "^lockr_release/apart", "postgres"),
    "redis": ("redis_bench", "^lockr_release/apart", "redis-server"),
}
CLIENT_PARTS = ["lockr", "libpq, OpenSSL, hiredis", "libc", "kernel"]
SERVER_PARTS = ["server", "kernel"]
MOST_NAMES = 4


class NoProfile(Exception):
    pass


def part_of_client(library):
    if library.startswith("[kernel") or library == "[unknown]":
        return "kernel"
    if library.startswith(("libpq", "libhiredis", "libcrypto", "libssl")):
        return "libpq, OpenSSL, hiredis"
    if library.startswith(("libc.", "libstdc++", "libm.", "libgcc", "ld-linux", "[vdso]", "libxxhash")):
        return "libc"
    return "lockr"


def part_of_server(library):
    return "kernel" if library.startswith("[kernel") else "server"


def samples(text):
    """(share, program, library, symbol) of each line that `perf report -t '|'` printed."""
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) == 4 and fields[0].endswith("%"):
            yield float(fields[0][:-1]), fields[1], fields[2], fields[3].removeprefix("[.] ").removeprefix("[k] ")


def shares(found):
    """Percent of the sum, rounded."""
    whole = sum(found.values())
    return {part: 100 * value / whole for part, value in found.items()} if whole else {}


def profile_of(text, program, server):
    """Shares of the client's parts and of the server's, and lockr's functions, most expensive first."""
    client, serving, functions = dict.fromkeys(CLIENT_PARTS, 0.0), dict.fromkeys(SERVER_PARTS, 0.0), {}
    for share, name, library, symbol in samples(text):
        if name == server:
            serving[part_of_server(library)] += share
        elif name == program or name.startswith("lockr-"):
            part = part_of_client(library)
            client[part] += share
            if part == "lockr" and library.startswith("liblockr"):
                functions[symbol] = functions.get(symbol, 0.0) + share
    if all(name != program for _, name, _, _ in samples(text)):
        raise NoProfile(f"no samples of {program}")
    whole = sum(client.values())
    dearest = sorted(functions, key=functions.get, reverse=True)[:MOST_NAMES]
    return shares(client), shares(serving), [(name, 100 * functions[name] / whole) for name in dearest]


def plain(function):
    """Without namespaces and parameters."""
    for word in ["(anonymous namespace)::", "lockr::", "core::"]:
        function = function.replace(word, "")
    return function.split("(")[0]


def record(build, backend):
    program, benchmark, server = CYCLES[backend]
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder) / "perf.data"
        command = [build / program, f"--benchmark_filter={benchmark}", "--benchmark_repetitions=1",
                   "--benchmark_min_time=8"]  # fmt: skip
        # What comes first is the server's start.
        asked = ["perf", "record", "--quiet", "--all-cpus", "--freq=4999", "--delay=2000", f"--output={data}", "--"]
        done = subprocess.run(asked + command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NoProfile(f"perf record {program}: {done.stderr.strip()}")
        shown = ["perf", "report", f"--input={data}", "--no-children", "--sort=comm,dso,sym", "--stdio", "--quiet",
                 "--field-separator=|"]  # fmt: skip
        text = subprocess.run(shown, capture_output=True, text=True, check=False).stdout
    return profile_of(text, program, server)


def percent(value):
    return "" if value is None else f"{value:.0f} %"


def markdown(profiles):
    header = ["of the client's time", *CLIENT_PARTS, "of the server's: its own", "kernel"]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1)]
    for backend, (client, serving, _) in profiles.items():
        lines.append([backend, *(percent(client[part]) for part in CLIENT_PARTS),
                      *(percent(serving.get(part)) for part in SERVER_PARTS)])  # fmt: skip
    text = "".join("| " + " | ".join(line) + " |\n" for line in lines) + "\n"
    for backend, (_, _, functions) in profiles.items():
        names = ", ".join(f"`{plain(name)}` {share:.1f} %" for name, share in functions)
        text += f"- {backend}, lockr's dearest functions: {names}\n"
    return text


def main(arguments):
    parser = argparse.ArgumentParser(prog="cycle_profile.py", allow_abbrev=False)
    parser.add_argument("--build", required=True, type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    asked = parser.parse_args(arguments)
    try:
        profiles = {}
        for backend in CYCLES:
            print(f"profile: {backend}", flush=True)
            profiles[backend] = record(asked.build, backend)
    except (NoProfile, OSError) as error:
        print(f"no profile: {error}; it takes linux-perf, and the right to look at all CPUs", file=sys.stderr)
        return 1
    asked.out.write_text(markdown(profiles))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
