"""Each rule by a line that breaks it, with the place of the fault; and the list of rules in the documents."""

import json
import re
from pathlib import Path

import pytest

from tests.examples.given import SYSTEM, assistant, call, chat, checked, faults, sound_lines, tool, user
from tunery.examples import RULES

DEEP = json.loads("[" * 70 + "]" * 70)
FUNCTION_RESULT = {"role": "function", "name": "add", "content": "2"}


def preference(**changes: object) -> str:
    line = {
        "input": {"messages": [SYSTEM, user()]},
        "preferred_output": [assistant()],
        "non_preferred_output": [assistant("Bad.")],
    }
    return json.dumps(line | changes)


LINES: list[tuple[str, str | bytes, str | None]] = [
    # rule, line, text at the place that is pointed at (None: the line as a whole)
    ("not_utf8", b'{"messages": [\xff]}', "\ufffd]}"),
    ("not_utf8", '{"messages": "é"}'.encode("latin-1"), "\ufffd"),
    ("unexpected_bom", "\ufeff" + chat(user(), assistant()), "\ufeff"),
    ("line_too_long", chat(user("x" * 2_000_000), assistant()), None),
    ("invalid_json", '{"messages": [}', "}"),
    ("invalid_json", "{'messages': []}", "'messages"),
    ("invalid_json", '{"messages": [], }', ", }"),
    ("invalid_json", '{"messages": [1 2]}', "2]"),
    ("invalid_json", '{"messages" []}', "[]"),
    ("invalid_json", '{"messages": None}', "None"),
    ("invalid_json", '{"messages": NaN}', "NaN"),
    ("invalid_json", '{"messages": 01}', "1}"),
    ("invalid_json", '{"messages": "a\tb"}', "\tb"),
    ("invalid_json", r'{"messages": "a\xb"}', "\\xb"),
    ("invalid_json", '{"messages": "a', '"a'),
    ("invalid_json", '{"messages": [', ""),
    ("invalid_json", "{} {}", "{}"),
    ("invalid_json", "hello", "hello"),
    ("lone_surrogate", chat(user("\ud800"), assistant()), '"\\ud800'),
    ("number_out_of_range", chat(user(), assistant(), tools=7).replace("7", "9" * 5000), "9" * 5000),
    ("number_out_of_range", chat(user(), assistant(), tools=7).replace("7", "1e999"), "1e999"),
    ("nested_too_deeply", "[" * 100_000, "[" * (100_000 - 100)),
    ("nested_too_deeply", chat(user(), assistant(), tools=[tool(parameters={"a": DEEP})]), '{"a": [['),
    ("too_many_values", "[" + "0," * 200_000 + "0]", None),
    ("duplicate_key", chat(user(), assistant()).replace('"Fine."', '"Fine.", "content": "No."'), '"content": "No.'),
    ("data_type", "[]", "[]"),
    ("data_type", '"messages"', '"'),
    ("data_type", '{"messages": {}}', "{}"),
    ("data_type", chat("hello", assistant()), '"hello"'),
    ("data_type", chat(user(7), assistant()), "7"),
    ("data_type", chat(user(), assistant(), tools={}), "{}"),
    ("data_type", chat(user(), assistant(), parallel_tool_calls=1), "1"),
    ("data_type", chat(user(name=1), assistant()), "1"),
    ("data_type", chat(user(["a"]), assistant()), '"a"'),
    ("data_type", '{"prompt": 1, "completion": "a"}', "1"),
    ("data_type", preference(input=[]), "[]"),
    ("data_type", preference(preferred_output={}), "{}"),
    ("mixed_formats", '{"prompt": "a", "completion": "b"}', None),
    ("missing_messages_list", "{}", "{}"),
    ("missing_messages_list", '{"messages": []}', "[]"),
    ("missing_messages_list", '{"messages": null}', "null"),
    ("missing_messages_list", preference(input={}), "{}"),
    ("example_missing_key", '{"prompt": "a"}', '{"prompt'),
    ("example_missing_key", '{"input": {"messages": []}, "preferred_output": []}', "{"),
    ("example_unrecognized_key", chat(user(), assistant(), id=7), '"id"'),
    ("example_unrecognized_key", '{"prompt": "a", "completion": "b", "context": ""}', '"context"'),
    ("empty_text", '{"prompt": "", "completion": "b"}', '""'),
    ("message_missing_key", chat({"content": "a"}, assistant()), '{"content'),
    ("message_missing_key", chat({"role": "user"}, assistant()), '{"role'),
    ("message_missing_key", chat(user([{"type": "text"}]), assistant()), '{"type'),
    ("message_missing_key", chat(user(), {"role": "assistant"}), '{"role": "assistant'),
    ("message_missing_key", chat(user(), {"role": "tool", "content": "2"}, assistant()), '{"role": "tool'),
    ("message_unrecognized_key", chat(user(), assistant(refusal=None)), '"refusal"'),
    ("message_unrecognized_key", chat(user(weight=1), assistant()), '"weight"'),
    ("unrecognized_role", chat({"role": "bot", "content": "a"}, assistant()), '"bot"'),
    ("unrecognized_role", chat({"role": None, "content": "a"}, assistant()), "null"),
    ("unrecognized_role", preference(preferred_output=[user(), assistant()]), '"user", "content": "How are you?"}, {'),
    ("missing_content", chat(user(None), assistant()), "null"),
    ("missing_content", chat(user([]), assistant()), "[]"),
    ("missing_content", chat(user(), assistant(None)), "null"),
    ("unsupported_content", chat(user([{"type": "image_url", "image_url": {"url": "x"}}]), assistant()), '{"type'),
    ("unsupported_content", chat(user([{"text": "a"}]), assistant()), '{"text'),
    ("invalid_weight", chat(user(), assistant(weight=2)), "2"),
    ("invalid_weight", chat(user(), assistant(weight=1.0)), "1.0"),
    ("invalid_weight", chat(user(), assistant(weight=True)), "true"),
    ("invalid_arguments", chat(user(), assistant(None, tool_calls=[call(arguments={"a": 1})])), '{"a": 1}'),
    ("invalid_arguments", chat(user(), assistant(None, tool_calls=[call(arguments="[]")])), '"[]"'),
    ("invalid_arguments", chat(user(), assistant(None, function_call={"name": "add"})), '{"name'),
    ("invalid_tool", chat(user(), assistant(None, tool_calls=[])), "[]"),
    ("invalid_tool", chat(user(), assistant(None, tool_calls=[call() | {"type": "retrieval"}])), '{"id"'),
    ("invalid_tool", chat(user(), assistant(None, tool_calls=[call(id="")])), '""'),
    ("invalid_tool", chat(user(), assistant(), tools=[{"type": "function"}]), '{"type'),
    ("invalid_tool", chat(user(), assistant(), functions=[{"description": "adds"}]), '{"description'),
    ("tool_result_without_call", chat(user(), FUNCTION_RESULT, assistant()), '{"role": "function'),
    (
        "tool_result_without_call",
        chat(
            user(), assistant(tool_calls=[call()]), {"role": "tool", "tool_call_id": "c2", "content": ""}, assistant()
        ),
        '{"role": "tool',
    ),
    (
        "consecutive_assistant_messages",
        chat(user(), assistant("1"), assistant("2")),
        '{"role": "assistant", "content": "2',
    ),
    ("example_missing_assistant_message", chat(user()), "[{"),
    ("example_missing_assistant_message", preference(non_preferred_output=[]), "[]"),
    ("last_message_not_assistant", chat(user(), assistant(), user("And?")), '{"role": "user", "content": "And?'),
    ("no_trained_message", chat(user(), assistant(weight=0)), "[{"),
]


