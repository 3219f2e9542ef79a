"""LoRA training tokens per second against transformers with PyTorch and a dense mask, on the same packed row."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mvjax.bench import torch_model
from mvjax.bench.config import TrainingBench
from mvjax.bench.report import Bar, Report
from mvjax.bench.timing import Spread, alternate, ratios
from mvjax.data.packing import Batch
from mvjax.errors import UserError

ALPHA, LEARNING_RATE, CLIP = 32.0, 1e-4, 1.0
LEVELS = 4
BAR = 1.5


def measure(config: TrainingBench, report: Report, say: Callable[[str], None]) -> None:
    """Fill the report. Steps of the two sides take turns."""
    from mvjax.models import save_checkpoint
    from mvjax.models.load import open_with_tags

    if reason := torch_model.missing():
        raise UserError(reason)

    say("loading the model")
    tokenizer, checkpoint = open_with_tags(config.model, config.tokenizer)
    batch, tokens = packed_row(config, tokenizer)
    with tempfile.TemporaryDirectory(prefix="mvjax-bench-") as directory:
        save_checkpoint(Path(directory) / "model", checkpoint.astype("float32"))
        theirs = torch_model.TorchTraining(
            Path(directory) / "model",
            batch,
            rank=config.rank,
            alpha=ALPHA,
            learning_rate=LEARNING_RATE,
            clip=CLIP,
        )
        ours = JaxTraining(checkpoint, batch, config.rank)
        # The first step also compiles; its loss is that of the base model, wherever the adapters start.
        say("first steps")
        losses = {"mvjax": ours.step()[1], "transformers": theirs.step()[1]}
        if abs(losses["mvjax"] - losses["transformers"]) > 1e-3 * losses["transformers"]:
            raise RuntimeError(f"the two sides do not do the same work: first losses {losses}")
        sides = {"mvjax": ours.step, "transformers": theirs.step}
        results = alternate(sides, config.repeat, warm=0, pause=0.2, say=say)
    if ours.parameters != theirs.parameters:
        raise RuntimeError(f"mvjax trains {ours.parameters} parameters, transformers {theirs.parameters}")

    per_second = {name: [tokens / spent for spent, _ in steps] for name, steps in results.items()}
    for name, steps in results.items():
        report.rows.append(
            {
                "side": name,
                "step s": Spread.of([spent for spent, _ in steps]),
                "tokens/s": Spread.of(per_second[name]),
                "loss of the first step": losses[name],
            }
        )
    over = ratios(per_second["mvjax"], per_second["transformers"])
    report.bars.append(Bar("training tokens/s over transformers", over, BAR, at_most=False))
    report.notes.append(
        f"a row of {config.row_length} tokens, {tokens} of them no padding, {int(batch.loss_BT.sum())} targets; "
        f"float32, LoRA rank {config.rank} on all projections ({ours.parameters:,} parameters), AdamW, clipped"
    )


class JaxTraining:
    """Steps of the trainer on one batch, adapters alone."""

    def __init__(self, checkpoint, batch, rank: int):
        import jax
        import jax.numpy as jnp

        from mvjax.models import LoraConfig, add_lora, from_checkpoint
        from mvjax.training.batch import shard_batch
        from mvjax.training.config import LossConfig, MeshConfig, OptimizerConfig
        from mvjax.training.mesh import make_placement
        from mvjax.training.model import make_trainable
        from mvjax.training.optimizer import make_optimizer
        from mvjax.training.state import init_state
        from mvjax.training.step import make_update

        placement = make_placement(MeshConfig(), jax.devices()[:1])
        decoder = from_checkpoint(checkpoint, dtype=jnp.float32, scan_layers=True, placement=placement)
        model = make_trainable(add_lora(decoder, LoraConfig(rank, ALPHA)))
        optimizer = make_optimizer(OptimizerConfig(clip=CLIP), lambda _: LEARNING_RATE, model)
        self._step = make_update(model, optimizer, placement, LossConfig())
        self._frozen = jax.device_put(model.frozen, model.frozen_sharding(placement))
        self._state = init_state(model, optimizer, placement)
        self._batch = shard_batch(batch, 1, placement)
        self.parameters = sum(x.size for x in self._state.params.values())

    def step(self) -> tuple[float, float]:
        """(seconds, loss) of one step."""
        start = time.perf_counter()
        self._state, metrics = self._step(self._state, self._frozen, self._batch)
        loss = float(metrics["loss"])
        self._state.step.block_until_ready()
        return time.perf_counter() - start, loss


def packed_row(config: TrainingBench, tokenizer) -> tuple[Batch, int]:
    """One row filled with synthetic items, and how many tokens are no padding; UserError where no item fits."""
    from mvjax.curator.sources.synthetic import SyntheticConfig, generate
    from mvjax.data import encode, packing

    tables = tokenizer.tables()
    examples, used = [], 0
    for record in generate(SyntheticConfig(degree=(2, config.degree), length=(1, 4)), 64):
        example = encode.encode_record(tokenizer, record, tables=tables)
        if used + len(example.tokens) <= config.row_length and example.layout.depth < LEVELS:
            examples.append(example)
            used += len(example.tokens)
    if not examples:
        raise UserError(f"--row-length {config.row_length}: no synthetic item fits; give more, or a smaller --degree")
    return packing.to_batch([examples], config.row_length, LEVELS, tokenizer.pad_id), used
