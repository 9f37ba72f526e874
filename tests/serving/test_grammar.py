"""Answers held to a form: what comes out is what was asked for, however it is sampled; and what is refused."""

import json
from typing import Any

import msgspec
import pytest

from tests.serving.given import Running, ask, run
from tunery.bases import BaseModel
from tunery.errors import InvalidRequest, OperationNotSupported
from tunery.messages import Calls, Generate, JsonForm
from tunery.models.decoder import Decoder
from tunery.models.templates import ChatTemplate
from tunery.models.tokenizer import Tokenizer
from tunery.serving import grammar as grammar_module
from tunery.serving.constraints import source_of
from tunery.serving.engine import Engine
from tunery.serving.grammar import Grammars

HELLO = [{"role": "user", "content": "Hello?"}]
PLACE = {
    "type": "object",
    "properties": {
        "unit": {"enum": ["C", "F"]},
        "near": {"type": "boolean"},
        "days": {"type": "integer", "maximum": 9, "minimum": 0},
    },
    "required": ["unit", "near", "days"],
    "additionalProperties": False,
}
HOW = [
    {"temperature": 0.0},
    {"temperature": 1.5, "seed": 1, "n": 4},
    {"temperature": 1.0, "seed": 2, "top_p": 0.3, "presence_penalty": 2.0, "frequency_penalty": -1.0},
    {"temperature": 0.0, "logit_bias": {2: 100.0, 0: 100.0}},
    {"temperature": 1.0, "seed": 3, "best_of": 4, "logprobs": 2},
]


@pytest.fixture
def engine(base: BaseModel, decoder: Decoder, tokenizer: Tokenizer) -> Engine:
    """With room for tools in the prompt and for blanks in the answer."""
    return Engine(msgspec.structs.replace(base, context_length=4096), decoder, tokenizer)


