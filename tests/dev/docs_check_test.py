#!/usr/bin/python3
"""Tests of docs_check.py: each kind of mistake is found, and what is right passes."""

import pathlib
import tempfile
import unittest

import docs_check

EXAMPLE = "int main() {\n  // [ten lines]\n  take();\n  give();\n  // [ten lines]\n}\n"


class DocsCheck(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        self.write("examples/a.cc", EXAMPLE)

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def problems(self, readme, name="README.md"):
        self.write(name, readme)
        return docs_check.Checker(self.root).run()

    def check_passes(self, readme, name="README.md"):
        self.assertEqual(self.problems(readme, name), [])

    def check_fails(self, readme, line, words):
        problems = self.problems(readme)
        self.assertEqual(len(problems), 1, problems)
        self.assertTrue(problems[0].startswith(f"README.md:{line}: "), problems[0])
        self.assertIn(words, problems[0])

    def test_links_to_files_folders_and_headings_pass(self):
        self.write("docs/keys.md", "# Keys, and `hash()`\n\n## Why?\n\n## Why?\n\n<a id=\"golden\"></a>\n")
        self.check_passes("[a](docs/keys.md) [b](docs) [c](docs/keys.md#keys-and-hash) [d](docs/keys.md#why-1)\n"
                          "[e](/docs/keys.md#golden) [f](https://example.org/none) [g](#top)\n\n# Top\n")

    def test_links_that_lead_nowhere_are_found(self):
        self.check_fails("text\n[a](docs/none.md)\n", 2, "docs/none.md")
        self.check_fails("[a](../outside.md)\n", 1, "../outside.md")
        self.check_fails("![a](none.png)\n", 1, "none.png")
        self.check_fails("[a]: none.md\n", 1, "none.md")
        self.check_fails('<img src="none.svg">\n', 1, "none.svg")

    def test_anchors_that_are_not_there_are_found(self):
        self.write("docs/keys.md", "# Keys\n\n```\n# not a heading\n```\n")
        self.check_fails("[a](docs/keys.md#not-a-heading)\n", 1, "#not-a-heading")
        self.check_fails("# Top\n\n[a](#bottom)\n", 3, "#bottom")

    def test_links_in_code_are_no_links(self):
        self.check_passes("`[a](none)`\n\n```\n[a](none)\n```\n")

    def test_quotes_of_a_file_and_of_a_region_pass(self):
        self.check_passes(f"<!-- quote: examples/a.cc -->\n```cpp\n{EXAMPLE}```\n")
        self.check_passes("<!-- quote: examples/a.cc [ten lines] -->\n\n```cpp\ntake();\ngive();\n```\n")

    def test_a_quote_that_differs_is_found(self):
        self.check_fails("<!-- quote: examples/a.cc [ten lines] -->\n```cpp\ntake();\n```\n", 2, "not what examples/a.cc")

    def test_a_quote_of_nothing_is_found(self):
        self.check_fails("<!-- quote: examples/none.cc -->\n```cpp\ntake();\n```\n", 2, "names nothing")
        self.check_fails("<!-- quote: examples/a.cc [eleven] -->\n```cpp\ntake();\n```\n", 2, "names nothing")

    def test_code_without_a_source_is_found(self):
        self.check_fails("text\n```cpp\ntake();\n```\n", 2, "quotes nothing")
        self.check_fails("<!-- illustrative -->\n```cpp\n```\n\n```c++\n```\n", 5, "quotes nothing")

    def test_other_code_needs_no_source(self):
        self.check_passes("<!-- illustrative -->\n```cpp\ntake();\n```\n\n```sh\n./dev test\n```\n\n```json\n{}\n```\n")
        self.check_passes("```cpp\nas it was\n```\n", name="docs/adr/0001-first.md")

    def test_docs_that_sources_name_exist(self):
        self.write("README.md", "")
        self.write("core/key.cc", "// see docs/keys.md\n")
        self.assertEqual(docs_check.Checker(self.root).run(), ["core/key.cc:1: there is no docs/keys.md"])
        self.write("docs/keys.md", "")
        self.check_passes("")

    def test_build_folders_are_left_alone(self):
        self.write("build-asan/page.md", "[a](none)\n")
        self.check_passes("")


if __name__ == "__main__":
    unittest.main()
