"""Weights of other libraries in and out of our parameters."""
