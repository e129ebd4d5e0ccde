"""Hugging Face's Mask2Former with random weights: the living peer of the parity tests."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Nothing is ever fetched; without this the library may look for files on the network.
os.environ["HF_HUB_OFFLINE"] = "1"

STAGES = ["stage1", "stage2", "stage3", "stage4"]
BACKBONES = ("swin", "resnet")


def small_config(backbone: str) -> Any:
    """A small Mask2Former configuration with every size different from every other where that is possible."""
    from transformers import Mask2FormerConfig, ResNetConfig, SwinConfig

    backbone_config: Any
    if backbone == "swin":
        backbone_config = SwinConfig(
            embed_dim=8, depths=[2, 1, 2, 1], num_heads=[1, 2, 2, 4], window_size=5, out_features=STAGES
        )
    else:
        backbone_config = ResNetConfig(
            embedding_size=8, hidden_sizes=[16, 32, 64, 128], depths=[1, 2, 1, 1], out_features=STAGES
        )
    return Mask2FormerConfig(
        backbone_config=backbone_config,
        feature_size=32,
        hidden_dim=32,
        mask_feature_size=24,
        encoder_feedforward_dim=48,
        encoder_layers=3,
        decoder_layers=4,
        num_attention_heads=4,
        dim_feedforward=40,
        num_queries=7,
        num_labels=5,
    )


def random_peer(backbone: str) -> Any:
    """A peer whose every tensor is random, so that no term of the forward pass vanishes."""
    from transformers import Mask2FormerForUniversalSegmentation

    return randomise(Mask2FormerForUniversalSegmentation(small_config(backbone)).eval())


def randomise(peer: Any) -> Any:
    """Fill every tensor of a peer with random numbers, in place, and return it."""
    generator = torch.Generator().manual_seed(11)
    for name, tensor in peer.state_dict().items():
        if not tensor.is_floating_point() or name == "criterion.empty_weight":
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(0.5 + noise.abs())
        elif tensor.dim() == 1 and name.endswith("weight"):
            tensor.copy_(1.0 + 0.2 * noise)
        elif tensor.dim() == 1:
            tensor.copy_(0.2 * noise)
        else:
            # Keeps the spread of activations about constant from layer to layer.
            tensor.copy_(noise / (tensor[0].numel() ** 0.5))
    return peer


def saved_peer(backbone: str, folder: Path) -> Any:
    """A random peer, and its folder as transformers writes it."""
    peer = random_peer(backbone)
    peer.save_pretrained(folder)
    return peer


def cut_encoder(peer: Any, depth: int) -> None:
    """Leave only the first layers of the peer's encoder."""
    encoder = peer.model.pixel_level_module.decoder.encoder
    encoder.layers = encoder.layers[:depth]


def padded_batch() -> Tensor:
    """Two images of different sizes in one batch, padded right and below with zeros to multiples of 32."""
    generator = torch.Generator().manual_seed(5)
    batch = torch.zeros(2, 3, 96, 128)
    batch[0] = torch.randn(3, 96, 128, generator=generator)
    batch[1, :, :70, :101] = torch.randn(3, 70, 101, generator=generator)
    return batch
