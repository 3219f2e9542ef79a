"""A chat model for the Curator that errs now and then: a pure function of what it is asked, so runs can be compared."""

import hashlib

from model_replies import FAULTS, Model

from mvjax.curator.production import Call, Reply

ERRS = 12
"""One call in so many gets a faulty reply."""
BY_STAGE = {
    "tree": ("malformed", "garbage", "wrong label"),
    "groups": ("cycle", "later step", "scattered", "dependent", "step twice", "nothing", "two objects"),
    "structure": ("missing", "unknown group", "all sequential", "wrong type"),
    "refill": ("missing", "invented", "sentence twice", "swapped"),
    "paths": ("count", "tag", "dependent", "lost numbers", "invented numbers", "lost block"),
    "judge": ("no", "malformed", "chatty"),
}


def model(messages) -> Model:
    """The model for one call: faulty or not."""
    draw = int.from_bytes(hashlib.sha256(repr([m["content"] for m in messages]).encode()).digest()[:4])
    faults = {stage: names[draw // ERRS % len(names)] for stage, names in BY_STAGE.items()} if draw % ERRS == 0 else {}
    assert set(faults.values()) <= set(FAULTS)
    return Model(faults)


def reply(messages, body=None) -> str:
    """The text of a reply, for a scripted endpoint."""
    return model(messages).reply(messages)


def answer(call: Call) -> Reply:
    """The same, for a call."""
    return Reply(reply(call.messages))
