"""How the machine and the account's limits are, and how code reaches the service."""

from nicegui import ui

from tunery.machine import Engine, State
from tunery.quotas import Usage
from tunery.studio import parts
from tunery.studio.pages.home.workflow import USAGES, taken
from tunery.studio.texts import shown_bytes, shown_number, t
from tunery.studio.visitor import Visitor
from tunery.weights import Weights

MACHINE = "GET /machine"
CODE = """\
eval "$(tunery env)"
python - <<'END'
from openai import AzureOpenAI
for model in AzureOpenAI().models.list():
    print(model.id)
END"""
"""What `tunery env` exports is what AzureOpenAI reads by itself."""


class MachineView:
    """Facts that are written anew where they changed."""

    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor
        self._state: State | None = None
        self._usages: list[Usage] = []
        with ui.element("div").classes("grid grid-cols-1 lg:grid-cols-2 gap-4 w-full min-w-0"):
            self._machine = self._part(t("home.machine"), MACHINE)
            self._limits = self._part(t("home.limits"), USAGES)
            self._code()

    async def refresh(self) -> None:
        visitor = self._visitor
        if visitor.may(MACHINE):
            state = await visitor.do(MACHINE, visitor.rooms.machine.state)
            if state != self._state:
                self._state = state
                self._machine.clear()
                with self._machine:
                    parts.facts(_told(state))
        if visitor.may(USAGES):
            usages = await visitor.do(USAGES, visitor.rooms.deployments.usages, visitor.account.id)
            if usages != self._usages:
                self._usages = usages
                self._limits.clear()
                with self._limits:
                    for usage in usages:
                        _bar(usage)

    def _part(self, title: str, operation: str) -> ui.column:
        with ui.column().classes("tunery-card p-4 gap-2 min-w-0 w-full"):
            parts.section(title)
            with ui.column().classes("w-full gap-2") as place:
                if not self._visitor.may(operation):
                    ui.label(t("parts.missing_role", roles=", ".join(self._visitor.missing(operation))))
        return place

    def _code(self) -> None:
        account, rooms = self._visitor.account, self._visitor.rooms
        first = account.id == rooms.accounts.first().id
        with ui.column().classes("tunery-card p-4 gap-2 min-w-0 w-full lg:col-span-2"):
            parts.section(t("home.code"))
            endpoint = rooms.settings.endpoint + ("" if first else f"/accounts/{account.sub_domain}")
            parts.facts({t("home.address"): endpoint, t("home.control"): rooms.settings.tls_endpoint})
            ui.label(t("home.code_detail"))
            with ui.element("pre").classes("m-0 w-full overflow-x-auto text-sm").props("tabindex=0"):
                ui.label(CODE if first else CODE.replace("tunery env", f"tunery env --account {account.name}"))


def _size(engine: Engine) -> str:
    return t("home.starting") if engine.memory_bytes is None else shown_bytes(engine.memory_bytes)


def _told(state: State) -> dict[str, str]:
    engines = [f"{Weights(one.base, one.quantization)}: {_size(one)}" for one in state.engines]
    return {
        t("home.engines"): ", ".join(engines) or t("home.no_engine"),
        t("home.training"): shown_bytes(state.training_bytes) if state.training_bytes else t("home.no_training"),
        t("home.free"): t(
            "home.free_of", free=shown_bytes(state.memory_free_bytes), total=shown_bytes(state.memory_bytes)
        ),
        t("home.queue"): t(
            "home.queue_state", running=shown_number(state.running_jobs), waiting=shown_number(state.waiting_jobs)
        ),
        t("home.cores"): shown_number(state.cores),
    }


def _bar(usage: Usage) -> None:
    text = t(f"home.{usage.name}")
    shown = shown_bytes if usage.name.endswith("_bytes") else shown_number
    with ui.column().classes("w-full gap-1"):
        with ui.row().classes("w-full justify-between no-wrap gap-2"):
            ui.label(text)
            ui.label(t("home.used_of", used=shown(usage.used), limit=shown(usage.limit))).classes("quiet")
        bar = ui.linear_progress(taken(usage), show_value=False).props("size=6px rounded")
        bar.props["aria-label"] = text
