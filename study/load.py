"""A study's YAML file, with its base and its overrides, into a `Study`."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from study.check import check_grid
from study.check_adaptive import check_adaptive
from study.config import AXES_OF_STAGE, Study, explain_errors

_NUMBER = re.compile(r"^[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+)$")


class _Loader(yaml.SafeLoader):
    """YAML 1.1, except that `1e-4` is a number, as everyone who writes a learning rate expects."""


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads: the text "1e-4" is quoted."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def load_study(path: str | Path, overrides: list[str] | None = None) -> Study:
    """Read a study from YAML and apply `path=value` overrides.

    Raises:
        ValueError: no such file, no valid YAML, an unknown key (the nearest known one is named), a wrong type, or a
            combination that cannot be run; the message names what was found and what was expected.
    """
    raw = _read_study(path)
    for override in overrides or []:
        try:
            _apply_override(raw, override)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {override!r}: the value is not valid YAML: {error}") from error
    return parse_study(raw, str(path))


def study_text(path: str | Path) -> str:
    """A study's YAML with its base in it, as one file that needs no other beside it; without overrides.

    Raises:
        ValueError: no such file, or no valid YAML.
    """
    text: str = yaml.dump(_read_study(path), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def _read_study(path: str | Path) -> dict[str, Any]:
    file = Path(path)
    if not file.is_file():
        presets = sorted(str(p.relative_to(Path.cwd())) for p in Path.cwd().glob("study/presets/*.yaml"))
        near = difflib.get_close_matches(str(path), presets, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else f"; presets here: {', '.join(presets) or 'none'}"
        raise ValueError(f"no study file {path}{hint}")
    return _read_yaml(file)


def _read_yaml(file: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML mapping; with a key `base`, on top of the file of that name in the same folder."""
    if file in above:
        raise ValueError(f"{above[0]}: its `base` leads back to {file}")
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not a readable YAML file: {error}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{file} must hold a mapping with the keys {', '.join(Study.model_fields)}")
    if "base" not in raw:
        return raw
    base = _read_yaml(file.parent / str(raw.pop("base")), (*above, file))
    return _merged(base, raw)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Mappings merged key by key, everything else replaced; a grid is replaced as a whole."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict) and key != "grid"
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def parse_study(raw: dict[str, Any], where: str = "study") -> Study:
    """Validate a plain mapping into a `Study`; see `load_study` for the errors."""
    raw = dict(raw)
    if "grid" in raw:
        entries = raw["grid"] if isinstance(raw["grid"], list) else [raw["grid"]]
        raw["grid"] = [_plain_grid(entry) for entry in entries]
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        raise ValueError(f"{where}: " + "\n".join(explain_errors(error, Study))) from None
    for grid in study.grid:
        check_grid(study, grid)
    check_adaptive(study)
    return study


def with_seeds(study: Study, count: int) -> Study:
    """The study with at least `count` seeds in every grid: its own, and the smallest numbers that are not among them.

    Raises:
        ValueError: fewer than one seed.
    """
    if count < 1:
        raise ValueError(f"--seeds {count}: expected 1 or more")
    grids = []
    for grid in study.grid:
        own = grid.values("seed")
        more = [seed for seed in range(count + len(own)) if seed not in own][: max(0, count - len(own))]
        grids.append(grid.model_copy(update={"axes": {**grid.axes, "seed": [*own, *more]}}))
    return study.model_copy(update={"grid": grids})


def _plain_grid(entry: Any) -> Any:
    """Split a grid entry as written (axes beside `stages`) into the fields of `Grid`; one value is a list of one."""
    if not isinstance(entry, dict):
        return entry
    axes = {key: value if isinstance(value, list) else [value] for key, value in entry.items() if key != "stages"}
    return {"axes": axes, "stages": entry.get("stages")}


def _apply_override(raw: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise ValueError(f"--set {override!r}: expected path=value, for example stages.pretrain.temperature=0.5")
    keys = path.split(".")
    if keys[0] in AXES_OF_STAGE:  # pretrain.temperature is short for stages.pretrain.temperature
        keys = ["stages", *keys]
    node: Any = raw
    for depth, key in enumerate(keys):
        dotted = ".".join(keys[depth:])
        if keys[:depth] == ["grid"] and isinstance(node, list):
            for entry in node:  # an axis set on every grid of the study
                if not isinstance(entry, dict):
                    raise ValueError(f"`grid` has the entry {entry!r}, expected a mapping of axes to values")
                entry[dotted] = yaml.load(text, _Loader)
            return
        if keys[:depth] == ["grid"] or depth == len(keys) - 1:
            node[dotted] = yaml.load(text, _Loader)
            return
        if not isinstance(node.get(key), dict | list):
            node[key] = {}
        node = node[key]
        if isinstance(node, list) and keys[: depth + 1] != ["grid"]:
            raise ValueError(f"--set {override!r}: `{'.'.join(keys[: depth + 1])}` is a list; set it whole")
