"""Sizes of validation images carried in the package."""

from ecocli.profiling.image_sizes import cityscapes_sizes, coco_sizes, shapes_sizes


def test_coco_sizes__val2017__are_the_published_counts() -> None:
    # 5,000 images; 640 x 480 landscape is by far the most frequent size of the data set.
    sizes = coco_sizes()
    assert sum(sizes.values()) == 5000
    assert len(sizes) == 603
    assert max(sizes, key=lambda size: sizes[size]) == (480, 640)
    assert all(min(size) > 0 and max(size) <= 640 for size in sizes)


def test_cityscapes_and_shapes_sizes__one_size_each() -> None:
    assert cityscapes_sizes() == {(1024, 2048): 500}
    assert shapes_sizes(96, 7) == {(96, 96): 7}
