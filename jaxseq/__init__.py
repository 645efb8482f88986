"""jaxseq: sequence models in JAX for accelerator research."""

__version__ = "0.1.0"
