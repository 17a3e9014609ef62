"""What layers cost on the device, and what whole plans say of the sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeprune.allocation.spared import alike, layers_gone
from edgeprune.cost.kept import FOLDER, default_folder
from edgeprune.cost.table import build_table
from edgeprune.cost.whole import Without, fit_to_whole_plans, removals
from edgeprune.export.onnx_graph import export
from edgeprune.export.segments import read_graph
from edgeprune.pruning.floors import group_floors
from edgeprune.pruning.groups import cut
from edgeprune.records import CostTable, GroupList, ModelProfile, ResidualBlock
from edgeprune.stages.base import Run
from edgeprune.store import usable


def price(run: Run, groups: GroupList, dense: ModelProfile, *, fit: bool = True) -> CostTable:
    """Measure the cost table; where costs are measured times, `fit` it to whole plans."""
    spec, start = run.device.spec, run.file(run.start)
    graph = read_graph(start)
    with run.console.stage("Pricing layers") as stage:

        def report(what: str, done: int, total: int) -> None:
            stage.update(done, total, what)

        table = build_table(
            run.device,
            graph,
            groups.groups,
            dense,
            seed=run.job.seed,
            precision=run.precision,
            prices=None
            if spec.runtime == "simulated"
            else usable(default_folder(), FOLDER, run.console.warning),
            floors=group_floors(run.job.prune.floors, groups),
            report=report,
            warn=run.console.warning,
        )
        if not fit or spec.exact or spec.functional_only:  # sums are exact, or times mean nothing
            return table
        bundles = {group.name: (group.bundles(), group.divisor) for group in groups.groups}

        def file(
            name: str, kept: Mapping[str, Sequence[int]], removed: Sequence[ResidualBlock] = ()
        ) -> Path:
            path = run.file(f"{name}.onnx")
            slim = cut(run.model, run.data.example, kept, removed)
            export(slim, run.data.example, path, opset=run.job.export.opset)
            run.precision.write(path)
            return run.precision.file(path)

        def build(widths: Mapping[str, int], number: int) -> Path:
            kept = {}
            for name, width in widths.items():
                all_of, size = bundles[name]
                kept[name] = tuple(sorted(c for b in all_of[: width // size] for c in b))
            return file(f"whole{number}", kept)

        without = []
        for number, blocks in enumerate(removals(groups.blocks, table.widths)):
            path = file(f"without{number}", {}, blocks)
            gone = layers_gone(graph, blocks)
            if alike(graph, read_graph(path), gone):
                without.append(Without(gone, path))
            else:
                names = ", ".join(block.last for block in blocks)
                run.console.warning(
                    f"the model without {names} tells no prices: other layers run at other shapes"
                )
        return fit_to_whole_plans(
            run.device,
            table,
            run.precision.file(start),
            build,
            {name: size for name, (_, size) in bundles.items()},
            dense,
            without=without,
            seed=run.job.seed,
            report=report,
        )
