"""The masked autoencoder (§2.2, eq. 2)."""
