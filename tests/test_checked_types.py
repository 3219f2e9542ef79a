"""What `--jaxtyping-packages` checks calls with: arrays, wherever a hint holds one, and nothing else."""

import numpy as np
import pytest
from checked_types import check
from jaxtyping import Float, Integer, TypeCheckError, jaxtyped


@jaxtyped(typechecker=check)
def call(
    x_BT: Float[np.ndarray, "B T"], words_B: Integer[np.ndarray, "B"] | None = None, name: str = ""
) -> tuple[Float[np.ndarray, "B"], int]:
    return x_BT[:, 0] if name else x_BT[0], 1


GOOD = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    "arguments",
    [
        {"x_BT": GOOD[0]},
        {"x_BT": GOOD.astype(int)},
        {"x_BT": GOOD, "words_B": np.zeros(3, np.uint32)},
        {"x_BT": GOOD, "words_B": np.zeros(2)},
        {"x_BT": GOOD, "name": ""},
    ],
    ids=["dimensions", "element type", "size", "element type of an optional one", "result"],
)
def test_wrong_arrays_are_refused(arguments):
    with pytest.raises(TypeCheckError):
        call(**{"name": "first column"} | arguments)


def test_what_is_no_array_is_not_looked_at():
    result, _ = call(GOOD, np.zeros(2, np.uint32), name=5)
    assert result.shape == (2,)
