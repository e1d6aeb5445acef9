"""Schedule, wrapping, guidance and solver equal the recordings, step by step and over whole runs."""

from __future__ import annotations

import torch

from hallo3_core.sampling import guidance, schedule
from hallo3_core.sampling.sampler import clean_from_velocity, sample


def test_noise_schedule_of_training(recorded, table):
    recording = recorded("sampler")
    table.meets(recording, "alphas_cumprod_float64", torch.from_numpy(schedule.alphas_cumprod()))
    grid = schedule.zero_terminal_alphas(schedule.TRAINING_STEPS)
    table.meets(recording, "denoiser_grid", torch.from_numpy(grid[::-1].copy()))


def test_schedule_of_each_step_count(recorded, table):
    recording = recorded("sampler")
    grid = schedule.zero_terminal_alphas(schedule.TRAINING_STEPS)
    for n in recording.numbers("n#.timesteps_ascending"):
        plan = schedule.make_schedule(n)
        alphas, q = torch.tensor(plan.alphas), torch.tensor(plan.wrapped)
        steps = torch.tensor(plan.timesteps)
        table.meets(recording, f"n{n}.alphas_cumprod_sqrt", alphas[:-1])
        table.meets(recording, f"n{n}.loop_alphas", alphas)
        table.exactly(recording, f"n{n}.step_timesteps", steps)
        table.exactly(recording, f"n{n}.timesteps_ascending", steps.flip(0))
        table.exactly(recording, f"n{n}.loop_timesteps", torch.cat((torch.tensor([-1]), steps.flip(0))))
        # recorded from the clean end of the list
        index = [len(grid) - 1 - schedule.nearest(a, grid) for a in plan.alphas[:-1]]
        table.exactly(recording, f"n{n}.grid_index", torch.tensor(index))
        table.meets(recording, f"n{n}.grid_value", q)
        table.meets(recording, f"n{n}.c_skip", q)
        table.meets(recording, f"n{n}.c_out", -(1 - q.double() ** 2).sqrt())
        table.meets(recording, f"n{n}.c_in", torch.ones(n))
        table.exactly(recording, f"n{n}.c_noise", steps)


def test_analytic_runs(recorded, table):
    recording = recorded("sampler")
    for n in recording.numbers("toy#.x_init"):
        run = f"toy{n}"
        text, audio, concat, face = (recording[f"{run}.{k}"] for k in ("text", "audio", "concat", "face"))

        def velocity(x, timestep, sound, words, concat=concat, face=face):
            offset = 0.2 * sound.mean() + 0.1 * words.mean() + 0.05 * concat.mean() + 0.01 * face.mean()
            return 0.4 * torch.tanh(x) + 0.1 * torch.sin(torch.tensor(0.01 * timestep)) + offset

        def evaluate(x, branches, timestep, velocity=velocity, audio=audio, text=text):
            return [velocity(x, timestep, audio * b.audio, text * b.text) for b in branches]

        out = replay(recording, run, recording[f"{run}.x_init"], evaluate, table)
        table.meets(recording, f"{run}.final", out)


def replay(recording, run, x_init, evaluate, table):
    """A whole run with the recorded noise; every recorded value of every step is met on the way."""
    dot = f"{run}." if run else ""
    steps = recording.numbers(f"{dot}step#.idx")
    plan = schedule.make_schedule(len(steps))
    weights = guidance.branch_weights(guidance.Scales())

    def predict(x, i):
        name = f"{dot}step{i}"
        table.meets(recording, f"{name}.x_in", x)
        if i:
            table.meets(recording, f"{dot}step{i - 1}.x_out", x)
        table.exactly(recording, f"{name}.timestep", plan.timesteps[i])
        table.exactly(recording, f"{name}.idx", len(plan) - i)
        table.meets(recording, f"{name}.alpha", torch.tensor(plan.alphas[i : i + 1]))
        table.meets(recording, f"{name}.alpha_next", torch.tensor(plan.alphas[i + 1 : i + 2]))
        v = guidance.guide(lambda branches: evaluate(x, branches, plan.timesteps[i]), weights)
        clean = clean_from_velocity(x, v, plan.wrapped[i])
        table.meets(recording, f"{name}.denoised", clean)
        return clean

    def noise(i):
        draw = 1 if i else 0  # from the second step on two are made and the second is used
        return recording[f"{dot}step{i}.noise{draw}"]

    out = sample(x_init, plan, predict, draw_noise=noise)
    table.meets(recording, f"{dot}step{steps[-1]}.x_out", out)
    return out