@pytest.mark.parametrize(("rule", "line", "pointed_at"), LINES, ids=[f"{n}-{row[0]}" for n, row in enumerate(LINES)])
def test_a_faulty_line_is_named_with_its_rule_and_place(rule: str, line: str | bytes, pointed_at: str | None) -> None:
    found = [finding for finding in faults(line) if finding.rule == rule]
    assert len(found) == 1
    (finding,) = found
    if finding.column is not None and pointed_at is not None:
        text = line.decode("utf-8", "replace") if isinstance(line, bytes) else line
        assert text[finding.column - 1 :].startswith(pointed_at)
        assert pointed_at or finding.column == len(text) + 1
    else:
        assert finding.column is None or rule == "too_many_values"
    assert finding.level == "error"
    assert finding.message.endswith(".")
    assert len(finding.message) < 300


def test_all_faults_of_a_line_are_told_at_once() -> None:
    line = chat(
        {"role": "bot", "content": 7}, user(weight=1), assistant(weight=3, tool_calls=[call(arguments="{")]), n=1
    )
    assert [finding.rule for finding in faults(line)] == [
        "unrecognized_role",
        "data_type",
        "message_unrecognized_key",
        "invalid_weight",
        "invalid_arguments",
        "example_unrecognized_key",
    ]


