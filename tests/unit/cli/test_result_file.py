"""The result file appears as a whole or not at all, and never costs the printed verdict."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from verinet.cli.finish import write_whole


def test_a_reader_sees_the_old_text_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment of the rename the new text is complete and the old file still untouched."""
    target, seen = tmp_path / "out.txt", []
    target.write_text("old\n")
    replace = Path.replace

    def watched(self: Path, other: Path) -> Path:
        seen.append((self.parent, self.read_text(), target.read_text()))
        return replace(self, other)

    monkeypatch.setattr(Path, "replace", watched)
    write_whole(target, "new\n")
    assert seen == [(tmp_path.resolve(), "new\n", "old\n")]
    assert target.read_text() == "new\n" and [p.name for p in tmp_path.iterdir()] == ["out.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old\n")

    def full(self: Path, text: str) -> int:
        with self.open("w") as stream:
            stream.write(text[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_whole(target, "new\n")
    assert caught.value.filename == str(target)
    assert target.read_text() == "old\n" and [p.name for p in tmp_path.iterdir()] == ["out.txt"]


def test_mode_and_links_are_kept(tmp_path: Path) -> None:
    target, link = tmp_path / "real.txt", tmp_path / "link.txt"
    target.write_text("old\n")
    target.chmod(0o640)
    link.symlink_to(target)
    write_whole(link, "new\n")
    assert link.is_symlink() and target.read_text() == "new\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_whole(pipe, "unsat\n")
        assert os.read(reader, 100) == b"unsat\n"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind this user")
def test_permissions_of_the_file_and_of_the_folder(command, engine, files, tmp_path):  # type: ignore[no-untyped-def]
    inside = tmp_path / "folder"
    inside.mkdir()
    target = inside / "out.txt"
    target.write_text("old\n")
    inside.chmod(0o500)  # takes no new file, but the one that is there may be written
    assert command("verify", *files, "--result", target).exit_code == 0 and target.read_text() == "unsat\n"
    inside.chmod(0o700)
    target.chmod(0o400)  # a rename would get round this
    done = command("verify", *files, "--result", target)
    assert (done.exit_code, done.stdout) == (1, "unsat\n") and "cannot write the result file" in done.stderr


def test_the_verdict_is_printed_although_the_file_is_refused(command, engine, files, tmp_path, monkeypatch):  # type: ignore[no-untyped-def]
    def refuse(self: Path, text: str) -> int:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "write_text", refuse)
    done = command("verify", *files, "--result", tmp_path / "out.txt")
    assert (done.exit_code, done.stdout) == (1, "unsat\n")
    assert "cannot write the result file: Permission denied" in done.stderr and "out.txt" in done.stderr
