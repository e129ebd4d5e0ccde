"""Traces the encoder layers of Lite-M2F and compares them with the model at another size: a test runs it."""

import torch
from helpers_inference import TINY

from ecocli.config.architecture import InterleavedEncoderConfig
from ecocli.export.graphs import example_values, graph_modules, trace
from ecocli.model.builders import build_model
from ecocli.model.mask2former import Mask2Former

if __name__ == "__main__":
    encoder = InterleavedEncoderConfig(layers=2, heads=4, feedforward_dim=32)
    pixel_decoder = TINY.pixel_decoder.model_copy(update={"encoder": encoder})
    torch.manual_seed(0)
    model = build_model(TINY.model_copy(update={"pixel_decoder": pixel_decoder})).eval().requires_grad_(False)
    assert isinstance(model, Mask2Former)
    parts = graph_modules(model, None, [1])
    values = example_values(parts, torch.zeros(1, 3, 64, 96))
    features = model.extract(torch.randn(1, 3, 96, 160))
    (expected,) = model.encode(features, [1])
    tokens = features.tokens
    layers = [part for part in parts if part.outputs == ("encoded",)]
    assert len(layers) == len(encoder.exits.layers_of(1))
    for part in layers:
        tokens = trace(part, values, fixed=False).module()(tokens, features.maps["res5"])
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-5)
    print(encoder.kind)
