"""NumPy float64 twins of ops, layers and models, written as plainly as their equations."""
