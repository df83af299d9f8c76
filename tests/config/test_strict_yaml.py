"""YAML has one meaning: keys once, no booleans for numbers, no octal; whatever is read, the end is a sentence."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raffm_mpi.config import Settings, check_settings, load_settings, read_yaml, write_yaml
from raffm_mpi.config.describe import sections
from raffm_mpi.config.reading import apply_overrides
from raffm_mpi.config.strict_yaml import DEEPEST, parse_yaml
from raffm_mpi.errors import UserMistake

GOOD: dict[str, Any] = {"output": "runs/x", "model": {"family": "vit"}, "federation": {"num_clients": 10}}
PLACES = sorted(
    {f"{section.name}.{entry.name}".removeprefix(".") for section in sections() for entry in section.entries}
)

UNCLEAR = ["010", "-010", "0o10", "0x1F", "0b1", "1_000", "1_0.5", "1:30", "190:20:30.15", "yes", "No", "ON", "off"]


@pytest.mark.parametrize("text", UNCLEAR)
def test_what_versions_of_yaml_read_differently_is_refused_unless_it_is_quoted(text):
    with pytest.raises(UserMistake, match=f"^it: '{text}' is not the same in all versions of YAML; write "):
        parse_yaml(text, "it")
    assert parse_yaml(f"'{text}'", "it") == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("3.0e-5", 3e-5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.inf", -math.inf),
        ("0", 0),
        ("-7", -7),
        ("true", True),
        ("~", None),
        ("", None),
        ("2026-01-01", "2026-01-01"),
        ("y", "y"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_plain_values_are_numbers_booleans_null_and_else_texts(text, value):
    found = parse_yaml(text, "it")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seed: 1\ndata: {}\nseed: 2\n", "config '{}': line 3: 'seed' is given twice, first in line 1"),
        ("data: {path: a, path: b}", "config '{}': 'path' is given twice, first in line 1"),
        ("seed: 1\na: &x 1\nb: *x\n", "config '{}': line 3: '*x' is an alias; write the value out"),
        ("a: &x [*x]", "config '{}': '*x' is an alias; write the value out"),
        ("? [a]\n: 1\n", "config '{}': line 1: a list or a mapping is no key"),
        ("a: !!python/name:os.system x", "config '{}' is not YAML: could not determine a constructor for the tag"),
        ("a: !!binary aaaa", "config '{}' is not YAML: could not determine a constructor for the tag"),
        ("a: !!int x", "config '{}': 'x' is no int"),
        ("a: !!map x", "config '{}': it is no mapping"),
        ('a: "\\ud800"', "config '{}': ''\\ud800'' cannot be read"),
        (f"seed: {'9' * 5000}", "config '{}': ''99999999999999999999'' cannot be read"),
        ("a: 1\n--- \nb: 2", "config '{}' is not YAML: line 2: but found another document"),
        ("a: [1\nb: 2", "config '{}' is not YAML: line 2: "),
        ("a: \0", "config '{}' is not YAML: unacceptable character #x0000"),
        ("[" * 3000, f"config '{{}}': it is nested deeper than {DEEPEST} levels"),
        ("a: " + "{a: " * 3000, f"config '{{}}': it is nested deeper than {DEEPEST} levels"),
    ],
    ids=range(16),
)
def test_a_file_of_more_than_plain_values_is_refused_with_its_line(tmp_path, text, sentence):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserMistake) as error:
        load_settings(path)
    assert str(error.value).startswith(sentence.replace("{}", str(path)))
    assert "\n" not in str(error.value)


def test_files_that_are_no_texts_are_refused(tmp_path):
    (tmp_path / "latin").write_bytes(b"output: caf\xe9")
    for path, sentence in (
        ("latin", r"latin' cannot be read: byte 11 is not UTF-8"),
        (".", r"' cannot be read: Is a directory"),
        ("none", r"none' does not exist"),
        ("a\0b", r"' cannot be read: embedded null byte"),
        ("n" * 300, r"' cannot be read: File name too long"),
        ("\udcff", r"' does not exist"),
    ):
        with pytest.raises(UserMistake, match=sentence):
            read_yaml(tmp_path / path, f"config '{tmp_path / path}'")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed=true", "seed: true is not allowed: a whole number is needed"),
        ("seed=010", "override 'seed=010': the value: '010' is not the same in all versions of YAML; write 10, or"),
        ("seed=1.0", "seed: 1.0 is not allowed: a whole number is needed"),
        ("seed='1'", "seed: '1' is not allowed: a whole number is needed"),
        ("log.tensorboard=yes", "'yes' is not the same in all versions of YAML; write true or false, or"),
        ("devices={population: {raspberry_pi_4: true}}", "the share of raspberry_pi_4 is True; allowed are fractions"),
        ("method.space.ffn=[true]", "method: name is missing"),
        ("method={name: raffm, space: {ffn: [true]}}", "method.space.ffn.0"),
        ("=1", "override '=1' is not of the form key=value"),
        ("a..b=1", "override 'a..b=1' is not of the form key=value"),
        ("model.config" + ".a" * 3000 + "=1", f"it is nested deeper than {DEEPEST} levels"),
    ],
    ids=range(11),
)
def test_an_override_is_read_as_strictly(tmp_path, override, sentence):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    with pytest.raises(UserMistake) as error:
        load_settings(path, [override])
    assert sentence in str(error.value)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS | st.integers(), inner))


@settings(deadline=None)
@given(value=st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=10))
@example(value=[*UNCLEAR, "1e-3", "2026-01-01", "true", "null", "~", "", "=", "<<"])
def test_what_is_written_is_read_back_by_this_reader_and_by_others(value):
    text = write_yaml([value])
    for read in (parse_yaml(text, "it"), yaml.safe_load(text)):
        assert repr(read) == repr([value])


@settings(deadline=None)
@given(place=st.sampled_from(PLACES), value=VALUES)
def test_any_value_of_any_setting_gives_settings_or_sentences(place, value):
    values = yaml.safe_load(yaml.safe_dump(GOOD))
    group = values
    *groups, last = place.split(".")
    for name in groups:
        group = group.setdefault(name, {})
    group[last] = value
    settles(values)


@settings(deadline=None)
@given(place=st.sampled_from(PLACES) | TEXTS, text=st.text(), separator=st.sampled_from(["=", "", ".", "=="]))
@example(place="model.config", text="{a: \x85}", separator="=")
def test_any_override_gives_settings_or_sentences(place, text, separator):
    try:
        values = apply_overrides(yaml.safe_load(yaml.safe_dump(GOOD)), [f"{place}{separator}{text}"])
    except UserMistake:
        return
    settles(values)


@settings(deadline=None, max_examples=30)
@given(values=st.dictionaries(st.sampled_from(list(Settings.model_fields)) | TEXTS, VALUES))
def test_any_mapping_gives_settings_or_sentences(values):
    settles(values)
    settles({**GOOD, **values})


def settles(values: dict[Any, Any]) -> None:
    """The values are settings, which are written and read back as themselves, or mistakes with a sentence each."""
    try:
        checked = check_settings(values, "config")
    except UserMistake as error:
        mistake = error
    else:
        mistake = None
    if mistake:
        assert all(line.startswith("config: ") for line in str(mistake).splitlines())
        return
    text = checked.to_yaml()
    assert check_settings(parse_yaml(text, "it"), "again").to_yaml() == text
