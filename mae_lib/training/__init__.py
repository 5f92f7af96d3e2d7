"""Pretraining (§3): every size and length, the loop, many processes, checkpoints that are found,
loaded, or else trained."""