def tool(name: str, strict: bool = True, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    function = {"name": name, "parameters": PLACE if parameters is None else parameters, "strict": strict}
    return {"type": "function", "function": function}


def chat(**changes: Any) -> Generate:
    return ask(None, messages=HELLO, **{"max_tokens": 700} | changes)


def answers(schema: dict[str, Any], *, strict: bool = True, **changes: Any) -> Generate:
    return chat(json_form=JsonForm(schema=schema, strict=strict), **changes)


def is_place(text: str) -> bool:
    value = json.loads(text)
    return (
        list(value) == ["unit", "near", "days"]
        and value["unit"] in ("C", "F")
        and isinstance(value["near"], bool)
        and value["days"] in range(10)
    )


def calls_in(running: Running, index: int = 0) -> list[tuple[str, str]]:
    parts = [part for piece in running.pieces if piece.index == index for part in piece.tool_calls]
    return [
        (part.name, "".join(other.arguments for other in parts if other.index == part.index))
        for part in parts
        if part.name
    ]


@pytest.mark.parametrize("how", HOW)
def test_an_answer_follows_its_schema_however_it_is_sampled(engine: Engine, how: dict[str, Any]) -> None:
    (running,) = run(engine, answers(PLACE, **how))
    assert len(running.texts) == how.get("n", 1)
    assert all(is_place(text) for text in running.texts)
    assert all(running.finish_reason(index) == "stop" for index in range(len(running.texts)))


@pytest.mark.parametrize("how", HOW)
def test_a_demanded_call_is_made_however_it_is_sampled(engine: Engine, how: dict[str, Any]) -> None:
    tools = [tool("weather"), tool("tides")]
    calls = Calls(demanded=True, parallel=False)
    (running,) = run(engine, chat(tools=tools, calls=calls, **how))
    for index, text in enumerate(running.texts):
        ((name, arguments),) = calls_in(running, index)
        assert (name in ("weather", "tides"), is_place(arguments), text) == (True, True, "")
        assert running.finish_reason(index) == "tool_calls"


def test_a_named_function_is_the_one_that_is_called(engine: Engine) -> None:
    for name in ("weather", "tides"):
        calls = Calls(demanded=True, names=[name], parallel=False)
        (running,) = run(engine, chat(tools=[tool("weather"), tool("tides", strict=False)], calls=calls))
        ((called, arguments),) = calls_in(running)
        assert called == name
        assert is_place(arguments)


def test_a_form_leaves_the_others_in_the_batch_as_they_are(engine: Engine) -> None:
    plain = [ask("The quick"), ask("0123", temperature=1.0, seed=4)]
    expected = [running.text() for running in run(engine, *plain)]
    both = run(engine, answers(PLACE), plain[0], chat(tools=[tool("weather")]), plain[1])
    assert [both[1].text(), both[3].text()] == expected


def test_log_probabilities_are_the_models_own_although_others_are_forbidden(engine: Engine) -> None:
    (running,) = run(engine, answers(PLACE, logprobs=1))
    scored = [token for piece in running.pieces for token in piece.logprobs]
    assert "".join(token.token for token in scored) == running.text()
    assert any(token.top[0][1] != token.token_bytes for token in scored)


def test_max_tokens_cuts_an_answer_that_is_no_json_then(engine: Engine) -> None:
    (running,) = run(engine, answers(PLACE, max_tokens=4))
    assert running.finish_reason() == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(running.text())


def guided(tokenizer: Tokenizer, generate: Generate, text: str) -> bool:
    """Whether the grammar lets a model say this text and end there."""
    grammar = Grammars(tokenizer).prepare(generate).result()
    assert grammar
    guide = grammar.guide()
    for token in tokenizer.encode_continuation(text):
        if guide.finished or not guide.allowed(tokenizer.vocab_size)[token]:
            return False
        guide.accept(token)
    return guide.finished or bool(guide.allowed(tokenizer.vocab_size)[sorted(tokenizer.eos_ids)].all())


CALL = '<tool_call>\n{"name": "weather", "arguments": {"a": 1}}\n</tool_call>'
STRICT_CALL = CALL.replace('{"a": 1}', '{"unit": "C", "near": true, "days": 3}')


@pytest.mark.parametrize(
    ("text", "calls", "allowed"),
    [
        ("Hello.", Calls(), True),
        ("1 < 2 and <tool", Calls(), True),
        (CALL, Calls(), True),
        ("Let me see.\n" + CALL, Calls(), True),
        (CALL + "\n" + CALL, Calls(), True),
        (CALL + "\n" + CALL, Calls(parallel=False), False),
        (CALL + " And more.", Calls(), False),
        (CALL.replace("weather", "time"), Calls(), False),
        (CALL.replace('"a": 1', '"a":1'), Calls(), False),
        (CALL.replace("}}", "}"), Calls(), False),
        ("Hello.", Calls(demanded=True), False),
        (STRICT_CALL, Calls(demanded=True), True),
        (STRICT_CALL + "\n" + STRICT_CALL, Calls(demanded=True), True),
        (STRICT_CALL + "\n" + STRICT_CALL, Calls(demanded=True, parallel=False), False),
        (CALL, Calls(demanded=True), False),
    ],
)
def test_what_an_answer_with_tools_may_say(tokenizer: Tokenizer, text: str, calls: Calls, allowed: bool) -> None:
    assert guided(tokenizer, chat(tools=[tool("weather", strict=False)], calls=calls), text) == allowed


def test_a_strict_function_is_called_by_its_schema_even_if_not_demanded(tokenizer: Tokenizer) -> None:
    assert guided(tokenizer, chat(tools=[tool("weather")]), STRICT_CALL)
    assert not guided(tokenizer, chat(tools=[tool("weather")]), CALL)


def test_with_a_form_for_text_and_tools_an_answer_is_either(tokenizer: Tokenizer) -> None:
    generate = answers(PLACE, tools=[tool("weather", strict=False)])
    assert guided(tokenizer, generate, '{"unit": "C", "near": true, "days": 3}')
    assert guided(tokenizer, generate, CALL)
    assert not guided(tokenizer, generate, "Hello.")


@pytest.mark.parametrize(
    "text", ['{"a":[1,{"b":null}]}', '{"a": "\\u00e9 \\n"}', '{\n\t"a": {},\n\t"b": -1.5e3\n}', "{}"]
)
def test_json_may_be_written_in_all_usual_ways(tokenizer: Tokenizer, text: str) -> None:
    assert guided(tokenizer, answers({"type": "object"}, strict=False), text)


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1} ', "{\n\n\n}", '{"a": NaN}', "{'a': 1}", '{"a": 1,}'])
def test_what_is_no_json_object_or_wastes_lines_is_not_written(tokenizer: Tokenizer, text: str) -> None:
    assert not guided(tokenizer, answers({"type": "object"}, strict=False), text)


ITEM = {
    "type": "object",
    "properties": {"next": {"anyOf": [{"$ref": "#/$defs/item"}, {"type": "null"}]}},
    "required": ["next"],
    "additionalProperties": False,
}
NESTED = {"$ref": "#/$defs/item", "$defs": {"item": ITEM}}


