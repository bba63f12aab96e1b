"""YAML means what a person reads, and no file costs seconds or gigabytes; every refusal has its line and column."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml

from reports.plain_yaml import MOST_BYTES, MOST_DEPTH, MOST_VALUES, parse_yaml, read_yaml_file
from reports.prices import read_prices
from studies import tiny
from study.load import load_study, study_text

NINES = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
MERGES = [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}], k{n}: 1}}" for n in range(1, 10)]
CHAIN = [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 60)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("+5", 5),
        ("0", 0),
        ("0.5", 0.5),
        ("1_000", 1000),
        ("12_345_678", 12_345_678),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("none", "none"),
        ("2024-01-05", "2024-01-05"),
        ("2024-01-05T10:00:00Z", "2024-01-05T10:00:00Z"),
        ("'010'", "010"),
        ('"yes"', "yes"),
        ("1.2.3", "1.2.3"),
        ("10.0.0.7", "10.0.0.7"),
        ("5%", "5%"),
        ("=", "="),
        ("Müller ☃", "Müller ☃"),
        ("64 # not 46", 64),
    ],
)
def test_scalar_is_what_a_person_reads(text: str, value: Any) -> None:
    found = parse_yaml(f"a: {text}", "s.yaml")["a"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text", ["1:04", "190:20:30", "1:04.5", "22:22", "010", "-07", "00.5", "0o10", "0x1F", "0b1"])
def test_number_that_is_not_decimal_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^s\.yaml, line 2, column 4 \(in a\): .*decimal"):
        parse_yaml(f"b: 1\na: {text}", "s.yaml")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: 1_0", "underscores"),
        ("a: .inf", "no finite number"),
        ("a: -.NaN", "no finite number|text"),
        ("a: 1e400", "too large"),
        ("a: 1e-400", "too small"),
        ("a: " + "9" * 5000, "5,000 digits; expected at most 40"),
        ("a: yes", "may be true or a word"),
        ("a: Off", "may be false or a word"),
        ("on: 1", "may be true or a word"),
        ("a: !!timestamp x", "the tag .*timestamp"),
        ("a: !!bool x", "the tag"),
        ("a: !!binary aGk=", "the tag"),
        ("a: !!python/object/apply:os.system [ls]", "the tag .*python"),
        ("a: !!str 5", "the tag"),
        ("!!map {a: 1}", "the tag"),
        ("a: 1\nb: 2\na: 3", r"line 3, column 1: the key 'a' stands here again, first in line 1"),
        ("a: {b: 1, b: 1}", "the key 'b' stands here again"),
        ("{1: 2}", "the key '1' is no text"),
        ("{null: 2}", "the key 'null' is no text"),
        ("true: 2", "the key 'true' is no text"),
        ("? [a]\n: 1", "cannot be a key"),
        ("? {a: 1}\n: 1", "cannot be a key"),
        ("a: &x b\n*x : 1", "an alias cannot be a key"),
        ("&x a: 1", "an anchor cannot name a key"),
        ("k" * 201 + ": 1", "a key has 201 characters"),
        ("a: *x", "no anchor before it"),
        ("a: &x [*x]", "no anchor before it that is complete"),
        ("a: {<<: 5}", "`<<` merges mappings"),
        ("a: 1\n---\nb: 2", "line 2, column 1: a second document begins"),
        ("a:\n\t- b", "line 2, column 1: a tab"),
        ("\ta: 1", "line 1, column 1: a tab"),
        ("a: b: c", "line 1, column 5: this is not YAML"),
        ("a: [1, 2", "this is not YAML"),
        ("a: \x00", r"line 1, column 4: the character U\+0000"),
        ("a: x\x1b[31m", r"the character U\+001B"),
        ('a: "\\e[31m"', r"the character U\+001B"),
        ('a: "\\0"', r"the character U\+0000"),
        ("a: \u202eevil", r"the character U\+202E"),
        ("\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x]", *NINES]), "more than 100,000"),
        ("\n".join(["a0: &a0 {k: 1}", *MERGES, "z: [" + "*a9, " * 20_000 + "]"]), "more than 100,000"),
        ("\n".join(["a0: &a0 [x]", *CHAIN]), "more than 32 levels"),
        ("a: " + "[" * 1500 + "]" * 1500, "more than 32 levels"),
        ("a: " + "{a: " * 1500 + "}" * 1500, "more than 32 levels"),
        ("- " * 1500 + "a", "more than 32 levels"),
        ("".join(" " * n + "a:\n" for n in range(500)), "more than 32 levels"),
        ("[" + "[]," * 101_000 + "]", "more than 100,000"),
        ("a: " + "x" * MOST_BYTES, "1,000,003 characters"),
    ],
    ids=lambda text: ascii(text[:30]),
)
def test_what_is_misread_or_too_large_is_refused_with_its_place(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as error:
        parse_yaml(text, "s.yaml")
    assert str(error.value).startswith("s.yaml") and len(str(error.value)) < 500


@pytest.mark.parametrize("lines", [["a0: &a0 [x, x, x, x, x, x, x, x, x]", *NINES], ["a0: &a0 {k: 1}", *MERGES]])
def test_aliases_of_aliases_cost_no_memory(lines: list[str]) -> None:
    tracemalloc.start()
    with contextlib.suppress(ValueError):
        parse_yaml("\n".join(lines), "s.yaml")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


def test_as_many_levels_and_values_as_are_promised_are_read() -> None:
    deep = parse_yaml("[" * MOST_DEPTH + "]" * MOST_DEPTH, "s.yaml")
    for _ in range(MOST_DEPTH - 1):
        (deep,) = deep
    assert deep == []
    assert len(parse_yaml("[" + "1," * (MOST_VALUES - 1) + "]", "s.yaml")) == MOST_VALUES - 1


def test_aliases_are_copies_and_merged_mappings_give_way_to_own_keys() -> None:
    found = parse_yaml("a: &x {b: [1], c: 2}\nd: *x\ne: {<<: *x, c: 3}\nf: {<<: [{g: 1}, {g: 2}]}", "s.yaml")
    assert found == {"a": {"b": [1], "c": 2}, "d": {"b": [1], "c": 2}, "e": {"b": [1], "c": 3}, "f": {"g": 1}}
    found["a"]["b"].append(5)
    assert found["d"]["b"] == found["e"]["b"] == [1]


def test_setting_one_of_two_stages_that_share_an_anchor_leaves_the_other_as_it_is() -> None:
    study = load_study("study/presets/digits.yaml", ["finetune.augmentation.crop_min_area=0.9"])
    assert study.stages.finetune is not None and study.stages.supervised is not None
    assert study.stages.finetune.augmentation.crop_min_area == 0.9
    assert study.stages.supervised.augmentation.crop_min_area == 0.6


ALPHABET = [
    "a",
    "1",
    "0",
    "e",
    "-",
    "_",
    ".",
    ":",
    ",",
    " ",
    "\n",
    "[",
    "]",
    "{",
    "}",
    "'",
    '"',
    "#",
    "&x ",
    "*x ",
    "- ",
    "a: ",
]


def test_what_is_read_is_what_yaml_reads_but_for_what_is_refused() -> None:
    """Against PyYAML's own loader, on random texts: where both read one and no number is spelled, values are equal."""
    generator = random.Random(1)
    compared = 0
    for _ in range(20_000):
        text = "".join(generator.choices(ALPHABET, k=generator.randint(1, 12)))
        try:
            ours = parse_yaml(text, "s.yaml")
        except ValueError:
            continue
        theirs = yaml.load(text, yaml.BaseLoader)
        assert as_text(ours) == as_text(theirs), text
        compared += 1
    assert compared > 3_000


