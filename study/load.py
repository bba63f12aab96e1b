"""A study's YAML file, with its base and its overrides, into a `Study`."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reports.plain_scalar import shown
from reports.plain_yaml import MOST_BYTES, MOST_DEPTH, parse_yaml, read_yaml_file
from study.arguments import MOST_SEEDS
from study.check import check_cells, check_grid
from study.check_adaptive import check_adaptive
from study.config import AXES_OF_STAGE, Study
from study.problems import explain_errors

ROOT = Path(__file__).resolve().parents[1]
MOST_BASES = 8


def load_study(path: str | Path, overrides: list[str] | None = None) -> Study:
    """Read a study from YAML and apply `path=value` overrides.

    Raises:
        ValueError: no such file, no valid YAML, an unknown key (the nearest known one is named), a wrong type, or a
            combination that cannot be run; the message names what was found and what was expected.
    """
    raw = _read_study(path)
    for override in overrides or []:
        _apply_override(raw, override)
    return parse_study(raw, str(path))


def study_text(path: str | Path) -> str:
    """A study with its base in it, as one file that needs no other beside it, without overrides: JSON, which is YAML.

    Raises:
        ValueError: no such file, or no valid YAML.
    """
    raw = _read_study(path)
    text = json.dumps(raw, indent=1, ensure_ascii=False)
    return text if len(text) < MOST_BYTES else json.dumps(raw, ensure_ascii=False, separators=(",", ":"))


def _read_study(path: str | Path) -> dict[str, Any]:
    if _exists(Path(path)):
        return _read_mapping(Path(path))
    presets = sorted(f"study/presets/{file.name}" for file in ROOT.glob("study/presets/*.yaml"))
    near = difflib.get_close_matches(str(path)[-200:], presets, n=1, cutoff=0.4)
    away = "" if Path.cwd() == ROOT else f" in {ROOT}, which is not the working directory {Path.cwd()}"
    hint = f"did you mean {near[0]}{away}?" if near else f"presets{away}: {', '.join(presets)}"
    raise ValueError(f"no study file {path}; {hint}")


def _exists(file: Path) -> bool:
    try:
        return file.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _read_mapping(file: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML mapping; with a key `base`, on top of the file of that name in the same folder."""
    if file.resolve() in above or len(above) > MOST_BASES:
        raise ValueError(f"{above[0]}: its `base` leads back to {file}, or over more than {MOST_BASES} files")
    raw = read_yaml_file(file)
    if not isinstance(raw, dict):
        found = "is empty" if raw is None else f"holds {shown(str(raw))}"
        raise ValueError(f"{file} {found}; it must hold a mapping with the keys {', '.join(Study.model_fields)}")
    if "base" not in raw:
        return raw
    base = raw.pop("base")
    if not isinstance(base, str) or not base:
        raise ValueError(f"{file}: `base` is {shown(str(base))}, expected the name of a YAML file beside it")
    return _merged(_read_mapping(file.parent / base, (*above, file.resolve())), raw)


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
    check_cells(study)
    for grid in study.grid:
        check_grid(study, grid)
    check_adaptive(study)
    return study


def with_seeds(study: Study, count: int) -> Study:
    """The study with at least `count` seeds in every grid: its own, and the smallest numbers that are not among them.

    Raises:
        ValueError: fewer than one seed, or more than `MOST_SEEDS`.
    """
    if not 1 <= count <= MOST_SEEDS:
        raise ValueError(f"--seeds {count}: expected 1 to {MOST_SEEDS:,}")
    grids = []
    for grid in study.grid:
        own = grid.values("seed")
        known = set(own)
        more = [seed for seed in range(count + len(own)) if seed not in known][: max(0, count - len(own))]
        grids.append(grid.model_copy(update={"axes": {**grid.axes, "seed": [*own, *more]}}))
    more_seeds = study.model_copy(update={"grid": grids})
    check_cells(more_seeds)
    return more_seeds


def _plain_grid(entry: Any) -> Any:
    """Split a grid entry as written (axes beside `stages`) into the fields of `Grid`; one value is a list of one."""
    if not isinstance(entry, dict):
        return entry
    axes = {key: value if isinstance(value, list) else [value] for key, value in entry.items() if key != "stages"}
    return {"axes": axes, "stages": entry.get("stages")}


def _apply_override(raw: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    keys = path.split(".")
    if not separator or not all(keys) or len(keys) > MOST_DEPTH:
        raise ValueError(f"--set {shown(override)}: expected path=value, for example stages.pretrain.temperature=0.5")
    where = f"--set {shown(path)[1:-1]}"
    if keys[0] in AXES_OF_STAGE:  # pretrain.temperature is short for stages.pretrain.temperature
        keys = ["stages", *keys]
    node: Any = raw
    for depth, key in enumerate(keys):
        dotted = ".".join(keys[depth:])
        if keys[:depth] == ["grid"] and isinstance(node, list):
            for entry in node:  # an axis set on every grid of the study
                if not isinstance(entry, dict):
                    raise ValueError(f"`grid` has the entry {shown(str(entry))}, expected a mapping of axes to values")
                entry[dotted] = parse_yaml(text, where)
            return
        if keys[:depth] == ["grid"] or depth == len(keys) - 1:
            node[dotted] = parse_yaml(text, where)
            return
        if not isinstance(node.get(key), dict | list):
            node[key] = {}
        node = node[key]
        if isinstance(node, list) and keys[: depth + 1] != ["grid"]:
            raise ValueError(f"{where}: `{'.'.join(keys[: depth + 1])}` is a list; set it whole")
