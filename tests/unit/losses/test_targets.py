import pytest
import torch

from ecocli.losses.targets import pack_targets


def test_pack_targets__images_of_different_sizes__pads_right_below_and_behind() -> None:
    packed = pack_targets(
        [torch.tensor([3]), torch.tensor([1, 2])],
        [torch.ones(1, 2, 3, dtype=torch.bool), torch.ones(2, 4, 2, dtype=torch.bool)],
        (4, 5),
    )
    assert packed.counts == (1, 2)
    assert packed.labels.tolist() == [[3, 0], [1, 2]]
    assert packed.masks.shape == (2, 2, 4, 5)
    assert packed.masks[0, 0, :2, :3].all()
    assert packed.masks.sum(dim=(2, 3)).tolist() == [[6, 0], [8, 8]]


def test_pack_targets__no_objects_at_all__keeps_one_padded_place() -> None:
    nothing = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2, 2, dtype=torch.bool)
    packed = pack_targets([nothing[0]], [nothing[1]], (4, 4))
    assert packed.counts == (0,)
    assert packed.masks.shape == (1, 1, 4, 4)
    assert not packed.masks.any()


def test_pack_targets__moved__keeps_counts() -> None:
    packed = pack_targets([torch.tensor([3])], [torch.ones(1, 2, 2, dtype=torch.bool)], (2, 2)).to("meta")
    assert packed.labels.device.type == packed.masks.device.type == "meta"
    assert packed.counts == (1,)


def test_pack_targets__mask_too_large__names_image_and_sizes() -> None:
    masks = [torch.ones(1, 2, 2, dtype=torch.bool), torch.ones(1, 3, 6, dtype=torch.bool)]
    with pytest.raises(ValueError, match=r"image 1 has masks of 3 x 6, larger than the batch's 4 x 5"):
        pack_targets([torch.tensor([0])] * 2, masks, (4, 5))


def test_pack_targets__labels_and_masks_disagree__names_image() -> None:
    with pytest.raises(ValueError, match="image 0 has 2 labels but 1 masks"):
        pack_targets([torch.tensor([0, 1])], [torch.ones(1, 2, 2, dtype=torch.bool)], (4, 4))


def test_pack_targets__lists_of_different_lengths__counts_both() -> None:
    with pytest.raises(ValueError, match="found labels of 1 images and masks of 0"):
        pack_targets([torch.tensor([0, 1])], [], (4, 4))
