"""LISA: reasoning segmentation by a multimodal language model."""
