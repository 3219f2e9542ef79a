"""Attention for NVIDIA GPUs: Triton kernels called through jax-triton. Only imported where a GPU is to serve a call."""
