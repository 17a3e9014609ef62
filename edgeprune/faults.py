"""What is wrong with a configuration file: one line a fault, with its key and its line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from edgeprune.errors import did_you_mean

PACKAGE = Path(__file__).resolve().parent


def every_key(page: str, package: Path = PACKAGE) -> str:
    """Return the hint that names the `page` of documentation: the package's copy, or docs/."""
    installed = package / "_docs"
    folder = installed if installed.is_dir() else package.parent / "docs"
    return f"{folder / page} lists every key"


def read_toml(text: str) -> dict[str, Any]:
    """Return what TOML `text` holds.

    Raises:
        ValueError: it is not TOML, is nested too deeply, or holds a number of too many digits.
    """
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # what Python makes of thousands of digits
        digits = re.search(r"\d[\d_]{4000,}", text)
        line = f" (line {text.count(chr(10), 0, digits.start()) + 1})" if digits else ""
        raise ValueError(f"a number has too many digits{line}") from None


def told(
    error: ValidationError,
    model: type[BaseModel],
    text: str,
    whole: str,
    also: Sequence[str] = (),
) -> list[str]:
    """Return one line for each fault that `error` lists.

    Args:
        error: what pydantic found wrong.
        model: what the file was read as; it says which keys there are.
        text: the TOML of the file, or nothing: then no line is named.
        whole: what a fault that lies in no single key is said to lie in.
        also: keys of the file's top level that `model` does not have.
    """
    return [_fault(item, model, text, whole, also) for item in _told_once(error)]


def _told_once(error: ValidationError) -> list[dict[str, Any]]:
    """Return the faults by key: of a key of several types the one of the type that was meant.

    pydantic lists a fault for each type, under a location that ends with the type's name.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for fault in error.errors():
        keys = tuple(str(p) for p in fault["loc"] if not re.match(r"constrained-|\w+\[", str(p)))
        wrong_type = fault["type"].endswith("_type")
        known = found.get(keys)
        if known is None or (known["type"].endswith("_type") and not wrong_type):
            found[keys] = {**fault, "loc": keys}
    deeper = {keys[:n] for keys in found for n in range(len(keys))}
    return [item for keys, item in found.items() if keys not in deeper]


def _fault(
    item: dict[str, Any], model: type[BaseModel], text: str, whole: str, also: Sequence[str]
) -> str:
    """Return one line for a pydantic fault: key, line where known, what is wrong."""
    location = list(item["loc"])
    key = ".".join(location)
    line = line_of(text, location)
    where = f"{key} (line {line})" if line else key or whole
    if item["type"] == "missing":
        return f"{where}: missing"
    if item["type"] == "extra_forbidden":
        *section, name = location
        known = [*_keys(model, section), *(() if section else also)]
        return f"{where}: unknown key{did_you_mean(name, known)} (known: {', '.join(known)})"
    if item["type"] == "value_error":
        return f"{where}: {item['ctx']['error']}"
    shown = repr(item["input"])
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    message = item["msg"][0].lower() + item["msg"][1:]
    return f"{where}: {message}, not {shown}"


def _keys(model: type[BaseModel], section: Sequence[str]) -> tuple[str, ...]:
    """Return the keys of the `section` of what is read as `model`."""
    for name in section:
        model = _section(model.model_fields[name].annotation) or model
    return tuple(model.model_fields)


def _section(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field holds, which may be optional."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _section(one))), None)


def line_of(text: str, location: list[str]) -> int | None:
    """Return the line (from 1) on which the key at `location` stands in the TOML `text`."""
    section: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line)
        if header:
            section = [part.strip(" \"'") for part in header[1].split(".")]
            if section == location:
                return number
            continue
        key = re.match(r"\s*([\w\".'-]+)\s*=", line)
        if key:
            full = [*section, *(part.strip("\"'") for part in key[1].split("."))]
            if full == location[: len(full)]:
                return number
    return None
