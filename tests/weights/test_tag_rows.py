"""Rows for the control tags."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_weights import tiny_config, tiny_tensors

from mvjax.errors import UserError
from mvjax.models import load_checkpoint, save_checkpoint
from mvjax.weights import Checkpoint, LazyTensor, LazyTensors, add_tag_rows, lazily, with_tag_rows

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
DTYPES = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))


@dataclasses.dataclass
class Case:
    rows: int
    used: int
    tags: list
    pieces: list
    tied: bool
    dtype: np.dtype
    equal_rows: bool
    seed: int


@st.composite
def cases(draw):
    """A matrix of `rows` rows whose tokenizer uses the first `used`; tags on the ids that follow."""
    used = draw(st.integers(2, 30))
    rows = used + draw(st.integers(0, 16))
    count = draw(st.integers(1, 12))
    piece = st.lists(st.integers(0, used - 1), min_size=1, max_size=4)
    pieces = draw(st.lists(piece, min_size=count, max_size=count))
    tags = draw(st.permutations(range(used, used + count)))
    flags = [draw(st.booleans()) for _ in range(2)]
    return Case(rows, used, tags, pieces, flags[0], draw(st.sampled_from(DTYPES)), flags[1], draw(st.integers(0, 99)))


def model(case, width=8):
    """Only the vocabulary's matrices: add_tag_rows looks at nothing else."""
    rng = np.random.default_rng(case.seed)
    names = [EMBED] if case.tied else [EMBED, HEAD]
    matrices = {name: rng.standard_normal((case.rows, width)).astype(case.dtype) for name in names}
    if case.equal_rows:
        for matrix in matrices.values():
            matrix[:] = matrix[0]
    return Checkpoint({"vocab_size": case.rows}, matrices | {"model.norm.weight": np.ones(width, np.float32)})


@given(cases())
@settings(max_examples=100, deadline=None)
def test_rows_of_tags(case):
    before = model(case)
    after = add_tag_rows(before, case.tags, case.pieces)
    rows = max(case.rows, max(case.tags) + 1)
    assert after.config["vocab_size"] == rows >= case.rows  # spare rows first, never fewer
    assert set(after.tensors) == set(before.tensors)
    untouched = sorted(set(range(case.rows)) - set(case.tags))
    for name in {EMBED, HEAD} & set(after.tensors):
        old, new = before.tensors[name], after.tensors[name]
        assert lazily(after.tensors)[name].shape == new.shape == (rows, old.shape[1])
        assert new.dtype == old.dtype
        assert new[untouched].tobytes() == old[untouched].tobytes()
        tags = new[case.tags]
        assert len({row.tobytes() for row in tags}) == len(tags)
        means = np.array([np.mean([old[i].astype(np.float64) for i in ids], axis=0) for ids in case.pieces])
        rounded = [mean.tobytes() for mean in means.astype(case.dtype)]
        alone = [i for i, mean in enumerate(rounded) if mean not in rounded[:i]]
        np.testing.assert_array_equal(tags[alone], means.astype(case.dtype)[alone])
        size = np.sqrt(np.mean(means**2))
        assert np.abs(tags.astype(np.float64) - means).max() <= size  # set apart by little
    again = add_tag_rows(before, case.tags, case.pieces)
    assert all(np.array_equal(again.tensors[name], after.tensors[name]) for name in after.tensors)


def test_tags_on_rows_of_zeros_are_distinct_too():
    checkpoint = Checkpoint({"vocab_size": 4}, {EMBED: np.zeros((4, 8), np.float32)})
    rows = add_tag_rows(checkpoint, range(4, 16), [[0, 1]] * 12).tensors[EMBED][4:]
    assert len({row.tobytes() for row in rows}) == 12
    assert np.abs(rows).max() < 0.01


def test_rows_are_made_on_reading_only():
    def read():
        raise AssertionError("read too early")

    lazy = LazyTensors({EMBED: LazyTensor((4, 8), np.dtype(np.float32), read)})
    after = add_tag_rows(Checkpoint({"vocab_size": 4}, lazy), [4], [[0]])
    assert after.nbytes == 5 * 8 * 4
    with pytest.raises(AssertionError, match="too early"):
        after.tensors[EMBED]


def test_a_model_with_tag_rows_saves_and_loads(tmp_path):
    config = tiny_config(tied=False, vocab_size=20, hidden_size=32, intermediate_size=32)
    tagged = add_tag_rows(Checkpoint(config, tiny_tensors(config)), range(18, 30), [[i] for i in range(12)])
    save_checkpoint(tmp_path / "m", tagged)
    loaded = load_checkpoint(tmp_path / "m")
    assert loaded.config["vocab_size"] == 30
    for name in (EMBED, HEAD):
        np.testing.assert_array_equal(loaded.tensors[name][18:], loaded.tensors[name][:12])
    assert config["vocab_size"] == 20


@pytest.mark.parametrize(("tags", "pieces"), [([6], [[0]]), ([4, 6], [[0], [1]]), ([4], [[9]])])
def test_a_tokenizer_larger_than_the_model_is_an_error(tags, pieces):
    checkpoint = Checkpoint({"vocab_size": 4}, {EMBED: np.zeros((4, 8), np.float32)})
    with pytest.raises(UserError, match=r"the tokenizer has token id \d+, the model only 4 rows"):
        add_tag_rows(checkpoint, tags, pieces)


@pytest.mark.parametrize(("tags", "pieces"), [([4, 4], [[0], [1]]), ([4], [[0], [1]]), ([4], [[]])])
def test_tags_need_ids_and_pieces(tags, pieces):
    checkpoint = Checkpoint({"vocab_size": 4}, {EMBED: np.zeros((4, 8), np.float32)})
    with pytest.raises(ValueError, match="each tag needs"):
        add_tag_rows(checkpoint, tags, pieces)


@dataclasses.dataclass
class TwoTags:
    """A tokenizer of four tokens and two tags."""

    tag_ids: tuple | None = None

    def with_control_tags(self):
        return TwoTags((4, 5))

    def tag_pieces(self):
        return [[0, 1], [2, 3]]


def test_rows_of_tags_that_tokenizer_and_model_have_are_left_alone():
    matrix = np.arange(16, dtype=np.float32).reshape(4, 4)
    plain = Checkpoint({"vocab_size": 4}, {EMBED: matrix})
    tagged, tokenizer = with_tag_rows(plain, TwoTags())
    assert tokenizer.tag_ids == (4, 5)
    np.testing.assert_array_equal(tagged.tensors[EMBED][4:], [matrix[:2].mean(axis=0), matrix[2:].mean(axis=0)])
    trained = Checkpoint({"vocab_size": 6}, {EMBED: np.ones((6, 4), np.float32)})
    assert with_tag_rows(trained, tokenizer) == (trained, tokenizer)
    lacking, _ = with_tag_rows(plain, tokenizer)  # tags in the vocabulary, no rows in the model
    np.testing.assert_array_equal(lacking.tensors[EMBED], tagged.tensors[EMBED])
