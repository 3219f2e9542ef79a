"""Benchmarks. Every figure is a ratio within one run, or is shown beside what it is to be compared with."""
