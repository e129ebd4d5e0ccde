"""Durable writing: all or nothing, and one error for whatever the file system says."""

import errno
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ecocli.errors import UsageError
from ecocli.runtime import files
from ecocli.runtime.files import (
    check_output,
    check_seal,
    drop_unfinished,
    make_directory,
    open_output,
    replacing,
    replacing_folder,
    sealing,
    storage_errors,
    sync_directory,
    touch,
    write_bytes,
)


@pytest.mark.parametrize(
    "number, advice",
    [
        (errno.ENOSPC, "Nothing half-written was left behind. Free space"),
        (errno.EDQUOT, "Nothing half-written was left behind. Free space"),
        (errno.EFBIG, "Nothing half-written was left behind. Free space"),
        (errno.EACCES, "Make it writable for you, or choose another place with --store"),
        (errno.EROFS, "Make it writable for you, or choose another place with --store"),
        (errno.ENOTDIR, "Something else is in its place"),
        (errno.EIO, "Check the disk"),
    ],
)
def test_storage_errors__os_error__names_path_reason_and_advice(number: int, advice: str) -> None:
    with (
        pytest.raises(UsageError, match=rf"Cannot write /some/where: {os.strerror(number)}\. {advice}"),
        storage_errors(Path("/some/where")),
    ):
        raise OSError(number, os.strerror(number))


def test_make_directory__file_in_the_way__is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match=r"Cannot write .*/file/x: Not a directory"):
        make_directory(tmp_path / "file" / "x")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("file", "File exists. Something else is in its place: move it away, or name another with --out."),
        ("file/below/it", "Not a directory. Something else is in its place"),
        ("dangling", "File exists"),
    ],
)
def test_check_output__no_place_for_a_folder__is_refused_as_on_opening_it(
    place: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    said = []
    for refuses in (check_output, open_output):
        with pytest.raises(UsageError) as refused:
            refuses(tmp_path / place, "name another with --out")
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert words in said[0]


def test_check_output__folder_that_cannot_be_written__is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever runs as root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UsageError, match=r"Cannot write .*/a/b: Permission denied\. Make it writable for you, or "):
        check_output(tmp_path / "a" / "b")


def test_check_output__new_or_old_folder__nothing_is_written(tmp_path: Path) -> None:
    check_output(tmp_path)
    check_output(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_write_bytes__read_only__takes_write_permission_away_and_follows_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "blob", b"abc", tmp_path, read_only=True)
    finally:
        os.umask(before)
    # 0666 less the umask 0027 is 0640, without the write bits 0440.
    assert (tmp_path / "blob").stat().st_mode & 0o777 == 0o440
    assert (tmp_path / "blob").read_bytes() == b"abc"


def test_replacing__error_inside__leaves_old_content_and_no_leftover(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")

    def fail() -> None:
        with replacing(target, tmp_path) as file:
            file.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_replacing__before_the_end__shows_old_content(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    with replacing(target, tmp_path) as file:
        file.write(b"new")
        file.flush()
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"


def test_write_bytes__order__syncs_file_then_renames_then_syncs_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def logged_fsync(descriptor: int) -> None:
        steps.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        fsync(descriptor)

    def logged_replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(files.os, "fsync", logged_fsync)
    monkeypatch.setattr(Path, "replace", logged_replace)
    write_bytes(tmp_path / "target", b"x", tmp_path)
    assert steps == ["sync file", "rename", "sync folder"]


def test_sync_directory__file_system_without__goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(files.os, "fsync", refuse)
    sync_directory(tmp_path)


def test_sync_directory__broken_disk__is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        sync_directory(tmp_path)


def test_touch__missing_file__does_nothing(tmp_path: Path) -> None:
    touch(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


def test_touch__old_file__becomes_new(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    os.utime(path, (1, 1))
    touch(path)
    assert path.stat().st_mtime > 1_000_000_000


def test_sealing__two_at_once_for_the_same__one_stays_and_none_fails(tmp_path: Path) -> None:
    # Two equal runs where locks do not work: the work is done twice, and whoever is first has it.
    with sealing(tmp_path / "part", "it") as first:
        (first / "rows").write_bytes(b"same")
        drop_unfinished(tmp_path)  # as the other run does when it starts
        with sealing(tmp_path / "part", "it") as second:
            (second / "rows").write_bytes(b"same")
    check_seal(tmp_path / "part", "it")
    assert [path.name for path in tmp_path.iterdir()] == ["part"]


def test_drop_unfinished__living_dead_and_far_writers__only_what_nobody_writes_goes(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname()
    living, gone = tmp_path / f".unfinished-{host}-{os.getppid()}-1", tmp_path / f".unfinished-{host}-{dead.pid}-2"
    far, old = tmp_path / ".unfinished-elsewhere-1-3", tmp_path / ".unfinished-elsewhere-1-4"
    for folder in (living, gone, far):
        folder.mkdir()
    old.write_bytes(b"")
    os.utime(old, (0, 0))
    drop_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([living.name, far.name])


def test_replacing_folder__old_one_there__is_replaced_whole_or_kept(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for text in ("old", "new"):
        with replacing_folder(target, "elsewhere") as folder:
            (folder / "file").write_text(text)
    assert (target / "file").read_text() == "new"

    def fail() -> None:
        with replacing_folder(target, "elsewhere") as folder:
            (folder / "file").write_text("broken")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (target / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]
