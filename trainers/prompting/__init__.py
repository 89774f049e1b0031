"""One prompted CLIP for every method, in plain PyTorch; knows neither Dassl nor its cfg."""
