import os
from pathlib import Path

import pytest

from tunery.models.folders import written


def test_a_folder_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    with written(target) as folder:
        (folder / "file").write_text("1")
        assert not target.exists()
    assert (target / "file").read_text() == "1"
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    with written(tmp_path / "target") as folder:
        (folder / "file").write_text("1")
    with pytest.raises(OSError, match="full"), written(tmp_path / "target") as folder:
        (folder / "file").write_text("2")
        raise OSError("full")
    assert (tmp_path / "target" / "file").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_everything_is_synced_before_the_name_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        calls.append(Path(f"/proc/self/fd/{descriptor}").resolve().name.split("-")[0])
        real_fsync(descriptor)

    def rename(path: Path, target: Path) -> Path:
        calls.append("rename")
        return real_rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    with written(tmp_path / "target") as folder:
        (folder / "a").write_text("1")
        (folder / "b").write_text("2")
    assert calls == ["a", "b", ".target", "rename", tmp_path.name.split("-")[0]]
