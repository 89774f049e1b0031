"""From a cfg to a method: its keys, its settings, its transforms; what needs no training."""
