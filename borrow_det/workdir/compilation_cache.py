"""The cache of compiled programs in a work directory: a resumed run need not compile.

It is JAX's persistent cache, whose key has the program, the versions, the devices and,
on a CPU, the features of the machine. Process 0 writes, all processes read. An entry
that cannot be read or written costs a warning and a compilation.
"""

import pathlib
import zlib

import jax

from borrow_det.io import paths

FOLDER = "compilation_cache"
# In a bucket each program costs one or two requests at every start.
_SECONDS_WORTH_A_REQUEST = 1.0
_ZSTD = b"\x28\xb5\x2f\xfd"  # First bytes of a zstd file.


def keep_in(workdir: paths.Path, write: bool) -> None:
    """Sets JAX's cache to `WORKDIR/FOLDER`, unless JAX already has one.

    `JAX_COMPILATION_CACHE_DIR` sets another one.

    Args:
      workdir: the work directory, which exists.
      write: whether this process writes the cache.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    folder = workdir / FOLDER
    remote = paths.is_remote(workdir)
    if write and not remote:
        _drop_damaged(folder)
    settings = {
        "dir": str(folder),
        "min_compile_time_secs": _SECONDS_WORTH_A_REQUEST if remote else 0.0,
        "min_entry_size_bytes": -1,
        # On a GPU, XLA writes caches of its own; JAX turns no failure there (a full
        # disk, a bucket) into a warning.
        "enable_xla_caches": "none",
    }
    for name, value in settings.items():
        cache = "compilation" if name == "dir" else "persistent"
        jax.config.update(f"jax_{cache}_cache_{name}", value)


def _drop_damaged(folder: pathlib.Path) -> None:
    """Removes entries that a kill or a full disk has truncated.

    JAX neither reads such a file nor overwrites it: its program would be compiled at
    every start.
    """
    for path in folder.glob("*-cache"):
        try:
            if not _is_whole(path.read_bytes()):
                path.unlink()
        except OSError:  # JAX will warn of it.
            continue


def _is_whole(content: bytes) -> bool:
    """Returns whether an entry is complete, as far as zlib can check.

    With the package zstandard installed, JAX compresses by zstd instead of zlib.
    """
    if content.startswith(_ZSTD):
        return True
    try:
        zlib.decompress(content)
    except zlib.error:
        return False
    return True
