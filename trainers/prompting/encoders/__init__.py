"""CLIP's two encoders with prompts, built from the modules of the CLIP."""
