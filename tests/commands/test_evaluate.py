"""``eco eval`` and ``eco report`` as typed: tables, JSON, files, exit codes."""

import json
import sys
import types
from pathlib import Path

import pytest
from helpers_evaluation import IMAGES, Bench, make_bench

from ecocli.__main__ import main
from ecocli.artifacts.manifest import EvaluationManifest
from ecocli.data.datasets import open_dataset
from ecocli.metrics import panoptic_quality


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("bench"))


def typed(bench: Bench, command: str, *arguments: str) -> list[str]:
    place = ["--store", str(bench.store.root), "--data-root", str(bench.dataset.root), "--device", "cpu"]
    return [command, *place, "--threads", "1", *arguments]


QUICK = ("--metrics", "pq", "--set", "execution.timed_images=2", "--set", "bootstrap_replicates=20")


def test_eval__table__shows_gate_controls_and_lead(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(typed(bench, "eval", *QUICK)) == 0
    captured = capsys.readouterr()
    lines = [line.split() for line in captured.out.splitlines()]
    firsts = [line[0] for line in lines if line]
    assert [name for name in ("exit", "gate", "random", "oracle") if name in firsts] == [
        "exit",
        "gate",
        "random",
        "oracle",
    ]
    (gate,) = [line for line in lines if line and line[0] == "gate"]
    shares = [round(100 * bench.gate_depths.count(depth) / IMAGES) for depth in (1, 2, 3)]
    assert [int(cell) for cell in gate[-3:]] == shares
    assert gate[6:8] == ["-", "-"]  # neither mIoU nor AP was asked for
    assert float(gate[10]) > 0  # ms
    assert "Gate against the best fixed blend of equal GFLOPs" in captured.out
    assert "parent sha256:" in captured.err
    assert "gate sha256:" in captured.err


def test_eval__json__holds_the_whole_summary(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(typed(bench, "eval", "--json", *QUICK)) == 0
    data = json.loads(capsys.readouterr().out)
    assert (
        bench.store.get(data["digest"], EvaluationManifest).manifest.summary.model_dump(mode="json")["rows"]
        == data["rows"]
    )
    assert set(data["ms_per_image"]) == {"exit 1", "exit 2", "exit 3", "gate"}


def test_eval__predictions__are_written_as_a_folder_too(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed(bench, "eval", "--json", "--predictions", str(tmp_path / "out"), *QUICK)) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["predictions"] == str(tmp_path / "out" / "panoptic_pred.json")
    assert len(list((tmp_path / "out" / "panoptic_pred").glob("*.png"))) == IMAGES


def test_eval__dry_run__says_what_would_be_asked(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(typed(bench, "eval", "--dry-run", "--no-gate", "--seed", "5")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "eval: would run"
    assert "  seed = 5" in lines
    assert not any("gate" in line for line in lines)


@pytest.mark.parametrize("command", [["eval", "--no-gate"], ["derive"]], ids=lambda command: command[0])
def test_dry_run__scenes_not_drawn__said_and_not_drawn(
    bench: Bench, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--store", str(bench.store.root), "--dataset", "shapes", "--data-root", str(tmp_path / "data")]
    assert main([*command, *place, "--device", "cpu", "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{command[0]}: would run\ninputs\n")
    assert '  dataset.name = "shapes"\n' in captured.out
    assert "The shapes are not drawn yet: what would be reused is known once they are." in captured.err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", [["eval", "--no-gate"], ["derive"]], ids=lambda command: command[0])
def test_dry_run__data_that_is_not_there__shows_the_settings_and_is_refused_as_by_the_run(
    bench: Bench, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--store", str(bench.store.root), "--dataset", "coco", "--data-root", str(tmp_path)]
    said = []
    for options in ([], ["--dry-run"]):
        assert main([*command, *place, "--device", "cpu", *options]) == 3
        captured = capsys.readouterr()
        assert captured.out.startswith(f"{command[0]}: would be refused\ninputs\n") == bool(options)
        assert ('  dataset.name = "coco"\n' in captured.out) == bool(options)
        said.append(captured.err.splitlines()[-1])
    assert said[0] == said[1]
    assert "2017.json" in said[0]


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["--gate", "x", "--no-gate"], 2, "--gate and --no-gate exclude each other"),
        (["--no-predictions", "--predictions", "out"], 2, "need the predictions that --no-predictions leaves out"),
        (["--metrics", "pq,f1"], 2, "--metrics names f1, expected pq or some of miou, ap"),
        (["--check-with", "detectron2"], 2, "--check-with is 'detectron2', expected panopticapi"),
        (["--check-with", "panopticapi"], 2, "needs that package, which is not installed"),
        (["--check-with", "cocoapi"], 2, "expected panopticapi or pycocotools"),
        (["--rules", "kitti"], 2, "--rules is 'kitti', expected coco or cityscapes."),
        (["--gate", "nowhere"], 4, "To evaluate the fixed exits alone, add --no-gate"),
        (["--split", "test"], 2, "has no split 'test'"),
        # What the run would refuse, the dry run refuses.
        (["--beta", "0.01"], 2, "predicts the exit itself, at beta 0.001 only"),
        (["--beta", "0.01", "--dry-run"], 2, "predicts the exit itself, at beta 0.001 only"),
        (["--no-gate", "--set", "beta=0.01", "--dry-run"], 2, "a price for a gate to choose exits at"),
    ],
)
def test_eval__wrong_request__says_so_with_its_code(
    bench: Bench,
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "panopticapi", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(typed(bench, "eval", *arguments)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


def test_eval__rules__are_named_below_the_table_and_decide_the_numbers(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    further = ("--no-gate", "--set", "execution.timed_images=0", "--no-predictions")
    found = {}
    for said in ((), ("--rules", "coco"), ("--rules", "cityscapes")):
        assert main(typed(bench, "eval", "--json", *further, *said)) == 0
        found[said] = json.loads(capsys.readouterr().out)
    unsaid, coco, cityscapes = found.values()
    assert unsaid == coco
    assert (coco["rules"], cityscapes["rules"]) == ("coco", "cityscapes")
    for one, other in zip(coco["rows"], cityscapes["rows"], strict=True):
        assert one["pq"] == other["pq"]
        assert None not in (one["ap"], other["ap"])
        assert one["ap"] != other["ap"]
    assert main(typed(bench, "eval", *further)) == 0
    below = " ".join(capsys.readouterr().out.split())
    assert "Rules coco: mIoU over the classes that the truth holds; AP as pycocotools computes it." in below
    assert main(typed(bench, "eval", *further, "--rules", "cityscapes")) == 0
    below = " ".join(capsys.readouterr().out.split())
    assert "Rules cityscapes: mIoU and AP as cityscapesScripts computes them" in below
    assert "AP against panoptic maps." in below
    assert main(typed(bench, "eval", *further, "--metrics", "pq")) == 0
    assert "Rules" not in capsys.readouterr().out


def test_eval__instance_annotations__are_what_ap_is_measured_against(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = open_dataset(bench.dataset, "val")
    # One large box per image: surely not what the panoptic maps hold.
    content = {
        "images": [{"id": dataset.json_image_id(record)} for record in dataset.records],
        "annotations": [
            {
                "image_id": dataset.json_image_id(record),
                "category_id": next(category.id for category in dataset.categories if category.is_thing),
                "segmentation": [[0, 0, record.width, 0, record.width, record.height, 0, record.height]],
                "area": record.width * record.height,
                "iscrowd": 0,
            }
            for record in dataset.records
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    places = {"images": dataset.image_root, "annotations": dataset.annotation_file, "panoptic": dataset.panoptic_root}
    lines = [f'{key} = "{place.resolve()}"' for key, place in places.items()]
    plain, both = tmp_path / "plain.toml", tmp_path / "both.toml"
    plain.write_text("\n".join(['name = "shapes"', "[splits.val]", *lines]))
    both.write_text(plain.read_text() + '\ninstances = "instances.json"')
    quick = ("--json", "--no-gate", "--metrics", "ap", "--set", "execution.timed_images=0")
    same_size = ("--set", "dataset.test_resize.short_edge_px=64", "--set", "dataset.test_resize.long_edge_px=64")
    reports = []
    for path in (plain, both):
        assert main(typed(bench, "eval", *quick, *same_size, "--dataset", str(path))) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert [report["ap_truth"] for report in reports] == ["panoptic maps", "instances.json"]
    ap = [[row["ap50"] for row in report["rows"]] for report in reports]
    pq = [[row["pq"] for row in report["rows"]] for report in reports]
    assert pq[0] == pq[1]
    assert ap[0] != ap[1]
    assert main(typed(bench, "eval", *quick[1:], *same_size, "--dataset", str(both))) == 0
    assert "AP against instances.json" in capsys.readouterr().out
    # Cityscapes' rules know disjoint masks and void alone, so they take the maps.
    assert main(typed(bench, "eval", *quick, *same_size, "--rules", "cityscapes", "--dataset", str(both))) == 0
    assert json.loads(capsys.readouterr().out)["ap_truth"] == "panoptic maps"
    # Other annotations are another question.
    (tmp_path / "instances.json").write_text("{}")
    assert main(typed(bench, "eval", *quick, *same_size, "--dataset", str(both))) == 3
    assert "do not have COCO's format" in capsys.readouterr().err


class _OfficialCounts:
    """Stands for panopticapi's counts; computes with ours, PQ shifted by a given amount."""

    def __init__(self) -> None:
        self.images: list[panoptic_quality.ImageCounts] = []
        self.shift = 0.0

    def __iadd__(self, other: "_OfficialCounts") -> "_OfficialCounts":
        self.images += other.images
        self.shift = other.shift
        return self

    def pq_average(self, categories: dict, isthing: bool | None) -> tuple[dict[str, float], None]:
        total = panoptic_quality.sum_counts(self.images, len(categories))
        is_thing = [category["isthing"] == 1 for category in categories.values()]
        parts = panoptic_quality.panoptic_quality(total, is_thing)
        part = {None: parts.overall, True: parts.things, False: parts.stuff}[isthing]
        if part.pq is None:
            raise ZeroDivisionError
        return {"pq": part.pq + self.shift, "sq": part.sq, "rq": part.rq}, None


@pytest.mark.parametrize("shift, code", [(0.0, 0), (1e-12, 1)])
def test_eval__check_with_panopticapi__compares_and_objects(
    bench: Bench, shift: float, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ecocli.data.panoptic import decode_id_map
    from ecocli.data.pictures import read_picture

    def fake(_core: int, pairs: list, truth_folder: str, found_folder: str, categories: dict) -> _OfficialCounts:
        sys.stdout.write("panopticapi chatters\n")
        counts = _OfficialCounts()
        counts.shift = shift
        for truth, found in pairs:
            maps = [
                decode_id_map(read_picture(Path(folder) / entry["file_name"], "panoptic PNG"))
                for folder, entry in ((found_folder, found), (truth_folder, truth))
            ]
            as_segments = [
                [types.SimpleNamespace(**s, is_crowd=s.get("iscrowd", 0) == 1) for s in entry["segments_info"]]
                for entry in (found, truth)
            ]
            counts.images.append(
                panoptic_quality.count_panoptic_image(
                    maps[0], as_segments[0], maps[1], as_segments[1], list(categories)
                )
            )
        return counts

    package, module = types.ModuleType("panopticapi"), types.ModuleType("panopticapi.evaluation")
    module.pq_compute_single_core = fake
    module.PQStat = _OfficialCounts
    package.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "panopticapi", package)
    monkeypatch.setitem(sys.modules, "panopticapi.evaluation", module)
    assert main(typed(bench, "eval", "--json", "--check-with", "panopticapi", *QUICK)) == code
    captured = capsys.readouterr()
    assert "chatters" not in captured.out
    if code == 0:
        data = json.loads(captured.out)
        gate = next(row for row in data["rows"] if row["name"] == "gate")
        assert data["panopticapi_pq"] == gate["pq"]
    else:
        assert "but panopticapi finds" in captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", "--predictions", "{file}"],
        ["eval", "--predictions", "{file}", "--dry-run"],
        ["compare", "parent", "--out", "{file}"],
        ["report", "--out", "{file}"],
    ],
    ids=" ".join,
)
def test_main__results_into_a_file__refused_before_the_work(
    arguments: list[str],
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if arguments[0] == "report":
        assert main(typed(bench, "eval", *QUICK)) == 0
        capsys.readouterr()
    (tmp_path / "file").write_text("")
    # The work would begin with it.
    monkeypatch.setattr("ecocli.artifacts.store.Store.get", None)
    found = [word.format(file=tmp_path / "file") for word in arguments]
    assert main([*found, "--store", str(bench.store.root)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"error: Cannot write {tmp_path / 'file'}: File exists." in captured.err


def test_report__after_eval__prints_the_pages_path(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed(bench, "eval", *QUICK)) == 0
    capsys.readouterr()
    assert main(typed(bench, "report", "--out", str(tmp_path / "page"), "--examples", "1")) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'page' / 'index.html'}\n"
    assert (tmp_path / "page" / "example-1.png").is_file()
    assert "(the latest)" in captured.err


def test_report__nothing_evaluated__has_code_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--store", str(tmp_path / "empty"), "--out", str(tmp_path / "page")]) == 4
    assert "'evaluation' is unknown in the store" in capsys.readouterr().err
