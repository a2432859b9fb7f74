"""MLflow: one parent run a study, one nested run a trial, shipped from the journal.

This package is the only importer of MLflow, and imports it no sooner than it is needed.
"""
