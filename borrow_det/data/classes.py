"""Classes of a split among those of a trained run."""

from collections.abc import Sequence

from borrow_det.evaluation.coco_values import Id, id_key


def indices_among(
    names: Sequence[str],
    category_ids: Sequence[Id],
    trained_names: Sequence[str],
    trained_ids: Sequence[Id],
) -> list[int] | None:
    """Finds each class of a split among the classes of a trained run.

    A split may lack classes of the run, for example because its annotation file lists
    fewer. Classes agree if both ids and names do. For datasets with other ids,
    equal names suffice. The id that distinguishes repeated names is not part of a
    name.

    Returns:
      The index of each class among the trained ones; None if the run lacks it.
    """
    trained = [
        (id_key(category_id), _plain(name, category_id))
        for name, category_id in zip(trained_names, trained_ids, strict=True)
    ]
    own = [
        (id_key(category_id), _plain(name, category_id))
        for name, category_id in zip(names, category_ids, strict=True)
    ]
    if set(own) <= set(trained):
        return [trained.index(pair) for pair in own]
    if set(names) <= set(trained_names):
        return [list(trained_names).index(name) for name in names]
    return None


def ids_of(
    indices: Sequence[int], category_ids: Sequence[Id], trained_ids: Sequence[Id]
) -> tuple[Id, ...]:
    """Returns the ids of all trained classes in the files of a split.

    Args:
      indices: of `indices_among`.
      category_ids: ids of the split.
      trained_ids: ids of the run; they serve for classes that the split lacks. An id
        that the split uses for another class is replaced by a text.
    """
    own = dict(zip(indices, category_ids, strict=True))
    used = set(map(id_key, category_ids))
    return tuple(
        own[i]
        if i in own
        else f"{trained} of the run"
        if id_key(trained) in used
        else trained
        for i, trained in enumerate(trained_ids)
    )


def _plain(name: str, category_id: Id) -> str:
    return name.removesuffix(f" ({category_id})")
