"""Multi-objective search for Efficient Sharpness-Aware Minimization (ESAM)."""

__version__ = "0.1.0"
