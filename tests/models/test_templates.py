from typing import Any

import pytest

from tunery.errors import InvalidRequest
from tunery.models import templates
from tunery.models.templates import ChatTemplate

USER = [{"role": "user", "content": "hi"}]


def render(source: str, messages: Any = USER, **special: str) -> str:
    return ChatTemplate(source, special).render(messages, None, add_generation_prompt=True)


def test_it_sees_what_transformers_templates_see() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}\n{{ m.role }}:{{ m['content'] | tojson }}{{ loop.last }}{% endfor %}"
    )
    assert render(source + "{% if add_generation_prompt %}>{% endif %}", bos_token="<s>") == '<s>user:"hi"True>'


def test_json_keeps_its_characters_and_order() -> None:
    assert render("{{ messages[0] | tojson }}", [{"b": "<é>", "a": 1}]) == '{"b": "<é>", "a": 1}'


def test_a_template_can_refuse_messages() -> None:
    with pytest.raises(InvalidRequest, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_there_is_no_clock() -> None:
    assert render("{{ strftime_now is defined }}") == "False"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(25) }}",
        "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(25) }}",
        "{{ 'x' * 1000000000 }}",
        "{{ 10 ** 1000000000 }}",
        "{{ 'x'.ljust(1000000000) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ 'x' | center(1000000000) }}",
        "{{ messages[7].role }}{{ undefined_function() }}",
        "{{ 1 / 0 }}",
    ],
)
def test_hostile_templates_are_refused_quickly(source: str) -> None:
    with pytest.raises(InvalidRequest):
        render(source)


def test_output_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "MOST_CHARACTERS", 1000)
    with pytest.raises(InvalidRequest, match="more than 1000 characters"):
        render("{% for i in range(200) %}0123456789{% endfor %}")


def test_a_template_that_is_no_jinja_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="isn't valid"):
        render("{% for %}")
