"""Finding buffers of the stream's size that a compiled loop makes."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from mvjax.planning.hlo import parse
from mvjax.planning.loop_copies import dimensions, loop_copies

SHAPE = (1, 3, 64, 16)


def program(body, *more):
    """A jitted loop over a donated stream, compiled."""

    def run(stream_RKSH, steps, *more):
        return lax.while_loop(lambda c: c[1] < steps, lambda c: (body(*c, *more), c[1] + 1), (stream_RKSH, 0))

    arguments = (jnp.zeros(SHAPE), jnp.int32(5), *more)
    return jax.jit(run, donate_argnums=0).lower(*arguments).compile().as_text()


def test_an_update_in_place_is_no_copy():
    text = program(lambda s, i: lax.dynamic_update_slice(s, jnp.ones((1, 3, 2, 16)), (0, 0, i, 0)))
    assert sum(i.opcode == "while" for body in parse(text).values() for i in body) == 1
    assert loop_copies(text, SHAPE) == []


@pytest.mark.parametrize(
    "body",
    [
        lambda s, i: s * 1.5,
        lambda s, i: s.reshape(1, 3, 16, 64).swapaxes(2, 3) + 1,
        # The old stream is read after the new one is there: XLA must keep both.
        lambda s, i: lax.dynamic_update_slice(s, jnp.ones((1, 3, 1, 16)), (0, 0, i, 0)) + s.sum(2, keepdims=True) * 0.1,
    ],
)
def test_what_makes_a_new_stream_is_found(body):
    found = loop_copies(program(body), SHAPE)
    assert found
    assert all("[" in line for line in found)


def test_other_sizes_do_not_count():
    text = program(lambda s, i: lax.dynamic_update_slice(s, jnp.full((1, 3, 1, 16), i * 1.0), (0, 0, i, 0)))
    assert loop_copies(text, (1, 3, 65, 16)) == []
    assert dimensions("1,64,3,16") == dimensions("3,16,64") == (3, 16, 64)
