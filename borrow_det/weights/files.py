"""Tensors of weight files, read without executing code from the files.

PyTorch's files are pickles: `torch.load(weights_only=True)` accepts only tensors and
plain containers. safetensors, HDF5 and NumPy arrays without objects have no code.
Shapes and types are known before a tensor is read.
"""

import contextlib
import io
import math
import os
import pathlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import h5py
import ml_dtypes
import numpy as np
import safetensors

from borrow_det.errors import InputError
from borrow_det.weights import keras_names

# Largest size of unpacked weights, in bytes. VGG-16 has 0.55 GB, or 1.1 as float64.
_MAX_UNPACKED = 2**31
# Largest header of an array, in bytes; NumPy parses at most 10,000.
_MAX_HEADER = 2**14


class Tensor(NamedTuple):
    """A tensor of a file that has not been read."""

    shape: tuple[int, ...]
    dtype: str  # Name of the type in NumPy, or "bfloat16".
    read: Callable[[], np.ndarray]  # Returns float32 for floating-point types.

    @property
    def floating(self) -> bool:
        """True for floating-point types."""
        return self.dtype in ("float16", "bfloat16", "float32", "float64")


@contextlib.contextmanager
def open_tensors(path: str | os.PathLike) -> Iterator[dict[str, Tensor]]:
    """Opens a weight file and yields its tensors by name, readable within the context.

    The suffix determines the format: .pth or .pt (PyTorch), .safetensors, .npz, .h5 or
    .keras (Keras; names become LAYER/kernel and LAYER/bias).

    Raises:
      InputError: the file is missing, has an unknown suffix, is damaged, or has other
        objects than tensors.
    """
    path = pathlib.Path(path)
    opener = _OPENERS.get(path.suffix.lower())
    if opener is None:
        raise InputError(
            f"{path}: weights must be in a file with the suffix {', '.join(_OPENERS)}"
        )
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    try:
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    with contextlib.ExitStack() as stack:
        with _input_errors(path):
            tensors = opener(path, stack)
        yield {
            name: tensor._replace(read=_guarded(path, tensor.read))
            for name, tensor in tensors.items()
        }


def check_library(path: str | os.PathLike) -> None:
    """Checks that the library that reads a file of this suffix is installed.

    Raises:
      InputError: the file is one of PyTorch's, and torch is not installed.
    """
    if _OPENERS.get(pathlib.Path(path).suffix.lower()) is not _open_torch:
        return
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{path}: reading PyTorch's files needs torch, which is not installed: "
            "pip install -r requirements-parity.txt, or save the weights as "
            ".safetensors"
        ) from error


