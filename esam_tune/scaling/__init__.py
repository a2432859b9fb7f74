"""How a setting scales over workers: measured, modelled, and predicted beyond."""
