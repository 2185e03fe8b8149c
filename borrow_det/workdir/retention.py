"""The rule by which checkpoints of a run are kept."""

from collections.abc import Sequence

from orbax.checkpoint import checkpoint_managers


class LatestAndBest:
    """A preservation policy of orbax: the latest checkpoints, and the best one.

    Attributes:
      best: step of the best checkpoint; None if none is chosen.
    """

    def __init__(self, latest: int):
        """`latest` is the number of latest checkpoints to keep."""
        self.best: int | None = None
        self._latest = latest

    def keeps(self, step: int, steps: Sequence[int]) -> bool:
        """Returns whether the checkpoint of one of these ascending steps is kept."""
        return step == self.best or step in steps[-self._latest :]

    def should_preserve(
        self,
        checkpoints: Sequence[checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> list[bool]:
        """Returns for each checkpoint, in ascending order, whether it is kept."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        return [self.keeps(step, steps) for step in steps]
