"""Programs that make the embedded data sets and the embedded CLIP; see assets/README.md."""
