"""The chunked cross-entropy against a dense float64 computation."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvjax.language import PARTS
from mvjax.training.loss import Head, LossSums, Targets, cross_entropy

B, T, D, V = 3, 17, 12, 40


def problem(seed=0, K=4, V=V):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(B, T, D)).astype(np.float32)
    base = rng.normal(size=(V, D)).astype(np.float32)
    tags = rng.normal(size=(K, D)).astype(np.float32) if K else None
    weight = (rng.random((B, T)) < 0.6) * rng.choice([1.0, 0.5], (B, T))
    weight[:, 0] = 0
    targets = Targets(
        tokens_BT=rng.integers(0, V, (B, T)).astype(np.int32),
        predecessor_BT=np.maximum(np.arange(T) - rng.integers(1, 4, (B, T)), 0).astype(np.int32),
        weight_BT=weight.astype(np.float32),
        part_BT=rng.integers(1, 5, (B, T)).astype(np.int8),
    )
    return hidden, base, tags, targets


def dense(hidden, base, tags, targets, tag_ids):
    """(total, parts, gradients of hidden, base, tags), all in float64 with T x V logits."""
    hidden, base = hidden.astype(np.float64), base.astype(np.float64)
    rows = np.concatenate([base, np.zeros((max([0, *[i + 1 - len(base) for i in tag_ids]]), D))])
    if tags is not None:
        rows[list(tag_ids)] = tags
    total, parts, counts = 0.0, np.zeros(5), np.zeros(5)
    hidden_grad, rows_grad = np.zeros_like(hidden), np.zeros_like(rows)
    for b in range(B):
        for t in range(T):
            w = float(targets.weight_BT[b, t])
            if not w:
                continue
            source, token = targets.predecessor_BT[b, t], targets.tokens_BT[b, t]
            h = hidden[b, source]
            logits = rows @ h
            p = np.exp(logits - logits.max())
            p /= p.sum()
            total += -w * np.log(p[token])
            parts[targets.part_BT[b, t]] += -np.log(p[token])
            counts[targets.part_BT[b, t]] += 1
            p[token] -= 1
            hidden_grad[b, source] += w * rows.T @ p
            rows_grad += w * np.outer(p, h)
    tags_grad = rows_grad[list(tag_ids)]
    base_grad = rows_grad[: len(base)].copy()
    base_grad[[i for i in tag_ids if i < len(base)]] = 0
    return total, parts, counts, hidden_grad, base_grad, tags_grad


def value_and_gradients(head, hidden, base, tags, targets):
    def total(hidden, base, tags):
        sums = cross_entropy(head, hidden, base, tags, targets)
        return 3 * sums.total, sums

    (_, sums), grads = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))(hidden, base, tags)
    return sums, jax.tree.map(lambda g: g / 3, grads)


@pytest.mark.parametrize(
    ("chunk", "tag_ids"),
    [(7, ()), (1, (36, 37, 38, 39)), (16, (5, 9, 20, 2)), (7, (40, 41, 42, 43)), (1000, (36, 37, 38, 39))],
)
def test_loss_and_gradients_equal_the_dense_float64_computation(chunk, tag_ids):
    hidden, base, tags, targets = problem(K=len(tag_ids))
    targets.tokens_BT[:, 3:7] = tag_ids or 1
    total, parts, counts, hidden_grad, base_grad, tags_grad = dense(hidden, base, tags, targets, tag_ids)
    sums, grads = value_and_gradients(Head(tag_ids, True, chunk), hidden, base, tags, targets)
    np.testing.assert_allclose(sums.total, total, rtol=1e-5)
    np.testing.assert_allclose(sums.parts_P, parts, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(sums.counts_P, counts)
    np.testing.assert_allclose(grads[0], hidden_grad, atol=1e-5)
    np.testing.assert_allclose(grads[1], base_grad, atol=1e-5)
    if tag_ids:
        np.testing.assert_allclose(grads[2], tags_grad, atol=1e-5)


def test_value_alone_equals_value_with_gradient():
    hidden, base, tags, targets = problem()
    head = Head((36, 37, 38, 39), False, 8)
    alone = jax.jit(lambda *a: cross_entropy(head, *a))(hidden, base, tags, targets)
    sums, grads = value_and_gradients(head, hidden, base, tags, targets)
    for name in LossSums._fields:
        np.testing.assert_allclose(getattr(alone, name), getattr(sums, name), rtol=1e-6)
    assert not np.any(grads[1])  # a frozen base takes no gradient


def test_accuracy_counts_targets_with_the_largest_logit():
    hidden, base, _, targets = problem(K=0)
    logits = np.take_along_axis(hidden, targets.predecessor_BT[..., None], 1) @ base.T
    right_BT, target_BT = logits.argmax(-1) == targets.tokens_BT, targets.weight_BT > 0
    expected_P = [(right_BT & target_BT & (targets.part_BT == part)).sum() for part in range(len(PARTS))]
    best = replace_tokens(targets, logits.argmax(-1))
    measure = jax.jit(lambda targets: cross_entropy(Head(), hidden, base, None, targets).correct_P)
    assert measure(targets).tolist() == expected_P
    assert measure(best).sum() == target_BT.sum()


def replace_tokens(targets, tokens):
    return targets._replace(tokens_BT=tokens.astype(np.int32))


def test_batch_without_targets_costs_nothing_and_is_zero():
    hidden, base, tags, targets = problem()
    targets = targets._replace(weight_BT=np.zeros_like(targets.weight_BT))
    sums, grads = value_and_gradients(Head((36, 37, 38, 39), True, 8), hidden, base, tags, targets)
    assert sums.total == 0
    assert not any(np.any(g) for g in grads)


def test_bfloat16_gradients_keep_their_types_and_are_close():
    hidden, base, tags, targets = problem()
    head = Head((36, 37, 38, 39), True, 8)
    exact_sums, exact = value_and_gradients(head, hidden, base, tags, targets)
    low = [jnp.asarray(x, jnp.bfloat16) for x in (hidden, base, tags)]
    sums, grads = value_and_gradients(head, *low, targets)
    assert [g.dtype for g in grads] == [jnp.bfloat16] * 3
    np.testing.assert_allclose(sums.total, exact_sums.total, rtol=2e-2)
    for g, e in zip(grads, exact):
        np.testing.assert_allclose(np.asarray(g, np.float32), e, atol=0.15)


def test_no_logits_of_the_whole_batch_in_the_program():
    hidden, base, tags, targets = problem()
    head = Head((36, 37, 38, 39), True, 8)
    text = str(jax.make_jaxpr(jax.grad(lambda h: cross_entropy(head, h, base, tags, targets).total))(hidden))
    assert f"f32[8,{V}]" in text
    assert f"[{B * T},{V}]" not in text
    assert f"[{B},{T},{V}]" not in text
    wide = str(jax.make_jaxpr(lambda h: cross_entropy(replace(head, chunk=B * T), h, base, tags, targets))(hidden))
    assert f"[{B * T},{V}]" in wide  # the check above would see them


@pytest.mark.parametrize("tag_ids", [(), (3, 7, 11, 39)])
def test_z_loss_equals_a_plain_computation(tag_ids):
    """weight * z * (log of the softmax's denominator)^2 beside the cross-entropy, in the value and in all gradients."""
    z = 0.3
    hidden, base, tags, targets = problem(K=len(tag_ids))
    head = Head(tag_ids, train_base=True, chunk=5, z_loss=z)

    def chunked(hidden, base, tags):
        sums = cross_entropy(head, hidden, base, tags, targets)
        return sums.total, sums

    def plain(hidden, base, tags):
        rows = base if tags is None else base.at[jnp.asarray(tag_ids)].set(tags)
        source = jnp.take_along_axis(hidden, targets.predecessor_BT[..., None], axis=1)
        logits = source @ rows.T
        lse = jax.nn.logsumexp(logits, axis=-1)
        nll = lse - jnp.take_along_axis(logits, targets.tokens_BT[..., None], axis=-1)[..., 0]
        return (targets.weight_BT * (nll + z * lse**2)).sum(), (targets.weight_BT * nll).sum()

    arrays = [None if x is None else jnp.asarray(x) for x in (hidden, base, tags)]
    arguments = (0, 1, 2) if tag_ids else (0, 1)
    (total, sums), grads = jax.jit(jax.value_and_grad(chunked, arguments, has_aux=True))(*arrays)
    (wanted, without), wanted_grads = jax.jit(jax.value_and_grad(plain, arguments, has_aux=True))(*arrays)
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    assert total > 1.5 * without
    for got, want in zip(grads, wanted_grads, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * float(jnp.abs(want).max()))
    unweighted = replace(head, z_loss=0.0)
    parts_P = jax.jit(lambda *arrays: cross_entropy(unweighted, *arrays, targets).parts_P)(*arrays)
    np.testing.assert_allclose(sums.parts_P, parts_P, rtol=1e-5)
