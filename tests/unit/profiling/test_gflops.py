"""GFLOPs against the closed form of the convention, which shares no code with the counter.

The closed form was written from the papers' architecture by hand: t_s is the number of cells at stride s, N the tokens
of strides 8, 16 and 32, Q queries, d = 256, K classes.
"""

import pytest

from ecocli.config.architecture import ARCHITECTURES, ArchitectureConfig, DeformableEncoderConfig, PixelDecoderConfig
from ecocli.profiling.gflops import count_gflops, mean_costs

R50 = ARCHITECTURES["m2f-r50"]
R50_WIDTHS = {4: 256, 8: 512, 16: 1024, 32: 2048}
EXITS = (2, 3, 4, 5, 6)
D, Q = 256, 100


def cells(size: tuple[int, int], stride: int) -> int:
    return size[0] // stride * (size[1] // stride)


def closed_form(
    size: tuple[int, int], original: tuple[int, int], widths: dict[int, int], classes: int
) -> dict[str, float]:
    t = {stride: cells(size, stride) for stride in (4, 8, 16, 32)}
    tokens = t[8] + t[16] + t[32]
    decoder = 3 * sum(2 * t[s] * D**2 + Q * t[s] * D for s in (8, 16, 32))
    decoder += 9 * (6 * Q * D**2 + 2 * Q**2 * D + 4096 * Q * D + 15 * Q * D)
    decoder += 10 * (5 * Q * D + 3 * Q * D**2 + Q * D * t[4])
    decoder += 4 * Q * 3 * tokens + Q * D * (classes + 1)
    pixels, original_pixels = size[0] * size[1], original[0] * original[1]
    return {
        "projections": sum(t[s] * (256 * widths[s] + 1280) for s in (8, 16, 32)) + t[4] * (256 * widths[4] + 1280),
        "encoder_layer": 729_088 * tokens + 2_560 * tokens,
        "sampling_layer": 12_288 * tokens,
        "mask_features": t[4] * (589_824 + 1_280 + 65_536),
        "upsampling": 4 * 256 * t[4],
        "transformer_decoder": decoder,
        "masked_products": 3 * Q * tokens * D,
        "post_processing": 4 * Q * pixels + 4 * Q * original_pixels + Q * classes * original_pixels,
    }


@pytest.mark.parametrize("size, original", [((800, 1088), (480, 640)), ((32, 64), (7, 1))])
def test_count_gflops__resnet50__equals_closed_form(size: tuple[int, int], original: tuple[int, int]) -> None:
    costs = count_gflops(R50, size, original, EXITS)
    expected = closed_form(size, original, R50_WIDTHS, classes=133)
    assert costs.projections * 1e9 == pytest.approx(expected["projections"], rel=1e-12)
    assert costs.encoder_layers == pytest.approx([expected["encoder_layer"] / 1e9] * 6, rel=1e-12)
    for part in ("mask_features", "upsampling", "transformer_decoder", "post_processing"):
        assert getattr(costs, part) * 1e9 == pytest.approx(expected[part], rel=1e-12), part
    # The gate reads the 2,048 channels of res5 and scores five exits.
    assert costs.gate * 1e9 == pytest.approx(2048 * 5)


def test_count_gflops__resnet50_backbone__equals_torchs_own_count() -> None:
    # Convolutions at 224 x 224 are 4.087136 G without the classifier (torch's own counter on a peer's
    # model; the layout with the stride in the 3 x 3 convolution). Batch norm adds 2 per element of its 53 maps:
    # 11,113,984 elements, summed by hand over the stages.
    costs = count_gflops(R50, (224, 224), (224, 224), EXITS)
    assert costs.backbone == pytest.approx(4.087136 + 2 * 0.011113984, abs=5e-6)


def test_count_gflops__all__adds_sampling_and_masked_products() -> None:
    size = (512, 512)
    paper, everything = (count_gflops(R50, size, size, EXITS, convention=convention) for convention in ("paper", "all"))
    expected = closed_form(size, size, R50_WIDTHS, classes=133)
    added = [b - a for a, b in zip(paper.encoder_layers, everything.encoder_layers, strict=True)]
    assert added == pytest.approx([expected["sampling_layer"] / 1e9] * 6)
    assert everything.transformer_decoder - paper.transformer_decoder == pytest.approx(
        expected["masked_products"] / 1e9
    )
    assert everything.backbone == paper.backbone


def test_count_gflops__narrower_feedforward__changes_the_count_by_its_layers() -> None:
    narrow = R50.model_copy(
        update={"pixel_decoder": PixelDecoderConfig(encoder=DeformableEncoderConfig(feedforward_dim=512))}
    )
    size = (256, 256)
    wide_costs, narrow_costs = (count_gflops(a, size, size, EXITS) for a in (R50, narrow))
    # Two linear layers lose 256 x 512 weights each, on 1,024 + 256 + 64 tokens, in each of the two layers run.
    assert wide_costs.total(2) - narrow_costs.total(2) == pytest.approx(2 * 2 * 256 * 512 * 1344 / 1e9)


def test_exit_costs__total__adds_the_layers_run_and_the_gate_on_demand() -> None:
    costs = count_gflops(ARCHITECTURES["m2f-shapes"], (128, 128), (128, 128), EXITS, gate_feature="projected")
    assert costs.gate * 1e9 == pytest.approx(64 * 5)
    assert costs.total(2, gated=True) - costs.total(2) == pytest.approx(costs.gate)
    assert costs.total(4) - costs.total(2) == pytest.approx(sum(costs.encoder_layers[2:4]))
    assert costs.pixel_decoder(3) == pytest.approx(costs.projections + costs.encoder(3) + costs.mask_features)


def test_count_gflops__side_not_multiple_of_32__error() -> None:
    with pytest.raises(ValueError, match="padded size 100x64; both sides must be multiples of 32"):
        count_gflops(R50, (100, 64), (100, 64), EXITS)


def test_count_gflops__depth_beyond_the_encoder__error() -> None:
    architecture: ArchitectureConfig = ARCHITECTURES["m2f-shapes"]
    with pytest.raises(
        ValueError,
        match=r"exit depths \[7\] asked of an encoder with 6 layers",
    ):
        count_gflops(architecture, (64, 64), (64, 64), (2, 7))


def test_mean_costs__three_images_of_one_size_and_one_of_another__weighted_by_the_images() -> None:
    small, large = (count_gflops(ARCHITECTURES["m2f-shapes"], size, size, (2, 6)) for size in ((32, 32), (64, 64)))
    mean = mean_costs([(small, 3), (large, 1)])
    for part in ("backbone", "mask_features", "transformer_decoder", "post_processing"):
        assert getattr(mean, part) == pytest.approx((3 * getattr(small, part) + getattr(large, part)) / 4, rel=1e-12)
    assert mean.total(6) == pytest.approx((3 * small.total(6) + large.total(6)) / 4, rel=1e-12)
    with pytest.raises(ValueError, match="a mean needs at least one image"):
        mean_costs([])
