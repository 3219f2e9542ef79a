"""The loss on held-out text: every record once, nothing of training changed, the best checkpoint kept."""

import io
import json
import math

import jax
import numpy as np
import pytest
from rich.console import Console
from tiny_training import RandomBatches, make_simple_model
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.curator.sources.synthetic import SyntheticConfig, generate
from mvjax.data.records import write_records
from mvjax.data.schedule import Position
from mvjax.data.sources import find_data
from mvjax.errors import UserError
from mvjax.language import PARTS
from mvjax.models.load import load_with_tags
from mvjax.storage import StoragePath
from mvjax.training.checkpoints import RECORD
from mvjax.training.dataset import load_data
from mvjax.training.distributed import HostSync
from mvjax.training.held_out import HeldOut
from mvjax.training.mesh import make_placement
from mvjax.training.metrics import TIMES, read_metrics
from mvjax.training.model import make_trainable
from mvjax.training.train import fit
from mvjax.training.trained import choose_step, find_checkpoints


class Scripted:
    """Measures what a list says, after every second step and the last."""

    def __init__(self, losses):
        self.losses = losses

    def compile(self, params, frozen):
        pass

    def due(self, step, last):
        return last or step % 2 == 0

    def __call__(self, params, frozen):
        return {"held_out_loss": self.losses.pop(0)}


def start(config, losses, steps=10):
    batches, placement, said = RandomBatches(), make_placement(config.mesh), io.StringIO()
    fit(config, make_simple_model(), placement, batches, steps, held_out=Scripted(losses), console=Console(file=said))
    return said.getvalue()


def test_the_best_checkpoint_is_kept_beside_the_newest_and_after_a_resumption(make_config):
    config = make_config(checkpoints={"every": 5, "keep": 1}, steps={"stop_after": 6})
    assert "step 4: held-out loss 1.0000, the least so far" in start(config, [3.0, 1.0, 2.0])
    run = StoragePath(config.output.directory) / config.name
    assert sorted(find_checkpoints(run)[1]) == [4, 6]
    assert choose_step(run, "best", find_checkpoints(run)[1]) == 4
    said = start(config.replace(steps={"stop_after": 0}), [math.nan, 1.5])
    assert "least so far" not in said
    there = find_checkpoints(run)[1]
    assert sorted(there) == [4, 10]
    assert (choose_step(run, "best", there), choose_step(run, "latest", there)) == (4, 10)
    with pytest.raises(UserError, match="there are those of the steps 4, 10, and latest and best"):
        choose_step(run, "9", there)
    lines = read_metrics(run.local / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 11))
    measured = {line["step"]: line["held_out_loss"] for line in lines if "held_out_loss" in line}
    assert measured == {2: 3.0, 4: 1.0, 6: 2.0, 8: None, 10: 1.5}


def test_without_keep_best_no_checkpoint_more_is_made(make_config):
    config = make_config(checkpoints={"every": 5, "keep": 1}, held_out={"keep_best": False})
    assert "least so far" not in start(config, [5.0, 4.0, 3.0, 2.0, 1.0])
    run = StoragePath(config.output.directory) / config.name
    there = find_checkpoints(run)[1]
    assert sorted(there) == [10]
    assert "best" not in json.loads((there[10] / RECORD / "metadata").read_text())
    with pytest.raises(UserError, match="no checkpoint is known as the best"):
        choose_step(run, "best", there)


def test_a_loss_that_is_no_number_is_never_the_best(make_config):
    config = make_config(checkpoints={"every": 5, "keep": 1})
    assert start(config, [math.nan, 3.0, math.nan, 4.0], 8).count("least so far") == 1
    there = find_checkpoints(StoragePath(config.output.directory) / config.name)[1]
    assert choose_step("run", "best", there) == 4


def test_measuring_changes_nothing_of_the_training(make_config):
    plain, measured = make_config(name="plain"), make_config(name="measured", checkpoints={"every": 3})
    fit(plain, make_simple_model(), make_placement(plain.mesh), RandomBatches(), 6)
    start(measured, [3.0, 2.0, 1.0], 6)

    def lines(config):
        kept = read_metrics((StoragePath(config.output.directory) / config.name / "metrics.jsonl").local)
        return [{k: v for k, v in line.items() if k not in (*TIMES, "held_out_loss")} for line in kept]

    assert lines(plain) == lines(measured)


@pytest.mark.slow
def test_every_record_counts_once_whatever_the_size_of_a_batch(make_config, tmp_path):
    shape = tiny_config(hidden_size=32, intermediate_size=64, max_position_embeddings=2048)
    tokenizer, decoder = load_with_tags(write_gguf_model(tmp_path / "toy.gguf", shape, tiny_tensors(shape), kind="F32"))
    model = make_trainable(decoder, tokenizer.tag_ids)
    write_records(tmp_path / "held_out.jsonl", list(generate(SyntheticConfig(degree=(2, 3), length=(1, 2)), 7)))
    found = []
    for rows in (2, 3):
        config = make_config(data={"rows": rows, "row_length": 1280, "levels": 4}, loss={"chunk": 256})
        placement, quiet = make_placement(config.mesh), Console(file=io.StringIO())
        sources = [find_data(str(tmp_path / "held_out.jsonl"))]
        dataset = load_data(config, sources, tokenizer, placement, HostSync(), quiet, held_out=True)
        measure = HeldOut(config, dataset, model, placement)
        measure.compile(model.params, model.frozen)
        found.append(measure(model.params, model.frozen))
        assert measure(model.params, model.frozen) == found[-1]  # the same batches each time
    chat = config.replace(held_out={"format": "messages"})
    with pytest.raises(UserError, match="none of its 7 records can be used"):
        load_data(chat, sources, tokenizer, placement, HostSync(), quiet, held_out=True)
    index = [(record, "multiverse") for record in range(len(dataset.corpus))]
    targets = sum(int(example.loss.sum()) for example in dataset.corpus.examples(index))
    assert found[0]["held_out_targets"] == found[1]["held_out_targets"] == targets
    assert measure.batches > 1
    assert HeldOut(config.replace(held_out={"batches": 1}), dataset, model, placement).batches == 1
    measure.batches = 1
    found.append(measure(model.params, model.frozen))
    assert 0 < found[2]["held_out_targets"] < targets
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-5, err_msg=name)
    batch, _, _ = dataset.batch_at(Position(0, 0))
    hidden = (batch.hide_start_BET, batch.hide_end_BET)
    logits_BTV = np.asarray(jax.jit(decoder)(batch.tokens_BT, batch.positions_BT, *hidden), np.float64)
    logits_BTV = np.take_along_axis(logits_BTV, batch.predecessor_BT[..., None], 1)
    own_BT = np.take_along_axis(logits_BTV, batch.tokens_BT[..., None], 2)[..., 0]
    nll_BT = np.log(np.exp(logits_BTV).sum(-1)) - own_BT
    for part in ("path", "tag"):
        of_part_BT = batch.loss_BT & (batch.part_BT == PARTS.index(part))
        np.testing.assert_allclose(found[2][f"held_out_loss_{part}"], nll_BT[of_part_BT].mean(), rtol=1e-5)
    np.testing.assert_allclose(found[2]["held_out_loss"], nll_BT[batch.loss_BT].mean(), rtol=1e-5)
