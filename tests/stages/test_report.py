"""The report page of a tiny evaluation: files, contents, gates beside it, refusals."""

import io
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_evaluation import Bench, imported_gate
from helpers_sizes import SIZES
from helpers_stages import run_stage
from PIL import Image

from ecocli.artifacts.manifest import EvaluationManifest, GateManifest
from ecocli.config.report import ReportConfig
from ecocli.errors import ArtifactError, DataError, UsageError
from ecocli.runtime.context import Runtime
from ecocli.scoring.predictions_file import ARCHIVE_NAME, unpack_predictions
from ecocli.stages import evaluate, report
from ecocli.stages.report import ReportPage


@pytest.fixture(scope="module")
def evaluation(bench: Bench) -> str:
    return run_stage(evaluate, bench.config(metrics=()), bench.inputs, bench.store, Runtime.quiet()).digest


def make_page(bench: Bench, evaluation: str, out: Path, examples: int = 2) -> ReportPage:
    config = ReportConfig(out=str(out), examples=examples, data_root=bench.dataset.root)
    return report.run(config, {"evaluation": evaluation}, bench.store, Runtime.quiet())


def picture_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_run__evaluation__writes_page_and_pictures(bench: Bench, evaluation: str, tmp_path: Path) -> None:
    page = make_page(bench, evaluation, tmp_path / "out")
    names = ["tradeoff.png", "exits.png", "example-1.png", "example-2.png"]
    assert page.pictures == tuple(tmp_path / "out" / name for name in names)
    text = page.index.read_text(encoding="utf-8")
    # Two plots for two widths each, and five panels of two examples.
    assert text.count("data:image/png;base64") == 2 * 2 + 2 * 5
    assert evaluation in text
    assert bench.inputs["gate"] in text
    # Five panels in a row: image, truth, exit 1, exit 3, gate; 64 pixels enlarged to 384, margins of 12.
    for picture in page.pictures[2:]:
        width, height = picture_size(picture)
        assert width == 5 * 384 + 6 * 12
        assert height - 40 - 2 * 12 in {6 * rows for rows, _ in SIZES}


def test_run__twice__gives_the_same_bytes(bench: Bench, evaluation: str, tmp_path: Path) -> None:
    pages = [make_page(bench, evaluation, tmp_path / name, examples=1) for name in ("a", "b")]
    assert pages[0].index.read_bytes() == pages[1].index.read_bytes()


def test_run__no_examples__needs_no_data(bench: Bench, evaluation: str, tmp_path: Path) -> None:
    config = ReportConfig(out=str(tmp_path / "out"), examples=0, data_root=str(tmp_path / "nowhere"))
    page = report.run(config, {"evaluation": evaluation}, bench.store, Runtime.quiet())
    assert len(page.pictures) == 2
    assert not (tmp_path / "nowhere").exists()


