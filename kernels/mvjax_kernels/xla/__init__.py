"""Attention in plain XLA: any platform, any width of a head."""
