"""Many gates over one reading of the derived table: beta x K x head.

Input: ``derived``. Files: ``sweep.parquet``, one row per gate with its controls; ``sweep.svg``, the trade-off plot.
The report's summary holds the same rows. Neighbouring betas start warm; each gate is the one that ``fit-gate`` fits, up
to the tolerance of the solver.
"""

from collections.abc import Mapping
from pathlib import Path

from ecocli.artifacts.action import Action, Made, Plan
from ecocli.artifacts.lineage import offered_exits, open_tables
from ecocli.artifacts.manifest import SweepManifest
from ecocli.artifacts.store import Store
from ecocli.config.sweep import SweepConfig
from ecocli.runtime.context import Runtime

STAGE = "sweep"
SCHEMA_VERSION = 4


def plan(config: SweepConfig, inputs: Mapping[str, str], store: Store, runtime: Runtime) -> Plan[SweepManifest]:
    """Check that the settings fit the table, and say exactly what is asked.

    Raises:
        ArtifactError: The derived table is damaged. The work finds damage inside of it.
        UsageError: The settings do not fit the table.
        DataError: From the work: no image of the table has a defined quality.
        InterruptedRunError: From the work: a signal asked to stop.
    """
    derived = open_tables(store, inputs["derived"], config)
    depths = derived.manifest.exit_depths
    offers = tuple(offered_exits(depths, deepest) for deepest in config.deepest_exits or depths[-1:])
    action = Action(STAGE, SCHEMA_VERSION, config, inputs)

    def work(folder: Path) -> Made[SweepManifest]:
        # torch is loaded only where something is computed; a result that is there is returned without it.
        from ecocli.stages.sweep.work import sweep

        return sweep(action, config, derived, offers, runtime, folder)

    return Plan(action, SweepManifest, work)
