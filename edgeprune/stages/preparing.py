"""The stage before all others: masks made physical, linear collapse."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from edgeprune.records import ModelProfile, Prepared
from edgeprune.stages import base, preparation
from edgeprune.transforms import masks

PREPARED = "prepared.safetensors"


def prepared(this: base.Run) -> base.Run:
    """Make masks physical and collapse what is nearly linear, where job or model say so."""
    if not preparation.is_wanted(this.job, this.model):
        return this
    do, skip = this.folder.stage, this.console.skipped
    given, dense = this.model, masks.permanent(this.model)
    plain = replace(this, model=dense)
    files = this.exported("dense.onnx")
    profiled = do("0-profile", ModelProfile, lambda: base.profile(plain), files, skip)
    found = do("0-prepare", Prepared, lambda: _prepare(plain, given), (PREPARED,), skip)
    if not found.changed:
        return replace(plain, prepared=found, profiled=profiled)
    changed = preparation.restore(dense, this.data.example, found, this.file(PREPARED))
    return replace(plain, model=changed, original=dense, prepared=found, profiled=profiled)


def _prepare(this: base.Run, given: nn.Module) -> Prepared:
    with this.console.stage("Preparing the model") as stage:
        place = preparation.Workplace(
            this.job,
            this.data,
            this.device,
            this.precision,
            folder=this.folder.path,
            dense=this.precision.file(this.file("dense.onnx")),
            note=stage.note,
            progress=stage.update,
            warn=this.console.warning,
        )
        changed, found = preparation.prepare(place, this.model, given)
        base.save_state(changed, this.file(PREPARED))
        return found
