"""Reads the tensors of weight files, and runs nothing that a file holds.

PyTorch's files are pickles: `torch.load(weights_only=True)` admits tensors and plain
containers alone. safetensors, HDF5 and NumPy's arrays without objects hold no code.
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
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import h5py
import ml_dtypes
import numpy as np
import safetensors

from borrow_det.errors import InputError
from borrow_det.weights import keras_names

# What an archive's weights may unpack to; VGG-16's are 0.55 GB, or 1.1 as float64.
_MAX_UNPACKED = 2**31
# Bytes before an array's numbers; NumPy parses no more than 10,000 of them.
_MAX_HEADER = 2**14


class Tensor(NamedTuple):
    """A tensor of a file, not read yet."""

    shape: tuple[int, ...]
    dtype: str  # NumPy's name of it; `bfloat16` beside those.
    read: Callable[[], np.ndarray]  # Float32 where the file has floating numbers.

    @property
    def floating(self) -> bool:
        """Whether its numbers are of a floating type."""
        return self.dtype in ("float16", "bfloat16", "float32", "float64")


@contextlib.contextmanager
def open_tensors(path: str | os.PathLike) -> Iterator[dict[str, Tensor]]:
    """The tensors of a weight file by name, readable while the context lasts.

    The ending says what the file is: .pth or .pt (PyTorch), .safetensors, .h5 or
    .keras (Keras, whose names are brought to LAYER/kernel and LAYER/bias), .npz.

    Raises:
      InputError: the file is not there, of no known kind, damaged, or holds anything
        but tensors.
    """
    path = pathlib.Path(path)
    opener = _OPENERS.get(path.suffix.lower())
    if opener is None:
        raise InputError(
            f"{path}: weights are read from files that end in {', '.join(_OPENERS)}"
        )
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    try:
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    with contextlib.ExitStack() as stack:
        with _refusing(path):
            tensors = opener(path, stack)
        yield {
            name: tensor._replace(read=_guarded(path, tensor.read))
            for name, tensor in tensors.items()
        }


@contextlib.contextmanager
def _refusing(path):
    """Turns whatever a library makes of a bad file into one line."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # A damaged file can make a parser raise anything.
        kind = _KINDS[path.suffix.lower()]
        reason = " ".join(str(error).split())[:200]
        # Some tell how to run the file's code: they are not passed on.
        reason = "" if _ADVICE.search(reason) or not reason else f": {reason}"
        raise InputError(f"{path}: not {kind}, or a damaged one{reason}") from error


_ADVICE = re.compile("pickle|weights_only|safe_globals")


def _guarded(path, read):
    def guarded():
        with _refusing(path):
            return read()

    return guarded


def _open_torch(path, _):
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path}: reading PyTorch's files needs torch, which is not installed: "
            "pip install -r requirements-parity.txt, or bring the weights as "
            ".safetensors"
        ) from error
    try:
        with warnings.catch_warnings(action="ignore"):
            loaded = torch.load(
                path,
                map_location="cpu",
                weights_only=True,
                # Files from before PyTorch 1.6 are no zip archives: not to be mapped.
                mmap=zipfile.is_zipfile(path),
            )
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise InputError(
                f"{path}: refused, it holds more than tensors: loading it would call "
                f"{wanted[1]}. Save the state dict alone"
            ) from error
        # What is wrong stands amid advice on how to run the file's code.
        reason = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
        raise ValueError(reason[1] if reason else str(error)) from error
    if not isinstance(loaded, Mapping):
        raise InputError(f"{path}: holds a {type(loaded).__name__}, not a state dict")
    return {name: _torch_tensor(path, name, value) for name, value in loaded.items()}


