"""CLIP's two encoders with prompts, from CLIP's own modules."""
