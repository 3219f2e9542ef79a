"""Attention for TPUs: Pallas kernels on Mosaic."""

REGISTER_WIDTH = 128
"""Numbers along a row of a vector register: a statistic of a row is kept as that many copies."""
