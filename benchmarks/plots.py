"""Draws what the benchmarks found as SVG, a file for each question: draw(points, folder) returns the files' names.

A point is {plot, backend, line, x, value, least, most, unit}. Text and axes take the colour that suits a light or a dark
page, by prefers-color-scheme; the lines' colours are readable on both.
"""

import dataclasses
import pathlib

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402

# What axes and text are drawn in, to be replaced by a colour of the page's.
INK = "#010203"
SCHEMES = """<style>
:root { --ink: #24292f }
@media (prefers-color-scheme: dark) { :root { --ink: #d0d7de } }
</style>
"""
OURS, FLOOR = "#e8590c", "#8b949e"
OTHERS = ["#1f77d0", "#2f9e44", "#ae5bd6", "#c2255c", "#0c8599", "#b08800"]
BACKENDS = ["memory", "file", "postgres", "redis"]

STYLE = {
    "svg.fonttype": "none",  # Text stays text.
    "svg.hashsalt": "lockr",  # The same points make the same file.
    "font.size": 9,
    "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.facecolor": "none", "figure.facecolor": "none", "savefig.transparent": True, "legend.frameon": False,
    "axes.grid": True, "grid.alpha": 0.15, "grid.color": INK, "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip


@dataclasses.dataclass
class Figure:
    """`plots` are drawn as lines over x, or, with `bars_at`, as bars of those at that x, one upon the other."""

    name: str
    title: str
    plots: list
    x_label: str = ""
    y_label: str = ""
    scale: float = 1
    bars_at: dict = dataclasses.field(default_factory=dict)
    x_names: dict = dataclasses.field(default_factory=dict)
    log_y: bool = True


PARTS = {50.0: "p50", 99.0: "p99", 99.9: "p99.9"}
FIGURES = [
    Figure("throughput", "Cycles a second, each member on keys of its own", ["throughput"],
           "threads (file: processes)", "cycles/s"),
    Figure("latency", "How long a cycle takes, one member alone", ["latency"], "", "µs", 1e-3, x_names=PARTS),
    Figure("latency-hot", "How long a cycle takes, eight members on one key", ["latency_hot"], "", "µs", 1e-3,
           x_names=PARTS),
    Figure("held", "A cycle of one who holds other keys", ["held"], "keys held", "µs a cycle", 1e-3),
    Figure("waiters", "A cycle beside threads that wait for another key", ["waiters"], "waiters", "µs a cycle", 1e-3),
    Figure("lock-all", "Several keys locked together and given back", ["lock_all"], "keys", "µs a key", 1e-3),
    Figure("connections", "Connections in use", ["connections"], "threads", "connections", log_y=False),
    Figure("cpu", "CPU of a cycle, four members (darker: client, lighter: server)", ["cpu_client", "cpu_server"],
           "µs a cycle", bars_at={"memory": 4, "file": 4, "postgres": 4, "redis": 4}),
    Figure("memory", "Memory of a held key (darker: client, lighter: server)", ["memory_client", "memory_server"],
           "bytes", bars_at={"memory": 1_000_000, "file": 10_000, "postgres": 10_000, "redis": 10_000}),
]  # fmt: skip


def lines_of(points):
    """The points of each line, in the order in which lines first come."""
    lines = {}
    for point in points:
        lines.setdefault(point["line"], []).append(point)
    return lines


def looks(names):
    """Colour and style of each line: ours stands out, what is no lock at all stands back."""
    others = iter(OTHERS * 3)
    found = {}
    for name in names:
        if name.startswith("lockr"):
            found[name] = {"color": OURS, "linewidth": 2.4, "linestyle": "-" if name == "lockr" else "--"}
        elif name.startswith("two "):
            found[name] = {"color": FLOOR, "linewidth": 1.2, "linestyle": ":"}
        else:
            found[name] = {"color": next(others), "linewidth": 1.4, "linestyle": "-"}
    return found


def draw_lines(axes, figure, points):
    lines = lines_of(points)
    for name, look in looks(lines).items():
        ordered = sorted(lines[name], key=lambda point: point["x"])
        at = [list(figure.x_names).index(point["x"]) if figure.x_names else point["x"] for point in ordered]
        values = [point["value"] * figure.scale for point in ordered]
        axes.plot(at, values, label=name, marker="o", markersize=3, **look)
        axes.fill_between(at, [point["least"] * figure.scale for point in ordered],
                          [point["most"] * figure.scale for point in ordered],
                          color=look["color"], alpha=0.12, linewidth=0)  # fmt: skip
    if figure.x_names:
        axes.set_xticks(range(len(figure.x_names)), figure.x_names.values())
    else:
        axes.set_xscale("log")
        xs = sorted({point["x"] for point in points})
        if max(xs) <= 1000:
            axes.set_xticks(xs, [f"{x:g}" for x in xs])
    if figure.log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.minorticks_off()
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8)


def draw_bars(axes, figure, points):
    names = list(looks(lines_of(points)).items())[::-1]
    start = dict.fromkeys((name for name, _ in names), 0.0)
    for alpha, plot in zip((1.0, 0.45), figure.plots):
        for row, (name, look) in enumerate(names):
            value = sum(p["value"] for p in points if p["plot"] == plot and p["line"] == name) * figure.scale
            axes.barh(row, value, left=start[name], color=look["color"], alpha=alpha, height=0.6)
            start[name] += value
    for row, (name, _) in enumerate(names):
        axes.text(start[name], row, f" {start[name]:.3g}", va="center", fontsize=8)
    axes.set_yticks(range(len(names)), [name for name, _ in names])
    axes.set_xlabel(figure.x_label)
    axes.margins(x=0.15)
    axes.grid(axis="y", visible=False)


def panels_of(figure, points):
    """The points of each backend that has some."""
    panels = {}
    for backend in BACKENDS:
        mine = [point for point in points if point["plot"] in figure.plots and point["backend"] == backend]
        if figure.bars_at:
            mine = [point for point in mine if point["x"] == figure.bars_at[backend]]
        if mine:
            panels[backend] = mine
    return panels


def svg_of(figure, panels):
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    height = 2.2 if figure.bars_at else 3.6
    with matplotlib.rc_context(STYLE):
        drawing, all_axes = pyplot.subplots(rows, columns, figsize=(4.6 * columns, height * rows), squeeze=False,
                                            constrained_layout=True)  # fmt: skip
        drawing.suptitle(figure.title, fontsize=11)
        for axes in all_axes.flat[len(panels):]:
            axes.set_visible(False)
        for axes, (backend, points) in zip(all_axes.flat, panels.items()):
            axes.set_title(backend, fontsize=10)
            (draw_bars if figure.bars_at else draw_lines)(axes, figure, points)
        return drawing


def draw(points, folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for figure in FIGURES:
        panels = panels_of(figure, points)
        if not panels:
            continue
        drawing = svg_of(figure, panels)
        path = folder / f"{figure.name}.svg"
        with matplotlib.rc_context(STYLE):
            drawing.savefig(path, format="svg", metadata={"Date": None, "Title": figure.title})
        pyplot.close(drawing)
        start, end = path.read_text().split("<defs>", 1)
        path.write_text(start + SCHEMES + "<defs>" + end.replace(INK, "var(--ink)"))
        names.append(path.name)
    return names
