"""What a method must keep to, on the embedded CLIP: checks that need no real run."""
