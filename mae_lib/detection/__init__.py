"""Detection and instance segmentation (§3.5): Mask R-CNN on the encoder, fine-tuned end to end, and
COCO's average precision."""
