#!/usr/bin/python3
"""Tests of manual_check.py and cli_help.py, on a small program and its page."""

import unittest

import cli_help
import manual_check

PROGRAM = """Usage: lockr COMMAND

Commands:
  run          hold keys
  config       read a config

Options:
  -h,--help    print this text
"""

RUN = """Holds keys.

Usage: lockr run KEY

Options:
  -h,--help                 print this text
  -w,--wait,--timeout SECONDS
                            wait -q so long
  --verbose                 say more

Examples:
  --no option
"""

CONFIG = """
Usage: lockr config look [FILE]
       lockr config

Options:
  -h,--help      print this text
"""

PAGE = """.Sh SYNOPSIS
.Nm
.Cm run
.Ar key
.Nm
.Cm config look
.Op Ar file
.Nm
.Cm config
.Sh DESCRIPTION
What it is.
.Ss run
.Bl -tag
.It Fl w , Fl -wait , Fl -timeout Ar seconds
Or
.Fl x .
.It Fl -verbose
.El
The options of
.Sx Every command .
apply.
.Ss config
The options of
.Sx Every command
apply.
.Ss Every command
.It Fl h , Fl -help
.Sh FILES
.Ss none
"""


class FakeHelp:
    def __init__(self, program=PROGRAM, run=RUN, config=CONFIG):
        self.texts = {"run": run, "config": config}
        self.program = program

    def commands(self):
        return cli_help.parse_commands(self.program)

    def forms(self, command):
        return cli_help.parse_forms(self.texts[command])

    def options(self, command):
        return cli_help.parse_options(self.texts[command])


class ManualCheck(unittest.TestCase):
    def test_help_is_read(self):
        self.assertEqual(cli_help.parse_commands(PROGRAM), ["run", "config"])
        self.assertEqual(cli_help.parse_forms(RUN), {"run"})
        self.assertEqual(cli_help.parse_forms(CONFIG), {"config look", "config"})
        expected = {"-h": False, "--help": False, "-w": True, "--wait": True, "--timeout": True, "--verbose": False}
        self.assertEqual(cli_help.parse_options(RUN), expected)

    def test_what_agrees_passes(self):
        self.assertEqual(manual_check.check(PAGE, FakeHelp()), [])

    def check_found(self, expected, page=PAGE, **texts):
        problems = manual_check.check(page, FakeHelp(**texts))
        self.assertEqual(len(problems), 1, problems)
        self.assertIn(expected, problems[0])

    def test_an_option_that_the_page_lacks(self):
        self.check_found("takes --grace", run=RUN.replace("  --verbose ", "  --grace S   time\n  --verbose "))

    def test_an_option_that_the_program_lacks(self):
        self.check_found("does not take --verbose", run=RUN.replace("  --verbose ", "    verbose "))

    def test_an_option_whose_value_is_forgotten(self):
        self.check_found("--verbose`: one of", page=PAGE.replace("-verbose", "-verbose Ar level", 1))

    def test_options_that_apply_must_be_referred_to(self):
        page = PAGE.replace(".Sx Every command\n", "")
        problems = manual_check.check(page, FakeHelp())
        self.assertEqual(len(problems), 2, problems)

    def test_a_command_that_the_page_lacks(self):
        self.check_found("SYNOPSIS lacks `lockr config see`", config=CONFIG.replace("FILE]\n", "FILE]\n       lockr config see\n"))
        self.check_found("`lockr config` has no subsection", page=PAGE.replace(".Ss config", ".Ss configs"))

    def test_a_command_that_the_program_lacks(self):
        self.check_found("no command `lockr dance`", page=PAGE.replace(".Nm\n", ".Nm\n.Cm dance\n.Nm\n", 1))

    def test_empty_help_is_no_agreement(self):
        self.assertNotEqual(manual_check.check(PAGE, FakeHelp(program="")), [])


if __name__ == "__main__":
    unittest.main()
