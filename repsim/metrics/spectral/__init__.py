"""Functions of orthonormal directions and singular values: the CCA family, regression, Procrustes, ridge smoothers."""
