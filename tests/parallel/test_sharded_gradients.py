"""FSDP2 over the networks as training runs them: two processes with half of each weight have one's gradients."""

from functools import partial

import torch
import torch.distributed as dist

from hallo3_core.runtime.checkpointing import checkpoint_blocks
from hallo3_core.train.processes import Processes, shard
from tests.noise import noise
from tests.test_gradients import BATCH, gradients, inputs, loss_of, toy_networks, trained


def test_two_processes_have_the_gradients_of_one(together):
    network = trained(toy_networks())
    whole = gradients(network, loss_of(network(*inputs(network.denoiser.config))))
    for checkpointed in (False, True):
        for found in together(2, partial(sharded_gradients, checkpointed)):
            assert found.keys() == whole.keys()
            for name, grad in whole.items():
                assert torch.allclose(found[name], grad, rtol=1e-4, atol=1e-6), name


@torch.inference_mode(False)
def sharded_gradients(checkpointed: bool) -> dict[str, torch.Tensor]:
    """Of a batch that the processes share, after two passes: the second gathers weights that were let go. Before
    each, a preview's calls give what training's single call does."""
    dist.init_process_group("gloo")
    rank, network = dist.get_rank(), trained(toy_networks())
    for trunk in (network.denoiser, network.reference_net):
        if checkpointed:
            checkpoint_blocks(trunk)
    shard(network, Processes(rank, 2, torch.device("cpu")))
    own = [x[rank : rank + 1] for x in inputs(network.denoiser.config)]
    for _ in range(2):
        network.zero_grad()
        with torch.no_grad():
            previewed = network.velocity(*own[:3], network.conditions(*own[3:]))
        velocity = network(*own)
        assert torch.equal(previewed, velocity)
        target = noise(BATCH, *velocity.shape[1:], seed=9)[rank : rank + 1]
        (velocity.double() - target.double()).square().mean().backward()
    found = {name: p.grad.full_tensor() for name, p in network.named_parameters()}
    dist.destroy_process_group()
    return found
