#!/usr/bin/python3
"""Tests of benchmarks/plots.py."""

import pathlib
import re
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "benchmarks"))
import plots  # noqa: E402


def point(plot, backend, line, x, value):
    return {"plot": plot, "backend": backend, "line": line, "x": x, "value": value, "least": value * 0.9,
            "most": value * 1.1, "unit": "unit"}  # fmt: skip


def everything():
    """A line of lockr and one of a peer with an awkward name in each plot of each backend."""
    points = []
    for figure in plots.FIGURES:
        for backend in plots.BACKENDS:
            xs = [figure.bars_at[backend]] if figure.bars_at else list(figure.x_names) or [1, 10, 100]
            for plot in figure.plots:
                for line, value in [("lockr", 200.0), ("a <peer> & co", 3000.0)]:
                    points += [point(plot, backend, line, x, value) for x in xs]
    return points


def texts_of(path):
    root = xml.fromstring(path.read_bytes())
    return [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]


class AllPlots(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.names = plots.draw(everything(), cls.folder)

    def test_each_figure_is_one_well_formed_file_that_names_its_lines(self):
        self.assertEqual(self.names, [f"{figure.name}.svg" for figure in plots.FIGURES])
        self.assertEqual(sorted(self.names), sorted(path.name for path in self.folder.iterdir()))
        for figure, name in zip(plots.FIGURES, self.names):
            with self.subTest(name):
                texts = texts_of(self.folder / name)
                self.assertIn(figure.title, texts)
                for word in [*plots.BACKENDS, "lockr", "a <peer> & co"]:
                    self.assertIn(word, texts)

    def test_text_and_axes_suit_light_and_dark_pages(self):
        for name in self.names:
            text = (self.folder / name).read_text()
            with self.subTest(name):
                self.assertIn("@media (prefers-color-scheme: dark)", text)
                self.assertNotIn(plots.INK, text)
                colours = set(re.findall(r"#[0-9a-f]{6}", text.split("</style>", 1)[1]))
                self.assertLessEqual(colours, {plots.OURS, plots.FLOOR, *plots.OTHERS})
                for letters in re.findall(r"<text [^>]*>", text):
                    self.assertIn("var(--ink)", letters)


class Plots(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_colours_of_lines_stand_out_from_white_and_from_black(self):
        def luminance(colour):
            parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
            linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
            return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

        for colour in [plots.OURS, plots.FLOOR, *plots.OTHERS]:
            with self.subTest(colour):
                self.assertGreaterEqual(1.05 / (luminance(colour) + 0.05), 3)
                self.assertGreaterEqual((luminance(colour) + 0.05) / 0.0566, 3)

    def test_the_same_points_make_the_same_file(self):
        points = [each for each in everything() if each["plot"] == "waiters"]
        [name] = plots.draw(points, self.folder)
        first = (self.folder / name).read_bytes()
        plots.draw(points, self.folder)
        self.assertEqual((self.folder / name).read_bytes(), first)

    def test_what_was_not_measured_is_left_out(self):
        only = [each for each in everything() if each["backend"] == "file" and each["plot"] == "held"]
        self.assertEqual(plots.draw(only, self.folder), ["held.svg"])
        self.assertNotIn("memory", texts_of(self.folder / "held.svg"))
        self.assertEqual(plots.draw([], self.folder), [])

    def test_bars_say_the_sum_of_client_and_server(self):
        at = next(figure for figure in plots.FIGURES if figure.name == "cpu").bars_at["redis"]
        points = [point("cpu_client", "redis", "lockr", at, 30), point("cpu_server", "redis", "lockr", at, 12),
                  point("cpu_client", "redis", "lockr", at + 1, 500)]  # fmt: skip
        plots.draw(points, self.folder)
        self.assertIn(" 42", texts_of(self.folder / "cpu.svg"))


if __name__ == "__main__":
    unittest.main()
