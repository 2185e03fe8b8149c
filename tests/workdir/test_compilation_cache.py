"""The compilation cache of a run: used at the next start, and never fatal."""

import shutil

import jax
import numpy as np
import pytest

from borrow_det.workdir import compilation_cache
from tests import program

pytestmark = pytest.mark.usefixtures("optax_promotes")

FIELDS = ("num_steps=6", "eval_every=6")


def entries(workdir):
    """{name: time of its last change} of the programs that are kept."""
    folder = workdir / compilation_cache.FOLDER
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*-cache")}


@pytest.mark.processes
def test_second_start_compiles_nothing_and_gives_the_same_bits(scenes, tmp_path):
    folder = tmp_path / "W"
    for start in range(2):
        if start:  # As if killed after the checkpoint of step 2.
            kept, state = entries(folder), program.state(folder)
            lines = program.metrics(folder)
            for step in (4, 6):
                shutil.rmtree(folder / "checkpoints" / str(step))
            shutil.rmtree(folder / "evaluations")
        process = program.start(scenes, folder, *FIELDS, own_cache=True)
        text = program.finish(process, folder)
    assert "resuming at step 2" in text
    assert any(name.startswith("jit_train_step") for name in kept)
    assert entries(folder) == kept
    assert program.metrics(folder) == lines
    jax.tree.map(np.testing.assert_array_equal, program.state(folder), state)


def test_a_cache_that_jax_has_already_is_left_alone(scenes, tmp_path):
    folder = tmp_path / "W"
    program.finish(program.start(scenes, folder, "num_steps=0"), folder)
    assert not (folder / compilation_cache.FOLDER).exists()


def test_truncated_cache_entry_is_compiled_again_and_kept(compile_anew, tmp_path):
    compilation_cache.keep_in(tmp_path, write=True)
    assert compile_anew(3.0) == ([3.0, 3.0], 0)
    assert compile_anew(3.0) == ([3.0, 3.0], 1)
    (entry,) = (tmp_path / compilation_cache.FOLDER).glob("*-cache")
    whole = entry.read_bytes()
    entry.write_bytes(whole[: len(whole) // 2])
    # Another process that only reads leaves it to the one that writes.
    for write, exists in ((False, True), (True, False)):
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.keep_in(tmp_path, write)
        assert entry.exists() == exists
    assert compile_anew(3.0) == ([3.0, 3.0], 0)
    assert compile_anew(3.0) == ([3.0, 3.0], 1)


def test_unwritable_cache_does_not_stop_a_run(compile_anew, tmp_path):
    (tmp_path / compilation_cache.FOLDER).write_text("no folder")
    compilation_cache.keep_in(tmp_path, write=True)
    with pytest.warns(UserWarning, match="persistent compilation cache"):
        assert compile_anew(5.0) == ([5.0, 5.0], 0)
    assert compile_anew(5.0) == ([5.0, 5.0], 0)
