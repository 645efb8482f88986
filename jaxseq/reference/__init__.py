"""NumPy float64 twins of ops, nn and models: one module each, the same names, nothing but NumPy.

A twin is written as plainly as its equation, loops included, and is what the tests hold the JAX
side to. Twins of layers take the layer's Flax parameters as a nested dict of arrays, so that the
same weights run in both: `nn.unbox(model.init(...))["params"]`.
"""
