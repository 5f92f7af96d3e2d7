"""The embedded world (§3): images whose whole latent hierarchy is known, drawn on demand."""
