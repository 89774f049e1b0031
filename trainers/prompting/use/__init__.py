"""A trained run without its trainer: loaded for images, or exported."""
