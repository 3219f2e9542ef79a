"""The model-based score of independence: exactly what two plain forward passes say."""

import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.curator import local_model
from mvjax.curator.checks import chains, likelihood
from mvjax.curator.checks.chains import altered
from mvjax.curator.checks.likelihood import LikelihoodCheck, PathScore, score_block, score_blocks
from mvjax.curator.local_model import LocalModel
from mvjax.curator.text.arithmetic import NUMBER, numbers_in, parse_number
from mvjax.curator.text.transcript import Block, Path, multiverse

KNOWN = "What are 2+3 and 4*5?\nTwo small sums."
LENGTH = 512


@pytest.fixture(scope="module", autouse=True)
def one_size():
    """Documents of one length: few programs to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_model, "SHORTEST", 1024)
        yield


def block(*bodies):
    paths = tuple(Path(f"Find {k}.", body if isinstance(body, tuple) else (body,)) for k, body in enumerate(bodies, 1))
    return Block(paths, "Done.")


_forward = nnx.jit(lambda decoder, *rows: decoder(*rows))


def plain_log_probs(model, ids):
    """log p of every token given all before it, by one causal pass; the first has none."""
    row = np.pad(np.array(ids, np.int32), (0, LENGTH - len(ids)))[None]
    none = np.zeros((1, 1, LENGTH), np.int32)
    logits = np.asarray(_forward(model.decoder, row, np.arange(LENGTH, dtype=np.int32)[None], none, none))[0]
    logits = logits[: len(ids)].astype(np.float64)
    values = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    values -= logits.max(-1, keepdims=True)
    return np.concatenate([[np.nan], values[np.arange(len(ids) - 1), ids[1:]]])


def direct(model, whole, order, siblings=None):
    """Scores of the last path of `order`, by putting the texts one behind the other, the others those of `siblings`."""
    head, *rest = multiverse((whole,)).split("<Path>")
    rest[-1] = rest[-1].partition("<Conclusion>")[0]
    if siblings is not None:
        others = multiverse((siblings,)).partition("<Conclusion>")[0].split("<Path>")[1:]
        rest = [text if k == order[-1] else other for k, (text, other) in enumerate(zip(rest, others, strict=True))]
    encode = model.tokenizer.encode_response
    ids = model.tokenizer.encode(KNOWN + "\n") + encode(head)
    for k in order:
        start, ids = len(ids), ids + encode("<Path>" + rest[k])
    text = [model.tokenizer.decode([index]) for index in ids]
    colon = next(place for place in range(start, len(ids)) if text[place] == ":")
    close = next(place for place in range(start, len(ids)) if text[place] == "</Path>")
    return plain_log_probs(model, ids)[colon + 1 : close]


def test_scores_are_those_of_plain_passes(model):
    whole = block("2+3=5. So it is 5.", "Since it is 5, 4*5=20.", ("Short.", "Two lines."))
    scores, other = score_block(model, whole, KNOWN), altered(whole, KNOWN)
    assert "".join(scores[1].pieces) == " Since it is 5, 4*5=20.\n"
    assert "20" not in other.paths[1].body[0]
    assert "4*5=" in other.paths[1].body[0]
    for k, (before, after) in enumerate([((), (2, 1)), ((0,), (2,)), ((0, 1), ())]):
        np.testing.assert_allclose(scores[k].alone, direct(model, whole, (k,)), atol=2e-4)
        np.testing.assert_allclose(scores[k].earlier, direct(model, whole, (*before, k)), atol=2e-4)
        np.testing.assert_allclose(scores[k].later, direct(model, whole, (*after, k)), atol=2e-4)
        values = direct(model, whole, (*before, k), other), direct(model, whole, (*after, k), other)
        np.testing.assert_allclose(scores[k].earlier_altered, values[0], atol=2e-4)
        np.testing.assert_allclose(scores[k].later_altered, values[1], atol=2e-4)
        pulls = [scores[k].earlier - values[0], scores[k].later - values[1]]
        spans = [range(*match.span()) for match in NUMBER.finditer("".join(scores[k].pieces))]
        sums = [side[list(span)].sum() for side in pulls for span in spans]  # a token is a byte here
        assert scores[k].pull == pytest.approx(max(sums, default=0), abs=1e-3)
        sides = [np.mean(side - scores[k].alone) for side in (scores[k].earlier, scores[k].later)]
        assert scores[k].gain == pytest.approx(max(sides), abs=1e-6)
    assert scores[0].earlier is scores[0].alone
    assert scores[2].later is scores[2].alone


def test_a_nested_block_stays_as_it_is(model):
    """Within a path the paths of an inner block do not see each other, in either score."""
    inner = block("2+3=5.", "1+1=2.")
    scores = score_block(model, block(("First:", inner, "done."), "4*5=20."), KNOWN)
    assert any(piece == "<Parallel>" for piece in scores[0].pieces)
    assert not any(piece in ("<Path>", "<Conclusion>") for piece in scores[0].pieces)
    changed = block(("First:", block("9-9=0.", "1+1=2."), "done."), "4*5=20.")
    other = score_block(model, changed, KNOWN)
    start = "".join(scores[0].pieces).index(" 1+1=2.")
    first = int(np.searchsorted(np.cumsum([0, *map(len, scores[0].pieces)]), start))
    second = slice(first, first + len(" 1+1=2."))
    assert "".join(scores[0].pieces[second]) == " 1+1=2."
    for side in ("alone", "later"):
        mine, theirs = getattr(scores[0], side), getattr(other[0], side)
        np.testing.assert_allclose(mine[second], theirs[second], rtol=1e-5)
        assert np.abs(mine[-8:] - theirs[-8:]).max() > 1e-4


@pytest.fixture(scope="module")
def forgetful(model, tmp_path_factory):
    """A model that ignores its context: attention adds nothing."""
    config = tiny_config(hidden_size=32, intermediate_size=64, max_position_embeddings=2048)
    tensors = tiny_tensors(config)
    tensors = {name: array * 0 if "o_proj" in name else array for name, array in tensors.items()}
    path = tmp_path_factory.mktemp("forgetful") / "toy.gguf"
    return LocalModel.load(write_gguf_model(path, config, tensors))


words = st.text(alphabet="ab 12=+.\n", min_size=1, max_size=12).map(lambda text: f"x{text.strip()}.")


@settings(max_examples=6, deadline=None)
@given(st.lists(words, min_size=2, max_size=4), words)
def test_a_model_without_context_gains_nothing(forgetful, bodies, known):
    for score in score_block(forgetful, block(*bodies), known):
        assert score.gain == pytest.approx(0, abs=1e-5)
        assert score.pull == pytest.approx(0, abs=1e-4)
    assert LikelihoodCheck(forgetful, 1e-3, 1e-3).check(block(*bodies), known) == []


@settings(max_examples=6, deadline=None)
@given(st.lists(words, min_size=2, max_size=4), st.integers(0, 3))
def test_alone_means_alone(model, bodies, changed):
    """What a sibling says changes nothing in a path's score without it."""
    changed %= len(bodies)
    other = [*bodies[:changed], "Something else entirely.", *bodies[changed + 1 :]]
    before, after = (score_block(model, block(*texts), KNOWN) for texts in (bodies, other))
    for number in set(range(len(bodies))) - {changed}:
        np.testing.assert_allclose(before[number].alone, after[number].alone, rtol=1e-5)


