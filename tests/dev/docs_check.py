#!/usr/bin/python3
"""Checks the docs: links, anchors, and that C++ shown to readers is C++ that the tests build and run.

usage: docs_check.py [FOLDER]      (default: this repository)

- Each relative link and image of a Markdown file leads to a file of the repository, and its #anchor to a heading.
- Each fenced `cpp` block is a quote, named by the line before it:
      <!-- quote: examples/first_lock.cc -->              the whole file
      <!-- quote: examples/first_lock.cc [ten lines] -->  what stands between the two lines `// [ten lines]`, unindented
  or it is marked `<!-- illustrative -->`. Decision records (docs/adr/) show what was, and quote nothing.
- Each docs/….md that a source file names exists.
"""

import pathlib
import re
import sys
import textwrap
from urllib.parse import unquote

CODE_LANGUAGES = ("cpp", "c++", "cc")
FENCE = re.compile(r"^\s*(`{3,}|~{3,})\s*([^\s`]*)")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$")
LINK = re.compile(r'\]\(<?([^)\s>]+)>?(?:\s+"[^"]*")?\)|^\s*\[[^\]]+\]:\s*(\S+)|(?:href|src)="([^"]+)"')
EXPLICIT_ANCHOR = re.compile(r'<a\s+(?:id|name)="([^"]+)"')
QUOTE = re.compile(r"^<!-- quote: (\S+)(?: \[(.+)\])? -->$")
ILLUSTRATIVE = "<!-- illustrative -->"
NAMED_DOC = re.compile(r"\bdocs/[\w/-]+\.md\b")
SOURCES = {".h", ".cc", ".in", ".build"}


class Page:
    """One Markdown file, split into prose lines (outside fences) and fenced blocks."""

    def __init__(self, path):
        self.path = path
        self.prose = []  # (line number, text)
        self.blocks = []  # (line number, language, the line of prose before it, text)
        fence, block, before = None, [], ""
        for number, line in enumerate(path.read_text().splitlines(), 1):
            mark = FENCE.match(line)
            if fence is None and mark:
                fence, language, start, block = mark.group(1), mark.group(2).lower(), number, []
            elif fence and mark and mark.group(1).startswith(fence) and not mark.group(2):
                self.blocks.append((start, language, before, textwrap.dedent("\n".join(block))))
                fence, before = None, ""
            elif fence:
                block.append(line)
            else:
                self.prose.append((number, line))
                before = line.strip() or before

    def anchors(self):
        """Those GitHub makes of headings: lower case, punctuation dropped, spaces as '-', repeats numbered."""
        found, seen = set(), {}
        for _, line in self.prose:
            found.update(EXPLICIT_ANCHOR.findall(line))
            heading = HEADING.match(line)
            if not heading:
                continue
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.group(1))
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            repeat = seen[slug] = seen.get(slug, -1) + 1
            found.add(f"{slug}-{repeat}" if repeat else slug)
        return found

    def links(self):
        for number, line in self.prose:
            for groups in LINK.findall(re.sub(r"`[^`]*`", "", line)):
                yield number, next(filter(None, groups))


class Checker:
    def __init__(self, root):
        self.root = root.resolve()
        self.problems = []
        self.pages = {path: Page(path) for path in self.files({".md"})}

    def files(self, suffixes):
        for path in sorted(self.root.rglob("*")):
            parts = path.relative_to(self.root).parts
            if path.suffix in suffixes and path.is_file() and not parts[0].startswith((".", "build")):
                yield path

    def problem(self, path, line, text):
        self.problems.append(f"{path.relative_to(self.root)}:{line}: {text}")

    def check_link(self, page, line, link):
        if re.match(r"[a-z][a-z+.-]*:", link, re.IGNORECASE):
            return
        path, _, anchor = unquote(link).partition("#")
        base = self.root if path.startswith("/") else page.path.parent
        target = (base / path.lstrip("/")).resolve() if path else page.path
        if not target.is_relative_to(self.root) or not target.exists():
            self.problem(page.path, line, f"the link '{link}' leads nowhere")
        elif anchor and target in self.pages and anchor not in self.pages[target].anchors():
            self.problem(page.path, line, f"'{path or page.path.name}' has no heading '#{anchor}'")

    def quoted(self, file, region):
        """The text a quote must equal, or None when it is not there."""
        path = self.root / file
        if not path.is_file():
            return None
        lines = path.read_text().splitlines()
        if region:
            marks = [number for number, line in enumerate(lines) if line.strip() == f"// [{region}]"]
            if len(marks) != 2:
                return None
            lines = lines[marks[0] + 1 : marks[1]]
        return textwrap.dedent("\n".join(lines)).strip("\n")

    def check_block(self, page, line, before, text):
        if before == ILLUSTRATIVE:
            return
        quote = QUOTE.match(before)
        if not quote:
            self.problem(page.path, line, f"this code quotes nothing: say what before it, or {ILLUSTRATIVE}")
            return
        source = self.quoted(*quote.groups())
        if source is None:
            self.problem(page.path, line, f"'{before}' names nothing that is there")
        elif source != text.strip("\n"):
            self.problem(page.path, line, f"this is not what {quote.group(1)} says; the source is right")

    def run(self):
        for page in self.pages.values():
            for line, link in page.links():
                self.check_link(page, line, link)
            if self.root / "docs" / "adr" in page.path.parents:
                continue
            for line, language, before, text in page.blocks:
                if language in CODE_LANGUAGES:
                    self.check_block(page, line, before, text)
        for path in self.files(SOURCES):
            for number, text in enumerate(path.read_text().splitlines(), 1):
                for doc in NAMED_DOC.findall(text):
                    if not (self.root / doc).is_file():
                        self.problem(path, number, f"there is no {doc}")
        return self.problems


def main(arguments):
    root = pathlib.Path(arguments[0]) if arguments else pathlib.Path(__file__).resolve().parents[2]
    checker = Checker(root)
    problems = checker.run()
    for problem in problems:
        print(problem)
    if not checker.pages:
        print(f"{root}: no Markdown file here")
    return 1 if problems or not checker.pages else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
