"""Images on disk (§3): folders, files, tar shards, COCO, the published layouts of shifted sets, and
what a folder holds."""
