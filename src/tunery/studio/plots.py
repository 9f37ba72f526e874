"""The three plots of a job, or of several beside each other: loss, mean token accuracy, token accuracy."""

from collections.abc import Sequence
from typing import NamedTuple

import anyio
from nicegui import ui

from tunery.messages import StepMetrics
from tunery.records import TERMINAL, Job
from tunery.studio.charts import Chart, Line, Point, curves
from tunery.studio.texts import shown_number, t
from tunery.studio.visitor import Visitor

AT_ONCE = 2000
"""Steps of one request."""
MOST_JOBS = 6
"""As many as there are colours."""


class Plot(NamedTuple):
    """One of the three, and the columns of results.csv that it shows."""

    key: str
    training: str
    validation: str
    whole: str | None
    """On the whole validation file, at the end of each epoch."""
    percent: bool


PLOTS = (
    Plot("loss", "train_loss", "valid_loss", "full_valid_loss", False),
    Plot(
        "mean_accuracy",
        "train_mean_token_accuracy",
        "valid_mean_token_accuracy",
        "full_valid_mean_token_accuracy",
        True,
    ),
    Plot("accuracy", "training_accuracy", "valid_accuracy", None, True),
)


class Curve(NamedTuple):
    """A line of a plot: of which job, from which column."""

    job_id: str
    column: str
    line: Line


class Plots:
    """Three charts that grow while their jobs train."""

    def __init__(self, visitor: Visitor, jobs: Sequence[Job], *, names: Sequence[str] = ()) -> None:
        """`names`: of the jobs, where there are several; each then has a colour of its own."""
        self._visitor = visitor
        self._one_at_a_time = anyio.Lock()
        self._seen = {job.id: 0 for job in jobs}
        self._ends: dict[tuple[str, str], Point] = {}
        """Each curve's last point."""
        self._charts: list[tuple[str, Chart, list[Curve]]] = []
        with ui.element("div").classes("grid grid-cols-1 xl:grid-cols-2 gap-4 w-full"):
            for plot in PLOTS:
                found = _several(plot, jobs, names) if names else _of_one(plot, jobs[0])
                title = t(f"plots.{plot.key}")
                with ui.column().classes("gap-1 min-w-0 w-full" + (" xl:col-span-2" if plot is PLOTS[0] else "")):
                    lines = [curve.line for curve in found]
                    chart = curves(
                        title, lines, across=t("plots.step"), described=t("plots.nothing"), percent=plot.percent
                    )
                    ui.label(t(f"plots.{plot.key}_detail")).classes("quiet text-sm")
                self._charts.append((title, chart, found))

    async def follow(self, job: Job) -> None:
        """Show the steps that have come since. One at a time: two would show the same steps twice."""
        async with self._one_at_a_time:
            await self._catch_up(job)

    def point_out(self, step: int, text: str) -> None:
        for _, chart, _ in self._charts:
            chart.point_out(step, text)

    async def _catch_up(self, job: Job) -> None:
        more = job.status not in TERMINAL or self._seen[job.id] < job.step
        while more:
            rows, more = await self._visitor.do(
                "GET /fine_tuning/jobs/{job_id}/metrics",
                self._visitor.rooms.jobs.steps,
                job,
                after=self._seen[job.id],
                limit=AT_ONCE,
            )
            if rows:
                self._seen[job.id] = rows[-1].step
                self._grow(job.id, rows)

    def _grow(self, job_id: str, rows: list[StepMetrics]) -> None:
        for title, chart, found in self._charts:
            added = [_points(rows, curve.column) if curve.job_id == job_id else [] for curve in found]
            self._ends |= {
                (curve.job_id, curve.column): points[-1] for curve, points in zip(found, added, strict=True) if points
            }
            chart.grow(added)
            chart.describe(f"{title}: " + "; ".join(self._described(curve) for curve in found))

    def _described(self, curve: Curve) -> str:
        end = self._ends.get((curve.job_id, curve.column))
        if end is None:
            return f"{curve.line.name}: {t('plots.nothing')}"
        value, step = shown_number(end[1], digits=4), shown_number(end[0])
        return t("plots.ends", name=curve.line.name, value=value, step=step)


def _of_one(plot: Plot, job: Job) -> list[Curve]:
    found = [Curve(job.id, plot.training, Line(t("plots.training")))]
    if job.validation_file is not None:
        found.append(Curve(job.id, plot.validation, Line(t("plots.validation"), "dashed", 2)))
        if plot.whole is not None:
            found.append(Curve(job.id, plot.whole, Line(t("plots.whole"), "points", 3)))
    return found


def _several(plot: Plot, jobs: Sequence[Job], names: Sequence[str]) -> list[Curve]:
    found = []
    for colour, (job, name) in enumerate(zip(jobs, names, strict=True), start=1):
        found.append(Curve(job.id, plot.training, Line(f"{name}: {t('plots.training')}", "line", colour)))
        if job.validation_file is not None:
            found.append(Curve(job.id, plot.validation, Line(f"{name}: {t('plots.validation')}", "dashed", colour)))
    return found


def _points(rows: list[StepMetrics], column: str) -> list[Point]:
    """Six digits are more than a screen shows."""
    values = ((row.step, getattr(row, column)) for row in rows)
    return [(step, float(f"{value:.6g}")) for step, value in values if value is not None]
