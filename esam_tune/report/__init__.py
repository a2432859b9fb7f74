"""Pictures and pages of a study, drawn from plain data."""
