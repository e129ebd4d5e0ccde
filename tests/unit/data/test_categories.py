import pytest

from ecocli.data.categories import CITYSCAPES, CITYSCAPES_TRAIN_IDS, COCO, SHAPES, Category, palette_color


def test_coco__published_counts__things_then_stuff() -> None:
    # COCO panoptic 2017: 133 classes, indices 0 to 79 things and 80 to 132 stuff.
    assert len(COCO) == 133
    assert [category.is_thing for category in COCO] == [True] * 80 + [False] * 53


def test_coco__sample_rows__equal_the_release() -> None:
    # From the categories of panoptic_val2017.json.
    by_id = {category.id: category for category in COCO}
    assert by_id[1] == Category(1, "person", "person", True, (220, 20, 60))
    assert by_id[90].name == "toothbrush"
    assert by_id[130] == Category(130, "light", "furniture-stuff", False, (255, 228, 255))
    assert by_id[200].name == "rug-merged"
    assert {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}.isdisjoint(by_id)


def test_cityscapes__train_ids__are_the_ranks() -> None:
    # Cityscapes label table: train id 0 is road (7), 11 person (24), 18 bicycle (33); things from 11 on.
    assert [CITYSCAPES[train_id].id for train_id in (0, 11, 18)] == [7, 24, 33]
    assert [category.is_thing for category in CITYSCAPES] == [False] * 11 + [True] * 8
    assert [category.id for category in CITYSCAPES_TRAIN_IDS] == list(range(19))
    assert [category.name for category in CITYSCAPES_TRAIN_IDS] == [category.name for category in CITYSCAPES]


@pytest.mark.parametrize("table", [SHAPES, COCO, CITYSCAPES], ids=["shapes", "coco", "cityscapes"])
def test_tables__ids_and_names__ascending_and_unique(table: tuple[Category, ...]) -> None:
    ids = [category.id for category in table]
    assert ids == sorted(set(ids))
    assert len({category.name for category in table}) == len(table)


def test_palette_color__first_turn__okabe_and_itos_colours() -> None:
    # Origin: Okabe and Ito, Color Universal Design: orange, sky blue, bluish green, yellow, blue, vermilion, purple.
    found = [palette_color(id_, is_thing=True) for id_ in range(7)]
    assert found[:3] == [(230, 159, 0), (86, 180, 233), (0, 158, 115)]
    assert found[6] == (204, 121, 167)


@pytest.mark.parametrize("is_thing", [True, False])
def test_palette_color__two_hundred_ids__all_differ_and_none_is_dark(is_thing: bool) -> None:
    colors = [palette_color(id_, is_thing) for id_ in range(200)]
    assert len(set(colors)) == 200
    assert min(max(color) for color in colors) >= 60
    assert palette_color(11, is_thing) == palette_color(11, is_thing)


def test_palette_color__stuff__same_hue_less_saturated() -> None:
    for id_ in range(50):
        thing, stuff = palette_color(id_, is_thing=True), palette_color(id_, is_thing=False)
        assert max(stuff) - min(stuff) < 0.5 * (max(thing) - min(thing)) + 1
        assert stuff.index(max(stuff)) == thing.index(max(thing))
