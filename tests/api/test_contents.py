"""What is in a file, through the wire, with the real process over a tiny base."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.live import LiveService, live_service
from tests.models.tiny import write_base
from tests.test_files import jsonl, preference_jsonl
from tunery.catalog import BUNDLED

FAULTY = jsonl(12) + b"\n" + jsonl(13)[len(jsonl(12)) : -1] + b",\n" + b"{broken\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    home = tmp_path_factory.mktemp("home")
    write_base(home / "models" / BUNDLED)
    with live_service(home) as running:
        yield running


def upload(service: LiveService, content: bytes) -> str:
    client = service.azure()
    file = client.files.create(file=("train.jsonl", content), purpose="fine-tune")
    client.files.wait_for_processing(file.id, poll_interval=0.1)
    return file.id


def get(service: LiveService, file: str, what: str, **query: Any) -> Any:
    response = service.http("GET", f"/openai/v1/files/{file}/{what}", params=query)
    return response.json() if response.headers["content-type"] == "application/json" else response


def test_statistics_are_of_the_model_asked_for(service: LiveService) -> None:
    found = get(service, upload(service, jsonl(30)), "statistics", model="gpt-35-turbo-0613")
    assert (found["object"], found["counted"], found["sequences"]) == ("file.statistics", 30, 30)
    assert 0 < found["trained_tokens"] < found["tokens"]
    assert sum(bar["count"] for bar in found["histogram"]) == 30
    assert found["duplicates"] == {"count": 0, "lines": []}


def test_examples_are_paged_with_their_trained_text(service: LiveService) -> None:
    file = upload(service, jsonl(12))
    found = get(service, file, "examples", after=10, limit=1)
    (example,) = found["data"]
    assert (example["line"], found["has_more"]) == (11, True)
    assert [turn["trained"] for turn in example["sequences"][0]["turns"]] == [False, True]
    assert get(service, file, "examples", after=11)["has_more"] is False


def test_preferences_have_two_sequences_each(service: LiveService) -> None:
    file = upload(service, preference_jsonl())
    assert get(service, file, "statistics")["sequences"] == 24
    assert len(get(service, file, "examples")["data"][0]["sequences"]) == 2


def test_lines_of_both_files_are_told(service: LiveService) -> None:
    one, other = upload(service, jsonl(12)), upload(service, b"".join(jsonl(22).splitlines(keepends=True)[8:]))
    found = get(service, one, "overlap", **{"with": other})
    assert (found["count"], found["lines"]) == (4, [[9, 1], [10, 2], [11, 3]])
    assert get(service, one, "overlap")["error"]["param"] == "with"


def test_a_corrected_file_says_what_changed_and_what_still_stands_in_the_way(service: LiveService) -> None:
    file = upload(service, FAULTY)
    about = get(service, file, "corrections")
    assert {mend["mend"]: mend["count"] for mend in about["mended"]} == {"empty_line": 1, "comma": 1}
    assert [change["line"] for change in about["changes"]] == [13, 14]
    assert (about["unmended"], about["valid"]) == (1, False)
    assert "line 14" in about["status_details"]
    assert get(service, file, "corrected").content == jsonl(13) + b"{broken\n"


def test_a_corrected_file_without_the_unmended_lines_passes_the_check(service: LiveService) -> None:
    file = upload(service, FAULTY)
    assert get(service, file, "corrections", unmended="leave_out")["valid"] is True
    response = get(service, file, "corrected", unmended="leave_out")
    assert 'filename="train.corrected.jsonl"' in response.headers["content-disposition"]
    assert response.content == jsonl(13)
    again = upload(service, response.content)
    assert service.azure().files.retrieve(again).status == "processed"


def test_the_corrected_copy_goes_with_its_file(service: LiveService) -> None:
    file = upload(service, FAULTY)
    get(service, file, "corrected")
    copies = service.rooms.settings.home / "blobs" / "corrected" / file
    assert copies.is_dir()
    service.azure().files.delete(file)
    assert not copies.exists()


@pytest.mark.parametrize(
    ("what", "query", "param"),
    [
        ("statistics", {"model": "gpt-9"}, "model"),
        ("statistics", {"model": "babbage-002"}, "file_id"),
        ("examples", {"limit": "0"}, "limit"),
        ("examples", {"limit": "101"}, "limit"),
        ("examples", {"after": "-1"}, "after"),
        ("corrected", {"unmended": "guess"}, "unmended"),
        ("overlap", {"with": "file-none"}, None),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(service: LiveService, what: str, query: Any, param: Any) -> None:
    refused = get(service, upload(service, jsonl()), what, **query)
    assert refused["error"]["param"] == param, refused


def test_a_faulty_file_and_one_of_another_purpose_hold_no_examples(service: LiveService) -> None:
    faulty = upload(service, FAULTY)
    other = service.azure().files.create(file=("a.json", json.dumps({}).encode()), purpose="batch").id
    for file, says in ((faulty, "has errors"), (other, "purpose 'batch'")):
        for what in ("statistics", "examples", "overlap"):
            assert says in get(service, file, what, **{"with": file})["error"]["message"]
    assert "purpose 'batch'" in get(service, other, "corrected")["error"]["message"]
