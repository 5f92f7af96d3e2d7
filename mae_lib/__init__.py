"""Masked autoencoders as hierarchical latent variable models.

The package is flat, one module an idea, and a module imports only from those above it: ``masking`` and ``model`` (§2.2),
``worlds`` (the embedded world), ``image_files``, ``datasets`` and ``describe`` (folders of images: their files, sources of
images, what a folder holds), ``tiers`` (every size and length), ``pretrain`` and ``store`` (training and checkpoints), then what
draws and drives: ``figures``, ``explorers``, ``chapters``, ``cli``.
"""

__version__ = "0.1.0"