def as_text(value: Any) -> Any:
    """A value with every scalar as its kind of text: a number as a float's, as far as it is one."""
    if isinstance(value, dict):
        return {key: as_text(one) for key, one in value.items()}
    if isinstance(value, list):
        return [as_text(one) for one in value]
    if value is None or value in ("~", "null"):
        return ""
    try:
        return repr(float(value) + 0)  # -0 is 0
    except ValueError:
        return str(value)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff\xfe" + "a: 1".encode("utf-16-le"), "UTF-16"),
        ("a: 1".encode("utf-16-be"), "UTF-16"),
        (b"a: 1\nb: M\xfcller", r"line 2, column 5: byte 0xfc is not UTF-8"),
        (b"x" * (MOST_BYTES + 1), "1,000,001 bytes; expected a YAML file of at most 1,000,000"),
    ],
)
def test_file_of_another_encoding_or_size_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=why):
        read_yaml_file(file)


def test_byte_order_mark_and_line_ends_of_windows_are_read(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: x\r\n")
    assert read_yaml_file(file) == {"a": 1, "b": "x"}


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, why in ((tmp_path, "is a folder"), (tmp_path / "pipe", "is a pipe or a device"), ("/dev/zero", "device")):
        with pytest.raises(ValueError, match=why):
            read_yaml_file(path)
        with pytest.raises(ValueError, match=why):
            load_study(path)
        with pytest.raises(ValueError, match=why):
            read_prices(path)
    for name in ("none.yaml", "x" * 5000, "a\0b"):
        with pytest.raises(ValueError, match="no study file"):
            load_study(name)


def test_empty_study_is_said_to_be_empty(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("# nothing\n")
    with pytest.raises(ValueError, match="is empty; it must hold a mapping"):
        load_study(file)


@pytest.mark.parametrize("base", ["s.yaml", "./s.yaml", "../{folder}/s.yaml", "[1]", "''"])
def test_base_that_leads_back_or_is_no_name_is_refused(tmp_path: Path, base: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(f"base: {base.format(folder=tmp_path.name)}\n")
    with pytest.raises(ValueError, match="`base`"):
        load_study(file)


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("grid.seed=1:04", r"--set grid\.seed, line 1, column 1: '1:04' is a time"),
        ("data.name=!!str x", "the tag"),
        ("grid.seed=" + "[" * 1500, "more than 32 levels"),
        ("grid={seed: 1, seed: 2}", "stands here again"),
        ("data..name=x", "expected path=value"),
        (".".join("a" * 50) + "=1", "expected path=value"),
        ("=1", "expected path=value"),
    ],
)
def test_values_of_set_are_read_by_the_same_rules(override: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        load_study("study/presets/digits.yaml", [override])


def test_study_that_travels_to_a_cluster_reads_back_as_it_is(tmp_path: Path) -> None:
    odd = ["1e-4", "yes", "010", "a: b", "ü☃\N{GRINNING FACE}", 'q"q', "x\ny", "-", "", "null", "\\", "#", "2024-01-01"]
    file, copy = tmp_path / "s.yaml", tmp_path / "copy.yaml"
    for text, number in itertools.zip_longest(odd, [1e-4, 5e-324, 1e16, 1.5, 0.1], fillvalue=1.0):
        file.write_text(json.dumps(tiny(question=text, number=number), ensure_ascii=False))
        copy.write_text(study_text(file))
        assert read_yaml_file(copy) == read_yaml_file(file) == tiny(question=text, number=number)


def test_price_table_is_read_by_the_same_rules(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text("currency: EUR\ncpu: {per_core_hour: 0.05, date: 2026-01-05, source: own}\n")
    prices = read_prices(file)
    assert prices.cpu is not None and (prices.cpu.per_core_hour, prices.cpu.date) == (0.05, "2026-01-05")
    file.write_text("currency: EUR\ncurrency: USD\n")
    with pytest.raises(ValueError, match="line 2, column 1: the key 'currency' stands here again"):
        read_prices(file)
