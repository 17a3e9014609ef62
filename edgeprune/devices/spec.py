"""Device profiles: profiles/<name>.toml -> DeviceSpec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgeprune.errors import JobError, UnknownDeviceError, did_you_mean
from edgeprune.faults import every_key, line_of, read_toml, told
from edgeprune.records import DeviceSpec

PACKAGE = Path(__file__).resolve().parent.parent


def profile_folder() -> Path:
    """Return the folder of the shipped profiles: the installed package's, else the checkout's."""
    installed = PACKAGE / "_profiles"
    return installed if installed.is_dir() else PACKAGE.parent / "profiles"


def known_devices() -> tuple[str, ...]:
    """Return the names of all shipped profiles, sorted."""
    return tuple(sorted(path.stem for path in profile_folder().glob("*.toml")))


def load_spec(device: str) -> DeviceSpec:
    """Return the profile called `device`, or in the file `device` if it ends in .toml.

    A profile with `alias` is the profile of that name; other keys replace its own.

    Raises:
        UnknownDeviceError: no such profile.
        JobError: the profile has faults; all are listed.
    """
    path = _path(device)
    text, table = _table(path)
    try:
        alias = table.pop("alias", None)
        if alias is not None:
            named = _table(_path(str(alias)))[1]
            if "alias" in named:
                where = f"alias (line {line_of(text, ['alias'])})"
                fault = f"{where}: must name a profile without alias, and {alias} has one"
                raise JobError(str(path), [fault], every_key("devices.md"))
            table = {**named, **table}
        return DeviceSpec.model_validate({"name": path.stem, **table})
    except ValidationError as error:
        faults = told(error, DeviceSpec, text, "profile", ("alias",))
        raise JobError(str(path), faults, every_key("devices.md")) from None


def _path(device: str) -> Path:
    path = Path(device) if device.endswith(".toml") else profile_folder() / f"{device}.toml"
    if not path.is_file() or (not device.endswith(".toml") and device not in known_devices()):
        raise UnknownDeviceError(
            f"unknown device {device!r}{did_you_mean(device, known_devices())}",
            f"known devices: {', '.join(known_devices())}; or name a profile file (….toml)",
        )
    return path


def _table(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the text of a profile and what it holds."""
    try:
        text = path.read_text(encoding="utf-8")
        return text, read_toml(text)
    except (OSError, ValueError) as error:  # text that is not UTF-8 among them
        raise JobError(str(path), [f"not a device profile: {error}"]) from None
