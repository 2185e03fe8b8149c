"""What a compiled program needs: memory, arithmetic, and what its devices exchange."""

import collections
import math
import re
from collections.abc import Iterable, Iterator

# Or in asynchronous halves, NAME-start and NAME-done, of which the first counts.
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
)
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.-]+) \(.*\) -> .* \{")
# A result's layout may hold parentheses, but none behind a blank.
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (.+?) ([a-z][a-z\d-]*)\(")
_CALLED = re.compile(r"(\w+)=(?:\{([^{}]*)\}|%?([\w.-]+))")
# One that runs piecemeal, beside several fusions, stands in each of them.
_LINK = re.compile(r'channel_id=(\d+),.*\bchain_id="(\d+)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
# As the compiler says it, in powers of 1024.
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([KMGT]?)"
# Of the compiler's two refusals the first is of temporaries alone.
_EXHAUSTED = (
    ("temporaries", rf"HLO temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)"),
    ("total", rf"Used {_SIZE} of {_SIZE} hbm"),
)


def memory(compiled) -> dict[str, int]:
    """Bytes a device of a `jax.stages.Compiled`.

    `donated` outputs take the place of arguments; `total` counts them once.
    """
    sizes = compiled.memory_analysis()
    parts = {
        "arguments": sizes.argument_size_in_bytes,
        "outputs": sizes.output_size_in_bytes,
        "donated": sizes.alias_size_in_bytes,
        "temporaries": sizes.temp_size_in_bytes,
        "program": sizes.generated_code_size_in_bytes,
    }
    return {**parts, "total": sum(parts.values()) - 2 * parts["donated"]}


def arithmetic(compiled) -> dict[str, int]:
    """FLOPs, and bytes of memory read and written, of one device in one call.

    As the compiler estimates them; a loop's body counts once, however often it runs.
    """
    cost = compiled.cost_analysis()
    return {"flops": int(cost["flops"]), "bytes_accessed": int(cost["bytes accessed"])}


def cycles(hlo: str) -> dict[str, int]:
    """Clock cycles that a TPU's compiler expects a program to take on a device.

    Args:
      hlo: text of an optimised module; of other devices it has none.

    Returns:
      `total`, and of these `in_loops`, whose bodies count once.
    """
    computations = dict(_computations(hlo.splitlines()))
    looped = _looped(computations)
    found = {"total": 0, "in_loops": 0}
    for name, lines in computations.items():
        expected = sum(int(n) for line in lines for n in _CYCLES.findall(line))
        found["total"] += expected
        found["in_loops"] += expected * (name in looped)
    return found


def exhausted(message: str) -> dict[str, int] | None:
    """Bytes a device of a program that the compiler refuses, from its message.

    Returns:
      `available`, what the compiler may use; `total`, what is wanted; `temporaries`
      where the refusal is of these alone, and `total` then is no more. None where the
      message is of something else.
    """
    for name, pattern in _EXHAUSTED:
        found = re.search(pattern, message)
        if found:
            need, need_unit, have, have_unit = found.groups()
            wanted = round(float(need) * _UNITS[need_unit])
            available = round(float(have) * _UNITS[have_unit])
            return {name: wanted, "total": wanted, "available": available}
    return None


def collectives(hlo: str) -> dict[str, dict[str, int]]:
    """What devices exchange in a program, by kind.

    Args:
      hlo: text of an optimised module.

    Returns:
      For each of COLLECTIVES that there is: `count`; `bytes` of a device, of the whole
      arrays (what a gather gives, what a scatter takes), each counted once; and how
      many stand `in_loops`, which may run any number of times.
    """
    computations = dict(_computations(hlo.splitlines()))
    links = set()
    looped = _looped(computations)
    found = collections.defaultdict(lambda: {"count": 0, "bytes": 0, "in_loops": 0})
    for name, lines in computations.items():
        # By name, as operands may be given without their shapes.
        shapes = {}
        for line in lines:
            match = _INSTRUCTION.match(line)
            if match is None:
                continue
            instruction, shape, opcode = match.groups()
            shapes[instruction] = shape
            kind = opcode.removesuffix("-start")
            if kind not in COLLECTIVES:
                continue
            link = _LINK.search(line)
            if link and link.groups() in links:
                continue
            links.add(link and link.groups())
            # How TPUs fuse a sum of which each device keeps a part.
            if name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"
            entry = found[kind]
            entry["count"] += 1
            entry["bytes"] += _exchanged(line[match.end() :], shape, opcode, shapes)
            entry["in_loops"] += name in looped
    return {kind: found[kind] for kind in COLLECTIVES if kind in found}


def _exchanged(rest, shape, opcode, shapes):
    """Bytes of what a collective takes or gives, whichever is more."""
    operands = re.findall(r"%([\w.-]+)", rest.split(")", 1)[0])
    taken = sum(_bytes(shapes.get(name, "")) for name in operands)
    given = _bytes(shape)
    # The start of an asynchronous one gives what it takes beside its result.
    asynchronous = opcode.endswith("-start") and opcode != "all-reduce-start"
    return max(taken, given - taken if asynchronous else given)


def _bytes(shape: str) -> int:
    """Of an array or of a tuple's arrays."""
    total = 0
    for dtype, sides in _ARRAY.findall(shape):
        # The first number is that of bits; pred has none, and is a byte.
        bits = int((re.findall(r"\d+", dtype) or ["8"])[0])
        total += math.prod(int(side) for side in sides.split(",") if side) * bits // 8
    return total


def _computations(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """(name, lines) of each computation of a module."""
    name, body = None, []
    for line in lines:
        match = _COMPUTATION.match(line)
        if match:
            name, body = match[1], []
        elif line.startswith("}") and name:
            yield name, body
            name = None
        elif name:
            body.append(line)


def _looped(computations: dict[str, list[str]]) -> set[str]:
    """The names of those that loops run, and of what these call."""
    calls, todo = collections.defaultdict(set), []
    for name, lines in computations.items():
        for line in lines:
            for field, several, one in _CALLED.findall(line):
                names = (
                    [n.strip(" %") for n in several.split(",")] if several else [one]
                )
                called = [n for n in names if n in computations]
                calls[name].update(called)
                if field in ("body", "condition"):
                    todo += called
    looped = set()
    while todo:
        name = todo.pop()
        if name not in looped:
            looped.add(name)
            todo += calls[name]
    return looped
