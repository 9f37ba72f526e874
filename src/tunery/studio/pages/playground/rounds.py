"""A prompt and its answers: what can be done with them, what they took, and where they differ."""

import re
from collections.abc import Callable
from difflib import SequenceMatcher

from nicegui import ui

from tunery.studio import parts
from tunery.studio.pages.playground.editing import edited
from tunery.studio.pages.playground.screen import Screen
from tunery.studio.play.basket import Basket
from tunery.studio.play.talk import Answer, Round, example
from tunery.studio.play.talks import drafts_of
from tunery.studio.texts import shown_number, t

WORD = re.compile(r"\s+|\w+|[^\w\s]")
MOST_WORDS = 2000
"""Of an answer whose differences are looked for."""


class RoundView:
    """One round; `update` follows its answers."""

    def __init__(self, screen: Screen, turn: Round, again: parts.Handler, refresh_basket: parts.Handler) -> None:
        self._screen, self._turn = screen, turn
        self._again, self._refresh_basket = again, refresh_basket
        self._texts: dict[int, tuple[ui.label, ui.label]] = {}
        with ui.column().classes("w-full gap-2 min-w-0") as self._place:
            self._draw()

    def update(self) -> None:
        """Show what was said since."""
        if self._states() != self._drawn:
            self._place.clear()
            with self._place:
                self._draw()
            return
        for pane, (text, facts) in self._texts.items():
            answer = self._turn.answers[pane]
            if answer.state == "running" and text.text != answer.text:
                text.set_text(answer.text)
                facts.set_text(_facts(answer))

    def _states(self) -> dict[int, str]:
        return {pane: answer.state for pane, answer in self._turn.answers.items()}

    def _draw(self) -> None:
        self._drawn, self._texts = self._states(), {}
        self._prompt()
        panes = self._screen.shown.talk.panes
        columns = {1: "grid-cols-1", 2: "md:grid-cols-2"}.get(len(panes), "md:grid-cols-3")
        with ui.element("div").classes(f"grid w-full gap-3 grid-cols-1 {columns}"):
            for pane in range(len(panes)):
                if pane in self._turn.answers:
                    self._answer(pane, self._turn.answers[pane])

    def _prompt(self) -> None:
        turn = self._turn
        with ui.row().classes("tunery-prompt w-full items-start no-wrap gap-1"):
            ui.label(turn.prompt).classes("grow whitespace-pre-wrap break-words min-w-0")
            _tool("edit", t("playground.edit_prompt"), self._edit_prompt)
            _tool("delete", t("playground.delete"), self._delete)

    def _answer(self, pane: int, answer: Answer) -> None:
        with ui.element("article").classes("tunery-card p-3 flex flex-col gap-2 min-w-0") as card:
            card.props["aria-label"] = t("playground.answer_of", name=answer.deployment)
            with ui.row().classes("w-full items-center no-wrap gap-1"):
                ui.label(answer.deployment).classes("font-medium grow break-words min-w-0")
                if answer.state == "running":
                    ui.spinner(size="1.2rem").props("aria-hidden=true")
                else:
                    self._tools(pane, answer)
            text = self._body(pane, answer)
            if answer.error:
                ui.label(answer.error).classes("text-negative break-words").props("role=alert")
            facts = ui.label(_facts(answer)).classes("quiet text-sm")
        if text is not None:
            self._texts[pane] = (text, facts)

    def _body(self, pane: int, answer: Answer) -> ui.label | None:
        """Words that the first pane's answer doesn't have are marked."""
        first = self._turn.answers.get(0)
        settled = all(one.state != "running" for one in self._turn.answers.values())
        with ui.element("div").classes("whitespace-pre-wrap break-words min-w-0"):
            if pane == 0 or first is None or not settled or not (first.text and answer.text):
                return ui.label(answer.text)
            for text, same in compared(first.text, answer.text):
                ui.label(text).classes("inline" if same else "inline tunery-mark")
        return None

    def _tools(self, pane: int, answer: Answer) -> None:
        operation, visitor = self._screen.operation, self._screen.visitor
        again = _tool("refresh", t("playground.again"), lambda: self._regenerate(pane))
        parts.forbid(again, operation, visitor)
        if answer.text:
            _tool("edit", t("playground.edit_answer"), lambda: self._edit_answer(answer))
            _tool("playlist_add", t("playground.collect"), lambda: self._collect(pane))

    async def _regenerate(self, pane: int) -> None:
        if not self._screen.shown.busy:
            await self._screen.shown.answer(self._screen.visitor, self._turn, [pane])
            await self._again()

    async def _edit_prompt(self) -> None:
        text = await edited(t("playground.edit_prompt"), self._turn.prompt)
        if text is not None:
            self._turn.prompt = text
            await self._screen.shown.changed()

    async def _edit_answer(self, answer: Answer) -> None:
        text = await edited(t("playground.edit_answer"), answer.text)
        if text is not None:
            answer.text = text
            await self._screen.shown.changed()

    async def _delete(self) -> None:
        rounds = self._screen.shown.talk.rounds
        if any(answer.state == "running" for answer in self._turn.answers.values()):
            await self._screen.shown.stop()
        if self._turn in rounds:
            rounds.remove(self._turn)
        await self._screen.shown.changed()
        self._screen.focus()

    async def _collect(self, pane: int) -> None:
        screen = self._screen
        basket = Basket(drafts_of(screen.visitor), screen.kind)
        await screen.visitor.do(screen.operation, basket.add, example(screen.shown.talk, self._turn, pane))
        await self._refresh_basket()
        parts.note(t("playground.collected"))


def compared(first: str, other: str) -> list[tuple[str, bool]]:
    """`other` in pieces; True where `first` says the same."""
    ours, theirs = WORD.findall(first), WORD.findall(other)
    if max(len(ours), len(theirs)) > MOST_WORDS:
        return [(other, True)]
    pieces = []
    for what, _, _, start, end in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if end > start:
            pieces.append(("".join(theirs[start:end]), what == "equal"))
    return pieces


def _tool(icon: str, text: str, handler: Callable[[], object]) -> ui.button:
    async def run() -> None:
        result = handler()
        if hasattr(result, "__await__"):
            await result

    button = ui.button(icon=icon, color=None, on_click=parts.shown(run)).props("flat round dense size=sm")
    button.props["aria-label"] = text
    button.props["title"] = text
    return button


def _facts(answer: Answer) -> str:
    """What it took, as far as it is known."""
    if not answer.prompt_tokens:
        return t("playground.waiting") if answer.state == "running" else t(f"playground.state_{answer.state}")
    facts = [
        t(
            "playground.prompt_tokens",
            count=shown_number(answer.prompt_tokens),
            cached=shown_number(answer.cached_tokens),
        ),
        t("playground.completion_tokens", count=shown_number(answer.completion_tokens)),
    ]
    if answer.first_seconds is not None:
        facts.append(t("playground.first", seconds=shown_number(answer.first_seconds, digits=2)))
    if answer.tokens_per_second is not None:
        facts.append(t("playground.speed", count=shown_number(answer.tokens_per_second, digits=1)))
    used = answer.prompt_tokens + answer.completion_tokens
    facts.append(t("playground.context", used=shown_number(used), length=shown_number(answer.context_length)))
    if answer.state != "running":
        ended = "length" if answer.state == "done" and answer.finish_reason == "length" else answer.state
        facts.append(t(f"playground.state_{ended}"))
    return " · ".join(facts)
