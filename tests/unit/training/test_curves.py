import io

from PIL import Image

from ecocli.training.curves import draw_loss_curve

LINES = [
    {"step": 1, "exits": {"2": {"loss": 5.0}}},
    {"step": 2, "exits": {"2": {"loss": 4.0}, "10": {"loss": 3.0}}},
]


def test_draw_loss_curve__twice__same_bytes_of_a_picture() -> None:
    first = draw_loss_curve(LINES)
    assert first == draw_loss_curve(LINES)
    with Image.open(io.BytesIO(first)) as picture:
        assert picture.size == (700, 400)
        assert picture.info.get("Software") is None


def test_draw_loss_curve__another_loss__another_picture() -> None:
    assert draw_loss_curve(LINES) != draw_loss_curve([LINES[0]])


def test_draw_loss_curve__no_steps__still_a_picture() -> None:
    assert draw_loss_curve([]).startswith(b"\x89PNG")
