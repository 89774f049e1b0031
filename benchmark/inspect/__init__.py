"""Commands that show the methods, and what a trained run has learned."""
