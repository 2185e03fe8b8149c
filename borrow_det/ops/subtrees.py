"""Parts of a tree of parameters: the arrays below some modules, and the others."""

from collections.abc import Collection

from flax import traverse_util


def split(tree: dict, modules: Collection[str]) -> tuple[dict, dict]:
    """Splits a tree into the arrays outside of modules and those inside.

    Args:
      tree: nested dictionary of arrays, without empty ones.
      modules: paths of modules, such as `trunk/conv1_1`.

    Returns:
      (outside, inside), nested dictionaries; {} for a part without arrays.
    """
    parts: tuple[dict, dict] = {}, {}
    for path, leaf in traverse_util.flatten_dict(tree, sep="/").items():
        parts[is_inside(path, modules)][path] = leaf
    outside, inside = (traverse_util.unflatten_dict(part, sep="/") for part in parts)
    return outside, inside


def merge(tree: dict, part: dict) -> dict:
    """Returns a tree with the arrays of `part`, which replace those of equal path."""
    old, new = (traverse_util.flatten_dict(each, sep="/") for each in (tree, part))
    return traverse_util.unflatten_dict(old | new, sep="/")


def is_inside(path: str, modules: Collection[str]) -> bool:
    """Returns whether the path of an array or module begins with that of a module."""
    names = path.split("/")
    return any(names[: len(m)] == m for m in (module.split("/") for module in modules))
