"""Numbers alone: products, kernels, spectra, intervals, tests; nothing here knows of networks or images."""
