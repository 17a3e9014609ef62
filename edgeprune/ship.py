"""The shipped folder: model, verdict, model card, report, manifest, checksums."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgeprune.errors import InternalCheckError, OutputError, UsageError
from edgeprune.export.c_source import generate
from edgeprune.records import (
    Artifact,
    CostTable,
    CSource,
    Microcontroller,
    ModelProfile,
    SensitivityCurve,
    SkippedGroup,
    Verdict,
    Views,
    WidthPlan,
)
from edgeprune.report.card import card
from edgeprune.report.html import INTEGER_MODEL, MODEL, ReportData, render
from edgeprune.store import atomic, output_error, sha256_of, write_text

VERDICT, CARD, REPORT, CODE = "verdict.json", "README.md", "report.html", "c"
MANIFEST, CHECKSUMS, INDEX = "manifest.json", "SHA256SUMS", "index.json"
REPORT_DATA, STAGED = Path(".run", "report_data.json"), Path(".run", "shipping")


def require_ours(out: Path) -> None:
    """Make sure that nothing in `out` is overwritten that edgeprune did not put there.

    Raises:
        OutputError: `out` holds a file of a shipped name and no manifest that lists it, or is no
            folder.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is no folder", "name another one: --out DIR")
    manifest = out / "manifest.json"
    ours = (out / ".run" / "identity.json").is_file() or (
        manifest.is_file() and '"files"' in manifest.read_text(encoding="utf-8", errors="replace")
    )
    names = (MODEL, INTEGER_MODEL, VERDICT, CARD, REPORT, MANIFEST, CHECKSUMS, CODE)
    listed = (CARD,) if indexed(out) else ()  # written with the index of several models
    taken = [name for name in names if (out / name).exists() and name not in listed]
    if taken and not ours:
        raise OutputError(
            f"{out} holds {', '.join(taken)}, which edgeprune did not put there",
            "name another folder: --out DIR",
        )


