"""Weights from elsewhere: the files they lie in, what is known of them, and the model that they
make."""
