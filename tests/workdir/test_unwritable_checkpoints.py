"""Checkpoints on a full or read-only disk: one line names it and the reason."""

import pathlib
import subprocess
import sys
import textwrap

import jax.numpy as jnp
import pytest

from borrow_det.errors import InputError
from borrow_det.workdir import checkpoints


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this process may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


# Saves step 2, which fits, and step 4, which does not; then makes steps without saving.
SAVER = """
    import resource, signal, sys, time
    import jax.numpy as jnp
    import numpy as np
    from borrow_det.workdir import checkpoints
    from borrow_det.errors import InputError

    folder, limit = sys.argv[1], int(sys.argv[2])
    manager = checkpoints.Checkpoints(folder, every=2, keep=9)

    def state(step, size):
        noise = jnp.asarray(np.random.default_rng(0).normal(size=size), jnp.float32)
        fields = {"params": {"w": noise}, "batch_stats": {}, "ema_params": {}}
        return {**fields, "step": jnp.int32(step)}

    manager.save(2, state(2, 50_000))
    manager.close()
    manager = checkpoints.Checkpoints(folder, every=2, keep=9)
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    manager.save(4, state(4, 250_000))
    try:
        for step in range(300):
            manager.due(5)
            time.sleep(0.1)
    except InputError as error:
        print(error)
    manager.close()
"""


def fill(folder, limit=0):
    """Runs SAVER; returns what it printed."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SAVER), str(folder), str(limit)],
        cwd=pathlib.Path(checkpoints.__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def check_full(folder, done, reason):
    assert done.stdout == (
        f"the checkpoint of step 4 could not be written to {folder}/checkpoints: "
        f"{reason}; the newest whole one is of step 2; make room there and start again"
        "\n"
    )
    assert "Traceback" not in done.stderr
    assert names(folder) == ["2", "4.orbax-checkpoint-tmp"]
    manager = checkpoints.Checkpoints(folder, every=2, keep=9)
    fields = {"params": {"w": jnp.zeros(50_000)}, "batch_stats": {}, "ema_params": {}}
    found = manager.restore({**fields, "step": jnp.int32(0)}, pytest.fail)
    assert found["step"] == 2
    assert manager.due(4)
    manager.save(4, {**fields, "step": jnp.int32(4)})
    manager.close()
    assert names(folder) == ["2", "4"]


def test_a_full_disk_is_named_at_the_next_step(small_disk):
    check_full(small_disk, fill(small_disk), "No space left on device")


def test_file_size_limit_is_named_at_the_next_step(tmp_path):
    check_full(tmp_path, fill(tmp_path, limit=500_000), "File too large")


def test_a_folder_that_cannot_be_made_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file/W"
    with pytest.raises(InputError) as caught:
        checkpoints.Checkpoints(folder, every=2, keep=2)
    assert str(caught.value) == (
        f"--workdir={folder} cannot be written: Not a directory; choose another"
    )


def test_a_read_only_folder_is_refused_at_the_start(small_disk):
    (small_disk / "checkpoints").mkdir()
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(remount, check=True)
    with pytest.raises(InputError, match="cannot be written: Read-only file system"):
        checkpoints.Checkpoints(small_disk, every=2, keep=2)
