"""An output directory belongs to one evaluation."""

import pytest

from mvjax.errors import UserError
from mvjax.evaluation.settings import claim, fingerprint

SETTINGS = {"mode": "parallel", "max_new_tokens": 64, "adapter": None}


def test_the_same_run_goes_on(tmp_path):
    claim(tmp_path / "run", SETTINGS)
    (tmp_path / "run" / "outcomes.jsonl").write_text("{}\n")
    claim(tmp_path / "run", dict(SETTINGS))


def test_another_run_is_refused(tmp_path):
    claim(tmp_path, SETTINGS)
    with pytest.raises(UserError, match="max_new_tokens: 64 there, 128 now"):
        claim(tmp_path, {**SETTINGS, "max_new_tokens": 128})
    with pytest.raises(UserError, match="adapter: None there, abc now"):
        claim(tmp_path, {**SETTINGS, "adapter": "abc"})


def test_outcomes_of_unknown_origin_are_refused(tmp_path):
    (tmp_path / "outcomes.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="no settings"):
        claim(tmp_path, SETTINGS)


def test_damaged_settings(tmp_path):
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        claim(tmp_path, SETTINGS)


def test_fingerprint_follows_contents_and_names(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "x").write_bytes(b"123")
    assert fingerprint(first) == fingerprint(second)
    (second / "deep" / "x").write_bytes(b"124")
    assert fingerprint(first) != fingerprint(second)
    (second / "deep" / "x").rename(second / "deep" / "y")
    (second / "deep" / "y").write_bytes(b"123")
    assert fingerprint(first) != fingerprint(second)
    assert fingerprint(first / "deep" / "x") == fingerprint(second / "deep" / "y")