def test_reinforcement_data_is_told_what_it_lacks() -> None:
    (finding,) = faults(chat(SYSTEM, user()))
    assert "no assistant answer to train on" in finding.message
    (finding,) = faults(chat(user(), assistant(), user()))
    assert "Reinforcement data" in finding.message


def test_a_line_with_countless_faults_is_cut_short() -> None:
    found = faults(chat(*[7] * 500))
    assert len(found) == 101
    assert (found[-1].rule, found[-1].message) == ("more_faults", "The line has 400 more faults; mend the listed ones.")


def test_words_of_the_users_are_short_and_printable() -> None:
    (finding,) = [f for f in faults(chat({"role": "\x1b[2J\u202e" + "x" * 9999, "content": ""}, assistant()))]
    assert finding.message.isprintable()
    assert len(finding.message) < 200


FILES: list[tuple[str, list[str]]] = [
    ("empty_file", []),
    ("empty_file", ["", " ", ""]),
    ("too_few_examples", sound_lines(9)),
    ("empty_line", [*sound_lines(50), "", sound_lines(51)[-1]]),
    ("not_jsonl", ["\x1f\x8b\x08"]),
    ("few_examples", sound_lines(49)),
    ("no_system_message", [*sound_lines(50), chat(user(), assistant())]),
    (
        "several_system_messages",
        [*sound_lines(50), chat({"role": "developer", "content": "Be long."}, user(), assistant())],
    ),
    ("no_user_message", [*sound_lines(50), chat(SYSTEM, assistant())]),
    ("empty_answer", [*sound_lines(50), chat(SYSTEM, user(), assistant(""))]),
    ("unanswered_call", [*sound_lines(50), chat(SYSTEM, user(), assistant(tool_calls=[call()]), user(), assistant())]),
    ("duplicate_examples", [*sound_lines(50), sound_lines(50)[7]]),
    ("contradicting_answers", [*sound_lines(50), chat(SYSTEM, user("What is 7?"), assistant("Odd."))]),
]


@pytest.mark.parametrize(("rule", "lines"), FILES, ids=[f"{n}-{row[0]}" for n, row in enumerate(FILES)])
def test_a_file_is_told_what_is_wrong_with_it_once(rule: str, lines: list[str]) -> None:
    summary, findings = checked("".join(line + "\n" for line in lines).encode("latin-1"))
    (finding,) = findings
    assert (finding.rule, finding.level, finding.count) == (rule, RULES[rule].level, 1)
    assert summary.is_valid == (finding.level == "warning")


def test_every_rule_is_shown_by_a_test() -> None:
    shown = {row[0] for row in LINES} | {row[0] for row in FILES}
    elsewhere = {"more_faults", "too_many_errors", "repeats_not_remembered", "invalid_example"}
    assert shown | elsewhere == set(RULES)


def test_the_documents_list_exactly_the_rules() -> None:
    text = (Path(__file__).parents[2] / "docs" / "rules.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+) \| (.+) \|$", text, re.MULTILINE)
    assert rows == [(name, rule.level, rule.meaning, rule.remedy) for name, rule in RULES.items()]
