"""What the lockr program says of itself: its commands and options, read from `--help`."""

import re
import subprocess


def section(text, title):
    """The lines below `title`, up to the next empty one."""
    return text.partition(f"\n{title}\n")[2].partition("\n\n")[0].splitlines()


def parse_commands(text):
    """The commands that `lockr --help` lists, such as "run"."""
    return [re.split(r"\s{2,}", line.strip())[0] for line in section(text, "Commands:")]


def parse_forms(text):
    """The forms of the usage of a command's `--help`: "run", "config check"."""
    return set(re.findall(r"^(?:Usage:|      ) lockr ([a-z]+(?: [a-z]+)*)", text, re.MULTILINE))


def parse_options(text):
    """The spellings of the options that a `--help` lists, each with whether it takes a value."""
    options = {}
    for line in section(text, "Options:"):
        if declared := re.match(r"  (-\S+)( [A-Z]+)?(\s|$)", line):
            options.update(dict.fromkeys(declared[1].split(","), bool(declared[2])))
    return options


class Help:
    """Of the program at `path`; each text is asked for when it is needed."""

    def __init__(self, path):
        self.path = path

    def text(self, *command):
        return subprocess.run([self.path, *command, "--help"], check=True, capture_output=True, text=True).stdout

    def commands(self):
        return parse_commands(self.text())

    def forms(self, command):
        return parse_forms(self.text(command))

    def options(self, *command):
        return parse_options(self.text(*command))
