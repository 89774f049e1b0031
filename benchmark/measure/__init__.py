"""Measure time, memory and operations of training and evaluation."""
