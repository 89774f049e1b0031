"""The embedded images and CLIP."""