def test_run__other_gates_of_the_table__are_drawn_by_arithmetic(
    bench: Bench, evaluation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ecocli.reports import plots

    gate = bench.store.get(bench.inputs["gate"], GateManifest)
    files = {"gate.safetensors": gate.path_of("gate.safetensors").read_bytes()}
    for update in (
        {"beta": 0.5, "head": "quality", "exit_costs": (0.0, 0.0, 1e12)},
        {"beta": 0.7, "inputs": {"derived": bench.inputs["parent"]}},  # of another table: not drawn
    ):
        manifest = gate.manifest.model_copy(update={**update, "files": ()})
        bench.store.put(manifest, files)
    drawn = []
    original = plots.draw_tradeoff
    monkeypatch.setattr(
        plots, "draw_tradeoff", lambda tradeoff, narrow=False: drawn.append(tradeoff) or original(tradeoff)
    )
    make_page(bench, evaluation, tmp_path, examples=0)
    tradeoff = drawn[0]  # for wide screens; the same for narrow ones
    assert tradeoff.evaluated is not None
    # At its own price the second gate decides like the evaluated one, and costs the same but for the gate itself.
    own = [point for point in tradeoff.gates if point.label == "β 0.5"]
    assert len(own) == 1
    assert own[0].gflops == pytest.approx(tradeoff.evaluated.gflops, rel=1e-3)
    assert own[0].pq == tradeoff.evaluated.pq
    assert not any(point.label == "β 0.7" for point in tradeoff.gates)
    # Its price can be changed: the deepest exit is so dear that any cheaper price sends every image there.
    (cheap,) = [point for point in tradeoff.gates if point.label == "β 0"]
    deepest = tradeoff.fixed[-1]
    assert (cheap.gflops, cheap.pq) == (pytest.approx(deepest.gflops), deepest.pq)
    assert len(tradeoff.gates) == 2


def test_run__imported_gate__is_shown_without_others(bench: Bench, tmp_path: Path) -> None:
    inputs = {"parent": bench.inputs["parent"], "gate": imported_gate(bench)}
    digest = run_stage(evaluate, bench.config(metrics=()), inputs, bench.store, Runtime.quiet()).digest
    assert inputs["gate"] in make_page(bench, digest, tmp_path, examples=0).index.read_text(encoding="utf-8")


@pytest.mark.parametrize(("evaluated", "drawn"), [("bfloat16", "bfloat16"), ("int8", "float32")])
def test_run__evaluated_in_another_precision__examples_are_drawn_in_it_where_the_modules_have_it(
    bench: Bench, evaluation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluated: str, drawn: str
) -> None:
    from ecocli.inference import loading

    found = bench.store.get(evaluation, EvaluationManifest)
    summary = found.manifest.summary.model_copy(update={"precision": evaluated})
    files = {name: found.path_of(name) for name in ("images.parquet", "classes.parquet")}
    other = bench.store.put(found.manifest.model_copy(update={"summary": summary, "files": ()}), files)
    seen, original = [], loading.restore_model
    monkeypatch.setattr(loading, "restore_model", lambda *given: seen.append(given[-1]) or original(*given))
    make_page(bench, other.digest, tmp_path, examples=1)
    assert seen == [drawn]


def test_run__no_gate__shows_four_panels(bench: Bench, tmp_path: Path) -> None:
    inputs = {"parent": bench.inputs["parent"]}
    digest = run_stage(evaluate, bench.config(metrics=()), inputs, bench.store, Runtime.quiet()).digest
    page = make_page(bench, digest, tmp_path, examples=1)
    assert picture_size(page.pictures[2])[0] == 4 * 384 + 5 * 12


def test_run__artifact_of_another_kind__is_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"is an artifact of kind 'gate', expected 'evaluation'"):
        make_page(bench, bench.inputs["gate"], tmp_path)


def test_run__other_data_in_the_folder__are_refused(bench: Bench, evaluation: str, tmp_path: Path) -> None:
    found = bench.store.get(evaluation, EvaluationManifest)
    manifest = found.manifest.model_copy(update={"dataset_fingerprints": {"val": "sha256:0"}, "files": ()})
    files = {name: found.path_of(name) for name in ("images.parquet", "classes.parquet")}
    other = bench.store.put(manifest, files)
    with pytest.raises(DataError, match=r"has the fingerprint sha256:.*, the evaluation was made on sha256:0"):
        make_page(bench, other.digest, tmp_path)


def test_run__folder_that_is_a_file__is_refused(bench: Bench, evaluation: str, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match=r"Cannot write .*out: File exists\. .* name another folder with --out"):
        make_page(bench, evaluation, tmp_path / "out", examples=0)


def forge(bench: Bench, artifact: Any, name: str, content: bytes) -> str:
    """Put an artifact with one file of other content: every digest is right."""
    files = {entry.name: artifact.path_of(entry.name).read_bytes() for entry in artifact.manifest.files}
    return bench.store.put(artifact.manifest, {**files, name: content}).digest


def as_parquet(columns: dict[str, list[object]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["images.parquet", "classes.parquet"])
@pytest.mark.parametrize(
    "columns",
    [
        {"other": [1, 2]},
        {"count_exit": ["text"], "category_id": [None], "row": [None]},
        {"count_exit": [[1.5]], "category_id": [[1]], "row": ["oracle"], "pq": ["no number"]},
    ],
)
def test_run__right_digests_but_wrong_tables__is_an_artifact_error(
    bench: Bench, evaluation: str, name: str, columns: dict[str, list[object]], tmp_path: Path
) -> None:
    forged = forge(bench, bench.store.get(evaluation, EvaluationManifest), name, as_parquet(columns))
    with pytest.raises(
        ArtifactError, match=r"The file \w+\.parquet of the evaluation sha256:\w+ has its right digest, but not"
    ):
        make_page(bench, forged, tmp_path / "out", examples=0)


def test_unpack_predictions__no_archive_or_a_packed_bomb__is_an_artifact_error(
    bench: Bench, evaluation: str, tmp_path: Path
) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("panoptic_pred.json", bytes(1 << 20))
    for content in (b"no archive", bomb.getvalue()):
        artifact = bench.store.get(evaluation, EvaluationManifest)
        forged = bench.store.get(forge(bench, artifact, ARCHIVE_NAME, content), EvaluationManifest)
        with pytest.raises(ArtifactError, match=r"The file predictions\.zip of the evaluation"):
            forged.read(ARCHIVE_NAME, partial(unpack_predictions, target=tmp_path))
    assert list(tmp_path.iterdir()) == []
