"""The other side of the comparisons: the same weights in `transformers` with PyTorch, on the same cores."""

from __future__ import annotations

import importlib.util
import logging
import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mvjax.bench.report import cores
from mvjax.data.packing import Batch
from mvjax.errors import UserError
from mvjax.models.lora import LINEARS


def missing() -> str | None:
    """What is not installed, in words; None: everything is there."""
    absent = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(absent)} not installed (pip install 'mvjax[torch]')" if absent else None


def load(directory: Path) -> Any:
    """A Hugging Face directory as a float32 PyTorch model that uses the cores of this process."""
    if reason := missing():
        raise UserError(reason)
    import torch
    import transformers

    torch.set_num_threads(cores())
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    return model.float()


class TorchDecode:
    """Greedy generation with `transformers`, one sequence."""

    def __init__(self, directory: Path):
        self.model = load(directory).eval()
        # Nothing ends the text: both sides make as many tokens.
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0

    def generate(self, prompt: Sequence[int], count: int) -> tuple[list[int], float]:
        """(tokens, seconds) for `count` new tokens."""
        import torch

        ids = torch.tensor([list(prompt)])
        start = time.perf_counter()
        with torch.inference_mode():
            out = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, use_cache=True
            )
        return out[0, len(prompt) :].tolist(), time.perf_counter() - start


class TorchTraining:
    """LoRA training steps with `transformers`, a dense mask [1, 1, T, T] and AdamW."""

    def __init__(self, directory: Path, batch: Batch, *, rank: int, alpha: float, learning_rate: float, clip: float):
        import torch

        self.model = load(directory).train()
        self.model.requires_grad_(False)
        add_lora(self.model, rank, alpha / rank)
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=learning_rate, betas=(0.9, 0.95), weight_decay=1e-4)
        self.clip = clip
        self.tokens = torch.tensor(batch.tokens_BT, dtype=torch.long)
        self.positions = torch.tensor(batch.positions_BT, dtype=torch.long)
        self.labels = torch.tensor(labels_of(batch), dtype=torch.long)
        visible = torch.tensor(visible_of(batch))[:, None]
        self.mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)

    @property
    def parameters(self) -> int:
        """Trained parameters."""
        return sum(parameter.numel() for parameter in self.trained)

    def step(self) -> tuple[float, float]:
        """(seconds, loss) of one step."""
        import torch

        start = time.perf_counter()
        logits = self.model(
            input_ids=self.tokens, attention_mask=self.mask, position_ids=self.positions, use_cache=False
        ).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), self.labels.flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - start, loss.item()


def add_lora(model: Any, rank: int, scale: float) -> None:
    """Put a trainable low-rank update beside every projection, in place."""
    import torch

    class Adapted(torch.nn.Module):
        def __init__(self, linear):
            super().__init__()
            self.linear = linear
            self.a = torch.nn.Parameter(torch.randn(rank, linear.in_features) / math.sqrt(linear.in_features))
            self.b = torch.nn.Parameter(torch.zeros(linear.out_features, rank))

        def forward(self, x):
            update = torch.nn.functional.linear(torch.nn.functional.linear(x, self.a), self.b)
            return self.linear(x) + scale * update

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if name in LINEARS and isinstance(child, torch.nn.Linear):
                setattr(module, name, Adapted(child))


def labels_of(batch: Batch) -> np.ndarray:
    """Per token the one that its logits must predict; -100: none."""
    labels_BT = np.full(batch.tokens_BT.shape, -100, np.int64)
    for labels_T, tokens_T, loss_T, predecessor_T in zip(
        labels_BT, batch.tokens_BT, batch.loss_BT, batch.predecessor_BT, strict=True
    ):
        labels_T[predecessor_T[loss_T]] = tokens_T[loss_T]
    return labels_BT


def visible_of(batch: Batch) -> np.ndarray:
    """bool [B, query, key]: the dense mask that the hidden intervals describe."""
    row_T = np.arange(batch.tokens_BT.shape[1])
    visible_BTT = np.broadcast_to(row_T[:, None] >= row_T, (len(batch.tokens_BT), len(row_T), len(row_T))).copy()
    for level in range(batch.hide_start_BET.shape[1]):
        start_B1T, end_B1T = batch.hide_start_BET[:, level, None], batch.hide_end_BET[:, level, None]
        visible_BTT &= ~((row_T[:, None] >= start_B1T) & (row_T[:, None] < end_B1T))
    return visible_BTT
