"""Attention for TPUs: Pallas kernels on Mosaic."""
