"""Masked autoencoders as hierarchical latent variable models.

The package is flat, one module an idea, and a module imports only from those above it. The theory: ``graph``, ``masking`` and
``shared`` (latent graphs, masks, Algorithms 1 and 2), ``conditions`` (Theorem 1's own conditions, their judge), ``process``, ``scores`` and ``identify`` (Theorem 2's
experiment). The model: ``model`` (§2.2), ``worlds`` (the embedded world), ``image_files``, ``contents``, ``datasets`` and ``describe`` (folders
of images: their files, what tells these apart, sources of images, what a folder holds), ``tiers`` (every size and length), ``pretrain`` and ``store`` (training and
checkpoints). The evaluations: ``features`` and ``intervals`` (what they share), ``reconstruction`` (§3.1), ``attention`` (§3.2), ``separability``,
``probe`` and ``shifted`` (§3.3), ``shape_bias`` (§3.4), ``evaluate`` (any of them, from a checkpoint to a record), ``ledger`` (the claims and their
tests). Then what draws and drives: ``figures``, ``graph_figures``, ``evaluation_figures``, ``explorers``, ``shared_explorer``, ``attention_explorer``, ``chapters``, ``cli``.
"""

__version__ = "0.1.0"
