"""What the manifest of a profile tells: GFLOPs of a model by exit and part."""

from ecocli.config.base import Config
from ecocli.config.profile_model import ConventionName


class ProfiledExit(Config):
    """GFLOPs of one exit by part."""

    exit_depth: int
    backbone: float
    pixel_decoder: float
    encoder: float
    upsampling: float
    transformer_decoder: float
    post_processing: float
    total: float


class ExpectedCost(Config):
    """Mean cost under a gate's choice of exits on the images it was scored on; its own cost included."""

    digest: str
    beta: float
    exit_depths: tuple[int, ...]
    exit_shares: tuple[float, ...]
    scored_on: str
    mean_depth: float
    pixel_decoder: float
    total: float


class ProfiledInput(Config):
    """Mean cost of images that share one row.

    Attributes:
        input: What the table calls them.
        images: Their number.
        padded_sizes: Sizes that the network sees, in pixels.
        exits: Every exit.
        gate_gflops: What a gate costs by itself.
        gate: Cost under a gate; None without one.
    """

    input: str
    images: int
    padded_sizes: tuple[tuple[int, int], ...]
    exits: tuple[ProfiledExit, ...]
    gate_gflops: float
    gate: ExpectedCost | None


class ProfileSummary(Config):
    """GFLOPs of a model.

    Attributes:
        architecture: Its name.
        num_classes: Classes without "no object".
        convention: What counts as an operation.
        exit_depths: The exits shown.
        parameters: Number of parameters by part.
        inputs: By kind of image.
    """

    architecture: str
    num_classes: int
    convention: ConventionName
    exit_depths: tuple[int, ...]
    parameters: dict[str, int]
    inputs: tuple[ProfiledInput, ...]
