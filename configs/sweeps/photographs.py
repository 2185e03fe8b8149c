"""What to try where borrowing does not help, as on photographs.

python -m borrow_det.tools.ablate --sweep=configs/sweeps/photographs.py \
    --config=configs/coco_folder_narrow.py:path=DIR --workdir=runs/photographs --seeds=3

The matching loss may take the trunk from finding objects (its weight), or reward the
wrong pairs: it punishes attention on objects of the class that are not twice as large,
as if they were background (their scale; at 0.01 every object of the class is a source,
the object itself, too). Queries may know too little (after context), differ by
brightness more than by class (normalised descriptors), or what is borrowed may be too
narrow to tell anything (wide values).
"""


def sweep(add):
    """The first row is the baseline."""
    add(
        "ssd",
        {"borrow.enabled": False, "borrow.context": False, "loss.matching": 0.0},
    )
    add("full", {})
    for weight in (0.0, 0.3, 1.0):
        add(f"full, matching loss {weight:g}", {"loss.matching": weight})
    add("full, level 0 alone", {"borrow.levels": (0,)})
    add("full, sources of any size", {"loss.matching_scale": 0.01})
    add("full, after context", {"borrow.after_context": True})
    add("full, normalised", {"borrow.normalize": True})
    add("full, wide values", {"borrow.value_channels": 128})
