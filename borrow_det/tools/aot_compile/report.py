"""Memory, arithmetic and collective operations of a compiled program."""

import collections
import math
import re
from collections.abc import Iterable, Iterator, Mapping

import jax

# An asynchronous operation is a pair NAME-start and NAME-done; the first one counts.
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
)
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.-]+) \(.*\) -> .* \{")
# The layout of a result may have parentheses, but none after a space.
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (.+?) ([a-z][a-z\d-]*)\(")
_CALLED = re.compile(r"(\w+)=(?:\{([^{}]*)\}|%?([\w.-]+))")
# An operation that is divided over several fusions is listed in each of them.
_LINK = re.compile(r'channel_id=(\d+),.*\bchain_id="(\d+)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
# Units in the messages of the compiler.
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([KMGT]?)"
# The compiler has two messages; the first one is about temporaries alone.
_EXHAUSTED = (
    ("temporaries", rf"HLO temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)"),
    ("total", rf"Used {_SIZE} of {_SIZE} hbm"),
)


def memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Returns the bytes per device of a compiled program.

    `donated` outputs reuse the memory of arguments; `total` counts them once.
    """
    sizes = compiled.memory_analysis()
    assert sizes is not None
    parts = {
        "arguments": sizes.argument_size_in_bytes,
        "outputs": sizes.output_size_in_bytes,
        "donated": sizes.alias_size_in_bytes,
        "temporaries": sizes.temp_size_in_bytes,
        "program": sizes.generated_code_size_in_bytes,
    }
    return {**parts, "total": sum(parts.values()) - 2 * parts["donated"]}


def arithmetic(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Returns the FLOPs and the bytes accessed per device and call.

    They are estimates of the compiler. The body of a loop counts once.
    """
    cost = compiled.cost_analysis()
    assert cost is not None
    return {"flops": int(cost["flops"]), "bytes_accessed": int(cost["bytes accessed"])}


def cycles(hlo: str) -> dict[str, int]:
    """Returns the clock cycles per device that the TPU compiler estimates.

    Args:
      hlo: text of an optimized TPU module; modules of other devices have no estimates.

    Returns:
      `total`, and `in_loops`, the part in bodies of loops. Each body counts once.
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
    """Parses the bytes per device of a program that does not fit.

    Args:
      message: error message of the compiler.

    Returns:
      `available`, the memory that the compiler may use, and `total`, the memory that
      the program needs. If the message is about temporaries alone, `temporaries` and
      `total` are both their size. None for other messages.
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
    """Counts the collective operations of a program by kind.

    Args:
      hlo: text of an optimized module.

    Returns:
      For each kind of COLLECTIVES in the module: `count`; `bytes` per device of the
      full arrays (the result of a gather, the operand of a scatter), each counted once;
      and `in_loops`, the number of operations in loops, which may run several times.
    """
    computations = dict(_computations(hlo.splitlines()))
    links: set[tuple[str, ...] | None] = set()
    looped = _looped(computations)
    found: dict[str, dict[str, int]] = collections.defaultdict(
        lambda: {"count": 0, "bytes": 0, "in_loops": 0}
    )
    for name, lines in computations.items():
        # By name of the instruction: operands may be listed without shapes.
        shapes: dict[str, str] = {}
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
            # TPUs fuse a sum of which each device keeps a part in this way.
            if name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"
            entry = found[kind]
            entry["count"] += 1
            entry["bytes"] += _exchanged(line[match.end() :], shape, opcode, shapes)
            entry["in_loops"] += name in looped
    return {kind: found[kind] for kind in COLLECTIVES if kind in found}


def _exchanged(rest: str, shape: str, opcode: str, shapes: Mapping[str, str]) -> int:
    """Returns the bytes of an operation's operands or result, whichever is larger."""
    operands = re.findall(r"%([\w.-]+)", rest.split(")", 1)[0])
    taken = sum(_bytes(shapes.get(name, "")) for name in operands)
    given = _bytes(shape)
    # The result of an asynchronous start includes its operands.
    asynchronous = opcode.endswith("-start") and opcode != "all-reduce-start"
    return max(taken, given - taken if asynchronous else given)


def _bytes(shape: str) -> int:
    """Returns the bytes of an array, or of the arrays of a tuple."""
    total = 0
    for dtype, sides in _ARRAY.findall(shape):
        # The first number in a dtype is its bits; pred has no number and is a byte.
        bits = int((re.findall(r"\d+", dtype) or ["8"])[0])
        total += math.prod(int(side) for side in sides.split(",") if side) * bits // 8
    return total


def _computations(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Yields (name, lines) of each computation of a module."""
    name: str | None = None
    body: list[str] = []
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
    """Returns the names of computations that loops run, directly or indirectly."""
    calls: dict[str, set[str]] = collections.defaultdict(set)
    todo: list[str] = []
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
