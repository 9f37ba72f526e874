"""The conversation as it is written, and the place where one types."""

from nicegui import ui

from tunery.studio import parts
from tunery.studio.pages.playground.rounds import RoundView
from tunery.studio.pages.playground.screen import Screen
from tunery.studio.texts import t

FAST, SLOW = 0.05, 0.5
"""Seconds between two looks at the conversation: while answers are written, and otherwise."""
SAVE_EVERY = 4
"""Slow looks between two saves of what is typed."""


class Conversation:
    """Looks at the conversation several times a second and changes what has changed, in place."""

    def __init__(self, screen: Screen, refresh_basket: parts.Handler) -> None:
        self._screen, self._shown = screen, screen.shown
        self._refresh_basket = refresh_basket
        self._built = -1
        self._told = len(screen.shown.finished)
        self._views: list[RoundView] = []
        self._looks = 0

    def build(self) -> None:
        with ui.column().classes("w-full gap-3 min-w-0").on("keydown.esc", parts.shown(self._stop)):
            # Reversed, the browser itself keeps the end in sight, unless somebody scrolled away from it.
            with ui.element("div").classes("tunery-talk").props("tabindex=0 role=region") as frame:
                frame.props["aria-label"] = t("playground.conversation")
                self._rounds = ui.column().classes("w-full gap-4 min-w-0")
            self._said = ui.label().classes("sr-only").props("role=status aria-live=polite")
            self._input()
        self._timer = parts.every(SLOW, self._look)
        self._rebuild()

    def _input(self) -> None:
        screen, talk = self._screen, self._shown.talk

        def keep(value: str) -> None:
            talk.draft = value
            screen.touch()

        area = ui.textarea(
            t(f"playground.prompt_{talk.kind}"), value=talk.draft, on_change=lambda e: keep(e.value or "")
        )
        area.props("outlined autogrow autofocus input-class=max-h-80").classes("w-full")
        area.props["hint"] = t("playground.prompt_hint")
        for keys in ("keydown.ctrl.enter.prevent", "keydown.meta.enter.prevent"):
            area.on(keys, parts.shown(self._send))
        screen.input = area
        with ui.row().classes("w-full justify-end gap-2"):
            self._stop_button = ui.button(t("playground.stop_now"), icon="stop", color=None)
            self._stop_button.on_click(parts.shown(self._stop)).props(parts.LOOKS["plain"])
            self._send_button = parts.action(
                t("playground.send"), screen.operation, self._send, visitor=screen.visitor, look="primary", icon="send"
            )
        self._may = screen.visitor.may(screen.operation)

    async def _send(self) -> None:
        prompt = self._shown.talk.draft
        if not prompt.strip() or self._shown.busy or not self._may:
            return
        self._screen.input.set_value("")
        self._timer.interval = FAST
        await self._shown.send(self._screen.visitor, prompt)
        self._rebuild()
        self._screen.focus()

    async def _stop(self) -> None:
        await self._shown.stop()
        await self._look()

    async def _look(self) -> None:
        if self._built != self._shown.version:
            self._rebuild()
        for view in self._views:
            view.update()
        self._speak()
        busy = self._shown.busy
        self._timer.interval = FAST if busy else SLOW
        self._stop_button.set_enabled(busy)
        self._send_button.set_enabled(not busy and self._may)
        await self._save()

    def _speak(self) -> None:
        """Tell screen readers of answers once they are whole: not word by word."""
        finished = self._shown.finished[self._told :]
        self._told = len(self._shown.finished)
        if finished:
            told = [t("playground.spoken", name=one.deployment, text=one.error or one.text) for one in finished]
            self._said.set_text(" ".join(told))

    async def _save(self) -> None:
        self._looks += 1
        if self._screen.unsaved and self._looks >= SAVE_EVERY:
            self._looks, self._screen.unsaved = 0, False
            await self._shown.save()

    def _rebuild(self) -> None:
        self._built = self._shown.version
        self._rounds.clear()
        talk = self._shown.talk
        with self._rounds:
            if not talk.rounds:
                parts.empty_state("forum", t(f"playground.begin_{talk.kind}"))
            self._views = [RoundView(self._screen, turn, self._again, self._refresh_basket) for turn in talk.rounds]
        self._stop_button.set_enabled(self._shown.busy)

    async def _again(self) -> None:
        """Answers were asked for from a round."""
        self._timer.interval = FAST
        self._rebuild()
        self._screen.focus()
