"""Published weights that `init_from` names."""

from typing import Any, NamedTuple


class NamedWeights(NamedTuple):
    """Published weights as our parameters.

    Attributes:
      name: value of init_from, such as timm/resnet50.
      variables: {params, batch_stats}.
      pixel_statistics: values of the fields `init_from.PIXEL_STATISTICS`.
      record: the file that the name denoted: its `file` and `sha256`, and its `url`,
        or `repository` and `revision`.
    """

    name: str
    variables: dict[str, dict]
    pixel_statistics: dict[str, Any]
    record: dict[str, Any]

    def describe(self) -> str:
        """Returns the name and the file that it denoted, in a few words."""
        details = (f"{name} {value}" for name, value in self.record.items())
        return f"{self.name} ({', '.join(details)})"
