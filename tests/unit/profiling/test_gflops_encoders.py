"""GFLOPs of Lite-M2F and RT-M2F against closed forms per token, which share no code with the counter.

Figures of whole images come from the same closed forms, worked out by hand for Swin-T with 19 classes at 1024 x 2048;
their only difference to the real modules is rounding to 0.01.
"""

import pytest

from ecocli.config.architecture import ARCHITECTURES, ArchitectureConfig, InterleavedEncoderConfig
from ecocli.profiling.gflops import count_gflops

WIDE = (1024, 2048)


def with_small_ffn(architecture: ArchitectureConfig) -> ArchitectureConfig:
    encoder = InterleavedEncoderConfig(small_ffn=True)
    pixel = architecture.pixel_decoder.model_copy(update={"encoder": encoder})
    return architecture.model_copy(update={"pixel_decoder": pixel})


@pytest.mark.parametrize("size", [(800, 1088), (96, 160)])
@pytest.mark.parametrize("small_ffn", [False, True])
def test_count_gflops__interleaved__equals_closed_form(size: tuple[int, int], small_ffn: bool) -> None:
    architecture = ARCHITECTURES["lite-m2f-r50"]
    costs = count_gflops(with_small_ffn(architecture) if small_ffn else architecture, size, size, (2, 5))
    fine, high = (sum(size[0] // s * (size[1] // s) for s in strides) for strides in ((8,), (16, 32)))
    interleaved = 65_536 * (fine + high) + 666_112 * high
    full = 731_648 * (fine + high) - (393_216 * fine if small_ffn else 0)
    assert costs.encoder_layers == pytest.approx([interleaved / 1e9] * 5 + [full / 1e9], rel=1e-12)
    assert costs.encoder(2) == pytest.approx((2 * interleaved + full) / 1e9, rel=1e-12)


@pytest.mark.parametrize(
    "small_ffn, totals, decoders",
    [
        (False, (399.79, 409.43, 419.07, 428.71), (143.08, 152.72, 162.36, 171.99)),
        (True, (386.91, 396.55, 406.19, 415.83), (130.19, 139.83, 149.47, 159.11)),
    ],
)
def test_count_gflops__lite_m2f_swin_t__equals_closed_form_of_the_whole_model(
    small_ffn: bool, totals: tuple[float, ...], decoders: tuple[float, ...]
) -> None:
    architecture = ARCHITECTURES["lite-m2f-swin-t"].model_copy(update={"num_classes": 19})
    costs = count_gflops(with_small_ffn(architecture) if small_ffn else architecture, WIDE, WIDE, (2, 3, 4, 5))
    assert [costs.total(depth) for depth in (2, 3, 4, 5)] == pytest.approx(totals, abs=0.011)
    assert [costs.pixel_decoder(depth) for depth in (2, 3, 4, 5)] == pytest.approx(decoders, abs=0.011)


@pytest.mark.parametrize("size", [(800, 1344), (96, 160)])
def test_count_gflops__hybrid__equals_closed_form(size: tuple[int, int]) -> None:
    costs = count_gflops(ARCHITECTURES["rt-m2f-r50"], size, size, (1,))
    t8, t16, t32 = (size[0] // s * (size[1] // s) for s in (8, 16, 32))
    fusion = 2_228_224
    products = 786_432 * t32 + 65_536 * (t32 + t16) + fusion * (t16 + t8) + 589_824 * (t16 + t32)
    products += fusion * (t16 + t32)
    # Per fusion block 8 batch norms of 256 channels, per lateral and downsampling convolution one; two layer norms.
    norms = 2 * 256 * (8 * (t8 + 2 * t16 + t32) + (t32 + t16) + (t16 + t32)) + 2 * 5 * 256 * t32
    upsampled = 256 * (t16 + t8)
    assert costs.encoder(1) * 1e9 == pytest.approx(products + norms + upsampled, rel=1e-12)
    projections = sum(t * (256 * width + 512) for t, width in ((t8, 512), (t16, 1024), (t32, 2048)))
    assert costs.projections * 1e9 == pytest.approx(projections + 16 * t8 // 4 * (256 * 256 + 1280), rel=1e-12)


def test_count_gflops__rt_m2f_swin_t__equals_closed_form_of_the_whole_model() -> None:
    architecture = ARCHITECTURES["rt-m2f-swin-t"].model_copy(update={"num_classes": 19})
    costs = count_gflops(architecture, WIDE, WIDE, (1,))
    assert (costs.total(1), costs.pixel_decoder(1)) == pytest.approx((471.66, 214.94), abs=0.011)


def test_count_gflops__all__adds_the_attention_among_tokens() -> None:
    size = (320, 640)
    paper, everything = (
        count_gflops(ARCHITECTURES["rt-m2f-r50"], size, size, (1,), convention=convention)
        for convention in ("paper", "all")
    )
    assert everything.encoder(1) - paper.encoder(1) == pytest.approx(2 * 256 * (10 * 20) ** 2 / 1e9)
