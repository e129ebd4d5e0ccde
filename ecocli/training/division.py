"""How a batch is divided among processes and accumulated parts."""

from dataclasses import dataclass

from ecocli.errors import UsageError


@dataclass(frozen=True)
class BatchDivision:
    """How a batch is divided among processes and parts.

    Attributes:
        batch_size: Images per step, over all processes.
        accumulation: Parts per process.
    """

    batch_size: int
    rank: int = 0
    world_size: int = 1
    accumulation: int = 1

    def __post_init__(self) -> None:
        """Check that the division has no rest.

        Raises:
            UsageError: It has one.
        """
        pieces = self.world_size * self.accumulation
        if self.batch_size % pieces:
            raise UsageError(
                f"The batch size is {self.batch_size}, expected a multiple of {pieces}: {self.world_size} processes "
                f"times {self.accumulation} accumulated parts. Change --batch-size, execution.accumulation or the "
                "number of processes."
            )

    @property
    def part_size(self) -> int:
        """Images per part."""
        return self.batch_size // (self.world_size * self.accumulation)
