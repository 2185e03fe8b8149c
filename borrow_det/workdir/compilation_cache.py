"""Compiled programs, kept in a run's work directory: it starts again without compiling.

JAX's persistent cache does it. Its key has the program, the versions, the devices and,
of a CPU, the features of the machine: what does not fit is compiled anew. Process 0
writes, all read; what cannot be read or written costs a warning and a compilation.
"""

import pathlib
import zlib

import jax

from borrow_det.io import paths

FOLDER = "compilation_cache"
# In a bucket each program is a request or two at every start.
_SECONDS_WORTH_A_REQUEST = 1.0
_ZSTD = b"\x28\xb5\x2f\xfd"  # How its files begin.


def keep_in(workdir: paths.Path, write: bool) -> None:
    """From here on, this process looks for what it compiles in `WORKDIR/FOLDER`.

    Nothing happens where JAX already has a cache (`JAX_COMPILATION_CACHE_DIR`).

    Args:
      workdir: the run's; it is there.
      write: whether this process is the one that writes.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    folder = workdir / FOLDER
    remote = paths.is_remote(workdir)
    if write and not remote:
        _drop_damaged(folder)
    settings = {
        "dir": str(folder),
        "min_compile_time_secs": _SECONDS_WORTH_A_REQUEST if remote else 0.0,
        "min_entry_size_bytes": -1,
        # Those of XLA on a GPU are files that XLA writes by itself: JAX turns no
        # failure there (a full disk, a bucket) into a warning.
        "enable_xla_caches": "none",
    }
    for name, value in settings.items():
        cache = "compilation" if name == "dir" else "persistent"
        jax.config.update(f"jax_{cache}_cache_{name}", value)


def _drop_damaged(folder: pathlib.Path) -> None:
    """Removes what a kill or a full disk has cut short.

    JAX reads no such file and, as it is there, writes none over it: its program would
    be compiled at every start.
    """
    for path in folder.glob("*-cache"):
        try:
            if not _is_whole(path.read_bytes()):
                path.unlink()
        except OSError:  # JAX has the same trouble with it, and says so.
            continue


def _is_whole(content: bytes) -> bool:
    """Whether an entry is all there, as far as zlib can tell.

    With the package zstandard installed JAX takes that instead.
    """
    if content.startswith(_ZSTD):
        return True
    try:
        zlib.decompress(content)
    except zlib.error:
        return False
    return True
