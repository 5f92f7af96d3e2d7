"""§2.1: which latents the masked and the visible part share. Latent graphs, Algorithms 1 and 2,
their conditions, levels and what these are worth to the loss."""
