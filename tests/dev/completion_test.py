#!/usr/bin/python3
"""completion_test.py LOCKR FOLDER: what bash and zsh offer with the completions in FOLDER, against LOCKR's own help.

bash calls the function as readline would; zsh completes at a terminal of its own, and tells what compadd was given.
"""

import os
import pathlib
import pty
import re
import select
import shlex
import subprocess
import sys
import tempfile
import time
import unittest

from cli_help import Help

LOCKR, FOLDER = (pathlib.Path(sys.argv.pop(1)).resolve() for _ in range(2))
DEADLINE = 60  # Seconds for what takes a moment.

ZSH_SETUP = """
PS1= PS2= RPS1=
unsetopt zle_bracketed_paste 2>/dev/null
fpath=({folder} $fpath)
autoload -Uz compinit && compinit -u -D
compadd() {{
  if [[ " $* " == *" -"[AOD]" "* ]]; then builtin compadd "$@"; return; fi
  local -a hits
  builtin compadd -O hits "$@"
  print -rl -- $hits >>{offers}
  builtin compadd "$@"
}}
tell() {{ _main_complete; print -r -- "<end>" >>{offers}; }}
zle -C tell complete-word tell
bindkey '^I' tell
cd {work}
print -r -- "<ready>" >>{offers}
"""


def readline_words(line):
    """As readline takes it apart: at blanks, and runs of ':' and '=' are words of their own."""
    words = re.findall(r"[:=]+|[^\s:=]+", line)
    return words + [""] if not words or line[-1].isspace() else words


