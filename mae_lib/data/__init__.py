"""Images on disk (§3): folders, lists of files, tar shards, COCO, the published layouts of shifted
sets, and what a folder holds. What the files themselves are: `formats`."""
