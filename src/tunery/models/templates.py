"""Renders a model's chat template in a sandbox. A template comes with a model, so it may be hostile; knows no tokens.

Environment and variables are those of transformers' `apply_chat_template`, so one file serves both, except that there
is no clock: a date in the prompt would make what was trained differ from what is served.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tunery.errors import InvalidRequest

MOST_STEPS = 200_000
"""Loop turns and calls of one rendering: a few seconds at most."""
MOST_CHARACTERS = 32_000_000
LARGEST_NUMBER = 1_000_000
"""Any width, count or repetition in a template."""


class ChatTemplate:
    """A compiled template. Not for several threads at once: it counts the steps of the rendering under way."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """`special_tokens`: bos_token, eos_token and so on, as templates name them. Raises InvalidRequest."""
        self._special_tokens = dict(special_tokens)
        self._environment = _Sandbox()
        try:
            self._template = self._environment.from_string(source)
        except (TemplateError, RecursionError) as error:
            raise InvalidRequest(f"The model's chat template isn't valid: {error}.") from None

    def render(self, messages: Sequence[Any], tools: Sequence[Any] | None, *, add_generation_prompt: bool) -> str:
        """Raises InvalidRequest if the template refuses the messages, or does more than a template has to."""
        self._environment.steps = 0
        chunks = self._template.generate(
            messages=messages, tools=tools or None, add_generation_prompt=add_generation_prompt, **self._special_tokens
        )
        try:
            return "".join(_bounded(chunks))
        except (TemplateError, RecursionError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise InvalidRequest(f"The model's chat template can't render these messages: {error}") from None


class _Sandbox(ImmutableSandboxedEnvironment):
    """Bounds work and sizes on top of jinja's bounds on what can be reached."""

    intercepted_binops = frozenset(["*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        self.steps = 0
        for name in ("center", "format", "indent", "wordwrap"):
            del self.filters[name]  # they make any width of text out of a number
        self.filters["tojson"] = _tojson
        self.filters["counted"] = self._counted
        self.globals["raise_exception"] = _raise_exception

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None, lineno=loop.lineno)
        return tree

    def wrap_str_format(self, value: Any) -> Any:
        if super().wrap_str_format(value) is not None:
            raise SecurityError("str.format makes any width of text")
        return None

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        __self._count()
        for value in (*args, *kwargs.values()):
            _refuse_large(value)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not all(isinstance(side, int | float) for side in (left, right)):
            raise SecurityError(f"'{operator}' is allowed between numbers only")
        result = super().call_binop(context, operator, left, right)
        _refuse_large(result)
        return result

    def _counted(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._count()
            yield value

    def _count(self) -> None:
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise SecurityError(f"more than {MOST_STEPS} steps")


def _bounded(chunks: Iterable[str]) -> Iterator[str]:
    length = 0
    for chunk in chunks:
        length += len(chunk)
        if length > MOST_CHARACTERS:
            raise SecurityError(f"more than {MOST_CHARACTERS} characters")
        yield chunk


def _refuse_large(value: Any) -> None:
    if isinstance(value, int | float) and abs(value) > LARGEST_NUMBER:
        raise SecurityError(f"a number above {LARGEST_NUMBER}")


def _tojson(value: Any, indent: int | None = None) -> str:
    """As transformers' filter: no HTML escapes, keys in their order."""
    return json.dumps(value, ensure_ascii=False, indent=None if indent is None else min(indent, 8))


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
