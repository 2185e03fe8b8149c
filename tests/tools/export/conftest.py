"""Fixtures of the tests of exports."""

import jax
import pytest

from tests.tools.export.exports import run


@pytest.fixture(scope="session")
def exported(tiny_run, tmp_path_factory):
    """Exported file of the tiny run, for any batch and all platforms."""
    output = tmp_path_factory.mktemp("exported") / "new" / "detector.zip"
    assert run(tiny_run.workdir, output) == 0
    return output


@pytest.fixture(scope="session")
def exported_with_references(tiny_run, tmp_path_factory):
    """Exported file of the tiny run with two references, for any batch."""
    output = tmp_path_factory.mktemp("exported") / "references.zip"
    flags = ("--references=2", "--platforms=cpu")
    assert run(tiny_run.workdir, output, *flags) == 0
    return output


@pytest.fixture
def lax_types():
    """Allows type promotion, which Flax's GroupNorm and the converter need."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
