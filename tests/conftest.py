"""Settings of every test: two host devices, strict dtypes, the shared data's place."""

import contextlib
import functools
import json
import os
import pathlib
import types

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Without optimisation, programs compile in half the time, and run for no time anyway.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0",
)
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import jax
import numpy as np
import PIL.Image
import pytest
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from borrow_det import train
from borrow_det.data import pipeline
from borrow_det.data.datasets import scale_pairs
from tests import tiny_config as tiny_config_file
from tests.browser import Browser

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"

# Compiling is most of what the tests do; programs that several tests (or the next
# session) run are compiled once.
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".pytest_cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_addoption(parser):
    parser.addoption(
        "--no-skips",
        action="store_true",
        help="Fail where a test would be skipped, for lack of a package or a program.",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if (
        report.skipped
        and item.config.getoption("no_skips")
        and not hasattr(report, "wasxfail")
    ):
        report.outcome = "failed"
    return report


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """Folder of real images and weights, which a stranger's clone does not have."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent: it comes with the developers' workplace")
    return SHARED


@pytest.fixture(scope="session")
def metric_vectors() -> pathlib.Path:
    """Published metrics of published detections: a folder, with a README, each."""
    return ROOT / "tests" / "evaluation" / "metric_vectors"


def _write_scenes(folder: pathlib.Path, side: int, **splits: int) -> None:
    """Writes scale_pairs' scenes as a user's folder: JPEG files and COCO files."""
    ids = (3, 5, 9, 11)  # With gaps, as many sets have them.
    categories = [
        {"id": category_id, "name": name}
        for category_id, name in zip(ids, scale_pairs.SPECIES, strict=True)
    ]
    (folder / "annotations").mkdir()
    for number, (split, count) in enumerate(splits.items()):
        images, annotations = [], []
        for i in range(count):
            scene = scale_pairs.make_scene(7, number, i, side)
            name = f"{split}_{i}.jpg"
            image = PIL.Image.fromarray(scale_pairs.draw(scene, scene.species))
            image.save(folder / name, quality=95)
            images.append(
                {"id": 10 + i, "file_name": name, "width": side, "height": side}
            )
            for disc in scene.discs:
                corner = [(c - disc.radius) * side for c in (disc.x, disc.y)]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": 10 + i,
                        "category_id": ids[scene.species[disc.group]],
                        "bbox": [*corner, *[2 * disc.radius * side] * 2],
                    }
                )
        coco = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(coco))


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> pathlib.Path:
    """A folder of 64-pixel scenes: 12 in train, 7 in val."""
    folder = tmp_path_factory.mktemp("scenes")
    _write_scenes(folder, 64, train=12, val=7)
    return folder


@pytest.fixture(scope="session")
def few_scenes():
    """A context manager that sets the number of scenes of scale_pairs or a set like it.

    It takes the builder of the set and fields of its config.
    """

    @contextlib.contextmanager
    def few_scenes(builder=scale_pairs.ScalePairs, **counts):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                builder, "CONFIG", functools.partial(builder.CONFIG, **counts)
            )
            yield

    return few_scenes


@pytest.fixture(scope="session")
def make_tiny_config(scenes):
    """A function: tests/tiny_config.py on `scenes`, another one each time."""

    def make():
        return tiny_config_file.get_config(str(scenes))

    return make


@pytest.fixture
def tiny_config(make_tiny_config):
    """The config of a run of seconds on `scenes`."""
    return make_tiny_config()


@pytest.fixture(scope="session")
def make_tiny_crops_config(make_tiny_config):
    """A function: `tiny_config`'s trunk, to be pretrained on its objects' crops."""

    def make():
        config = make_tiny_config()
        config.task = "classification"
        config.num_steps = config.eval_every = config.log_every = 2
        config.checkpoint_every = 1
        config.input_size = (193, 193)  # The least for fc6.
        config.dataset.canvas = (32, 32)
        config.dataset.min_crop_side = 12.0
        config.dataset.crop_context = 0.1
        config.augment.photometric = 0.0
        config.augment.flip = 0.0
        config.report.contact_sheet = 4
        return config

    return make


@pytest.fixture
def tiny_crops_config(make_tiny_crops_config):
    """The config of a pretraining of seconds."""
    return make_tiny_crops_config()


@pytest.fixture(scope="session")
def make_tiny_run(make_tiny_config, tmp_path_factory):
    """A function: the finished run with references of a kind, made once; see below."""

    @functools.cache
    def make(kind):
        config = make_tiny_config()
        config.update_from_flattened_dict(tiny_config_file.REFERENCES[kind])
        config.ema_decay = 0.25
        workdir = tmp_path_factory.mktemp("tiny_run") / "W"
        # Inside of optax, integers are promoted.
        with jax.numpy_dtype_promotion("standard"):
            metrics = train.train_and_evaluate(config, workdir)
        return types.SimpleNamespace(workdir=workdir, config=config, metrics=metrics)

    return make


@pytest.fixture(scope="session")
def tiny_run(make_tiny_run):
    """A finished run of `tiny_config`, with averaged parameters; not to be changed.

    Has `workdir`, `config`, and `metrics`, what `train_and_evaluate` returned.
    """
    return make_tiny_run("none")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium, for the tests that have browser.MARKS."""
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture
def optax_promotes():
    """Integers are promoted inside of optax."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def compile_anew():
    """JAX as it starts: it keeps no programs. Afterwards it is as it was.

    A function that compiles `x * factor` anew, as far as JAX's memory goes. Returns
    (what that makes of [1, 1], how often a kept program was found).
    """
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
        "jax_persistent_cache_enable_xla_caches",
    )
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    jax_cache.reset_cache()
    hits = []

    def listener(event, **_):
        if event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    def compile_and_call(factor):
        hits.clear()
        call = jax.jit(lambda x: x * factor)
        return call(np.ones(2, np.float32)).tolist(), len(hits)

    jax.monitoring.register_event_listener(listener)
    yield compile_and_call
    jax.monitoring.unregister_event_listener(listener)
    for name, value in before.items():
        jax.config.update(name, value)
    jax_cache.reset_cache()


class StopError(Exception):
    """Simulates the end of a process."""


class StoppingBatches:
    """Batches that end the process after a given number."""

    def __init__(self, batches, left):
        self.batches, self.left = batches, left

    def __getattr__(self, name):
        return getattr(self.batches, name)

    def __next__(self):
        if not self.left:
            raise StopError
        self.left -= 1
        return next(self.batches)


@pytest.fixture
def stop_after(monkeypatch):
    """Returns a function that ends later runs after a given number of batches.

    Its `error` is the exception that ends them.
    """
    endless = pipeline.train_batches

    def stop_after(count):
        monkeypatch.setattr(
            pipeline,
            "train_batches",
            lambda *args, **kwargs: StoppingBatches(endless(*args, **kwargs), count),
        )

    stop_after.error = StopError
    return stop_after
