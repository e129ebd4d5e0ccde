"""What ``preprocessor_config.json`` says of a model's pixels, for every model of transformers alike."""

from collections.abc import Sequence

from ecocli.config.dataset import ResizeConfig

_UNBOUNDED_PX = 100_000


def pixel_settings(resize: ResizeConfig, mean: Sequence[float], std: Sequence[float]) -> dict[str, object]:
    """How an image is resized and normalised.

    Args:
        resize: The size rule that the model is evaluated with.
        mean: By channel, of pixels from 0 to 255.
        std: By channel, of pixels from 0 to 255.
    """
    return {
        "do_resize": resize.short_edge_px is not None,
        # transformers insists on two bounds, also where it shall not resize.
        "size": {
            "shortest_edge": resize.short_edge_px or _UNBOUNDED_PX,
            "longest_edge": resize.long_edge_px or _UNBOUNDED_PX,
        },
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in mean],
        "image_std": [value / 255 for value in std],
    }
