"""Fitting of a gate from the derived table alone: no images and no network.

Input: ``derived``. File: ``gate.safetensors`` with ``linear.weight`` [E, D] and ``linear.bias`` [E], everything folded
in: feature standardisation, and beta or the offset that meets a budget. The manifest's metrics hold the gate beside
its controls, scored on held-out images.
"""

from collections.abc import Mapping
from pathlib import Path

from ecocli.artifacts.action import Action, Made, Plan
from ecocli.artifacts.lineage import offered_exits, open_tables
from ecocli.artifacts.manifest import GateManifest
from ecocli.artifacts.store import Store
from ecocli.config.fit_gate import FitGateConfig
from ecocli.runtime.context import Runtime

STAGE = "fit-gate"
SCHEMA_VERSION = 4


def plan(config: FitGateConfig, inputs: Mapping[str, str], store: Store, runtime: Runtime) -> Plan[GateManifest]:
    """Check that the settings fit the table, and say exactly what is asked.

    Raises:
        ArtifactError: The derived table is damaged. The work finds damage inside of it.
        UsageError: The settings do not fit the table. The work finds that a budget is not feasible.
        DataError: From the work: no image of the table has a defined quality.
    """
    derived = open_tables(store, inputs["derived"], config)
    depths = offered_exits(derived.manifest.exit_depths, config.deepest_exit)
    action = Action(STAGE, SCHEMA_VERSION, config, inputs)

    def work(_folder: Path) -> Made[GateManifest]:
        # torch is loaded only where something is computed; a result that is there is returned without it.
        from ecocli.stages.fit_gate.work import fit

        return fit(action, config, derived, depths)

    return Plan(action, GateManifest, work)
