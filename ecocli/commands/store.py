"""``eco store``: list, show, verify, clean and copy artifacts.

stdout carries the table or the JSON object. ``verify`` exits with 4 when anything is damaged. One process runs
these commands; none of them loads torch.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ecocli.artifacts import checking, collecting, listing, references, transfer
from ecocli.artifacts.store import Store
from ecocli.commands import options
from ecocli.commands._sections import SectionedCommand
from ecocli.commands.common import emit_result, open_store
from ecocli.commands.options import option
from ecocli.commands.tables import make_list
from ecocli.errors import ArtifactError
from ecocli.runtime.distributed import World
from ecocli.runtime.logging import configure_logging

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_DAY_S = 24 * 3600.0

ReferenceArgument = Annotated[
    str, typer.Argument(metavar="REF", help="Name, digest or unique digest prefix of an artifact.")
]
InputsOption = Annotated[bool, typer.Option("--with-inputs", help="Copy all artifacts it was made from as well.")]
OtherNameOption = Annotated[str | None, option("--name", "NAME", "Its name there.  [default: REF, if that is a name]")]


def _open(store: Path | None) -> Store:
    configure_logging(World())
    return open_store(store)


@app.command("ls", cls=SectionedCommand)
def list_artifacts(
    kind: Annotated[str | None, option("--kind", "KIND", "List only this kind.")] = None,
    store: options.Store = None,
    as_json: options.Json = False,
) -> None:
    """List all artifacts, newest first."""
    opened = _open(store)
    listings = listing.list_artifacts(opened, kind)
    table = make_list("kind", "digest", "names", "bytes", "created (UTC)", right=["bytes"])
    for line in listings:
        created = line.created_at.removesuffix("+00:00").replace("T", " ")
        label = line.kind or "damaged"
        table.add_row(label, line.digest[:19], ", ".join(line.names), f"{line.size_bytes:,}", created)
    data = {"store": str(opened.root), "artifacts": [asdict(line) for line in listings]}
    emit_result(World(), data, table=table, as_json=as_json)


@app.command("show", cls=SectionedCommand)
def show(reference: ReferenceArgument, store: options.Store = None, as_json: options.Json = False) -> None:
    """Show one artifact: its names, manifest, files and where it was made."""
    opened = _open(store)
    digest = references.resolve(opened, reference, None)
    opened.read_base(digest)
    oci = opened.read_oci(digest)
    manifest = json.loads(opened.blobs.read(oci.config, f"artifact {digest}"))
    files = manifest.pop("files")
    names = [name for name, its_digest in opened.names().items() if its_digest == digest]
    provenance = opened.provenance_record(digest)
    paths = {entry["name"]: str(opened.blobs.path(entry["digest"])) for entry in files}
    data = {
        "digest": digest,
        "kind": oci.kind,
        "names": names,
        "manifest": manifest,
        "files": [{**entry, "path": paths[entry["name"]]} for entry in files],
        "provenance": provenance,
    }
    lines = [f"{oci.kind} {digest}", f"names: {', '.join(names) or 'none'}", "manifest:"]
    lines += [f"  {key}: {json.dumps(value)}" for key, value in manifest.items()]
    lines += ["provenance:", *(f"  {key}: {json.dumps(value)}" for key, value in provenance.items()), "files:"]
    table = make_list("file", "bytes", "path", right=["bytes"])
    for entry in files:
        table.add_row(entry["name"], f"{entry['size_bytes']:,}", paths[entry["name"]])
    emit_result(World(), data, text="\n".join(lines), table=table, as_json=as_json)


@app.command("verify", cls=SectionedCommand)
def verify(
    reference: Annotated[str | None, typer.Argument(metavar="[REF]", help="Verify only this artifact.")] = None,
    store: options.Store = None,
    as_json: options.Json = False,
) -> None:
    """Read everything and list all damage; exits with 4 if there is any."""
    opened = _open(store)
    faults = checking.verify(opened, reference)
    table = make_list("problem", "of", "file", "expected", "found")
    for fault in faults:
        table.add_row(fault.problem, fault.owner, str(fault.path), fault.expected, fault.found)
    data = {"store": str(opened.root), "faults": [{**asdict(fault), "path": str(fault.path)} for fault in faults]}
    what = f"store {opened.root}" if reference is None else reference
    if faults:
        emit_result(World(), data, table=table, as_json=as_json)
        raise ArtifactError(
            f"Found {len(faults)} faults in {what}, expected none; they are listed on stdout. Make damaged artifacts "
            "again with --force or pull them again, or remove them with `eco store gc --damaged`."
        )
    emit_result(World(), data, text=f"{what} is intact", as_json=as_json)


@app.command("gc", cls=SectionedCommand)
def collect(
    grace_days: Annotated[
        float, option("--grace-days", "DAYS", "Keep what was made or used in so many days.", min=0.0)
    ] = 14.0,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Remove damaged artifacts too, with their names, whatever their age.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    store: options.Store = None,
    as_json: options.Json = False,
) -> None:
    """Remove what no name needs and nobody used lately."""
    found = collecting.collect(_open(store), grace_days * _DAY_S, dry_run=dry_run, damaged=damaged)
    table = make_list("removed" if not dry_run else "would remove", "which")
    rows = [("name", name) for name in found.names]
    rows += [("artifact", digest) for digest in found.artifacts]
    rows += [("blob", str(path)) for path in found.blobs]
    rows += [("leftover", str(path)) for path in found.leftovers]
    for row in rows:
        table.add_row(*row)
    data = {
        "dry_run": dry_run,
        "names": found.names,
        "artifacts": found.artifacts,
        "blobs": [str(path) for path in found.blobs],
        "leftovers": [str(path) for path in found.leftovers],
        "freed_bytes": found.freed_bytes,
    }
    verb = "would free" if dry_run else "freed"
    text = f"{verb} {found.freed_bytes:,} bytes"
    emit_result(World(), data, text=text, table=table if rows else None, as_json=as_json)


@app.command("push", cls=SectionedCommand)
def push(
    reference: ReferenceArgument,
    target: Annotated[Path, typer.Argument(metavar="DIR", help="A store, an OCI layout, or a folder to be made.")],
    name: OtherNameOption = None,
    with_inputs: InputsOption = False,
    store: options.Store = None,
    as_json: options.Json = False,
) -> None:
    """Copy an artifact to another store or OCI layout; from there skopeo takes it to a registry."""
    digest = transfer.push(_open(store), reference, target, name=name, with_inputs=with_inputs)
    emit_result(World(), {"digest": digest, "target": str(target)}, text=digest, as_json=as_json)


@app.command("pull", cls=SectionedCommand)
def pull(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="A store or an OCI layout.")],
    reference: ReferenceArgument,
    name: OtherNameOption = None,
    with_inputs: InputsOption = False,
    store: options.Store = None,
    as_json: options.Json = False,
) -> None:
    """Copy an artifact from another store or OCI layout into this one."""
    digest = transfer.pull(_open(store), source, reference, name=name, with_inputs=with_inputs)
    emit_result(World(), {"digest": digest, "source": str(source)}, text=digest, as_json=as_json)
