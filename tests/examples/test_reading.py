"""What training gets of a checked file, and which examples two files share."""

import json
from pathlib import Path

import pytest

from tests.examples.given import SYSTEM, assistant, call, chat, sound_lines, tool, user
from tunery import examples
from tunery.errors import InvalidRequest
from tunery.examples import Chat, Completion, Preference, Taken, repeats


def written(path: Path, lines: list[str], *, mark: str = "\ufeff", ending: str = "\r\n") -> Path:
    path.write_bytes((mark + ending.join(lines)).encode())
    return path


def read(path: Path) -> list[tuple[int, Taken]]:
    return list(examples.read(path))


def test_chats_come_with_their_line_numbers_and_a_weight_for_each_message(tmp_path: Path) -> None:
    lines = [
        chat(SYSTEM, user(), assistant("1", weight=0), user("And?"), assistant("2")),
        chat(user(name=None), assistant("3", weight=1, tool_calls=None)),
        "",
    ]
    (first, one), (second, other) = read(written(tmp_path / "a", lines))
    assert (first, second) == (1, 2)
    assert one == Chat(messages=[SYSTEM, user(), assistant("1"), user("And?"), assistant("2")], weights=[0, 0, 0, 0, 1])
    assert other == Chat(messages=[user(), assistant("3")], weights=[0, 1])


def test_tools_keep_the_order_of_their_keys_and_functions_become_tools(tmp_path: Path) -> None:
    turned = {"function": {"strict": None, "name": "b"}, "type": "function"}
    spec = {"description": "adds", "name": "c"}
    path = written(tmp_path / "a", [chat(user(), assistant(), tools=[tool(), turned], functions=[spec])])
    ((_, example),) = read(path)
    assert isinstance(example, Chat)
    assert json.dumps(example.tools) == json.dumps([tool(), turned, {"type": "function", "function": spec}])


def test_calls_and_parts_stay_as_they_were_written(tmp_path: Path) -> None:
    messages = [
        user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
        assistant(None, tool_calls=[call()]),
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "assistant", "function_call": {"name": "add", "arguments": "{}"}},
        {"role": "function", "name": "add", "content": "0"},
        assistant(),
    ]
    ((_, example),) = read(written(tmp_path / "a", [chat(*messages)]))
    assert isinstance(example, Chat)
    del messages[1]["content"]
    assert example.messages == messages


def test_completions_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a", ['{"prompt": "a", "completion": "b"}', '{"completion": "d", "prompt": "\\u0063"}'])
    assert read(path) == [(1, Completion(prompt="a", completion="b")), (2, Completion(prompt="c", completion="d"))]


def test_a_preference_is_two_conversations_with_one_beginning_that_is_not_trained(tmp_path: Path) -> None:
    called = [assistant(None, tool_calls=[call()]), {"role": "tool", "tool_call_id": "c1", "content": "2"}]
    line = {
        "input": {
            "messages": [SYSTEM, user(), assistant("1"), user("And?", name=None)],
            "tools": [tool()],
            "parallel_tool_calls": True,
        },
        "preferred_output": [*called, assistant("2")],
        "non_preferred_output": [assistant("3", weight=None)],
    }
    ((number, example),) = read(written(tmp_path / "a", [json.dumps(line)]))
    asked = [SYSTEM, user(), assistant("1"), user("And?")]
    del called[0]["content"]
    assert number == 1
    assert example == Preference(
        preferred=Chat(messages=[*asked, *called, assistant("2")], weights=[0, 0, 0, 0, 1, 0, 1], tools=[tool()]),
        non_preferred=Chat(messages=[*asked, assistant("3")], weights=[0, 0, 0, 0, 1], tools=[tool()]),
    )


@pytest.mark.parametrize("line", ["{}", chat(user()), '{"prompt": "a", "completion": "b"}', "x" * 2_000_000])
def test_a_file_that_was_changed_since_its_check_is_refused_at_the_line(tmp_path: Path, line: str) -> None:
    with pytest.raises(InvalidRequest, match="Line 4 isn't a valid example"):
        read(written(tmp_path / "a", [*sound_lines(2), "", line]))


def test_shared_examples_are_found_by_their_values(tmp_path: Path) -> None:
    lines = sound_lines(60)
    respelled = json.dumps(json.loads(lines[30]), ensure_ascii=True, indent=None, separators=(",", ":"))
    training = written(tmp_path / "training", lines)
    validation = written(tmp_path / "validation", ["", chat(user("New?"), assistant()), respelled, lines[2], respelled])
    found = examples.shared_lines(training, validation)
    assert (found.count, found.lines) == (3, ((31, 3), (3, 4), (31, 5)))


def test_different_answers_and_formats_are_not_shared(tmp_path: Path) -> None:
    training = written(tmp_path / "training", [chat(user("a"), assistant("b")), chat(user("c"), assistant("d"))])
    other_answers = written(tmp_path / "validation", [chat(user("a"), assistant("d")), chat(user("c"), assistant("b"))])
    completions = written(tmp_path / "completions", ['{"prompt": "a", "completion": "b"}'])
    for validation in (other_answers, completions, written(tmp_path / "empty", [])):
        assert examples.shared_lines(training, validation).count == 0
        assert examples.shared_lines(validation, training).count == 0


def test_only_so_many_examples_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a", sound_lines(20))
    monkeypatch.setattr(repeats, "MOST_REMEMBERED", 5)
    assert examples.shared_lines(path, path).count == 5
