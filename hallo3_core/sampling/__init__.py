"""The mathematics of sampling, without a network: schedule, solver, guidance, noise, step cache."""
