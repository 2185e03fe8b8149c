"""Builders of prepared TFDS sets; sets that are missing are prepared first."""

import importlib.util
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

import tensorflow_datasets as tfds

from borrow_det.errors import InputError
from borrow_det.io import paths

Builder: TypeAlias = tfds.core.DatasetBuilder


def prepared(
    builder_class: type[tfds.core.GeneratorBasedBuilder],
    config: tfds.core.BuilderConfig,
    data_dir: str,
) -> Builder:
    """Returns a read-only builder of one of our sets, after preparing it if necessary.

    TFDS writes into a folder `incomplete.*` and renames it at the end, so that the next
    run does not take the remains of a failed or killed run for the set.

    Args:
      builder_class: builder that does not need TensorFlow.
      config: configuration of the builder.
      data_dir: dataset.data_dir; "" for TFDS's default.

    Raises:
      InputError: the set cannot be written.
    """
    data_dir = _usable(data_dir)
    name = f"{builder_class.name}/{config.name}:{builder_class.VERSION}"
    # Unlike our builders, a read-only builder can be sent to loader workers.
    builder = _find_prepared(name, data_dir)
    if builder is None:
        _download_and_prepare(
            builder_class(
                config=config, data_dir=data_dir or None, file_format="array_record"
            )
        )
        builder = _open_prepared(name, data_dir)
    return builder


def prepared_by_name(
    tfds_name: str, data_dir: str, manual_files: Sequence[str] = ()
) -> Builder:
    """Returns a read-only builder of a set of TFDS, after preparing it if necessary.

    Preparing a set needs TensorFlow; reading a prepared set does not.

    Args:
      tfds_name: name of the set.
      data_dir: dataset.data_dir; "" for TFDS's default.
      manual_files: files that the user has to download into `downloads/manual` of
        data_dir.

    Raises:
      InputError: the set is not prepared, and TensorFlow or a manual file is missing;
        the set cannot be downloaded or written; or it is stored in another format than
        array_record.
    """
    data_dir = _usable(data_dir)
    builder = _find_prepared(tfds_name, data_dir)
    if builder is None:
        if not _has_tensorflow():
            raise InputError(
                f"{tfds_name} is not prepared in {data_dir or 'the default data_dir'}, "
                "and preparing it needs TensorFlow, which is not installed: "
                "pip install -r requirements-tf.txt (training and evaluation do not "
                "need it afterwards)"
            )
        builder = tfds.builder(
            tfds_name, data_dir=data_dir or None, file_format="array_record"
        )
        _check_manual_files(builder, manual_files)
        _download_and_prepare(builder)
        builder = _open_prepared(tfds_name, data_dir)
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise InputError(
            f"{builder.data_path} holds {tfds_name} as "
            f"{builder.info.file_format.value}, a format without random access: set "
            "dataset.data_dir to another folder, so that it is prepared as array_record"
        )
    return builder


def data_source(builder: Builder, split: str) -> Sequence[dict[str, Any]]:
    """Returns random access to the records of a complete split, with encoded images."""
    return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})


def root(data_dir: str) -> pathlib.Path:
    """Returns the folder of all prepared datasets.

    Args:
      data_dir: dataset.data_dir; "" for TFDS's default.

    Raises:
      InputError: the path is remote or not UTF-8.
    """
    default = str(tfds.core.constants.get_default_data_dir())
    folder = paths.local_path(_usable(data_dir) or default, "dataset.data_dir")
    return folder.absolute()


def _usable(data_dir: str) -> str:
    """Returns dataset.data_dir without `~`; raises InputError if it is not UTF-8."""
    if not data_dir:
        return data_dir
    folder = paths.as_path(data_dir)
    paths.check_utf8(folder)
    return str(folder)


def _check_manual_files(builder: Builder, names: Sequence[str]) -> None:
    # TFDS would report a missing folder, or prepare the other splits.
    folder = pathlib.Path(builder.data_dir_root) / "downloads" / "manual"
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{builder.name} cannot be downloaded automatically: register at "
            f"{builder.info.homepage}, and put {' and '.join(missing)} into {folder}"
        )


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def _find_prepared(tfds_name: str, data_dir: str) -> Builder | None:
    try:
        return _open_prepared(tfds_name, data_dir)
    except tfds.core.DatasetNotFoundError:
        return None


def _open_prepared(tfds_name: str, data_dir: str) -> Builder:
    return tfds.core.read_only_builder.builder_from_files(
        tfds_name, data_dir=data_dir or None
    )


def _download_and_prepare(builder: Builder) -> None:
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        builder.download_and_prepare()
    except (OSError, RuntimeError) as error:
        # Another process of the run may have prepared the same set in the meantime.
        if builder.is_prepared():
            return
        if not is_system_error(error):
            raise
        raise cannot_prepare(builder.data_path, error) from error


def cannot_prepare(place: object, error: Exception) -> InputError:
    """Returns the error of a data_dir that cannot be written."""
    reason = " ".join(str(error).split())
    return InputError(
        f"{place} cannot be prepared ({reason}): free disk space, or set "
        "dataset.data_dir to a writable folder"
    )


def is_system_error(error: Exception) -> bool:
    """Returns true if the file system or the network failed, and not the program.

    The writer of array_record, in C++, raises RuntimeError with texts such as
    "write() failed: No space left on device".
    """
    return isinstance(error, OSError) or "() failed: " in str(error)
