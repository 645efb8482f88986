"""Flax Linen layers: parameters with logical axis names, and a call to an op."""
