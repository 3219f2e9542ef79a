"""Serving: a thread that drives the engine, answers as text while they grow, conversations."""
