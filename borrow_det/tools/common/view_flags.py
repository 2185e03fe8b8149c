"""Flags of tools that process images by tiles and with references."""

import sys
from typing import Any

import ml_collections
from absl import flags

from borrow_det.inference import references
from borrow_det.tiling.views import MAX_OVERLAP, Tiles, make_tiles


def define_tiles(flag_values: flags.FlagValues) -> None:
    """Defines the flags that split images into views."""
    text: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_string(
        "tiles",
        None,
        "ROWSxCOLUMNS of the tiles of every image; auto: tiles of the network's input "
        "size (of the canvas if that is smaller) in images larger than that.",
        **text,
    )
    flags.DEFINE_string(
        "tile_size", None, "Size of a tile in pixels: N or HEIGHTxWIDTH.", **text
    )
    flags.DEFINE_float(
        "overlap",
        0.2,
        "Overlap of neighboring tiles as a fraction of a side.",
        0.0,
        MAX_OVERLAP,
        **text,
    )
    flags.DEFINE_boolean(
        "whole", True, "Process the entire image in addition to the tiles.", **text
    )


def tiles(values: flags.FlagValues) -> Tiles:
    """Returns the rule that the flags describe.

    Raises:
      InputError: a flag has a wrong value.
    """
    return make_tiles(
        values.tiles or None,
        values.tile_size or None,
        values.overlap,
        values.whole,
        prefix="--",
    )


def check_references(
    parsed: references.Parsed, config: ml_collections.ConfigDict
) -> None:
    """Checks that a run takes the references; warns if it was trained without.

    Raises:
      InputError: it does not take them.
    """
    references.check_run(parsed, config)
    notice = references.notice(parsed, config)
    if notice is not None:
        print(f"warning: {notice}", file=sys.stderr)