@pytest.mark.slow
def test_many_blocks_at_once_score_as_each_alone(model, monkeypatch):
    monkeypatch.setattr(local_model, "BATCH", 2 * 1024)
    blocks = [(block("2+3=5.", "x" * length), KNOWN * (1 + length % 3)) for length in (3, 9, 40, 5, 200)]
    together = score_blocks(model, blocks)
    for (one, known), scores in zip(blocks, together, strict=True):
        for mine, theirs in zip(scores, score_block(model, one, known), strict=True):
            np.testing.assert_allclose(mine.earlier, theirs.earlier, atol=1e-4)
            assert mine.pieces == theirs.pieces


def test_findings_name_path_and_words(model, monkeypatch):
    pieces = ("so", " it", " is", " 5", "0", ".")
    flat = np.full(6, -3.0)
    risen = np.array([-3, -3, -3, -2, -2, -2.0])
    quiet = PathScore(pieces, flat, flat, flat, flat, flat)
    gains = PathScore(pieces, flat, risen, flat, risen, flat)
    pulled = PathScore(pieces, risen, flat, risen, flat, flat)
    monkeypatch.setattr(likelihood, "score_block", lambda *_: [quiet, gains, pulled])
    first, second = LikelihoodCheck(model, 0.5, 2.0).check(block("a", "b", "c"), KNOWN)
    assert (first.check, first.where, second.where) == ("likelihood", "path 2", "path 3")
    assert "0.50 nats likelier on average" in first.reason
    assert "2.0 nats likelier after a sibling's numbers" in second.reason
    assert "so it is 50" in first.reason
    assert "so it is 50" in second.reason
    assert LikelihoodCheck(model, 0.51, 2.1).check(block("a", "b", "c"), KNOWN) == []
    assert quiet.pull == 0
    assert pulled.pulled == (2.0, 3, 5)


@given(st.lists(words, min_size=2, max_size=3), words)
def test_only_own_numbers_are_altered(bodies, known):
    whole = block(*bodies)
    other = altered(whole, known)
    assert other == altered(whole, known)
    given, pattern = numbers_in(known), NUMBER
    for mine, theirs in zip(whole.paths, other.paths, strict=True):
        assert pattern.sub("#", mine.body[0]) == pattern.sub("#", theirs.body[0])
        assert len(mine.body[0]) == len(theirs.body[0])
        for old, new in zip(pattern.findall(mine.body[0]), pattern.findall(theirs.body[0]), strict=True):
            assert (old == new) == (parse_number(old) in given)


def test_numbers_of_nested_blocks_are_altered_alike():
    other = altered(block(("First 77:", block("It is 1,234.5.", "b"), "so 1,234.5."), "c"), "known 77")
    first, inner, last = other.paths[0].body
    assert first == "First 77:"
    assert last.removeprefix("so ") == inner.paths[0].body[0].removeprefix("It is ") != "1,234.5."
    assert len(last) == len("so 1,234.5.")


def test_what_is_known_is_cut_from_the_front(model, monkeypatch):
    monkeypatch.setattr(chains, "MOST_KNOWN", 8)
    encoded = chains.Encoded.of(model, block("a", "b"), "never seen " * 30 + "seen.")
    assert encoded.layout.prompt_length == 8
    assert model.tokenizer.decode(encoded.tokens[:8]).endswith("seen.\n")


def test_sizes_are_few(monkeypatch):
    monkeypatch.setattr(local_model, "SHORTEST", 128)
    sizes = {local_model.size_of(length) for length in range(1, 4097)}
    assert len(sizes) == 11
    assert all(local_model.size_of(length) >= length for length in range(1, 4097))
