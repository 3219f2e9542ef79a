"""The floating-point operations that training needs, the model's own count, and what a chip can do of them.

A multiply-add is two operations. Counted are the products of matrices alone; norms, rotation, activation and softmax
are left out, and so is what a program does beyond need: padding, recomputation (remat, attention's backward pass),
masked parts of tiles. So the share of the peak that follows (MFU) is below that of the usual formula, 6 N T + 12 L N H
T^2, which counts the whole square, the embedding, and logits of tokens that are no target.

For P projection weights of all layers, A adapter weights, a head of V x D, L layers of N heads of width H:

    all weights trained   6 P tokens + 6 V D targets                  + 12 L N H pairs
    frozen, with LoRA     4 P tokens + 4 V D targets + 6 A tokens     + 12 L N H pairs

A product takes 2 a weight and token forward, 2 backward for the gradient of its input and 2 for that of its weight,
which a frozen one does not need. `tokens` are those that are no padding, `targets` those with a loss (no others get
logits). `pairs` are the (query, key) pairs that see each other: two products forward and four backward, 2 H each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from mvjax_kernels.tuning import TPU_KINDS

from mvjax.chips import CHIPS
from mvjax.data.packing import Batch
from mvjax.models.config import ModelConfig
from mvjax.models.tensors import layer_arrays

KINDS: Mapping[str, str] = {
    **TPU_KINDS,
    "NVIDIA A100-PCIE-40GB": "a100",
    "NVIDIA A100-SXM4-40GB": "a100",
    "NVIDIA A100 80GB PCIe": "a100",
    "NVIDIA A100-SXM4-80GB": "a100",
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H200": "h200",
    "NVIDIA B200": "b200",
}
"""Names of chips in `mvjax.chips.CHIPS` by `device_kind`; variants with another peak are left out."""


def peak_flops(devices: Sequence[jax.Device]) -> float | None:
    """Dense bfloat16 operations a second that all devices together could do; None where one is of no known kind."""
    chips = [CHIPS.get(KINDS.get(device.device_kind, "")) for device in devices]
    known = [chip for chip in chips if chip is not None]
    return sum(chip.flops for chip in known) if len(known) == len(chips) else None


@dataclass(frozen=True)
class ModelFlops:
    """What a model's training step costs."""

    projections: int
    """Weights of the projections of all layers (P)."""
    head: int
    """Weights of the output matrix (V x D)."""
    adapters: int
    """Weights of LoRA adapters (A)."""
    attention: int
    """Layers x query heads x head width (L N H)."""
    frozen: bool
    """Projections and output matrix are not trained."""

    @classmethod
    def of(cls, config: ModelConfig, adapters: int | None = None) -> ModelFlops:
        """Those of a decoder; `adapters`: weights of its adapters, None where all weights are trained."""
        layer = sum(array.size for array in layer_arrays(config) if len(array.shape) == 2)
        return cls(
            projections=config.layers * layer,
            head=config.vocab_size * config.embed,
            adapters=adapters or 0,
            attention=config.layers * config.heads * config.head_dim,
            frozen=adapters is not None,
        )

    def step(self, tokens: int, targets: float, pairs: int) -> float:
        """Operations of a step; see the formulas above."""
        each = 4 if self.frozen else 6
        products = each * (self.projections * tokens + self.head * targets) + 6 * self.adapters * tokens
        return products + 12 * self.attention * pairs


def adapter_weights(groups: Mapping[str, str], params: Mapping[str, jax.Array]) -> int | None:
    """Weights of the adapters among a `TrainableModel`'s `params`; None where all weights are trained."""
    if "base" in groups.values():
        return None
    return sum(params[name].size for name, group in groups.items() if group == "lora")


def count_visible(batch: Batch) -> tuple[int, int]:
    """(tokens that are no padding, pairs of them that see each other) of a batch's rows, from its intervals."""
    T = batch.tokens_BT.shape[1]
    row_T = np.arange(T, dtype=np.int32)
    # Padding is the end of a row in which nothing has a predecessor.
    alone_BT = batch.predecessor_BT == row_T
    padding_BT = np.logical_and.accumulate(alone_BT[:, ::-1], axis=1)[:, ::-1]
    padding_BT &= batch.hide_start_BET[:, 0] == T
    end_BT = np.minimum(batch.hide_start_BET[:, 0], T)
    seen_BT = end_BT - row_T
    for level in range(1, batch.hide_start_BET.shape[1]):  # The intervals of a key do not overlap.
        start_BT, stop_BT = (np.clip(x[:, level], row_T, end_BT) for x in (batch.hide_start_BET, batch.hide_end_BET))
        seen_BT = seen_BT - (stop_BT - start_BT)
    return int((~padding_BT).sum()), int(seen_BT[~padding_BT].sum(dtype=np.int64))