def test_a_schema_may_refer_to_itself(tokenizer: Tokenizer) -> None:
    assert guided(tokenizer, answers(NESTED), '{"next": {"next": {"next": null}}}')
    assert not guided(tokenizer, answers(NESTED), '{"next": {"next": 1}}')


def chain(length: int) -> dict[str, Any]:
    links: dict[str, Any] = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": {**links, f"d{length}": {"type": "string"}}}


def tree(width: int, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"anyOf": [{"type": "object", "properties": {f"k{i}": schema}} for i in range(width)]}
    return schema


HOSTILE = {
    "refers to itself": ({"$ref": "#"}, "nothing can satisfy it"),
    "refers to itself by turns": (
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        "nothing can satisfy it",
    ),
    "refers to another machine": ({"$ref": "https://example.com/a.json"}, "example.com"),
    "refers to a file": ({"$ref": "file:///etc/passwd"}, "passwd"),
    "a chain that fills the stack": (chain(4500), "can't be enforced"),
    "a tree that doubles": (tree(9, 5), "characters"),
    "a huge enumeration": ({"enum": [f"value {i}" for i in range(30_000)]}, "characters"),
    "a large prime": ({"type": "integer", "multipleOf": 99_730_007}, "to compile"),
    "many patterns at once": (
        {"allOf": [{"type": "string", "pattern": f"(a|b)*a(a|b){{{i}}}$"} for i in range(3, 22)]},
        "to compile",  # it takes too much of the processor's time, or on a busy machine too long
    ),
    "nothing at all": ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "unsatisfiable"),
    "no type": ({"type": "strnig"}, "strnig"),
    "a keyword that can't be enforced": ({"not": {"type": "integer"}}, "not"),
    "a lookahead": ({"type": "string", "pattern": "(?=a)b"}, "can't be enforced"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_schema_that_cannot_be_followed_is_refused_while_others_go_on(engine: Engine, name: str) -> None:
    schema, said = HOSTILE[name]
    hostile, other = run(engine, answers(schema), ask("The quick"))
    assert hostile.refused.kind == "InvalidRequest"
    assert said in hostile.refused.message
    assert len(hostile.refused.message) < 500
    assert other.done


def test_others_are_answered_before_a_hostile_schema_is_refused(engine: Engine) -> None:
    schema, _ = HOSTILE["many patterns at once"]
    hostile, other = Running(engine, answers(schema)), Running(engine, ask("The quick"))
    while not hostile.answers:
        engine.step()
    assert other.done


def test_a_keyword_that_cannot_be_enforced_is_passed_over_unless_strict(tokenizer: Tokenizer) -> None:
    schema = {"type": "object", "not": {"required": ["a"]}}
    assert guided(tokenizer, answers(schema, strict=False), "{}")


def test_the_refusal_names_the_function_whose_schema_is_at_fault(tokenizer: Tokenizer) -> None:
    bad = tool("tides", parameters={"type": "object", "properties": {"a": {"type": "strnig"}}})
    with pytest.raises(InvalidRequest, match=r"'tides'.*strnig") as refused:
        Grammars(tokenizer).prepare(chat(tools=[tool("weather"), bad])).result()
    assert refused.value.param == "tools"


def test_parameters_that_are_no_object_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match="of type 'object'"):
        source_of(chat(tools=[tool("weather", parameters={"type": "string"})]), tokenizer)


def test_equal_schemas_are_compiled_once_and_old_ones_go(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_module, "MOST_CACHED", 8)
    grammars = Grammars(tokenizer)
    first = grammars.prepare(answers({"type": "object"}))
    assert grammars.prepare(answers({"type": "object"})) is first
    for number in range(8):
        chosen = [tool(f"f{number}", strict=False)]
        grammars.prepare(chat(tools=chosen)).result()
    assert len(grammars._cache) <= 8
    assert grammars.prepare(answers({"type": "object"})) is not first


def test_a_template_without_calls_gets_none_and_cannot_be_made_to(tokenizer: Tokenizer) -> None:
    plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    without = Tokenizer(tokenizer._raw, ChatTemplate(plain, {}), sorted(tokenizer.eos_ids))
    assert source_of(chat(tools=[tool("weather")]), without) is None
    with pytest.raises(OperationNotSupported, match="no tool calls"):
        source_of(chat(tools=[tool("weather")], calls=Calls(demanded=True)), without)
