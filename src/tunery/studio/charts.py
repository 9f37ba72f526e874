"""Charts of Studio: ECharts in the page's colours and language, with words for those who can't see them.

The one place that knows ECharts; chart.js beside it draws. Points go to the browser once and stay there, so a chart
that grows sends what is new.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from nicegui import ui

from tunery.studio import parts
from tunery.studio.texts import language, t

Point = tuple[float, float]
DASHES = {"line": "solid", "dashed": "dashed", "points": "dotted"}


class Line(NamedTuple):
    """A line of a plot; told apart by its dashes as well as by its colour."""

    name: str
    style: str = "line"
    """line; dashed; or points: few measurements, each with its mark."""
    colour: int = 1
    """1 to 6: the colours --series-N of look.css."""


class Chart(ui.element, component="chart.js"):
    """One chart. `options` are ECharts' own, without colours and number formats."""

    def __init__(
        self,
        options: dict[str, Any],
        colours: Sequence[int],
        *,
        described: str,
        percent: bool = False,
        time: bool = False,
    ) -> None:
        super().__init__()
        self.classes("w-full h-72")
        self.props["options"], self.props["colours"] = options, list(colours)
        self.props["percent"], self.props["time"], self.props["language"] = percent, time, language()
        self.props["role"], self.props["tabindex"] = "img", "0"
        self.describe(described)

    def describe(self, text: str) -> None:
        """What the chart shows, in a sentence: for screen readers."""
        self.props["aria-label"] = text

    def grow(self, added: Sequence[Sequence[Point]]) -> None:
        """More points behind those of each line, in the lines' order."""
        self.run_method("grow", added)

    def replace(self, points: Sequence[Sequence[Any]]) -> None:
        """Other points: of a line (x, y), of bars the values."""
        self.run_method("replace", points)

    def point_out(self, x: float, text: str) -> None:
        """A line from top to bottom with a word at it."""
        self.run_method("point_out", x, text)


def curves(title: str, lines: Sequence[Line], *, across: str, described: str, percent: bool = False) -> Chart:
    """Lines over numbers (steps), zoomed with wheel, slider, box, or + and - and arrows."""
    options = _plan({"type": "value", "min": "dataMin", "max": "dataMax", "name": across}, share=percent)
    options["series"] = [_line(line) for line in lines]
    colours = [line.colour for line in lines]
    return _framed(title, options, colours, described=described, percent=percent)


def over_time(title: str, lines: Sequence[Line], *, described: str, percent: bool = False) -> Chart:
    """Lines over time; x is in milliseconds since 1970."""
    options = _plan({"type": "time"}, share=percent)
    options["series"] = [_line(line) for line in lines]
    colours = [line.colour for line in lines]
    return _framed(title, options, colours, described=described, percent=percent, time=True)


def bars(
    title: str, labels: Sequence[str], series: dict[str, Sequence[float]], *, across: str, described: str
) -> Chart:
    """A histogram, or several beside each other: `labels` below, the values of each name above."""
    options = _plan({"type": "category", "data": list(labels), "name": across}, zoomed=False)
    options["series"] = [
        {"type": "bar", "name": name, "data": list(values), "barMaxWidth": 40} for name, values in series.items()
    ]
    return _framed(title, options, range(1, len(series) + 1), described=described)


def _framed(
    title: str,
    options: dict[str, Any],
    colours: Sequence[int],
    *,
    described: str,
    percent: bool = False,
    time: bool = False,
) -> Chart:
    with ui.element("figure").classes("tunery-card w-full m-0 p-3 min-w-0"):
        with ui.row().classes("w-full items-center no-wrap gap-1"):
            parts.titled("h3", title, "text-base font-medium m-0 grow min-w-0")
            whole = _button("zoom_out_map", t("charts.whole", title=title)) if "dataZoom" in options else None
            save = _button("image", t("charts.save", title=title))
        chart = Chart(options, colours, described=f"{title}: {described}", percent=percent, time=time)
    if whole is not None:
        whole.on_click(lambda: chart.run_method("whole"))
    save.on_click(lambda: chart.run_method("save", f"{title}.png"))
    return chart


def _button(icon: str, text: str) -> ui.button:
    button = ui.button(icon=icon, color=None).props("flat round dense size=sm")
    button.props["aria-label"] = button.props["title"] = text
    return button


def _plan(x_axis: dict[str, Any], *, share: bool = False, zoomed: bool = True) -> dict[str, Any]:
    """What all charts have in common; `share`: from 0 to 1."""
    plan: dict[str, Any] = {
        "animation": False,
        "grid": {"left": 4, "right": 16, "top": 44, "bottom": 24 if zoomed else 4, "outerBoundsMode": "same"},
        "legend": {"type": "scroll", "left": 0, "top": 0, "right": 72},
        "tooltip": {"trigger": "axis", "confine": True},
        "xAxis": {"nameLocation": "middle", "nameGap": 22, **x_axis},
        "yAxis": {"type": "value", "min": 0, "max": 1} if share else {"type": "value", "scale": zoomed},
    }
    if zoomed:
        box = {"yAxisIndex": "none", "title": {"zoom": t("charts.zoom"), "back": t("charts.back")}}
        plan["toolbox"] = {"right": 4, "top": 0, "itemSize": 14, "feature": {"dataZoom": box}}
        plan["dataZoom"] = [
            {"type": "inside"},
            {"type": "slider", "height": 14, "bottom": 2, "showDetail": False},
        ]
    return plan


def _line(line: Line) -> dict[str, Any]:
    return {
        "type": "line",
        "name": line.name,
        "data": [],
        "sampling": "lttb",
        "showSymbol": line.style != "line",
        "symbol": "diamond" if line.style == "points" else "circle",
        "symbolSize": 8 if line.style == "points" else 4,
        "lineStyle": {"type": DASHES[line.style], "width": 1.5 if line.style == "line" else 2},
    }
