"""Beside the linear probe of Table 1: one from few labels, one by degrees of a shift, and nearest
neighbours, which train nothing."""
