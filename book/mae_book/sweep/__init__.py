"""What is run for the book: the cells of the sweep, the experiments on why we differ, the theory's
claims measured, the quad-tree world."""
