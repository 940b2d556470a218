"""Where the benchmark puts its data: on a disk, or nowhere."""

from pathlib import Path

import pytest

from p2pmq.bench import plan
from p2pmq.bench.plan import disk_directory, is_in_memory
from p2pmq.errors import UsageError

MOUNTS = """\
/dev/vda / ext4 rw 0 0
tmpfs /dev/shm tmpfs rw 0 0
/dev/vdb /dev/shm/disk ext4 rw 0 0
tmpfs /mnt/two\\040words tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "in_memory"),
    [
        ("/var/tmp", False),
        ("/dev/shm", True),
        ("/dev/shm/deeper", True),
        ("/dev/shmother", False),
        ("/dev/shm/disk/deeper", False),
        ("/mnt/two words/deeper", True),
    ],
)
def test_the_mount_that_holds_a_path_decides_whether_it_is_in_memory(
    path: str, in_memory: bool
) -> None:
    assert is_in_memory(Path(path), MOUNTS) is in_memory


def test_without_a_table_of_mounts_everything_counts_as_a_disk() -> None:
    assert not is_in_memory(Path("/tmp"), "")


def test_a_directory_in_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mounts"
    table.write_text(f"tmpfs {tmp_path} tmpfs rw 0 0\n")
    monkeypatch.setattr(plan, "MOUNTS", table)
    with pytest.raises(UsageError, match="name one on a disk with --dir"):
        disk_directory(str(tmp_path))


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        disk_directory(str(tmp_path / "missing"))
