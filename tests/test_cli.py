"""The command line: exit codes, and sentences instead of tracebacks."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_files import jsonl
from tunery import serve
from tunery.errors import InvalidRequest
from tunery.settings import Settings


def tunery(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tunery", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_check_prints_every_fault_with_its_place_and_exits_1(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(jsonl() + b'{"messages": "none"}\n')
    done = tunery("check", str(path))
    assert done.returncode == 1
    assert "bad.jsonl:13:" in done.stdout
    assert ": error: " in done.stdout


def test_check_of_a_good_file_exits_0(tmp_path: Path) -> None:
    path = tmp_path / "good.jsonl"
    path.write_bytes(jsonl(60))
    done = tunery("check", str(path))
    assert done.returncode == 0
    assert "60 examples (chat), 0 errors" in done.stdout


def test_a_refusal_is_a_sentence_and_not_a_traceback(tmp_path: Path) -> None:
    done = tunery("env", "--home", str(tmp_path))
    assert done.returncode == 1
    assert "No service was started" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "tunery.sqlite").exists()


def test_help_names_every_command() -> None:
    shown = tunery("--help").stdout
    assert all(command in shown for command in ("serve", "work", "env", "check", "demo", "models"))


def test_an_address_that_others_can_reach_has_to_be_allowed() -> None:
    serve.refuse_open_host(Settings(host="::1"))
    serve.refuse_open_host(Settings(host="0.0.0.0", allow_remote=True))
    with pytest.raises(InvalidRequest, match="allow_remote"):
        serve.refuse_open_host(Settings(host="0.0.0.0"))
