"""From a search space file to a finished study: proposals, trials, records, front."""
