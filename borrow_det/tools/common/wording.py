"""Words of reports."""


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun: "1 box", "2,000 boxes"."""
    ending = "" if number == 1 else "es" if noun.endswith(("s", "x")) else "s"
    return f"{number:,} {noun}{ending}"
