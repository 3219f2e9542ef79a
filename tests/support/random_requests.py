"""Random vocabularies, limits and prompts for the interpreter's tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from reference_interpreter import Rules, Words

from mvjax.engine import Limits, SamplingParams
from mvjax.tokenizers.tables import VocabularyTables

VOCABULARY = 44
SEPARATOR, COLON, DOT = 13, 14, 15
WORDS = Words(
    tags=list(range(12)),
    eos=[12, 43],
    separator=SEPARATOR,
    colon=COLON,
    dot=DOT,
    numbers=[[16 + int(digit) for digit in str(k)] for k in range(1, 65)],
    holds_colon=[v in (COLON, 26, 28) for v in range(VOCABULARY)],
    holds_newline=[v in (SEPARATOR, 27, 28) for v in range(VOCABULARY)],
)
CODES = np.array([v if v < 12 else -1 for v in range(VOCABULARY)], np.int8)
TABLES = VocabularyTables(
    codes=CODES,
    colon=np.array(WORDS.holds_colon),
    newline=np.array(WORDS.holds_newline),
    separator_id=WORDS.separator,
    colon_id=WORDS.colon,
    dot_id=WORDS.dot,
    number_ids=tuple(map(tuple, WORDS.numbers)),
    tag_ids=tuple(WORDS.tags),
    eos_ids=tuple(WORDS.eos),
)


def limits_of(rules: Rules) -> Limits:
    """The rules of the plain interpreter as limits of the engine."""
    return Limits(
        max_new_tokens=rules.max_new_tokens,
        max_positions=rules.max_positions,
        max_path_tokens=rules.max_path_tokens,
        max_paths=rules.max_paths,
        max_depth=rules.max_depth,
        min_block_share=rules.min_block_share,
    )


def sampling_of(rules: Rules) -> SamplingParams:
    """What the rules say of single tokens as parameters of the engine, greedy."""
    names = ("logit_bias", "stop_token_ids", "ignore_eos", "min_tokens")
    return SamplingParams(**{name: getattr(rules, name) for name in names})


def random_wishes(rng: np.random.Generator, rules: Rules) -> Rules:
    """The rules with wishes for single tokens, tags and ends of text among them; biases in quarters: exact."""
    biased = rng.choice(VOCABULARY, int(rng.integers(0, VOCABULARY + 1)), replace=False)
    text = np.setdiff1d(np.arange(12, VOCABULARY), [] if rng.random() < 0.5 else [SEPARATOR, COLON])
    return replace(
        rules,
        logit_bias={int(token): int(rng.integers(-12, 13)) / 4 for token in biased} if rng.random() < 0.7 else {},
        stop_token_ids=tuple(map(int, rng.choice(text, int(rng.integers(0, 5)), replace=False))),
        ignore_eos=bool(rng.random() < 0.2),
        min_tokens=int(rng.integers(0, rules.max_new_tokens + 1)) if rng.random() < 0.5 else 0,
    )


def random_bias(rng: np.random.Generator) -> np.ndarray:
    """A taste: how much likelier tags, ends, colons and newlines are than other text (in quarters: exact)."""
    bias_V = np.zeros(VOCABULARY, np.float32)
    bias_V[:12] += rng.integers(0, 8) / 4
    bias_V[[2, 4]] += rng.integers(0, 16) / 4
    bias_V[6] += rng.integers(-2, 6) / 4
    bias_V[[5, 7, 11, 3]] += rng.integers(-4, 8) / 4
    bias_V[[1, 9]] += rng.integers(-16, 4) / 4
    bias_V[[12, 43]] += rng.integers(-24, 2) / 4
    bias_V[[COLON, 26, 28]] += rng.integers(-4, 8) / 4
    bias_V[[SEPARATOR, 27]] += rng.integers(-4, 4) / 4
    return bias_V


def random_rules(rng: np.random.Generator) -> Rules:
    """Limits from hardly anything to plenty."""
    total = int(rng.choice([9, 20, 60, 150, 300, 600, 1000]))
    return Rules(
        max_new_tokens=total,
        max_positions=int(rng.integers(max(9, total // 4), total + 1)) if rng.random() < 0.4 else None,
        max_path_tokens=int(rng.integers(5, 160)) if rng.random() < 0.2 else None,
        max_paths=int(rng.integers(1, 13)),
        max_depth=int(rng.choice([0, 1, 2, 3, 3])),
        min_block_share=int(rng.choice([0, 10, 30, 64])),
        rows=int(rng.choice([1, 2, 3, 5, 8])),
        autoregressive=rng.random() < 0.05,
    )


def random_prompt(rng: np.random.Generator) -> list[int]:
    """Any tokens, tags among them: a prompt is never read."""
    return rng.integers(0, VOCABULARY, size=int(rng.integers(1, 30))).tolist()
