"""Requests and tokens of a deployment, day by day."""

import datetime

from nicegui import ui

from tunery.metering import DAYS, Counts
from tunery.records import Deployment
from tunery.studio import charts, parts
from tunery.studio.deployed import Deployed
from tunery.studio.texts import shown_day, shown_number, t


class Usage:
    """Two charts that are drawn once somebody opens them, and grow while they are open."""

    def __init__(self, deployed: Deployed, deployment: Deployment) -> None:
        self._deployed, self._deployment = deployed, deployment
        self._told: list[Counts] | None = None
        self._charts: tuple[charts.Chart, charts.Chart] | None = None
        self._fold = ui.expansion(t("deployments.usage"), icon="bar_chart", on_value_change=parts.shown(self.refresh))
        self._fold.classes("w-full").props["aria-label"] = t("deployments.usage_of", name=deployment.name)
        with self._fold:
            self._sum = ui.label().classes("quiet")
            self._place = ui.element("div").classes("grid grid-cols-1 lg:grid-cols-2 gap-3 w-full min-w-0")

    async def refresh(self) -> None:
        if not self._fold.value:
            return
        taken = await self._deployed.daily(self._deployment)
        days = last_days()
        told = [taken.get(day.isoformat(), Counts()) for day in days]
        if told == self._told:
            return
        self._told = told
        self._sum.set_text(self._sentence(told))
        requests = [counts.requests for counts in told]
        prompts = [counts.prompt_tokens for counts in told]
        answers = [counts.completion_tokens for counts in told]
        if self._charts is None:
            self._draw(days, requests, prompts, answers)
        else:
            self._charts[0].replace([requests])
            self._charts[1].replace([prompts, answers])
            for chart in self._charts:
                chart.describe(self._sentence(told))

    def _draw(self, days: list[datetime.date], requests: list[int], prompts: list[int], answers: list[int]) -> None:
        labels, across, described = [shown_day(day) for day in days], t("deployments.day"), self._sum.text
        with self._place:
            self._charts = (
                charts.bars(
                    t("deployments.requests"),
                    labels,
                    {t("deployments.requests"): requests},
                    across=across,
                    described=described,
                ),
                charts.bars(
                    t("deployments.tokens"),
                    labels,
                    {t("deployments.prompt_tokens"): prompts, t("deployments.completion_tokens"): answers},
                    across=across,
                    described=described,
                ),
            )

    def _sentence(self, told: list[Counts]) -> str:
        total = Counts()
        for counts in told:
            total.add(counts)
        return t(
            "deployments.usage_sum",
            days=DAYS,
            requests=shown_number(total.requests),
            prompt=shown_number(total.prompt_tokens),
            cached=shown_number(total.cached_tokens),
            completion=shown_number(total.completion_tokens),
        )


def last_days() -> list[datetime.date]:
    """Days are counted by UTC, as the meter does."""
    today = datetime.datetime.now(datetime.UTC).date()
    return [today - datetime.timedelta(days=back) for back in reversed(range(DAYS))]
