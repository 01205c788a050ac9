#!/usr/bin/python3
"""Checks the man page against the program: each command and option of one is in the other.

usage: manual_check.py LOCKR lockr.1

A command is a subsection of DESCRIPTION, with each of its forms in SYNOPSIS; its options are the subsection's own and
those of the subsections that it says apply (`.Sx`). mandoc must have no complaint either.
"""

import re
import subprocess
import sys

from cli_help import Help


def lines_of_section(text, title):
    return f"\n{text}".partition(f"\n.Sh {title}\n")[2].partition("\n.Sh ")[0].splitlines()


def synopsis(text):
    """The commands of SYNOPSIS; what follows a `.Cm` that stands directly after `.Nm`."""
    return set(re.findall(r"^\.Nm\n\.Cm (.+)$", "\n".join(lines_of_section(text, "SYNOPSIS")), re.MULTILINE))


def subsections(text):
    """Of DESCRIPTION: name -> lines."""
    found, lines = {}, []
    for line in lines_of_section(text, "DESCRIPTION"):
        if line.startswith(".Ss "):
            lines = found[line[4:]] = []
        else:
            lines.append(line)
    return found


def own_options(lines):
    """The spellings in the tags of a list, each with whether it takes a value."""
    options = {}
    for line in lines:
        if line.startswith(".It Fl "):
            for name in re.findall(r"Fl (\S+)", line):
                options["-" + name] = " Ar " in line
    return options


def options_of(command, parts):
    options = own_options(parts[command])
    for line in parts[command]:
        named = re.match(r"\.Sx (.+)", line)
        if named and named[1].strip(" .,") in parts:
            options |= own_options(parts[named[1].strip(" .,")])
    return options


def check(text, help_of):
    """What is wrong with the page, as sentences; help_of answers as cli_help.Help does."""
    problems = []
    parts, listed = subsections(text), synopsis(text)
    forms = {form for command in help_of.commands() for form in help_of.forms(command)}
    problems += [f"SYNOPSIS lacks `lockr {form}`" for form in sorted(forms - listed)]
    problems += [f"there is no command `lockr {form}`" for form in sorted(listed - forms)]
    for command in help_of.commands():
        if command not in parts:
            problems.append(f"`lockr {command}` has no subsection")
        else:
            problems += compare(command, help_of.options(command), options_of(command, parts))
    return problems


def compare(command, program, page):
    for name in sorted(program.keys() | page.keys()):
        if name not in page:
            yield f"`lockr {command}` takes {name}, and its subsection does not say so"
        elif name not in program:
            yield f"`lockr {command}` does not take {name}"
        elif program[name] != page[name]:
            yield f"`lockr {command} {name}`: one of help and page has a value for it, the other none"


def main(program, page):
    with open(page, encoding="utf-8") as file:
        problems = check(file.read(), Help(program))
    for problem in problems:
        print(f"{page}: {problem}")
    lint = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], check=False)
    return 1 if problems or lint.returncode else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
