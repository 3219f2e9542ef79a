"""What checks the annotations of our functions while tests run: the last word of `--jaxtyping-packages`."""

from collections.abc import Callable

from beartype import BeartypeConf, beartype

check: Callable = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""beartype, for which as for the static checker an int is a float, too (PEP 484)."""
