"""mvjax: Multiverse language models in JAX.

A Multiverse model decides by itself when to split its reasoning (Map), runs the parts in parallel (Process) and
merges them without loss (Reduce); see arXiv 2506.09991. Importing this package imports nothing heavy: each room
(`mvjax.language`, `mvjax.tokenizers`, `mvjax.weights`, `mvjax.models`, `mvjax.data`, `mvjax.training`,
`mvjax.engine`, `mvjax.curator`, `mvjax.evaluation`) is imported where it is used.
"""

from mvjax.version import __version__

__all__ = ["__version__"]
