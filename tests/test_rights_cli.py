"""tunery principals and tunery roles, from a shell, and what they leave in the audit log."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.waiting import PATIENCE
from tunery import wiring
from tunery.errors import SignInRefused
from tunery.records import PrincipalKind
from tunery.settings import Settings
from tunery.store.tables import audit_log

USER = "Cognitive Services OpenAI User"


def tunery(home: Path, *arguments: str, given: str = "") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tunery", *arguments, "--home", str(home)]
    wide = {**os.environ, "COLUMNS": "300"}
    return subprocess.run(command, input=given, env=wide, capture_output=True, text=True, check=False, timeout=PATIENCE)


def said(done: "subprocess.CompletedProcess[str]", name: str) -> str:
    found = re.search(rf"^{name}: (\S+)$", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout + done.stderr
    return found[1]


def test_a_service_principal_is_made_given_a_role_listed_and_removed(tmp_path: Path) -> None:
    made = tunery(tmp_path, "principals", "add", "robot")
    given = tunery(tmp_path, "roles", "add", "robot", USER.lower())
    assert f"robot holds the role {USER} on /subscriptions/" in given.stdout
    assert "robot" in tunery(tmp_path, "roles", "list").stdout
    assert said(made, "id") in tunery(tmp_path, "principals", "list").stdout
    taken = tunery(tmp_path, "roles", "remove", "robot", USER, "--scope", "tunery")
    assert taken.returncode == 0, taken.stderr
    assert "robot" not in tunery(tmp_path, "roles", "list").stdout
    assert tunery(tmp_path, "principals", "remove", "robot").returncode == 0
    assert said(made, "id") not in tunery(tmp_path, "principals", "list").stdout


def test_a_secret_is_shown_once_renewed_and_in_no_row(tmp_path: Path) -> None:
    first = said(tunery(tmp_path, "principals", "add", "robot"), "secret")
    second = said(tunery(tmp_path, "principals", "secret", "robot"), "secret")
    rooms = wiring.services(Settings(home=tmp_path, models=tmp_path))
    assert rooms.access.principals.prove("robot", second, PrincipalKind.APPLICATION)
    with pytest.raises(SignInRefused):
        rooms.access.principals.prove("robot", first, PrincipalKind.APPLICATION)
    with rooms.store.database.read() as connection:
        rows = connection.execute(sa.select(audit_log)).all()
    rooms.close()
    assert [row.operation for row in rows] == ["tunery principals add", "tunery principals secret"]
    assert all(row.resource == "robot" and row.name and row.address for row in rows)
    assert first not in str(rows) and second not in str(rows)


def test_a_person_s_password_comes_from_standard_input_and_isn_t_too_short(tmp_path: Path) -> None:
    short = tunery(tmp_path, "principals", "add", "alice", "--user", "--password-stdin", given="short\n")
    assert (short.returncode, "at least 8" in short.stderr) == (1, True)
    made = tunery(tmp_path, "principals", "add", "alice", "--user", "--password-stdin", given="correct horse\n")
    assert made.returncode == 0, made.stderr
    rooms = wiring.services(Settings(home=tmp_path, models=tmp_path))
    assert rooms.access.principals.prove("alice", "correct horse", PrincipalKind.USER)
    rooms.close()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("roles", "add", "nobody", USER), "no principal 'nobody'"),
        (("roles", "add", "robot", "King"), "no role 'King'"),
        (("roles", "add", "robot", USER, "--scope", "elsewhere"), "no account 'elsewhere'"),
        (("roles", "add", "robot", USER, "--scope", "/x"), "is no scope"),
        (("roles", "remove", "robot", USER), "doesn't hold"),
        (("principals", "add", "robot"), "There is a principal"),
        (("principals", "add", "guest", "--issuer", "https://issuer.example"), "go together"),
        (("principals", "add", "guest", "--issuer", "https://x.example", "--object-id", "1"), "[[issuers]]"),
        (("principals", "secret", "nobody"), "no principal 'nobody'"),
    ],
)
def test_what_can_t_be_is_a_sentence_and_exit_code_1(tmp_path: Path, arguments: tuple[str, ...], why: str) -> None:
    rooms = wiring.services(Settings(home=tmp_path, models=tmp_path))
    rooms.access.principals.add("robot", PrincipalKind.APPLICATION)
    rooms.close()
    done = tunery(tmp_path, *arguments)
    assert done.returncode == 1
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_a_principal_of_an_outside_issuer_has_no_secret_here(tmp_path: Path) -> None:
    (tmp_path / "tunery.toml").write_text('[[issuers]]\nissuer = "https://issuer.example"\naudience = "tunery"\n')
    outside = ("--user", "--issuer", "https://issuer.example", "--object-id", "oid-1")
    made = tunery(tmp_path, "principals", "add", "guest", *outside)
    assert said(made, "id") == "oid-1"
    assert "secret" not in made.stdout
    assert "https://issuer.example" in tunery(tmp_path, "principals", "list").stdout
