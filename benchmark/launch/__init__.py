"""From what the user asks for to runs, and these to their results."""
