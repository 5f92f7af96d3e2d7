"""Drawing for anyone with a model or a graph: masks, reconstructions, latent graphs and tables.
Nothing is computed here."""
