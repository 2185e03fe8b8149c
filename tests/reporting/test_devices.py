"""Devices in words, and accelerators that JAX does not use."""

import types

import jax
import pytest

from borrow_det.reporting import devices


def chips(kind, count):
    return [types.SimpleNamespace(device_kind=kind) for _ in range(count)]


def test_a_cpu_is_described_by_its_cores(monkeypatch):
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: {0, 1, 4})
    monkeypatch.setattr(jax, "devices", lambda: chips("cpu", 1))
    assert devices.describe() == "3 CPU cores"
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(jax, "devices", lambda: chips("cpu", 8))
    assert devices.describe() == "1 CPU core as 8 devices"


@pytest.mark.parametrize(
    ("found", "processes", "text"),
    [
        (chips("NVIDIA H100", 1), 1, "1 x NVIDIA H100"),
        (chips("TPU v5 lite", 16), 4, "16 x TPU v5 lite, 4 processes"),
        (chips("A", 1) + chips("B", 2), 1, "1 x A, 2 x B"),
    ],
)
def test_accelerators_are_described_by_their_kind(monkeypatch, found, processes, text):
    monkeypatch.setattr(jax, "devices", lambda: found)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    assert devices.describe() == text


@pytest.fixture
def machine(tmp_path):
    """A function: the environment of a machine whose nvidia-smi prints and exits so."""

    def machine(printed=None, status=0, **variables):
        if printed is not None:
            program = tmp_path / "nvidia-smi"
            program.write_text(f"#!/bin/sh\necho '{printed}'\nexit {status}\n")
            program.chmod(0o755)
        return {"PATH": str(tmp_path), **variables}

    return machine


@pytest.mark.parametrize(
    ("printed", "status", "variables", "named"),
    [
        ("GPU 0: NVIDIA H100", 0, {}, True),
        ("No devices found", 0, {}, False),
        ("GPU 0: NVIDIA H100", 9, {}, False),
        (None, 0, {}, False),
        ("GPU 0: NVIDIA H100", 0, {"CUDA_VISIBLE_DEVICES": ""}, False),
        ("GPU 0: NVIDIA H100", 0, {"CUDA_VISIBLE_DEVICES": "0"}, True),
        ("GPU 0: NVIDIA H100", 0, {"JAX_PLATFORMS": "cpu"}, False),
    ],
)
def test_a_gpu_that_jax_does_not_use_is_named(
    machine, tmp_path, printed, status, variables, named
):
    environment = machine(printed, status, **variables)
    text = devices.unused_accelerator(environment, tmp_path)
    assert text == (
        "this machine has an NVIDIA GPU, but JAX does not use it: pip install "
        "'borrow_det[gpu]' (in a checkout: pip install -r requirements-gpu.txt)"
        if named
        else None
    )


@pytest.mark.parametrize(
    ("device", "variables", "named"),
    [
        ("dev/accel0", {}, True),
        ("dev/vfio/0", {}, True),
        ("dev/vfio/vfio", {}, False),
        ("dev/accel/accel0", {}, False),
        ("dev/null", {"TPU_NAME": "node-1"}, True),
        ("dev/null", {"TPU_NAME": "node-1", "JAX_PLATFORMS": "cpu"}, False),
    ],
)
def test_a_tpu_that_jax_does_not_use_is_named(
    machine, tmp_path, device, variables, named
):
    path = tmp_path / device
    path.parent.mkdir(parents=True)
    path.touch()
    text = devices.unused_accelerator(machine(**variables), tmp_path)
    assert (text is not None) == named
    if named:
        assert "requirements-tpu.txt" in text


def test_an_accelerator_in_use_is_not_mentioned(monkeypatch, machine, tmp_path):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    environment = machine("GPU 0: NVIDIA H100")
    assert devices.unused_accelerator(environment, tmp_path) is None
