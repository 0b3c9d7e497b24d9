"""What models are trained on: registered fields, labels, masks, splits and batches."""
