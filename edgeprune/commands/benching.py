"""The command that compares methods: bench."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from edgeprune.commands.jobs import budgets_of, prepare
from edgeprune.errors import DONE, UsageError
from edgeprune.options import DEFAULT, Budget, Common, Device, Flag, whole
from edgeprune.seeds import SEEDS

SEVERAL = 3  # seeds, where none are named: the least that gives a spread worth showing
METHODS = (  # not in the docstring, where "methods:" would be the heading of a section
    "What to compare, with commas: NAME, NAME/IMPORTANCE or NAME/IMPORTANCE@ROUND; all by default. "
    "Names are those of [prune] allocation, and the baselines narrower and scratch."
)
Methods = Annotated[str | None, Parameter(help=METHODS)]
Steps = Annotated[int | None, Parameter(converter=whole, validator=validators.Number(gte=0))]


def bench(
    job: Path,
    *,
    device: Device,
    budget: Budget = None,
    seeds: str | None = None,
    methods: Methods = None,
    steps: Steps = None,
    out: Path | None = None,
    resume: Flag = False,
    common: Common = DEFAULT,
) -> int:
    """Compare edgeprune with its peers at equal cost on the device, with the same recovery.

    The job's schedule, regularisation, guards of accuracy and limits besides latency take no part.

    Parameters
    ----------
    job:
        The job file (job.toml).
    device:
        Name of a device profile, or the path of one.
    budget:
        Instead of the job's; several with commas: "50%,35%,25%".
    seeds:
        Seeds of recovery, with commas; by default three, upwards from --seed or the job's.
    steps:
        Steps of recovery, instead of the job's; 0 compares after BatchNorm recalibration alone.
    out:
        The folder that receives bench.json and bench.html, instead of bench/<device>/<job>.
    resume:
        Go on where an earlier comparison stopped; finished rows are kept.
    """
    if seeds is not None and common.seed is not None:
        raise UsageError(
            "--seed and --seeds are given together",
            f"--seeds names all seeds; --seed {common.seed} alone begins at {common.seed}",
        )
    named = None if seeds is None else _seeds(seeds)
    budgets = budgets_of(budget)
    console = common.console
    here = Path.cwd()  # a factory may go elsewhere
    settings, model, data, opened = prepare(job, device, budgets[0], common)
    from edgeprune.bench.comparing import Comparison
    from edgeprune.bench.scope import require_cost
    from edgeprune.bench.variants import everything, variant
    from edgeprune.report.bench_page import render
    from edgeprune.report.bench_screen import show
    from edgeprune.sections import expanded
    from edgeprune.store import write_text

    if opened.spec.figure == "estimated":
        console.warning(f"the figures of {opened.spec.name} are estimates, not measurements")
    require_cost(settings)
    criteria = expanded(settings.prune.importance)
    wanted = [part for part in (methods or "").split(",") if part.strip()]
    if methods is not None and not wanted:
        raise UsageError(f"--methods {methods!r} names none", "leave it out to compare all of them")
    variants = tuple(dict.fromkeys(variant(text, criteria) for text in wanted))
    folder = here / (out or Path("bench", opened.spec.name, settings.name))
    comparison = Comparison(
        job=settings,
        folder=(here / job).resolve().parent,
        model=model,
        data=data,
        device=opened,
        out=folder,
        budgets=tuple(text or settings.request.text for text in budgets),
        variants=variants or everything(criteria),
        seeds=named or following(settings.seed),
        steps=settings.recover.steps if steps is None else steps,
        console=console,
    )
    result = comparison.run(resume=resume)
    write_text(folder / "bench.json", result.model_dump_json(by_alias=True, indent=1) + "\n")
    write_text(folder / "bench.html", render(result))
    common.answer(result.model_dump(mode="json", by_alias=True))
    show(console, result)
    console.info(f"wrote {folder / 'bench.html'}")
    return DONE


def following(first: int) -> tuple[int, ...]:
    """Return `first` and the seeds behind it, SEVERAL in all; behind the last seed comes 0."""
    return tuple((first + number) % SEEDS for number in range(SEVERAL))


def _seeds(text: str) -> tuple[int, ...]:
    """Return the seeds in "0,1,2".

    Raises:
        UsageError: not numbers, out of range, or named twice.
    """
    parts = [part.strip() for part in text.split(",")]
    # Longer ones are out of range, and of thousands of digits Python makes no number.
    if not all(re.fullmatch("[0-9]{1,10}", part) and int(part) < SEEDS for part in parts):
        raise UsageError(f"--seeds {text!r}: seeds are whole numbers below {SEEDS}, with commas")
    if len(set(map(int, parts))) < len(parts):
        raise UsageError(f"--seeds {text!r}: a seed is named twice")
    return tuple(map(int, parts))
