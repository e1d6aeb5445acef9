"""The command line: options, presets, batches, workers."""
