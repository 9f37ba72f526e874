import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tunery.errors import InvalidRequest
from tunery.models.tokenizer import Tokenizer

SMOLLM2_OWN = (  # the template inside the GGUF, word for word
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
END = 2

texts = st.text(max_size=12) | st.sampled_from(
    ["<|im_end|>", "\n\nhi", " x ", "<|im_start|>system\n", "a<|im_e<|im_end|>nd|>"]
)
calls = st.builds(
    lambda name, value: {
        "id": "1",
        "type": "function",
        "function": {"name": name, "arguments": json.dumps({"v": value})},
    },
    texts,
    texts,
)


@st.composite
def chats(draw: st.DrawFn) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": draw(st.sampled_from(["system", "developer"])), "content": draw(texts)})
    for _ in range(draw(st.integers(1, 4))):
        messages.append({"role": "user", "content": draw(texts)})
        if draw(st.booleans()):
            made = draw(st.lists(calls, min_size=1, max_size=2))
            messages.append({"role": "assistant", "content": draw(st.none() | texts), "tool_calls": made})
            messages += [{"role": "tool", "tool_call_id": "1", "content": draw(texts)} for _ in made]
        messages.append({"role": "assistant", "content": draw(texts), "weight": draw(st.sampled_from([0, 1]))})
    return messages


@pytest.fixture(scope="session")
def tokenizer(tiny: Path) -> Tokenizer:
    return Tokenizer.load(tiny)


many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@many
@given(messages=chats(), tools=st.none() | st.just([WEATHER]))
def test_a_served_prompt_is_the_trained_prefix_token_for_token(
    tokenizer: Tokenizer, messages: list[dict[str, Any]], tools: Any
) -> None:
    segments = tokenizer.chat_segments(messages, tools)
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    done: list[int] = []
    for number, segment in enumerate(segments):
        if number % 2:
            index = answers[number // 2]
            assert tokenizer.chat_prompt(messages[:index], tools) == done
            assert segment.trained == (messages[index].get("weight", 1) != 0)
        else:
            assert not segment.trained
        done += segment.ids


@many
@given(messages=chats())
def test_text_of_messages_never_becomes_a_control_token(tokenizer: Tokenizer, messages: list[dict[str, Any]]) -> None:
    """As many ends as turns, each answer's end its last token, however the texts try."""
    segments = tokenizer.chat_segments(messages, None)
    system = 0 if messages[0]["role"] in ("system", "developer") else 1
    tool_runs = sum(m["role"] == "tool" and messages[i - 1]["role"] != "tool" for i, m in enumerate(messages))
    turns = system + tool_runs + sum(message["role"] != "tool" for message in messages)
    ids = [i for segment in segments for i in segment.ids]
    assert ids.count(END) == turns
    assert all(segment.ids[-1] == END and segment.ids.count(END) == 1 for segment in segments[1::2])


@many
@given(
    messages=st.lists(st.builds(dict, role=st.sampled_from(["system", "user", "assistant"]), content=texts), min_size=1)
)
def test_plain_messages_read_as_smollm2s_own_template(
    tokenizer: Tokenizer, tiny: Path, messages: list[dict[str, Any]]
) -> None:
    theirs = AutoTokenizer.from_pretrained(tiny)
    expected = theirs.apply_chat_template(
        messages, chat_template=SMOLLM2_OWN, add_generation_prompt=True, tokenize=False
    )
    assert tokenizer.decode(tokenizer.chat_prompt(messages, None)) == expected.encode("utf-8", "replace").decode()


def test_ids_equal_transformers_where_no_border_is_crossed(tokenizer: Tokenizer, tiny: Path) -> None:
    messages = [{"role": "user", "content": "The quick fox"}, {"role": "assistant", "content": "jumps 12"}]
    theirs = AutoTokenizer.from_pretrained(tiny).apply_chat_template(messages, return_dict=False)
    assert [i for segment in tokenizer.chat_segments(messages, None) for i in segment.ids] == theirs


def test_loss_falls_on_answers_and_their_end_alone(tokenizer: Tokenizer) -> None:
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "U"},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "V"},
        {"role": "assistant", "content": "B", "weight": 0},
        {"role": "user", "content": "W"},
        {"role": "assistant", "content": "C", "weight": 1},
    ]
    segments = tokenizer.chat_segments(messages, None)
    assert [tokenizer.decode(segment.ids) for segment in segments if segment.trained] == ["A<|im_end|>", "C<|im_end|>"]
    by_list = tokenizer.chat_segments([m | {"weight": 1} for m in messages], None, [0, 0, 1, 0, 0, 0, 1])
    assert by_list == segments


