"""The part of Dassl's public interface that prompt learning for CLIP uses."""

__version__ = "0.6.3+lite"
