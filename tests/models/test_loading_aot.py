"""The programs that put quantised weights in place, compiled for a GPU that need not be here: what they hold there."""

import dataclasses

import jax
import numpy as np
import pytest

from mvjax.models import DecoderStepModel
from mvjax.models.sharded_loading import Parameter
from mvjax.models.tensors import expected_shapes
from mvjax.models.transfer import chunk_bytes, inserter
from mvjax.planning.machines import compile_for, gpus
from mvjax.planning.shapes import named
from mvjax.weights.checkpoint import LazyTensor

GIB = 2**30


def unread(shape, dtype):
    """A tensor that nobody reads."""
    return LazyTensor(tuple(shape), np.dtype(dtype), lambda: pytest.fail("no number is needed"))


@pytest.mark.aot
def test_a_32b_model_in_int8_is_loaded_into_one_gpu():
    """All weights at their place, and beside them the arguments, temporaries and results of any one program."""
    device = gpus("h100", 1)[0]
    config = dataclasses.replace(named("qwen2.5-32b").config, scan_layers=False)
    with jax.default_device(device):
        model = DecoderStepModel.described(config, weight_dtype="int8")
    leaves = jax.tree.leaves(model.params)
    weights = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    assert 30.4 * GIB < weights < 31.4 * GIB
    limit = chunk_bytes(max(2 * int(np.prod(shape)) for shape in expected_shapes(config).values()))
    most, programs = 0, {(leaf.shape, leaf.dtype) for leaf in leaves}
    for shape, dtype in programs:
        parameter = Parameter(shape, dtype, [unread(shape, dtype)], None)
        chunk = jax.ShapeDtypeStruct((parameter.step(limit), *shape[1:]), dtype)
        whole, begin = jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct((1,), np.int32)
        function = inserter(None, None, ()).__wrapped__
        memory = compile_for(device, function, whole, chunk, begin, donate=(0,)).memory_analysis()
        assert memory.alias_size_in_bytes >= whole.size * dtype.itemsize
        beside = memory.argument_size_in_bytes + memory.output_size_in_bytes - 2 * memory.alias_size_in_bytes
        most = max(most, beside + memory.temp_size_in_bytes)
    print(len(programs), "programs, GiB:", round(weights / GIB, 2), "and at most", round(most / GIB, 3))
    assert most < 0.1 * GIB
    assert weights + most < 40 * GIB
