"""Programs that make the embedded images and CLIP: see assets/README.md."""
