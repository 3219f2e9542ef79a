"""NumPy arrays as the Triton interpreter wants its tensors, so that no PyTorch is needed (TRITON_INTERPRET=1)."""

from __future__ import annotations

import numpy as np


class Tensor:
    """An array that looks enough like a tensor on a device to be copied in, read and written, and copied back."""

    def __init__(self, array: np.ndarray):
        self.array = array
        self.dtype = str(array.dtype)

    def data_ptr(self) -> int:
        return self.array.ctypes.data

    def untyped_storage(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return self

    def new_empty(self, *_, **__) -> Tensor:
        return Tensor(self.array)

    def set_(self, storage: Tensor, *_) -> None:
        self.array = storage.array

    def copy_(self, other: Tensor) -> None:
        assert other.array is self.array

    def storage_offset(self) -> int:
        return 0

    def size(self) -> tuple[int, ...]:
        return self.array.shape

    stride = size


def run(kernel, grid, *args, **constants):
    """Run a kernel over a grid; arrays among the arguments are changed in place."""
    kernel[grid](*(Tensor(a) if isinstance(a, np.ndarray) else a for a in args), **constants)
