"""The help of a command in sections: what is asked first, how the work is done last."""

from typing import Any

import typer

_SECTIONS = {
    "Exits": ("layers", "exits", "alpha", "exits-per-step", "deepest-first"),
    "Training": ("lr", "eval-every", "eval-images", "hold-out"),
    "Gate": ("recipe", "head", "objective", "loss", "cost", "feature", "compare-heads", "l2", "exit-ms", "profile"),
    "Settings and result": ("config", "set", "seed", "name", "force", "dry-run", "json"),
    "Execution": (
        *("data-root", "store", "workers", "shard", "part-images", "device", "threads", "precision", "compile"),
        *("install-completion", "show-completion", "help"),
    ),
}
_SECTION_OF = {f"--{name}": section for section, names in _SECTIONS.items() for name in names}
_FEWEST = 2


class SectionedCommand(typer.core.TyperCommand):
    """A command whose options are listed by section; what no section names comes first."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections; one of a single option is no section."""
        found: dict[str, list[Any]] = {"Arguments": [], "Options": [], **{section: [] for section in _SECTIONS}}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                named = next((_SECTION_OF[name] for name in param.opts if name in _SECTION_OF), "Options")
                found["Arguments" if param.param_type_name == "argument" else named].append(record)
        for section, records in found.items():
            if section in ("Exits", "Training", "Gate") and len(records) < _FEWEST:
                found["Options"] += records
                records.clear()
        for section, records in found.items():
            if records:
                with formatter.section(section):
                    formatter.write_dl(records)