def indexed(out: Path) -> tuple[str, ...]:
    """Return the folders of the models that the index in `out` lists.

    They are none where there is no index, or one that edgeprune did not put there.
    """
    try:
        index = json.loads((out / INDEX).read_text(encoding="utf-8"))
        return tuple(str(m["folder"]) for m in index["members"] if m["model_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def ship(
    out: Path,
    *,
    verdict: Verdict,
    plan: WidthPlan,
    table: CostTable,
    curves: Sequence[SensitivityCurve],
    history: Sequence[tuple[int, float, float]],
    skipped: Sequence[SkippedGroup],
    dense_profile: ModelProfile,
    slim_profile: ModelProfile | None,
    model: Path,
    artifact: Artifact,
    versions: dict[str, str],
    licence: str | None,
    job_title: str,
    integer_model: Path | None = None,
    chip: Microcontroller | None = None,
    views: Views | None = None,
) -> tuple[Path, ...]:
    """Write everything that is shipped, and only when all of it is written put it into `out`.

    An index of several models that an earlier run left there goes; the models that it lists stay,
    each whole in its own folder.

    Args:
        out: the folder; it is made if need be.
        verdict: what is claimed of the model.
        plan: the width of every group.
        table: the prices that the plan rests on.
        curves: loss increase of every group and criterion.
        history: (step, loss, validation metric) of recovery.
        skipped: groups that are never cut.
        dense_profile: cost by layer before.
        slim_profile: cost by layer after, if taken.
        model: the exported file; it is copied to model.onnx.
        artifact: what was exported; its SHA-256 must be that of `model`.
        versions: package -> version.
        licence: that of the weights, if stated.
        job_title: heading of report and model card.
        integer_model: the int8 form of `model`; it is copied to model.int8.onnx.
        chip: the core for which C code of the int8 form is written into c/.
        views: groups, scores and weights for the report to draw.

    Returns:
        The shipped files, SHA256SUMS last.

    Raises:
        InternalCheckError: `model` is not the file that `artifact` describes.
        OutputError: the folder cannot be written.
    """
    if sha256_of(model) != artifact.sha256:
        raise InternalCheckError(f"{model.name} is not the file that was exported and verified")
    older = (INTEGER_MODEL, CODE, *((INDEX,) if indexed(out) else ()))
    with _staged(out, older=older) as folder:
        with atomic(folder / MODEL) as partial:
            shutil.copyfile(model, partial)
        forms, code = _integer_forms(folder, integer_model, chip, verdict.job)
        write_text(folder / VERDICT, _json(verdict.model_dump(mode="json", by_alias=True)))
        hashes = {name: sha256_of(folder / name) for name in (MODEL, *forms, VERDICT)}
        document = ReportData(
            title=job_title,
            verdict=verdict,
            dense_profile=dense_profile,
            slim_profile=slim_profile,
            table=table,
            plan=plan,
            curves=tuple(curves),
            history=tuple(history),
            skipped=tuple(skipped),
            artifact=artifact.model_copy(update={"path": MODEL}),
            files=hashes,
            versions=versions,
            licence=licence,
            code=code,
            views=views or Views(),
        )
        write_text(folder / CARD, card(document))
        written = (MODEL, *forms, VERDICT, CARD)
        hashes = {**hashes, CARD: sha256_of(folder / CARD)}
        document = document.model_copy(update={"files": hashes})
        write_text(folder / REPORT_DATA, document.model_dump_json(by_alias=True, indent=1))
        write_text(folder / REPORT, render(document))
        write_text(folder / MANIFEST, _json(_manifest(folder, document, (*written, REPORT))))
        names = (*written, REPORT, MANIFEST)
        _write_checksums(folder, {name: sha256_of(folder / name) for name in names})
    return tuple(out / name for name in (*names, CHECKSUMS))


def ship_index(out: Path, texts: Mapping[str, str]) -> None:
    """Write the `texts` (name -> content) that describe several models into `out`.

    What was shipped there of a single model goes, as its manifest lists it: no checksum would fit.

    Raises:
        OutputError: the folder cannot be written.
    """
    with _staged(out, older=_listed(out)) as folder:
        for name, text in texts.items():
            write_text(folder / name, text)


def _listed(out: Path) -> tuple[str, ...]:
    """Return the names in `out` that its manifest lists, and itself; none where there is none."""
    try:
        manifest, _ = _shipped(out)
    except UsageError:
        return ()
    listed = {entry["name"].partition("/")[0] for entry in manifest["files"]}
    known = (MODEL, INTEGER_MODEL, VERDICT, CARD, REPORT, CODE)
    return (*(name for name in known if name in listed), MANIFEST, CHECKSUMS)


@contextmanager
def _staged(out: Path, older: Sequence[str] = ()) -> Iterator[Path]:
    """Yield an empty folder whose files take their places in `out` if the block succeeds.

    A full disk is met while they are written, when an older shipment is still whole; to move them
    needs no room. Manifest and checksums are moved last. Of the names in `older`, those that were
    not written go from `out`: they belong to another model.

    Raises:
        OutputError: `out` cannot be written.
    """
    folder = out / STAGED
    shutil.rmtree(folder, ignore_errors=True)  # left by a run that was killed
    try:
        yield folder
        written = {path.name for path in folder.iterdir()} - {".run", MANIFEST, CHECKSUMS}
        names = (str(REPORT_DATA), *sorted(written), MANIFEST, CHECKSUMS)
        previous = folder / "previous"
        previous.mkdir()
        for name in older:
            if name not in written and (out / name).exists():
                (out / name).rename(previous / name)
        for name in (name for name in names if (folder / name).exists()):
            if (out / name).is_dir():  # the C code is replaced whole
                (out / name).rename(previous / name)
            (folder / name).replace(out / name)
    except OSError as error:
        raise output_error(out, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _integer_forms(
    out: Path, model: Path | None, chip: Microcontroller | None, job: str
) -> tuple[tuple[str, ...], CSource | None]:
    """Write the int8 model and its C code.

    Returns:
        The names of all files, relative to `out`, and what the C code consists of.
    """
    if model is None:
        return (), None
    with atomic(out / INTEGER_MODEL) as partial:
        shutil.copyfile(model, partial)
    if chip is None:
        return (INTEGER_MODEL,), None
    source = generate(
        out / INTEGER_MODEL,
        out / CODE,
        name=c_name(job),
        target=chip.target,
        cmsis=Path(chip.cmsis) if chip.cmsis else None,
    )
    files = (*source.sources, *source.headers, *source.documents)
    names = (INTEGER_MODEL, *(f"{CODE}/{name}" for name in sorted(set(files))))
    return names, source.model_copy(update={"folder": CODE})


def c_name(job: str) -> str:
    """Return the prefix of all symbols of the C code of a job."""
    name = re.sub(r"[^a-z0-9]+", "_", job.lower()).strip("_")
    return name if name[:1].isalpha() else f"net_{name}".rstrip("_")


def rewrite_report(run_dir: Path) -> Path:
    """Write report.html of a shipped folder again; manifest and checksums follow.

    Returns:
        The path of the report.

    Raises:
        UsageError: the folder holds no shipped run, or its records cannot be read.
        OutputError: the folder cannot be written.
    """
    document = _report_data(run_dir)
    manifest, checksums = _shipped(run_dir)
    with _staged(run_dir) as folder:
        write_text(folder / REPORT, render(document))
        others = [entry for entry in manifest["files"] if entry["name"] != REPORT]
        manifest["files"] = [*others, _entry(folder, REPORT)]
        write_text(folder / MANIFEST, _json(manifest))
        changed = {name: sha256_of(folder / name) for name in (REPORT, MANIFEST)}
        _write_checksums(folder, {**checksums, **changed})
    return run_dir / REPORT


def _report_data(run_dir: Path) -> ReportData:
    path = run_dir / REPORT_DATA
    hint = "name the folder that edgeprune run shipped to: deploy/<device>/<job>"
    if members := indexed(run_dir):
        hint = f"it holds several models, name the folder of one: {run_dir / members[0]}"
    elif (run_dir / ".run" / "identity.json").is_file():
        hint = "an unfinished run lies there: edgeprune run --resume finishes it"
    try:
        return ReportData.model_validate_json(path.read_bytes())
    except OSError:
        raise UsageError(f"{run_dir} holds no report data ({REPORT_DATA})", hint) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise UsageError(
            f"{path} cannot be used: {where}: {first['msg']}",
            "edgeprune run --resume writes it again",
        ) from None


def _shipped(run_dir: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the manifest, and the checksums as name -> SHA-256."""
    try:
        manifest = json.loads((run_dir / MANIFEST).read_text(encoding="utf-8"))
        lines = (run_dir / CHECKSUMS).read_text(encoding="utf-8").splitlines()
        checksums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        if not all(isinstance(entry["name"], str) for entry in manifest["files"]):
            raise TypeError("a file without a name")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{run_dir}: {MANIFEST} or {CHECKSUMS} is missing or damaged ({type(error).__name__})",
            "edgeprune run --resume ships the files again",
        ) from None
    return manifest, checksums


def _manifest(out: Path, document: ReportData, names: Sequence[str]) -> dict[str, Any]:
    verdict, plan, artifact = document.verdict, document.plan, document.artifact
    return {
        "schema": 1,
        "job": verdict.job,
        "device": verdict.device,
        "files": [_entry(out, name) for name in names],
        "versions": document.versions,
        "opset": artifact.opset,
        "inputs": [tensor.model_dump(mode="json") for tensor in artifact.inputs],
        "outputs": [tensor.model_dump(mode="json") for tensor in artifact.outputs],
        "plan": {
            "digest": plan.digest,
            "widths": {name: [group.before, group.after] for name, group in plan.groups.items()},
            "removed": [block.last for block in plan.removed],
        },
        "seed": verdict.seed,
        "licence": document.licence,
    }


def _entry(out: Path, name: str) -> dict[str, Any]:
    path = out / name
    return {"name": name, "sha256": sha256_of(path), "bytes": path.stat().st_size}


def _write_checksums(out: Path, checksums: Mapping[str, str]) -> None:
    lines = (f"{digest}  {name}\n" for name, digest in sorted(checksums.items()))
    write_text(out / CHECKSUMS, "".join(lines))


def _json(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