def test_tools_calls_and_results_are_written_in_the_hermes_style(tokenizer: Tokenizer) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Köln"}'}}
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call, call]},
        {"role": "tool", "tool_call_id": "1", "content": "sun"},
        {"role": "tool", "tool_call_id": "1", "content": "rain"},
    ]
    text = tokenizer.decode(tokenizer.chat_prompt(messages, [WEATHER]))
    assert f"<tools>\n{json.dumps(WEATHER)}\n</tools>" in text
    written = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
    results = "<tool_response>\nsun\n</tool_response>\n<tool_response>\nrain\n</tool_response>"
    assert text.endswith(
        f"<|im_start|>assistant\nLet me see.\n{written}\n{written}<|im_end|>\n"
        f"<|im_start|>user\n{results}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_deprecated_and_split_forms_read_as_the_plain_ones(tokenizer: Tokenizer) -> None:
    function = {"name": "weather", "arguments": "{}"}
    old = [
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "user", "content": "U", "name": None},
        {"role": "assistant", "content": None, "function_call": function},
        {"role": "function", "name": "weather", "content": "sun"},
    ]
    new = [
        {"role": "system", "content": "ab"},
        {"role": "user", "content": "U"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "1", "content": "sun"},
    ]
    assert tokenizer.chat_prompt(old, None) == tokenizer.chat_prompt(new, None)


def test_a_completion_is_trained_with_an_end_of_text(tokenizer: Tokenizer) -> None:
    prompt, completion = tokenizer.completion_segments("Intent:", " weather<|im_end|>")
    assert not prompt.trained
    assert completion.trained
    assert prompt.ids == tokenizer.encode("Intent:")
    assert tokenizer.decode(completion.ids) == " weather<|im_end|><|endoftext|>"
    assert completion.ids[-1] == 0
    assert END not in completion.ids


@many
@given(text=st.text())
def test_bytes_of_tokens_join_to_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == text
    assert tokenizer.decode(ids) == text


def test_a_lone_surrogate_is_no_error(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud800")) == "a?"


def test_a_template_that_rewrites_history_cannot_train(tokenizer: Tokenizer, tiny: Path, tmp_path: Path) -> None:
    for path in tiny.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{{ messages | length }}{{ messages[-1].content }}<|im_end|>")
    with pytest.raises(InvalidRequest, match="changes earlier messages"):
        Tokenizer.load(tmp_path).chat_segments(
            [{"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}], None
        )


@pytest.mark.parametrize(
    ("name", "said"), [("tokenizer.json", "no tokenizer.json"), ("chat_template.jinja", "no chat template")]
)
def test_a_missing_file_is_named(tiny: Path, tmp_path: Path, name: str, said: str) -> None:
    for path in tiny.iterdir():
        if path.name != name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InvalidRequest, match=said):
        Tokenizer.load(tmp_path).chat_prompt([{"role": "user", "content": "U"}], None)


@pytest.mark.model
def test_the_bundled_base_answers_in_chatml(bundled: Path) -> None:
    tokenizer = Tokenizer.load(bundled)
    messages = [{"role": "user", "content": "What is 12?"}]
    expected = AutoTokenizer.from_pretrained(bundled).apply_chat_template(
        messages, chat_template=SMOLLM2_OWN, add_generation_prompt=True, return_dict=False
    )
    assert tokenizer.chat_prompt(messages, None) == expected
    assert tokenizer.vocab_size == 49152