@contextlib.contextmanager
def _input_errors(path: pathlib.Path) -> Iterator[None]:
    """Converts exceptions of a library for a damaged file to InputError."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Parsers raise any exception for a damaged file.
        kind = _KINDS[path.suffix.lower()]
        reason = " ".join(str(error).split())[:200]
        # Messages that advise executing the code of the file are not shown.
        reason = "" if _ADVICE.search(reason) or not reason else f": {reason}"
        raise InputError(f"{path}: not {kind}, or damaged{reason}") from error


_ADVICE = re.compile("pickle|weights_only|safe_globals")


def _guarded(
    path: pathlib.Path, read: Callable[[], np.ndarray]
) -> Callable[[], np.ndarray]:
    def guarded() -> np.ndarray:
        with _input_errors(path):
            return read()

    return guarded


def _open_torch(path: pathlib.Path, stack: contextlib.ExitStack) -> dict[str, Tensor]:
    del stack
    check_library(path)
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):
            loaded = torch.load(
                path,
                map_location="cpu",
                weights_only=True,
                # Files of PyTorch before 1.6 are not zip archives and cannot be mapped.
                mmap=zipfile.is_zipfile(path),
            )
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise InputError(
                f"{path}: not loaded, because it has other objects than tensors and "
                f"would call {wanted[1]}: save only the state dict"
            ) from error
        # The reason is surrounded by advice on executing the code of the file.
        reason = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
        raise ValueError(reason[1] if reason else str(error)) from error
    if not isinstance(loaded, Mapping):
        raise InputError(
            f"{path}: has a {type(loaded).__name__} instead of a state dict: save only "
            "the state dict"
        )
    return {name: _torch_tensor(path, name, value) for name, value in loaded.items()}


def _torch_tensor(path: pathlib.Path, name: Any, value: Any) -> Tensor:
    import torch

    if not isinstance(value, torch.Tensor):
        raise InputError(
            f"{path}: entry {name!r} is a {type(value).__name__}, not a tensor: "
            "save only the state dict"
        )
    if not isinstance(name, str):
        raise InputError(f"{path}: entry {name!r}: the name of a tensor must be a text")
    if value.layout != torch.strided:
        raise InputError(
            f"{path}: entry {name!r} is a tensor with layout {value.layout}, which is "
            "not dense: save the result of its to_dense()"
        )

    def read() -> np.ndarray:
        tensor = value.detach()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()

    return Tensor(tuple(value.shape), str(value.dtype).removeprefix("torch."), read)


def _open_safetensors(
    path: pathlib.Path, stack: contextlib.ExitStack
) -> dict[str, Tensor]:
    file = stack.enter_context(safetensors.safe_open(path, framework="np"))

    def tensor(name: str) -> Tensor:
        part = file.get_slice(name)
        dtype = _SAFETENSORS_TYPES.get(part.get_dtype(), part.get_dtype())
        return Tensor(
            tuple(part.get_shape()), dtype, lambda: _float32(file.get_tensor(name))
        )

    return {name: tensor(name) for name in file.keys()}  # noqa: SIM118


_SAFETENSORS_TYPES = {
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}


def _open_npz(path: pathlib.Path, stack: contextlib.ExitStack) -> dict[str, Tensor]:
    archive = stack.enter_context(zipfile.ZipFile(path))
    _check_members(path, archive.infolist())
    tensors: dict[str, Tensor] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name in tensors:
            raise InputError(f"{path}: two tensors have the name {name}")
        try:
            tensors[name] = _npz_tensor(archive, member)
        # NumPy evaluates headers; deeply nested ones raise any exception.
        except Exception as error:
            reason = str(error) or "its header cannot be parsed"
            raise ValueError(f"{member.filename}: {reason}") from error
    return tensors


def _npz_tensor(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor:
    with archive.open(member) as file:
        head = io.BytesIO(file.read(_MAX_HEADER))
    version = np.lib.format.read_magic(head)
    if version not in _NPY_HEADERS:
        raise ValueError(f"version {version} of the format is not for numbers")
    shape, _, dtype = _NPY_HEADERS[version](head)
    if dtype.hasobject:
        raise ValueError("it has objects")
    declared, stored = math.prod(shape) * dtype.itemsize, member.file_size - head.tell()
    if declared != stored:
        raise ValueError(f"{dtype} {list(shape)} has {declared} bytes, not {stored}")

    def read() -> np.ndarray:
        with archive.open(member) as file:
            return _float32(np.lib.format.read_array(file, allow_pickle=False))

    return Tensor(shape, dtype.name, read)


_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _check_members(path: pathlib.Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Rejects archives that might not fit in memory, before anything is read."""
    size = sum(member.file_size for member in members)
    if size > _MAX_UNPACKED:
        raise InputError(
            f"{path}: its weights have {size} bytes, more than the limit of "
            f"{_MAX_UNPACKED}"
        )
    for member in members:
        # With other methods, Python unpacks a member completely, regardless of its
        # size.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(
                f"{path}: {member.filename} must be stored or deflated, as NumPy and "
                "Keras do"
            )


def _open_hdf5(path: pathlib.Path, stack: contextlib.ExitStack) -> dict[str, Tensor]:
    return _hdf5_tensors(path, stack.enter_context(h5py.File(path, "r")))


def _open_keras(path: pathlib.Path, stack: contextlib.ExitStack) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("model.weights.h5")
        _check_members(path, [member])
        with archive.open(member) as file:
            unpacked = io.BytesIO(file.read(member.file_size))
    return _hdf5_tensors(path, stack.enter_context(h5py.File(unpacked, "r")))


def _hdf5_tensors(path: pathlib.Path, file: h5py.File) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}

    # visititems does not follow links, for example to other files.
    def visit(place: str, node: h5py.Group | h5py.Dataset) -> None:
        if not isinstance(node, h5py.Dataset):
            return
        if node.is_virtual or node.external:
            raise InputError(
                f"{path}: {place} is stored in another file, which is not read"
            )
        name = keras_names.canonical(place, file)
        if name in tensors:
            raise InputError(f"{path}: two tensors have the name {name}")
        tensors[name] = Tensor(
            node.shape or (), node.dtype.name, lambda: _float32(node[()])
        )

    file.visititems(visit)
    return tensors


def _float32(array: Any) -> np.ndarray:
    array = np.asarray(array)
    floating = array.dtype.kind == "f" or array.dtype == ml_dtypes.bfloat16
    return array.astype(np.float32, copy=False) if floating else array


_OPENERS = {
    ".pth": _open_torch,
    ".pt": _open_torch,
    ".safetensors": _open_safetensors,
    ".h5": _open_hdf5,
    ".keras": _open_keras,
    ".npz": _open_npz,
}
_KINDS = {
    ".pth": "a PyTorch file of tensors",
    ".pt": "a PyTorch file of tensors",
    ".safetensors": "a safetensors file",
    ".h5": "an HDF5 file",
    ".keras": "a Keras archive",
    ".npz": "an archive of NumPy arrays without objects",
}
