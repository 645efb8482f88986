"""Pure functions of arrays: no Flax, no state, every one with a NumPy twin in `reference`."""
