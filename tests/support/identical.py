"""Whether two encoded examples are the same, bit for bit."""

import dataclasses

import numpy as np


def assert_identical(a, b):
    """Equal in every field, arrays with their types; the layout is compared field by field."""
    assert (a.id, a.mode) == (b.id, b.mode)
    pairs = [(a.tokens, b.tokens), (a.loss, b.loss)]
    pairs += [(getattr(a.layout, f.name), getattr(b.layout, f.name)) for f in dataclasses.fields(a.layout)]
    for x, y in [*pairs, (a.layout.predecessor, b.layout.predecessor)]:
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype
            assert np.array_equal(x, y)
        else:
            assert isinstance(x, type(y))
            assert x == y
