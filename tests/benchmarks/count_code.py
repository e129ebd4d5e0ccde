"""How much code the same functions take in two versions of the package.

Run from the repository: ``python tests/benchmarks/count_code.py cbc2395 HEAD``. Prints two tables.

Code lines: lines with code, neither blank nor comment nor docstring, of every file and of every folder of the package.
Statements executed: those inside functions that run in at least one of the commands below, on a few drawn scenes. Both
versions get the same options, those that cbc2395 had, so what serves other functions alone counts in the first table
and not in the second. Two minutes on two cores.
"""

import argparse
import ast
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from collections import Counter
from pathlib import Path

from coverage import Coverage

COMMANDS = """
data shapes --train 8 --val 6 --size 64 --preview preview.png
data check shapes --set shapes.train=8 --set shapes.val=6 --set shapes.scenes.size=64
train-parent {shapes} {model} --steps 2 --batch-size 2 --layers 3 --eval-every 1
derive {shapes}
fit-gate --head class --objective dataset-pq --loss soft-ce --feature res5 --beta 0.005 --compare-heads
fit-gate --head quality --objective image-pq --loss soft-mse --feature res5 --max-pq-drop 1
fit-gate --head class --objective image-pq --loss u-ce --feature projected --cost gflops --beta 0.0005
sweep --head class,quality --objective image-pq --loss soft-ce --feature res5 --out sweep
profile {shapes} --latency --repetitions 2
eval {shapes} --metrics miou,ap --predictions predictions
report --out page
predict datasets/shapes/val/000000000001.png --out predicted --semantic --instances
export hf --format hf
export original.pkl --format original
import hf --categories datasets/shapes/annotations/panoptic_val.json
import original.pkl --categories datasets/shapes/annotations/panoptic_val.json
store ls
store show parent
store verify
store gc --grace-days 0
"""
"""Lines of arguments for ``eco``; ``{shapes}`` is the drawn data set, ``{model}`` a
model that transformers builds too."""

_SHAPES = "--dataset shapes " + " ".join(
    f"--set dataset.shapes.{key}" for key in ("train=8", "val=6", "scenes.size=64")
)
_MODEL = "--set architecture.backbone.norm=frozen_bn --set architecture.backbone.res2_channels=64"
_MODEL += " --set architecture.transformer_decoder.heads=4"
_NOT_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}


def extract(revision: str, folder: Path) -> Path:
    """Write the package of a git revision into ``folder``; returns that folder."""
    archive = subprocess.run(["git", "archive", revision, "ecocli"], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def code_lines(source: str) -> int:
    """The number of lines that hold code: neither blank, nor comment, nor a string that stands as a statement."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NOT_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def inside_functions(source: str) -> set[int]:
    """The numbers of the lines that are in the body of a function."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            lines.update(range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def count_lines(tree: Path) -> dict[str, int]:
    """Code lines of every file of an extracted package, by its path."""
    return {str(path.relative_to(tree)): code_lines(path.read_text()) for path in sorted(tree.rglob("*.py"))}


def count_executed(tree: Path) -> dict[str, int]:
    """Statements that at least one of ``COMMANDS`` executes, of every file of an extracted package, by its path."""
    work = tree / "work"
    work.mkdir()
    (work / ".coveragerc").write_text(f"[run]\nsource = {tree / 'ecocli'}\nparallel = true\n")
    environment = {**os.environ, "PYTHONPATH": str(tree), "ECO_STORE": "store", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    for line in COMMANDS.strip().splitlines():
        command = [
            sys.executable,
            "-m",
            "coverage",
            "run",
            "-m",
            "ecocli",
            *line.format(shapes=_SHAPES, model=_MODEL).split(),
        ]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"eco {line} exits with {done.returncode}:\n{done.stderr}")
    coverage = Coverage(data_file=str(work / ".coverage"), config_file=str(work / ".coveragerc"))
    coverage.combine([str(work)])
    executed = {}
    for path in sorted((tree / "ecocli").rglob("*.py")):
        _, statements, _, missing, _ = coverage.analysis2(str(path))
        executed[str(path.relative_to(tree))] = len(
            (set(statements) - set(missing)) & inside_functions(path.read_text())
        )
    return executed


def print_table(title: str, before: dict[str, int], after: dict[str, int], *, files: bool) -> None:
    """Print both counts and their difference, for every folder (or file) and in all."""
    rows = [Counter[str](), Counter[str]()]
    for row, counts in zip(rows, (before, after), strict=True):
        for path, count in counts.items():
            row[path if files else "/".join(path.split("/")[1:-1][:1])] += count
    print(title)
    for name in sorted(set(rows[0]) | set(rows[1])):
        print(f"{rows[0][name]:8d}{rows[1][name]:8d}{rows[1][name] - rows[0][name]:+8d}  {name or '(top)'}")
    print(
        f"{sum(before.values()):8d}{sum(after.values()):8d}{sum(after.values()) - sum(before.values()):+8d}  in all\n"
    )


def main() -> None:
    """Read the two revisions, count both, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--files", action="store_true", help="a row a file")
    parser.add_argument("--lines-only", action="store_true", help="run no command")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trees = [extract(arguments.before, Path(folder, "before")), extract(arguments.after, Path(folder, "after"))]
        before, after = map(count_lines, trees)
        print_table("Code lines", before, after, files=arguments.files)
        if not arguments.lines_only:
            before, after = map(count_executed, trees)
            print_table("Statements executed", before, after, files=arguments.files)


if __name__ == "__main__":
    main()
