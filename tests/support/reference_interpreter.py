"""The interpreter in plain Python: the rules of generation written down once more, slowly and without arrays.

One object per branch, one loop over steps. Nothing here is shared with `mvjax.engine`; the tests compare the two
token by token.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hash_model import logits_of, mix, spoiled

(
    THINK,
    THINK_END,
    PARALLEL,
    PARALLEL_END,
    GOAL,
    GOAL_END,
    OUTLINE,
    OUTLINE_END,
    PATH,
    PATH_END,
    CONCLUSION,
    CONCLUSION_END,
) = range(12)
RESERVE = 8
LABEL_LIMIT = 16


@dataclass
class Words:
    """What the interpreter knows of a vocabulary."""

    tags: list[int]
    eos: list[int]
    separator: int
    colon: int
    dot: int
    numbers: list[list[int]]
    holds_colon: list[bool]
    holds_newline: list[bool]


@dataclass
class Rules:
    max_new_tokens: int = 200
    max_positions: int | None = None
    max_path_tokens: int | None = None
    max_paths: int = 4
    max_depth: int = 2
    min_block_share: int = 40
    rows: int = 4
    autoregressive: bool = False
    logit_bias: dict[int, float] = field(default_factory=dict)
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0


@dataclass(eq=False)
class Block:
    owner: Segment
    paths: list[Segment]
    started: int = 0
    ended: int = 0
    largest: int = 0


@dataclass(eq=False)
class Segment:
    parent: Segment | None
    address: tuple
    depth: int
    left: int
    next_pos: int
    bound: int
    label: list[int]
    state: int  # hash of everything that this segment sees
    index: int = 0
    stand: str = "body"
    think: str = "none"
    ordinal: int = 0
    labels: list = field(default_factory=list)
    reading: list | None = None
    fresh_outline: bool = False
    pending: list[int] = field(default_factory=list)
    after: str = ""
    block: Block | None = None
    token: int = -1
    token_pos: int = -1
    tokens: list = field(default_factory=list)  # (token, position, written) or a Block
    cut: str = ""

    @property
    def room(self):
        return self.bound - self.next_pos


class Interpreter:
    """Runs one request on the hash model. `prompt` is token ids at positions 0, 1, ..."""

    def __init__(self, words: Words, rules: Rules, bias_V, prompt, cancel_after=None, spoil=0):
        self.words, self.rules, self.bias_V = words, rules, np.asarray(bias_V, np.float32)
        seen = np.uint32(0)
        with np.errstate(over="ignore"):
            for position, token in enumerate(prompt[:-1]):
                seen = seen + mix(np.uint32(token), np.uint32(position))
        positions = rules.max_new_tokens if rules.max_positions is None else rules.max_positions
        start = len(prompt)
        self.root = Segment(None, (), 0, rules.max_new_tokens, start, start + positions, [], seen)
        self.root.token, self.root.token_pos = prompt[-1], start - 1
        self.rows: list[Segment | None] = [self.root] + [None] * (rules.rows - 1)
        self.reason, self.steps, self.barred, self.sampled, self.abandoned = "", 0, 0, 0, 0
        self.cuts: list[tuple] = []
        self.blocks: list[Block] = []  # open ones, in the order of their forks
        self.left_out = 0  # waiting paths of cancelled blocks
        self.cancelled, self.cancel_after = False, cancel_after
        self.spoil, self.failing, self.failed = spoil, False, False
        self.logits: list[tuple] = []  # (segment, index, logits row) of every sampled token
        self.choices: list[tuple] = []  # the same with what the choice was made from: biases added, barred ones -inf

    def run(self):
        while not self.reason:
            if self.cancel_after is not None and self.steps >= self.cancel_after:
                self.cancelled = True
            self.step()
        return self

    def step(self):
        self.steps += 1
        running = [(row, s) for row, s in enumerate(self.rows) if s is not None]
        with np.errstate(over="ignore"):
            for _, s in running:
                s.state = s.state + mix(np.uint32(s.token), np.uint32(s.token_pos))
        events = [(row, s, event) for row, s in running if (event := self.decide(s))]
        # Logits that are not finite wind up the whole request, from the events of this step on.
        self.failed |= self.failing
        self.cancelled |= self.failed
        for row, s, event in events:
            if event == "end":
                self.end(row, s)
        for _, s, event in events:
            if event == "fork":
                self.fork(s)
        for row, s in enumerate(self.rows):
            if s is None and not self.reason and not self.cancelled:
                for block in self.blocks:
                    if block.started < len(block.paths):
                        self.rows[row] = self.start(block)
                        break

    # --- one branch -------------------------------------------------------------------------------------------------

    def append(self, s, token, written):
        s.tokens.append((token, s.next_pos, written))
        s.token, s.token_pos = token, s.next_pos
        s.next_pos += 1
        s.left -= 1
        s.index += 1

    def write(self, s):
        self.append(s, s.pending.pop(0), True)

    def decide(self, s):
        if s.pending:
            return self.write(s)
        if s.after:
            return s.after
        kept = RESERVE if self.blocks_may_open else len(self.closing(s))
        if s.left <= kept or s.room <= kept or self.cancelled:
            limit = "tokens" if s.left <= kept else "positions" if s.room <= kept else "cancelled"
            return self.wind_up(s, "not finite" if self.failed else limit)
        return self.sample(s)

    @property
    def blocks_may_open(self):
        return not self.rules.autoregressive and self.rules.max_depth > 0

    def wind_up(self, s, reason):
        s.cut = reason
        self.cuts.append((s.address, s.cut))
        self.abandoned += s.stand in ("outline", "goal", "block")
        s.pending, s.after = self.closing(s), "end"
        if not s.pending:
            return "end"
        return self.write(s)

    def closing(self, s):
        tags = {
            "outline": [OUTLINE_END, GOAL_END, PARALLEL_END],
            "goal": [GOAL_END, PARALLEL_END],
            "block": [PARALLEL_END],
            "conclusion": [CONCLUSION_END, PARALLEL_END],
            "concluded": [PARALLEL_END],
            "body": [],
        }[s.stand]
        if s.parent is not None:
            tags = [*tags, PATH_END]
        elif s.think == "open":
            tags = [*tags, THINK_END]
        return [token for tag in tags for token in (self.words.tags[tag], self.words.separator)]

    def allowed(self, s):
        tags, eos = set(), False
        if s.stand == "body":
            share = min(s.left, s.room)
            if not self.rules.autoregressive and s.depth < self.rules.max_depth and share >= self.rules.min_block_share:
                tags.add(PARALLEL)
            if s.parent is not None:
                tags.add(PATH_END)
            elif s.index == 0 and share >= 3:  # <Think>, </Think> and its separator
                tags.add(THINK)
            if s.parent is None and s.think == "open":
                tags.add(THINK_END)
            eos = s.parent is not None or s.think != "open"
            if self.rules.ignore_eos or (s.parent is None and len(self.transcript()) < self.rules.min_tokens):
                eos = False
        elif s.stand == "block":
            tags = {GOAL}
        elif s.stand == "goal":
            tags = ({OUTLINE} if len(s.labels) < self.rules.max_paths else set()) | ({GOAL_END} if s.labels else set())
        elif s.stand == "outline":
            tags = {OUTLINE_END}
        elif s.stand == "conclusion":
            tags = {CONCLUSION_END}
        elif s.stand == "concluded":
            tags = {PARALLEL_END}
        return tags, eos

    def sample(self, s):
        words = self.words
        state_1 = np.asarray(s.state, np.uint32)[None]
        with np.errstate(over="ignore"):
            logits_V = spoiled(logits_of(state_1, self.bias_V), state_1, self.spoil)[0]
        self.logits.append((s.address, s.index, logits_V.copy()))
        tags, eos = self.allowed(s)
        barred = {words.tags[t] for t in range(12) if t not in tags} | (set() if eos else set(words.eos))
        for token, bias in self.rules.logit_bias.items():
            logits_V[token] += np.float32(bias)
        stops = set(self.rules.stop_token_ids)
        if not eos:
            logits_V[list(stops)] = -np.inf
        open_V = np.array([logit for token, logit in enumerate(logits_V) if token not in barred])
        if np.isnan(open_V).any() or not np.isfinite(open_V.max()):
            self.failing = True
            return self.wind_up(s, "not finite")
        self.barred += any(logits_V[token] > open_V.max() for token in barred) or int(np.argmax(logits_V)) in barred
        self.sampled += 1
        for token in barred:
            logits_V[token] = -np.inf
        self.choices.append((s.address, s.index, logits_V))
        token = int(np.argmax(logits_V))
        if token in words.eos or token in stops:
            if s.parent is None:
                self.reason = "stop"
                return "end"
            self.append(s, words.tags[PATH_END], True)
            s.pending, s.after = [words.separator], "end"
            return None
        self.append(s, token, False)
        tag = words.tags.index(token) if token in words.tags else None
        if tag is None:
            if s.stand == "outline":
                self.read_label(s, token)
        elif tag == THINK:
            s.think = "open"
        elif tag == THINK_END:
            s.think = "closed"
        elif tag == PARALLEL:
            s.stand = "block"
        elif tag == GOAL:
            s.stand, s.labels = "goal", []
        elif tag == OUTLINE:
            s.stand, s.reading, s.fresh_outline, s.found = "outline", [], True, None
        elif tag == OUTLINE_END:
            k = len(s.labels) + 1
            label = s.found
            if not label or len(label) > LABEL_LIMIT or any(words.holds_newline[t] for t in label):
                label = [*s.label, words.dot, *words.numbers[k - 1]] if s.label else list(words.numbers[k - 1])
            s.labels.append(label)
            s.stand = "goal"
        elif tag == GOAL_END:
            s.pending, s.after = [words.separator], "fork"
        elif tag == PATH_END:
            s.pending, s.after = [words.separator], "end"
        elif tag == CONCLUSION_END:
            s.stand = "concluded"
        elif tag == PARALLEL_END:
            s.stand = "body"
        return None

    def read_label(self, s, token):
        first, s.fresh_outline = s.fresh_outline, False
        if s.reading is None or (first and token == self.words.separator):
            return
        if self.words.holds_colon[token]:
            s.found, s.reading = s.reading, None
        else:
            s.reading.append(token)

    # --- blocks -----------------------------------------------------------------------------------------------------

    def fork(self, s):
        rules, n = self.rules, len(s.labels)
        available = s.left - (2 + RESERVE)
        shares = [available // n + (k < available % n) for k in range(n)]
        if rules.max_path_tokens is not None:
            shares = [min(share, rules.max_path_tokens) for share in shares]
        bound = s.bound - (2 + RESERVE)
        need = [3 + len(label) + RESERVE for label in s.labels]
        ordinal, s.ordinal = s.ordinal, s.ordinal + 1
        served = not self.cancelled and available > 0
        if not served or any(a <= b or bound - s.next_pos <= b for a, b in zip(shares, need, strict=True)):
            self.abandoned += 1
            s.pending, s.after, s.stand = [self.words.tags[PARALLEL_END], self.words.separator], "", "body"
            return self.write(s)
        s.left -= sum(shares)
        s.stand, s.after = "suspended", ""
        block = Block(s, [], largest=s.next_pos - 1)
        for k, (label, share) in enumerate(zip(s.labels, shares, strict=True), start=1):
            path = Segment(s, (*s.address, (ordinal, k)), s.depth + 1, share, s.next_pos, bound, label, s.state)
            path.pending = [self.words.tags[PATH], self.words.separator, *label, self.words.colon]
            block.paths.append(path)
        s.tokens.append(block)
        s.block = block
        s.state_at_fork = s.state
        self.blocks.append(block)
        self.rows[self.rows.index(s)] = self.start(block)
        return None

    def start(self, block):
        path = block.paths[block.started]
        block.started += 1
        self.write(path)
        return path

    def end(self, row, s):
        if s.parent is None:
            self.reason = self.reason or s.cut
            return
        block = next(b for b in self.blocks if s in b.paths)
        owner = block.owner
        block.ended += 1
        block.largest = max(block.largest, s.token_pos)
        owner.left += s.left
        with np.errstate(over="ignore"):
            owner.state = owner.state + (s.state - owner.state_at_fork)
        if self.cancelled:
            for path in block.paths[block.started :]:
                owner.left += path.left
                self.left_out += 1
            del block.paths[block.started :]
        if block.started < len(block.paths):
            self.rows[row] = self.start(block)
        elif block.ended >= len(block.paths):
            self.blocks.remove(block)
            self.rows[row] = owner
            owner.stand, owner.next_pos = "conclusion", block.largest + 1
            owner.pending = [self.words.tags[CONCLUSION], self.words.separator]
            self.write(owner)
        else:
            self.rows[row] = None

    # --- the transcript ---------------------------------------------------------------------------------------------

    def transcript(self):
        """(token, position, written, address) in transcript order."""
        out = []

        def emit(s):
            for item in s.tokens:
                if isinstance(item, Block):
                    for path in item.paths:
                        emit(path)
                else:
                    out.append((*item, s.address))

        emit(self.root)
        return out
