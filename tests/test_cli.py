"""The command line: exit codes, and sentences instead of tracebacks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.tiny import write_base, write_other
from tests.test_files import jsonl
from tests.waiting import PATIENCE
from tunery import serve, wiring
from tunery.accounts import Wanted
from tunery.address import write_address
from tunery.catalog import BUNDLED
from tunery.errors import InvalidRequest
from tunery.messages import Done
from tunery.metering import Metered
from tunery.settings import Settings


def tunery(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tunery", *arguments]
    wide = {**os.environ, "COLUMNS": "300"}
    return subprocess.run(command, env=wide, capture_output=True, text=True, check=False, timeout=PATIENCE)


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


def test_env_az_prints_what_az_needs_and_the_same_again(tmp_path: Path) -> None:
    write_address(Settings(home=tmp_path), tmp_path / "ca.pem")
    printed = [tunery("env", "--az", "--home", str(tmp_path)).stdout for _ in range(2)]
    stable = [[line for line in out.splitlines() if "TOKEN" not in line] for out in printed]
    assert stable[0] == stable[1]
    names = {line.removeprefix("export ").partition("=")[0] for line in stable[0] if line.startswith("export ")}
    assert {"REQUESTS_CA_BUNDLE", "TUNERY_ARM_ENDPOINT", "TUNERY_RESOURCE_GROUP", "TUNERY_ACCOUNT"} <= names
    assert {"TUNERY_TENANT_ID", "TUNERY_CLIENT_ID", "TUNERY_CLIENT_SECRET"} <= names
    assert sum(line.startswith("#   az ") for line in stable[0]) == 3
    rooms = wiring.services(Settings(home=tmp_path, models=tmp_path))
    assert [change.resource for change in rooms.audit.page(rooms.accounts.first(), before=None, limit=9)[0]] == [
        "tunery-owner"
    ]
    rooms.close()
    assert "CLIENT_SECRET" not in tunery("env", "--home", str(tmp_path)).stdout


def test_usage_shows_what_was_counted_as_a_table_and_as_csv(tmp_path: Path) -> None:
    rooms = wiring.services(Settings(home=tmp_path))
    account = rooms.accounts.first()
    rooms.meter.count(Metered(account.id, "talk", 1, "m"), Done(id="x", prompt_tokens=10, completion_tokens=5))
    rooms.meter.flush()
    rooms.close()
    assert "talk" in tunery("usage", "--home", str(tmp_path)).stdout
    printed = tunery("usage", "--csv", "--daily", "--home", str(tmp_path)).stdout.splitlines()
    assert printed[0] == (
        "account,deployment,model,day,requests,prompt_tokens,cached_tokens,completion_tokens,hosting_hours"
    )
    assert printed[1].startswith("tunery,talk,m,") and printed[1].endswith(",1,10,0,5,0.0")
    assert tunery("usage", "--account", "nobody", "--home", str(tmp_path)).returncode == 1


def test_env_prints_the_key_and_the_path_of_the_account_asked_for(tmp_path: Path) -> None:
    chosen = Settings(home=tmp_path, models=tmp_path)
    rooms = wiring.services(chosen)
    write_address(chosen, tmp_path / "ca.pem")
    first = rooms.accounts.first()
    wanted = Wanted(location="local", sub_domain="2nd")
    second, _ = rooms.accounts.put(first.subscription_id, first.resource_group, "second", wanted, by="tests")
    printed = tunery("env", "--home", str(tmp_path), "--account", "SECOND").stdout
    assert f"AZURE_OPENAI_API_KEY='{rooms.accounts.keys(second)[0]}'" in printed
    assert f"AZURE_OPENAI_ENDPOINT='{chosen.endpoint}/accounts/2nd'" in printed
    rooms.close()
    unknown = tunery("env", "--home", str(tmp_path), "--account", "third")
    assert unknown.returncode == 1 and "second" in unknown.stderr


def test_accounts_are_added_listed_and_removed(tmp_path: Path) -> None:
    home = ("--home", str(tmp_path))
    added = tunery("accounts", "add", "lab", "--location", "Sweden Central", "--group", "research", *home)
    assert added.stdout.strip().endswith("/resourceGroups/research/providers/Microsoft.CognitiveServices/accounts/lab")
    assert "already" in tunery("accounts", "add", "LAB", *home).stderr
    assert "isn't known" in tunery("accounts", "add", "far", "--subscription", "a/b", *home).stderr
    assert "lab" in tunery("accounts", "list", *home).stdout
    assert tunery("accounts", "remove", "Lab", *home).returncode == 0
    assert "lab" not in tunery("accounts", "list", *home).stdout


def test_help_names_every_command() -> None:
    shown = tunery("--help").stdout
    assert all(command in shown for command in ("serve", "work", "env", "check", "estimate", "demo", "models"))


def test_an_address_that_others_can_reach_has_to_be_allowed() -> None:
    serve.refuse_open_host(Settings(host="::1"))
    serve.refuse_open_host(Settings(host="0.0.0.0", allow_remote=True))
    with pytest.raises(InvalidRequest, match="allow_remote"):
        serve.refuse_open_host(Settings(host="0.0.0.0"))


def test_estimate_prints_what_a_job_would_cost_and_trains_nothing(tmp_path: Path) -> None:
    write_base(tmp_path / "models" / BUNDLED)
    (tmp_path / "tunery.toml").write_text(f'models = "{tmp_path / "models"}"\ntraining_threads = 1\n')
    path = tmp_path / "good.jsonl"
    path.write_bytes(jsonl(60))
    home = ("--home", str(tmp_path))
    done = tunery("estimate", str(path), "--n-epochs", "2", "--batch-size", "4", *home)
    assert done.returncode == 0, done.stderr
    assert "30 (2 epochs, batches of 4)" in done.stdout
    assert "first guess" in done.stdout
    wanted = ("--model", "gpt-35-turbo-0613", "--validation", str(path), "--batch-size", "4", "--json")
    found = json.loads(tunery("estimate", str(path), *wanted, *home).stdout)
    assert (found["validation_examples"], found["steps"], found["base"]) == (60, 45, BUNDLED)
    assert not (tmp_path / "work").exists()


def test_estimate_of_a_faulty_file_exits_1_with_its_first_fault(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(jsonl() + b"{\n")
    done = tunery("estimate", str(path), "--home", str(tmp_path))
    assert done.returncode == 1
    assert "line 13" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_base_of_one_s_own_is_added_listed_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNERY_MODELS", str(tmp_path / "models"))
    write_other(tmp_path / "Tiny Phi", "phi")
    home = ("--home", str(tmp_path / "home"))
    done = tunery("models", "add", str(tmp_path / "Tiny Phi"), "--lora-rank", "8", *home)
    assert done.returncode == 0, done.stderr
    assert "tiny-phi is ready: chat and completion, 512 tokens" in done.stdout
    assert "tiny-phi" in tunery("models", "list", *home).stdout
    again = tunery("models", "add", str(tmp_path / "Tiny Phi"), *home)
    assert (again.returncode, "already" in again.stderr) == (1, True)
    (tmp_path / "models" / "tiny-phi" / "tunery.json").write_text("{")
    assert "is damaged" in tunery("models", "list", *home).stderr
    removed = tunery("models", "remove", "tiny-phi", *home)
    assert removed.returncode == 0, removed.stderr
    assert not (tmp_path / "models" / "tiny-phi").exists()


def test_names_of_the_bundled_base_are_neither_added_nor_removed(tmp_path: Path) -> None:
    home = ("--home", str(tmp_path / "home"))
    for command in (("add", str(tmp_path), "--name", BUNDLED), ("remove", BUNDLED)):
        done = tunery("models", *command, *home)
        assert done.returncode == 1
        assert "bundled" in done.stderr
        assert "Traceback" not in done.stderr