def bash_offers(line, folder, environment):
    words = readline_words(line)
    script = f"""
        source {shlex.quote(str(FOLDER / "lockr.bash"))}
        COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
        COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}
        COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)}
        _lockr lockr "${{COMP_WORDS[-1]}}" "${{COMP_WORDS[-2]}}"
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    run = subprocess.run(
        ["bash", "--norc", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if run.returncode != 0 or run.stderr:
        raise AssertionError(f"{line!r}: {run.returncode} {run.stderr}")
    return set(run.stdout.split())


class Zsh:
    """An interactive zsh on a terminal of its own."""

    def __init__(self, folder, environment):
        self.offers_file = folder / "offers"
        self.offers_file.touch()
        work = folder / "work"
        setup = folder / "setup.zsh"
        setup.write_text(
            ZSH_SETUP.format(folder=shlex.quote(str(FOLDER)), offers=self.offers_file, work=work)
        )
        master, terminal = pty.openpty()
        self.master = master
        self.process = subprocess.Popen(
            ["zsh", "-f", "-i"],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env=dict(environment, TERM="xterm"),
            start_new_session=True,
        )
        os.close(terminal)
        self.type(f"source {setup}\n")
        self.wait_for("<ready>")

    def type(self, text):
        os.write(self.master, text.encode())

    def wait_for(self, end):
        """The lines that were told before `end`, which are then forgotten."""
        screen, until = b"", time.monotonic() + DEADLINE
        while time.monotonic() < until:
            if select.select([self.master], [], [], 0.02)[0]:
                screen += os.read(self.master, 65536)
            lines = self.offers_file.read_text().splitlines()
            if end in lines:
                self.offers_file.write_text("")
                return set(lines[: lines.index(end)]) - {""}
        raise AssertionError(f"zsh did not answer; its screen: {screen[-2000:]!r}")

    def offers(self, line):
        self.type("\x15" + line + "\t")  # ^U: an empty line first
        return self.wait_for("<end>")

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)


class Completion:
    """What both shells must offer; `offers` is the shell's."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.work = self.folder / "work"
        self.work.mkdir()
        (self.work / "prod.json").write_text("{}")
        (self.work / "prod.d").mkdir()
        programs = self.folder / "bin"
        programs.mkdir()
        (programs / "lockr").symlink_to(LOCKR)
        (programs / "frobnicate-all").symlink_to("/bin/true")
        # What a busy machine needs longer for than the shells wait is no matter here.
        (programs / "timeout").write_text('#!/bin/sh\nshift\nexec "$@"\n')
        (programs / "timeout").chmod(0o755)
        self.environment = {
            "PATH": f"{programs}:/usr/bin:/bin",
            "HOME": str(self.work),
            "LOCKR_DIR": str(self.folder / "locks"),
            "LC_ALL": "C",
            **{name: value for name, value in os.environ.items() if name.endswith("SAN_OPTIONS")},
        }
        self.help = Help(LOCKR)

    def hold(self, *keys, backend=()):
        holder = subprocess.Popen(
            [LOCKR, "run", *backend, *keys, "--", "sh", "-c", "echo held; read _"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment,
        )
        self.addCleanup(holder.wait)
        self.addCleanup(holder.stdout.close)
        self.addCleanup(holder.stdin.close)
        self.assertEqual(holder.stdout.readline(), b"held\n")

    def test_commands(self):
        commands = set(self.help.commands())
        self.assertGreater(len(commands), 5)
        self.assertEqual(self.offers("lockr "), commands | self.unasked)
        self.assertEqual(self.offers("lockr wh"), {"who", "why"})

    def test_options_are_those_of_the_help(self):
        for command in self.help.commands():
            options = set(self.help.options(command))
            self.assertGreater(len(options), 3)
            self.assertEqual(self.offers(f"lockr {command} --"), {name for name in options if name[:2] == "--"})
            self.assertEqual(self.offers(f"lockr {command} -"), options, command)

    def test_forms_of_config(self):
        forms = {form.split()[1] for form in self.help.forms("config")}
        self.assertEqual(self.offers("lockr config "), forms)
        self.assertLessEqual({"prod.json"}, self.offers("lockr config check pro"))

    def test_files_for_config(self):
        for words in ("run --config ", "who --config ", "who --config="):
            self.assertEqual(self.offers(f"lockr {words}pro"), self.files)

    def test_nothing_for_values_that_only_the_user_knows(self):
        self.hold("nightly")
        for option in ("--label", "-w", "--grace", "--backend", "-E", "-c"):
            self.assertEqual(self.offers(f"lockr run {option} n"), set(), option)

    def test_commands_after_the_separator(self):
        self.hold("frob")
        self.assertEqual(self.offers("lockr run key -- frobni"), {"frobnicate-all"})
        self.assertEqual(self.offers("lockr run key -- frobnicate-all pro"), self.files)

    def test_keys_that_are_held(self):
        self.hold("tenant:42:invoice", "tenant:7", "nightly", "$(evil)")
        for command in ("run", "who", "why"):
            self.assertEqual(self.offers(f"lockr {command} nig"), {"nightly"})
        self.assertEqual(self.offers("lockr run "), {"tenant:42:invoice", "tenant:7", "nightly"})
        self.assertEqual(self.offers("lockr run nightly tenant:4"), self.after_colons("tenant:", "42:invoice"))
        self.assertEqual(self.offers("lockr why tenant:42:"), self.after_colons("tenant:42:", "invoice"))

    def test_keys_of_the_engine_that_was_named(self):
        backend = ("--backend", f"file:{self.folder}/others")
        self.hold("elsewhere", backend=backend)
        self.assertEqual(self.offers("lockr why else"), set())
        self.assertEqual(self.offers(f"lockr why {' '.join(backend)} else"), {"elsewhere"})
        self.assertEqual(self.offers(f"lockr why {'='.join(backend)} else"), {"elsewhere"})

    def test_nothing_when_the_engine_can_not_be_asked(self):
        self.assertEqual(self.offers("lockr why --config /nonexistent "), set())


class Bash(Completion, unittest.TestCase):
    unasked = {"-h", "--help", "-V", "--version"}
    files = {"prod.json", "prod.d"}

    def offers(self, line):
        return bash_offers(line, self.work, self.environment)

    def after_colons(self, _before, rest):
        return {rest}  # readline replaces what follows the last of them


class ZshCompletion(Completion, unittest.TestCase):
    unasked = set()
    files = {"prod.json", "prod.d"}

    def setUp(self):
        super().setUp()
        self.zsh = Zsh(self.folder, self.environment)
        self.addCleanup(self.zsh.close)

    def offers(self, line):
        return self.zsh.offers(line)

    def after_colons(self, before, rest):
        return {before + rest}


if __name__ == "__main__":
    unittest.main()
