"""Settings of every test: two host devices, strict dtypes, the shared data's place."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of real data and published figures that lies beside the project."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent: it comes with the developers' workplace")
    return SHARED
