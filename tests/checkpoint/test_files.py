import errno
import os
import shutil
import stat
import subprocess
import sys
import threading

import pytest
import torch

from kerastorch import checkpoint
from kerastorch.checkpoint import files
from kerastorch.errors import CheckpointError


def test_a_file_that_cannot_be_written_leaves_the_old_one(content, tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    checkpoint.save(content, path)

    def full(source, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        CheckpointError,
        match=r"a\.pt could not be written: No space left on device\. [\d,]+ bytes are needed, .* free\. What was",
    ):
        checkpoint.save({"model": {}}, path)
    monkeypatch.undo()
    assert checkpoint.load(path)["progress"] == {"epoch": 3}
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_the_reason_of_the_system_is_found_behind_torchs_own_error(tmp_path, monkeypatch):
    def obscure(source, file):
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("unexpected pos 8001344 vs 8001296") from error

    monkeypatch.setattr(torch, "save", obscure)
    with pytest.raises(CheckpointError, match="No space left on device"):
        checkpoint.save({}, tmp_path / "a.pt")

    def other(source, file):
        raise RuntimeError("some other reason")

    monkeypatch.setattr(torch, "save", other)
    with pytest.raises(CheckpointError, match="some other reason"):
        checkpoint.save({}, tmp_path / "a.pt")


def test_a_directory_in_the_way_is_explained(content, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"could not be written: (File exists|Not a directory)"):
        checkpoint.save(content, tmp_path / "file" / "a.pt")


def test_the_home_directory_may_be_written_as_a_tilde(content, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    checkpoint.save(content, "~/a.pt")
    checkpoint.save_weights({"weight": torch.zeros(1)}, "~/b.pt")
    assert checkpoint.load("~/a.pt")["note"] == "text"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.pt", "b.pt"]


def test_the_file_has_the_permissions_of_any_other_file(content, tmp_path):
    before = os.umask(0o027)
    try:
        checkpoint.save(content, tmp_path / "a.pt")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.pt").stat().st_mode) == 0o640


def test_what_is_too_large_for_the_disk_is_not_begun(mounted, monkeypatch):
    place = mounted("size=1m")
    monkeypatch.setattr(torch, "save", None)
    expected = (
        r"a\.pt could not be written: no space left on the device\. [\d,]{9} bytes are needed, 1,048,576 are free\. "
        r"What was there is unchanged\."
    )
    with pytest.raises(CheckpointError, match=expected):
        checkpoint.save({"model": {"weight": torch.zeros(300_000)}}, place / "new" / "a.pt")
    assert list((place / "new").iterdir()) == []


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_a_disk_that_fills_up_meanwhile_leaves_the_old_file(mounted, name, monkeypatch):
    place = mounted("size=2m")
    weights = {"weight": torch.ones(100_000)}
    checkpoint.save_weights(weights, place / name)
    before = (place / name).read_bytes()
    monkeypatch.setattr(files, "_check_space", lambda path, needed: None)
    (place / "others").write_bytes(b"x" * 1_300_000)
    expected = rf"{name} could not be written: No space left on device\. 4\d\d,\d+ bytes are needed, [\d,]+ are free\."
    with pytest.raises(CheckpointError, match=expected) as caught:
        checkpoint.save_weights(weights, place / name)
    assert caught.value.__cause__ is not None
    assert (place / name).read_bytes() == before
    assert sorted(file.name for file in place.iterdir()) == [name, "others"]


def test_a_file_system_that_is_read_only_is_explained(content, mounted):
    place = mounted("size=1m")
    checkpoint.save(content, place / "a.pt")
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    with pytest.raises(CheckpointError, match=r"a\.pt could not be written: Read-only file system\. [\d,]+ bytes are"):
        checkpoint.save({}, place / "a.pt")
    assert checkpoint.load(place / "a.pt")["note"] == "text"


def test_a_directory_that_nobody_may_write_to_is_explained(content, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match=r"could not be written: Permission denied"):
        checkpoint.save(content, tmp_path / "a.pt")
    tmp_path.chmod(0o700)


def test_a_directory_that_vanished_between_two_files_is_made_again(content, tmp_path):
    checkpoint.save(content, tmp_path / "run" / "1.pt")
    shutil.rmtree(tmp_path / "run")
    checkpoint.save(content, tmp_path / "run" / "2.pt")
    assert checkpoint.load(tmp_path / "run" / "2.pt")["note"] == "text"


def test_a_directory_that_vanishes_meanwhile_is_explained(content, tmp_path, monkeypatch):
    really = torch.save

    def slow(source, file):
        really(source, file)
        shutil.rmtree(tmp_path / "run")

    monkeypatch.setattr(torch, "save", slow)
    with pytest.raises(CheckpointError, match=r"a\.pt could not be written: No such file or directory\. [\d,]+ bytes"):
        checkpoint.save(content, tmp_path / "run" / "a.pt")


def test_a_file_larger_than_the_process_may_write_is_explained(tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"a\.pt could not be written: File too large\. 4"):
            checkpoint.save({"weight": torch.zeros(100_000)}, tmp_path / "a.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EACCES, errno.EIO])
def test_the_system_may_refuse_the_last_step(content, tmp_path, monkeypatch, number):
    def refuse(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(CheckpointError, match=rf"a\.pt could not be written: {os.strerror(number)}\. [\d,]+ bytes"):
        checkpoint.save(content, tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "usage", [OSError(errno.ENOSYS, "Function not implemented"), shutil._ntuple_diskusage(0, 0, 0)]
)
def test_a_file_system_that_does_not_tell_its_space_is_tried(content, tmp_path, monkeypatch, usage):
    def told(path):
        if isinstance(usage, OSError):
            raise usage
        return usage

    monkeypatch.setattr(shutil, "disk_usage", told)
    checkpoint.save(content, tmp_path / "a.pt")
    assert checkpoint.load(tmp_path / "a.pt")["note"] == "text"
    (tmp_path / "b.pt").mkdir()
    with pytest.raises(CheckpointError, match=r"b\.pt could not be written: Is a directory\. What was there is"):
        checkpoint.save(content, tmp_path / "b.pt")


def test_two_threads_that_write_one_file_take_turns(tmp_path):
    states = [{"model": {"weight": torch.full((100_000,), float(number))}} for number in range(8)]
    threads = [threading.Thread(target=checkpoint.save, args=(state, tmp_path / "a.pt")) for state in states]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    weight = checkpoint.load(tmp_path / "a.pt")["model"]["weight"]
    assert torch.equal(weight, weight[:1].expand_as(weight))
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def number_of_a_dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_dead_processes_left_is_swept(tmp_path):
    dead = number_of_a_dead_process()
    alive = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    swept = [f".a.pt.{dead}.tmp", f".backup-0001-0000000.pt.{os.getpid()}.tmp", f".b.{2**70}.tmp"]
    kept = [f".a.pt.{alive.pid}.tmp", f"a.pt.{dead}.tmp", f".a.pt.{dead}", f".{dead}.tmp", ".a.pt.0.tmp", ".a.pt.x.tmp"]
    for name in [*swept, *kept]:
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / f".directory.{dead}.tmp").mkdir()
    (tmp_path / f".link.{dead}.tmp").symlink_to(tmp_path / kept[0])
    removed = checkpoint.sweep(tmp_path)
    alive.communicate(b"\n")
    assert sorted(path.name for path in removed) == sorted(swept)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, f".directory.{dead}.tmp", f".link.{dead}.tmp"}
    assert checkpoint.sweep(tmp_path / "nowhere") == []


def test_what_is_being_written_is_not_swept(content, tmp_path, monkeypatch):
    really, seen = torch.save, []

    def slow(source, file):
        seen.append((checkpoint.sweep(tmp_path), [path.name for path in tmp_path.iterdir()]))
        really(source, file)

    monkeypatch.setattr(torch, "save", slow)
    checkpoint.save(content, tmp_path / "a.pt")
    assert seen == [([], [f".a.pt.{os.getpid()}.tmp"])]


def test_a_process_that_cannot_be_seen_keeps_its_file_by_a_lock(tmp_path, monkeypatch):
    """As on another machine, where its number says nothing."""
    program = (
        "import fcntl, sys\nfile = open(sys.argv[1], 'wb')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\nprint(flush=True)\ninput()"
    )
    path = tmp_path / f".a.pt.{number_of_a_dead_process()}.tmp"
    command = [sys.executable, "-c", program, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    assert checkpoint.sweep(tmp_path) == []
    process.communicate(b"\n")
    assert checkpoint.sweep(tmp_path) == [path]


def test_without_locks_the_number_of_the_process_decides(content, tmp_path, monkeypatch):
    def unknown(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", unknown)
    checkpoint.save(content, tmp_path / "a.pt")
    path = tmp_path / f".a.pt.{number_of_a_dead_process()}.tmp"
    path.touch()
    assert checkpoint.sweep(tmp_path) == [path]


def test_the_process_of_another_user_is_alive(tmp_path, monkeypatch):
    def forbidden(process, number):
        raise PermissionError

    monkeypatch.setattr(os, "kill", forbidden)
    path = tmp_path / ".a.pt.2.tmp"
    path.touch()
    assert checkpoint.sweep(tmp_path) == []


def test_a_temporary_file_that_is_gone_or_forbidden_meanwhile_is_passed_over(tmp_path, monkeypatch):
    path = tmp_path / f".a.pt.{number_of_a_dead_process()}.tmp"
    path.touch()
    monkeypatch.setattr(type(path), "unlink", lambda self: (_ for _ in ()).throw(PermissionError()))
    assert checkpoint.sweep(tmp_path) == []
    monkeypatch.setattr(type(path), "open", lambda self, mode: (_ for _ in ()).throw(PermissionError()))
    assert checkpoint.sweep(tmp_path) == []


KILLED = """
import itertools, os, signal, sys, time, torch
from kerastorch import checkpoint
abandoned = 0
for trial in range(12):
    process = os.fork()  # a process that has imported torch begins to write at once
    if not process:
        for number in itertools.count():
            checkpoint.save({"model": {"weight": torch.full((300_000,), float(number))}}, "a.pt")
    time.sleep(0.02 + 0.0223 * trial)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    abandoned += len(checkpoint.sweep("."))
    if os.path.exists("a.pt"):
        weight = checkpoint.load("a.pt")["model"]["weight"]
        assert torch.equal(weight, weight[:1].expand_as(weight))
    assert set(os.listdir()) <= {"a.pt"}
print(abandoned)
"""


def test_kill_9_never_leaves_half_a_file(tmp_path, run_program):
    code, out, err = run_program(KILLED).ended()
    assert code == 0, err
    assert (tmp_path / "a.pt").exists()
    assert int(out) >= 1  # or none was killed while it wrote
