"""Interactive explorers with three faces: live widget, page without a kernel, printed figure."""
