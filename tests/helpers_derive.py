"""Settings of a derivation of the small bench."""

from helpers_evaluation import Bench

from ecocli.config.derive import DeriveConfig, DeriveExecutionConfig


def config(bench: Bench, *, batch_size: int = 2, part_images: int = 2, **settings: object) -> DeriveConfig:
    """Small parts, so that there are several."""
    execution = DeriveExecutionConfig(part_images=part_images, score_threads=2)
    return DeriveConfig(dataset=bench.dataset, batch_size=batch_size, execution=execution, **settings)


def inputs(bench: Bench) -> dict[str, str]:
    """The parent alone."""
    return {"parent": bench.inputs["parent"]}
