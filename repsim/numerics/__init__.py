"""Arithmetic that knows tensors only: centring, kernels, spectra, products, memory and precision."""
