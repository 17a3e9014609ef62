"""Options that commands share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, Token, validators

from edgeprune.seeds import SEEDS

if TYPE_CHECKING:
    from edgeprune.report.console import Console


answers: list[dict[str, Any]] = []  # the documents of --json, printed when the command is done


def whole(_: type, tokens: Sequence[Token]) -> int:
    """Return the whole number that an option was given; 1.5 is none, and is not rounded.

    Raises:
        ValueError: it is something else.
    """
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is not a whole number") from None


Seed = Annotated[
    int | None,
    Parameter(name="--seed", converter=whole, validator=validators.Number(gte=0, lt=SEEDS)),
]


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """Options that every command takes.

    Parameters
    ----------
    json:
        Put one JSON document on stdout and nothing else.
    quiet:
        No progress; only results, warnings and errors.
    verbose:
        Say more; show tracebacks.
    seed:
        Of everything that is drawn, instead of the job's.
    """

    json: Annotated[bool, Parameter(negative=())] = False
    quiet: Annotated[bool, Parameter(negative=())] = False
    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"], negative=())] = False
    seed: Seed = None

    @property
    def console(self) -> Console:
        """The console for these options."""
        from edgeprune.report.console import Console

        return Console(quiet=self.quiet, verbose=self.verbose)

    def answer(self, document: dict[str, Any]) -> None:
        """Put `document` on stdout when the command is done, if --json asks for it."""
        if self.json:
            answers.append(document)


DEFAULT = Common()
Device = Annotated[str, Parameter(name="--device")]
Budget = Annotated[str | None, Parameter(name="--budget")]


Flag = Annotated[bool, Parameter(negative=())]
Files = Annotated[list[Path] | None, Parameter(consume_multiple=True)]
