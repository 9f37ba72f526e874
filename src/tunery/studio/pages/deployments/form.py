"""The dialog that deploys a model, a checkpoint or a base under a name."""

import re

from nicegui import ui

from tunery.catalog import Start, model_of
from tunery.deploying import LARGEST_CAPACITY, SKUS, Wanted
from tunery.errors import TuneryError
from tunery.records import DEVELOPER, PROVISIONED
from tunery.studio import parts
from tunery.studio.deployed import Deployed
from tunery.studio.texts import shown_number, shown_span, t
from tunery.weights import QUANTIZATIONS

LONGEST_NAME = 64
MODELS = "GET /fine_tuning/models"
FIELD = "outlined dense"


class Form:
    """Asks for model, name, sku, capacity and weights; stays open with the service's sentence where it refuses."""

    def __init__(self, deployed: Deployed, model: str = "") -> None:
        self._deployed = deployed
        self._wished = model
        self._models: list[Start] = []
        self._taken: dict[str, str] = {}
        """Custom model to the deployment that has it."""
        self._names: set[str] = set()
        self._suggested = ""

    async def load(self) -> None:
        visitor = self._deployed.visitor
        self._models = await visitor.do(MODELS, visitor.rooms.catalog.starts, visitor.account.id)
        for seen in await self._deployed.all():
            deployment = seen.deployment
            self._names.add(deployment.name.lower())
            if deployment.adapter is not None:
                self._taken[model_of(deployment.model)] = deployment.name

    async def ask(self) -> bool:
        """True once it was created."""
        with ui.dialog() as dialog, ui.card().classes("w-full max-w-xl gap-3"):
            self._dialog = dialog
            dialog.props["aria-label"] = t("deployments.deploy")
            parts.titled("h2", t("deployments.deploy"), "text-lg font-medium m-0")
            self._fields()
            self._refusal = ui.label().classes("text-negative break-words w-full").props("role=alert")
            self._refusal.set_visibility(False)
            with ui.row().classes("w-full justify-end"):
                ui.button(t("parts.cancel"), color=None, on_click=lambda: dialog.submit(False)).props("flat no-caps")
                button = ui.button(t("deployments.create"), color=None, on_click=parts.shown(self._create))
                button.props(parts.LOOKS["primary"])
        self._chosen()
        created = bool(await dialog)
        dialog.delete()
        return created

    def _fields(self) -> None:
        settings = self._deployed.visitor.rooms.settings
        options = {one.name: self._option(one) for one in [*self._tuned(), *self._bases()]}
        wished = self._wished if self._wished in options else next(iter(options), None)
        self._model = ui.select(
            options, label=t("deployments.model"), value=wished, with_input=True, on_change=self._chosen
        )
        self._model.props(FIELD).classes("w-full")
        self._one_only = ui.label().classes("text-negative break-words w-full").props("role=alert")
        self._name = ui.input(t("deployments.name"), on_change=self._typed)
        self._name.props(f"{FIELD} maxlength={LONGEST_NAME}").classes("w-full")
        self._sku = ui.select(list(SKUS), label=t("deployments.sku"), value=SKUS[0], on_change=self._sku_chosen)
        self._sku.props(FIELD).classes("w-full")
        self._sku_note = ui.label().classes("quiet text-sm")
        self._capacity = ui.number(t("deployments.capacity"), min=1, max=LARGEST_CAPACITY, step=1, precision=0)
        self._capacity.props(f"{FIELD} clearable").classes("w-full")
        per_unit = (settings.requests_per_unit, settings.tokens_per_unit)
        if all(per_unit):
            requests, tokens = (shown_number(number) for number in per_unit)
            ui.label(t("deployments.capacity_detail", requests=requests, tokens=tokens)).classes("quiet text-sm")
        weights: dict[str | None, str] = {None: t("deployments.weights_trained")}
        weights |= {name: t(f"deployments.weights_{name}") for name in QUANTIZATIONS}
        self._quantization = ui.select(weights, label=t("deployments.weights"), value=None)
        self._quantization.props(FIELD).classes("w-full")
        self._sku_chosen()

    def _tuned(self) -> list[Start]:
        return [one for one in self._models if one.job_id is not None]

    def _bases(self) -> list[Start]:
        return [one for one in self._models if one.job_id is None]

    def _option(self, start: Start) -> str:
        if start.job_id is None:
            return t("deployments.base", name=start.name)
        return start.name

    def _chosen(self) -> None:
        """Another model: say if it has its deployment already, suggest a name unless one was typed."""
        model = str(self._model.value or "")
        other = self._taken.get(model_of(model))
        self._one_only.set_visibility(other is not None)
        self._one_only.set_text("" if other is None else t("deployments.only_one", name=other))
        if self._name.value in ("", self._suggested, None):
            self._suggested = suggested(model, self._names)
            self._name.set_value(self._suggested)

    def _typed(self) -> None:
        self._refusal.set_visibility(False)

    def _sku_chosen(self) -> None:
        settings, sku = self._deployed.visitor.rooms.settings, self._sku.value
        note = ""
        if sku in DEVELOPER and settings.developer_seconds:
            note = t("deployments.sku_developer", span=shown_span(settings.developer_seconds))
        elif sku in PROVISIONED:
            note = t("deployments.sku_provisioned")
        self._sku_note.set_visibility(bool(note))
        self._sku_note.set_text(note)

    async def _create(self) -> None:
        capacity = self._capacity.value
        wanted = Wanted(
            model=str(self._model.value or ""),
            sku_name=str(self._sku.value),
            capacity=None if capacity is None else int(capacity),
            quantization=self._quantization.value,
        )
        name = (self._name.value or "").strip()
        try:
            if name.lower() in self._names:
                self._refuse(t("deployments.name_taken", name=name))
                return
            await self._deployed.put(name, wanted)
        except TuneryError as error:
            self._refuse(error.message)
            return
        self._dialog.submit(True)

    def _refuse(self, why: str) -> None:
        self._refusal.set_text(why)
        self._refusal.set_visibility(True)


def suggested(model: str, taken: set[str]) -> str:
    """A free name that can be: the suffix of a tuned model, else the model's own name."""
    base, tuned, rest = model.partition(".ft-")
    job, dash, suffix = rest.partition("-")
    stem = (suffix if dash else f"{base}-{job[:6]}") if tuned else base
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[: LONGEST_NAME - 4] or "deployment"
    names = [stem, *(f"{stem}-{number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name.lower() not in taken)
