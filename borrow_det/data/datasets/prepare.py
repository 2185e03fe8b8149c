"""Opening TFDS's prepared sets, and preparing those that are not there yet."""

import importlib.util
import pathlib
import sys
from collections.abc import Sequence

import tensorflow_datasets as tfds

from borrow_det.errors import InputError


def prepared(builder_class, config, data_dir: str):
    """Returns a reader of a set that we build ourselves, prepared if need be.

    TFDS writes into `incomplete.*` beside the set's folder and renames that at the
    end, so that a run that fails or is killed leaves nothing that a second run would
    take for the set.

    Args:
      builder_class: a tfds.core.GeneratorBasedBuilder that needs no TensorFlow.
      config: its BuilderConfig.
      data_dir: dataset.data_dir; "" is TFDS's default.

    Raises:
      InputError: the set cannot be written there.
    """
    name = f"{builder_class.name}/{config.name}:{builder_class.VERSION}"
    # A builder that only reads can, unlike ours, be sent to loader workers.
    builder = _find_prepared(name, data_dir)
    if builder is None:
        _download_and_prepare(
            builder_class(
                config=config, data_dir=data_dir or None, file_format="array_record"
            )
        )
        builder = _find_prepared(name, data_dir)
    return builder


def prepared_by_name(tfds_name: str, data_dir: str, manual_files: Sequence[str] = ()):
    """Returns a reader of one of TFDS's own sets, prepared if need be.

    Reading a prepared set takes no TensorFlow; generating one does.

    Args:
      tfds_name: of the set.
      data_dir: dataset.data_dir; "" is TFDS's default.
      manual_files: what only a person can download, into `downloads/manual` of the
        data_dir.

    Raises:
      InputError: the set is to be prepared and TensorFlow or a manual file is absent,
        it cannot be downloaded or written, or it lies on the disk in another format
        than array_record.
    """
    builder = _find_prepared(tfds_name, data_dir)
    if builder is None:
        if not _has_tensorflow():
            raise InputError(
                f"{tfds_name} is not prepared in {data_dir or 'the default data_dir'}, "
                "and TFDS's builder of it needs TensorFlow, which is not installed: "
                "pip install -r requirements-tf.txt (for preparing it once; training "
                "and evaluation then read it without)"
            )
        builder = tfds.builder(
            tfds_name, data_dir=data_dir or None, file_format="array_record"
        )
        _check_manual_files(builder, manual_files)
        _download_and_prepare(builder)
        builder = _find_prepared(tfds_name, data_dir)
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise InputError(
            f"{builder.data_path} holds {tfds_name} as "
            f"{builder.info.file_format.value}, which has no random access: set "
            "dataset.data_dir to another folder, where it is prepared as array_record"
        )
    return builder


def data_source(builder, split: str) -> Sequence[dict]:
    """Random access to the records of a whole split, images left encoded."""
    return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})


def _check_manual_files(builder, names: Sequence[str]) -> None:
    # TFDS would stop at the first missing folder, or prepare some splits only.
    folder = pathlib.Path(builder.data_dir_root) / "downloads" / "manual"
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{builder.name} has no public download: register at its home page, "
            f"{builder.info.homepage}, and put {' and '.join(missing)} into {folder}"
        )


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def _find_prepared(tfds_name: str, data_dir: str):
    try:
        return tfds.core.read_only_builder.builder_from_files(
            tfds_name, data_dir=data_dir or None
        )
    except tfds.core.DatasetNotFoundError:
        return None


def _download_and_prepare(builder) -> None:
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        builder.download_and_prepare()
    except (OSError, RuntimeError) as error:
        # Another process of this run may have finished the same set meanwhile, and
        # its folder stands where ours was to go.
        if builder.is_prepared():
            return
        if not _is_of_system(error):
            raise
        reason = " ".join(str(error).split())
        raise InputError(
            f"{builder.data_path} cannot be prepared ({reason}): make room there, or "
            "set dataset.data_dir to a folder that can be written"
        ) from error


def _is_of_system(error: Exception) -> bool:
    """Whether the file system or the network failed, and not the program.

    array_record's writer, written in C++, raises RuntimeError with the text
    "write() failed: No space left on device".
    """
    return isinstance(error, OSError) or "() failed: " in str(error)
