"""What lies on disk: image files and arrays, which of them belong to a split, tar shards, COCO's
layouts. What sources are made of."""
