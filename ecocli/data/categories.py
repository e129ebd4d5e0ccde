"""Category tables: the drawn shapes, COCO panoptic 2017, Cityscapes panoptic.

A table is a tuple in ascending id order; the contiguous class index of a category is its rank in the tuple.
Sources: ids, names and colours of the COCO panoptic 2017 annotations and of the Cityscapes label definitions.
For data sets on disk the annotation file has the last word on colours; the tables serve weights without data.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from ecocli.config.category import CategoryConfig
from ecocli.errors import DataError


@dataclass(frozen=True)
class Category:
    """One class of a panoptic data set.

    Attributes:
        name: Human-readable name, unique within its table.
        is_thing: True for countable objects, False for stuff.
        color: RGB, 0 to 255, for pictures.
    """

    id: int
    name: str
    supercategory: str
    is_thing: bool
    color: tuple[int, int, int]

    @classmethod
    def of(cls, recorded: CategoryConfig) -> "Category":
        """Take a category that settings or a manifest record."""
        return cls(**dict(recorded))

    @property
    def recorded(self) -> CategoryConfig:
        """The category as settings and manifests record it."""
        return CategoryConfig(**asdict(self))


SHAPES: tuple[Category, ...] = (
    Category(1, "disk", "figure", True, (230, 25, 75)),
    Category(2, "square", "figure", True, (245, 130, 48)),
    Category(3, "triangle", "figure", True, (255, 225, 25)),
    Category(4, "ring", "figure", True, (145, 30, 180)),
    Category(5, "star", "figure", True, (240, 50, 230)),
    Category(6, "worm", "figure", True, (170, 110, 40)),
    Category(7, "lit lamp", "lamp", True, (255, 250, 200)),
    Category(8, "unlit lamp", "lamp", True, (110, 110, 130)),
    Category(9, "sky", "ground", False, (70, 170, 240)),
    Category(10, "wall", "ground", False, (170, 85, 75)),
    Category(11, "water", "ground", False, (20, 80, 180)),
    Category(12, "sand", "ground", False, (215, 195, 130)),
    Category(13, "grass", "ground", False, (60, 160, 70)),
)

# "id name supercategory colour" of every category, things first; a space within a name is written "_".
_COCO_ROWS = """
1 person person dc143c; 2 bicycle vehicle 770b20; 3 car vehicle 00008e; 4 motorcycle vehicle 0000e6;
5 airplane vehicle 6a00e4; 6 bus vehicle 003c64; 7 train vehicle 005064; 8 truck vehicle 000046;
9 boat vehicle 0000c0; 10 traffic_light outdoor faaa1e; 11 fire_hydrant outdoor 64aa1e;
13 stop_sign outdoor dcdc00; 14 parking_meter outdoor af74af; 15 bench outdoor fa001e;
16 bird animal a52a2a; 17 cat animal ff4dff; 18 dog animal 00e2fc; 19 horse animal b6b6ff;
20 sheep animal 005200; 21 cow animal 78a69d; 22 elephant animal 6e4c00; 23 bear animal ae39ff;
24 zebra animal c76400; 25 giraffe animal 480076; 27 backpack accessory ffb3f0;
28 umbrella accessory 007d5c; 31 handbag accessory d10097; 32 tie accessory bcd0b6;
33 suitcase accessory 00dcb0; 34 frisbee sports ff63a4; 35 skis sports 5c0049; 36 snowboard sports 8581ff;
37 sports_ball sports 4eb4ff; 38 kite sports 00e400; 39 baseball_bat sports aefff3;
40 baseball_glove sports 2d59ff; 41 skateboard sports 868667; 42 surfboard sports 9194ae;
43 tennis_racket sports ffd0ba; 44 bottle kitchen c5e2ff; 46 wine_glass kitchen ab8601;
47 cup kitchen 6d3f36; 48 fork kitchen cf8aff; 49 knife kitchen 97005f; 50 spoon kitchen 09503d;
51 bowl kitchen 546933; 52 banana food 4a4169; 53 apple food a6c466; 54 sandwich food d0c3d2;
55 orange food ff6d41; 56 broccoli food 008f95; 57 carrot food b300c2; 58 hot_dog food d1636a;
59 pizza food 057900; 60 donut food e3ffcd; 61 cake food 93bad0; 62 chair furniture 994501;
63 couch furniture 035fa1; 64 potted_plant furniture a3ff00; 65 bed furniture 7700aa;
67 dining_table furniture 00b6c7; 70 toilet furniture 00a578; 72 tv electronic b78258;
73 laptop electronic 5f2000; 74 mouse electronic 827287; 75 remote electronic 6e8185;
76 keyboard electronic a64a76; 77 cell_phone electronic db8eb9; 78 microwave appliance 4fd272;
79 oven appliance b25a3e; 80 toaster appliance 41460f; 81 sink appliance 7fa773;
82 refrigerator appliance 3b696a; 84 book indoor 8e6c2d; 85 clock indoor c4ac00; 86 vase indoor 5f3650;
87 scissors indoor 804cff; 88 teddy_bear indoor c93901; 89 hair_drier indoor f6007a;
90 toothbrush indoor bfa2d0; 92 banner textile ffff80; 93 blanket textile 93d3cb;
95 bridge building 966464; 100 cardboard raw-material a8abac; 107 counter furniture-stuff 9270c6;
109 curtain textile d2aa64; 112 door-stuff furniture-stuff 5c8859; 118 floor-wood floor da58b8;
119 flower plant f18100; 122 fruit food-stuff d911ff; 125 gravel ground 7c4ab5; 128 house building 464646;
130 light furniture-stuff ffe4ff; 133 mirror-stuff furniture-stuff 9ad000; 138 net structural c1005c;
141 pillow textile 4c5b71; 144 platform ground ffb4c3; 145 playingfield ground 6a9ab0;
147 railroad ground e6968c; 148 river water 3c8fff; 149 road ground 804080; 151 roof building 5c5237;
154 sand ground fed47c; 155 sea water 494dae; 156 shelf furniture-stuff ffa062; 159 snow ground ffffff;
161 stairs furniture-stuff 68546d; 166 tent building a9a483; 168 towel textile e1c7ff;
171 wall-brick wall 89364a; 175 wall-stone wall 879edf; 176 wall-tile wall 07f6e7;
177 wall-wood wall 6bffc8; 178 water-other water 3a2995; 180 window-blind window b7798e;
181 window-other window ff4961; 184 tree-merged plant 6b8e23; 185 fence-merged structural be9999;
186 ceiling-merged ceiling 928b8d; 187 sky-other-merged sky 4682b4;
188 cabinet-merged furniture-stuff 86c79c; 189 table-merged furniture-stuff d1e28c;
190 floor-other-merged floor 60246c; 191 pavement-merged ground 606060; 192 mountain-merged solid 40aa40;
193 grass-merged plant 98fb98; 194 dirt-merged ground d0e5e4; 195 paper-merged raw-material cebaab;
196 food-other-merged food-stuff 98a140; 197 building-other-merged building 747000;
198 rock-merged solid 00728f; 199 wall-other-merged wall 66669c; 200 rug-merged textile fa8dff
"""

# The same; the rank is the train id.
_CITYSCAPES_ROWS = """
7 road flat 804080; 8 sidewalk flat f423e8; 11 building construction 464646; 12 wall construction 66669c;
13 fence construction be9999; 17 pole object 999999; 19 traffic_light object faaa1e;
20 traffic_sign object dcdc00; 21 vegetation nature 6b8e23; 22 terrain nature 98fb98; 23 sky sky 4682b4;
24 person human dc143c; 25 rider human ff0000; 26 car vehicle 00008e; 27 truck vehicle 000046;
28 bus vehicle 003c64; 31 train vehicle 005064; 32 motorcycle vehicle 0000e6; 33 bicycle vehicle 770b20
"""


def _parse(rows: str, first_stuff_id: int | None, first_thing_id: int) -> tuple[Category, ...]:
    """Read a table; things are the ids from ``first_thing_id`` up to the first stuff id, if stuff follows."""
    categories = []
    for row in rows.split(";"):
        id_text, name, supercategory, color = row.split()
        id_ = int(id_text)
        is_thing = id_ >= first_thing_id and (first_stuff_id is None or id_ < first_stuff_id)
        red, green, blue = bytes.fromhex(color)
        categories.append(Category(id_, name.replace("_", " "), supercategory, is_thing, (red, green, blue)))
    return tuple(categories)


COCO: tuple[Category, ...] = _parse(_COCO_ROWS, first_stuff_id=92, first_thing_id=1)
CITYSCAPES: tuple[Category, ...] = _parse(_CITYSCAPES_ROWS, first_stuff_id=None, first_thing_id=24)
CITYSCAPES_TRAIN_IDS: tuple[Category, ...] = tuple(
    replace(category, id=train_id) for train_id, category in enumerate(CITYSCAPES)
)
"""Cityscapes as ``createPanopticImgs --use-train-id`` writes it: other ids, the same class indices."""


def same_classes(one: Sequence[Category | CategoryConfig], other: Sequence[Category | CategoryConfig]) -> bool:
    """Tell whether two tables have the same classes in the same order.

    Not the same ids: Cityscapes has two sets of them, in one order, and a model knows ranks alone.
    """
    return [(c.name, c.is_thing) for c in one] == [(c.name, c.is_thing) for c in other]


def check_trained_categories(
    parent: str, trained: Sequence[CategoryConfig], dataset: str, found: Sequence[Category]
) -> None:
    """Make sure that a data set has the classes that a parent knows.

    Raises:
        DataError: It has others.
    """
    if not same_classes(trained, found):
        raise DataError(
            f"The parent {parent} knows {len(trained)} categories, the data set {dataset} has {len(found)}, and they "
            "are not the same. Name the data set it was trained for with --dataset."
        )


# Okabe and Ito's colours, which people with any colour vision tell apart; without black, which stands for nothing.
_DISTINCT = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_GOLDEN_RATIO = 0.6180339887498949


def palette_color(category_id: int, is_thing: bool) -> tuple[int, int, int]:
    """Choose a colour for a category that has none: by its id alone, vivid for things, muted for stuff.

    Seven hues follow one another; every further seven are darker or lighter.
    """
    turn, hue = divmod(category_id, len(_DISTINCT))
    shade = (0.5 + turn * _GOLDEN_RATIO) % 1.0
    white = max(0.0, shade - 0.5)  # 0 to 1/2 of white, or 1/2 to 1 of the colour
    vivid = [(1.0 - white) * part * min(1.0, 0.5 + shade) + white * 255.0 for part in _DISTINCT[hue]]
    grey = 0.299 * vivid[0] + 0.587 * vivid[1] + 0.114 * vivid[2]
    red, green, blue = (round(part if is_thing else 0.45 * part + 0.55 * grey) for part in vivid)
    return red, green, blue
