"""Florence-2: captions, detection, grounding, segmentation and OCR by task."""
