"""The hierarchy and its theorems (§2.1, §2.3): latent graphs, Algorithms 1 and 2, the conditions of
Theorem 1, processes that draw data, Theorem 2 as an experiment, trees estimated from data, what a
law of masks does to the levels of c, what a level is worth to the loss, where an excess loss goes,
and which latents masks can identify."""
