"""The wheel holds one package and its type marker; tests, recipes and tools stay out of it."""

import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names in the wheel that the build backend makes of this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    # The backend is called as pip does it, without pip's isolated environment that would need an index.
    script = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(folder / done.stdout.split()[-1]) as wheel:
        return wheel.namelist()


def test_wheel__top_level__is_ecocli_alone(wheel_names: list[str]) -> None:
    tops = {PurePosixPath(name).parts[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ecocli"}


def test_wheel__content__is_every_module_and_the_type_marker(wheel_names: list[str]) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ecocli").rglob("*.py")}
    assert len(modules) > 10
    assert modules | {"ecocli/py.typed"} <= set(wheel_names)


def test_wheel__licence__is_inside(wheel_names: list[str]) -> None:
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel_names)
