"""Trainers of the CoOp family; `trainers.prompting` is the plug-in."""