def _torch_tensor(path, name, value):
    import torch

    if not isinstance(value, torch.Tensor):
        raise InputError(
            f"{path}: entry {name!r} is a {type(value).__name__}, not a tensor: "
            "save the state dict alone"
        )
    if not isinstance(name, str):
        raise InputError(f"{path}: entry {name!r}: a tensor's name must be a text")
    if value.layout != torch.strided:
        raise InputError(
            f"{path}: entry {name!r} is a tensor of layout {value.layout}, not a dense "
            "one: save what its to_dense() gives"
        )

    def read():
        tensor = value.detach()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()

    return Tensor(tuple(value.shape), str(value.dtype).removeprefix("torch."), read)


def _open_safetensors(path, stack):
    file = stack.enter_context(safetensors.safe_open(path, framework="np"))

    def tensor(name):
        part = file.get_slice(name)
        dtype = _SAFETENSORS_TYPES.get(part.get_dtype(), part.get_dtype())
        return Tensor(
            tuple(part.get_shape()), dtype, lambda: _float32(file.get_tensor(name))
        )

    return {name: tensor(name) for name in file.keys()}  # noqa: SIM118


_SAFETENSORS_TYPES = {
    **{"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"},
}


def _open_npz(path, stack):
    archive = stack.enter_context(zipfile.ZipFile(path))
    _check_members(path, archive.infolist())
    tensors: dict[str, Tensor] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name in tensors:
            raise InputError(f"{path}: two tensors are {name}")
        try:
            tensors[name] = _npz_tensor(archive, member)
        # NumPy evaluates headers: those nested deeply raise anything, MemoryError too.
        except Exception as error:
            reason = str(error) or "its header cannot be parsed"
            raise ValueError(f"{member.filename}: {reason}") from error
    return tensors


def _npz_tensor(archive, member):
    with archive.open(member) as file:
        head = io.BytesIO(file.read(_MAX_HEADER))
    version = np.lib.format.read_magic(head)
    if version not in _NPY_HEADERS:
        raise ValueError(f"version {version} of the format, which numbers do not need")
    shape, _, dtype = _NPY_HEADERS[version](head)
    if dtype.hasobject:
        raise ValueError("it holds objects")
    declared, stored = math.prod(shape) * dtype.itemsize, member.file_size - head.tell()
    if declared != stored:
        raise ValueError(f"{dtype} {list(shape)} takes {declared} bytes, not {stored}")

    def read():
        with archive.open(member) as file:
            return _float32(np.lib.format.read_array(file, allow_pickle=False))

    return Tensor(shape, dtype.name, read)


_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _check_members(path, members):
    """Refuses parts of an archive that would not fit in memory, before any is read."""
    size = sum(member.file_size for member in members)
    if size > _MAX_UNPACKED:
        raise InputError(
            f"{path}: its weights take {size} bytes; {_MAX_UNPACKED} are read at most"
        )
    for member in members:
        # Python unpacks the others at once, whatever size they declare.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(
                f"{path}: {member.filename} is packed otherwise than NumPy and Keras "
                "do, stored or deflated"
            )


def _open_hdf5(path, stack):
    return _hdf5_tensors(path, stack.enter_context(h5py.File(path, "r")))


def _open_keras(path, stack):
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("model.weights.h5")
        _check_members(path, [member])
        with archive.open(member) as file:
            unpacked = io.BytesIO(file.read(member.file_size))
    return _hdf5_tensors(path, stack.enter_context(h5py.File(unpacked, "r")))


def _hdf5_tensors(path, file):
    tensors: dict[str, Tensor] = {}

    # Links, to other files among them, are not followed by visititems.
    def visit(place, node):
        if not isinstance(node, h5py.Dataset):
            return
        if node.is_virtual or node.external:
            raise InputError(f"{path}: {place} lies in another file; that is not read")
        name = keras_names.canonical(place, file)
        if name in tensors:
            raise InputError(f"{path}: two tensors are {name}")
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
    ".pth": "a file of tensors by PyTorch",
    ".pt": "a file of tensors by PyTorch",
    ".safetensors": "a safetensors file",
    ".h5": "an HDF5 file",
    ".keras": "a Keras archive",
    ".npz": "an archive of NumPy arrays without objects",
}
