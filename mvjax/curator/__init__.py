"""Multiverse Curator: sequential reasoning in, checked parallel training data out (arXiv 2506.09991, section 5.1)."""
