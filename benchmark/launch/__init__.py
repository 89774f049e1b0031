"""From what the user asks for to runs, one after another or side by side."""
