from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables.diffusion_policy.training.ema import Ema, ema_decay


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def train_a_little(network: nn.Module) -> None:
    network(torch.randn(8, 3)).square().sum().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter -= 0.1 * parameter.grad
            parameter.grad = None


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_decay_warms_up_to_its_bound() -> None:
    assert ema_decay(0, 1.0, 0.75, 0.9999) == 0.0
    assert ema_decay(1, 1.0, 0.75, 0.9999) == pytest.approx(1 - 2**-0.75)
    assert ema_decay(99, 1.0, 0.75, 0.9999) == pytest.approx(1 - 100**-0.75)
    assert ema_decay(99, 2.0, 2 / 3, 0.9999) == pytest.approx(1 - 50.5 ** (-2 / 3))
    assert ema_decay(10**9, 1.0, 0.75, 0.9999) == 0.9999
    assert ema_decay(50, 1.0, 0.0, 0.9999) == 0.0


def test_average_is_that_of_the_original_code() -> None:
    network = module()
    ema = Ema(network, inv_gamma=1.0, power=0.75, max_decay=0.9)
    expected = network[0].weight.detach().double().clone()
    for number in range(40):
        train_a_little(network)
        ema.update(network)
        step = max(0, number - 1)  # the original subtracts one: the first two updates copy
        decay = 0.0 if step <= 0 else min(1 - (1 + step) ** -0.75, 0.9)
        expected = decay * expected + (1 - decay) * network[0].weight.detach().double()
        torch.testing.assert_close(ema.state_dict()["0.weight"].double(), expected, rtol=1e-5, atol=1e-6)
        if number < 2:
            assert torch.equal(ema.state_dict()["0.weight"], network[0].weight)
    assert not torch.allclose(ema.state_dict()["0.weight"], network[0].weight)


def test_every_third_step_the_average_has_the_decays_of_three() -> None:
    network = module()
    often, seldom = Ema(network, 1.0, 0.75, 0.9), Ema(network, 1.0, 0.75, 0.9, every=3)
    expected = network[0].weight.detach().double().clone()
    for step in range(1, 13):
        before = seldom.state_dict()["0.weight"].clone()
        train_a_little(network)
        often.update(network)
        seldom.update(network)
        assert seldom.num_updates == often.num_updates == step
        if step % 3:
            assert torch.equal(seldom.state_dict()["0.weight"], before)
            continue
        decay = 1.0
        for number in range(step - 3, step):
            decay *= ema_decay(max(0, number - 1), 1.0, 0.75, 0.9)
        expected = decay * expected + (1 - decay) * network[0].weight.detach().double()
        torch.testing.assert_close(seldom.state_dict()["0.weight"].double(), expected, rtol=1e-5, atol=1e-6)
    # As long a memory, with fewer of the weights in it.
    distances = [(ema.state_dict()["0.weight"] - network[0].weight).norm() for ema in (often, seldom)]
    assert 0.5 < distances[1] / distances[0] < 2


def test_an_average_of_every_third_step_continues_bit_for_bit_between_its_updates() -> None:
    network = module()
    ema, resumed = (Ema(network, 1.0, 0.75, 0.9, every=3) for _ in range(2))
    for _ in range(7):
        train_a_little(network)
        ema.update(network)
    resumed.load_state_dict(ema.state_dict())
    for _ in range(3):
        train_a_little(network)
        ema.update(network)
        resumed.update(network)
    for name, value in ema.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def test_running_statistics_and_frozen_weights_are_copied() -> None:
    network = module()
    network[2].weight.requires_grad_(False)
    ema = Ema(network, 1.0, 0.75, 0.9999)
    for _ in range(6):
        network(torch.randn(8, 3))
        with torch.no_grad():
            network[2].weight += 1
        ema.update(network)
    state = ema.state_dict()
    assert torch.equal(state["1.running_mean"], network[1].running_mean)
    assert int(state["1.num_batches_tracked"]) == 6
    assert torch.equal(state["2.weight"], network[2].weight)


def test_average_is_in_the_module_only_inside_the_context() -> None:
    network = module()
    ema = Ema(network, 1.0, 0.75, 0.9999)
    for _ in range(8):
        train_a_little(network)
        ema.update(network)
    own, average = weights(network), {name: value.clone() for name, value in ema.state_dict().items()}
    identities = [id(parameter) for parameter in network.parameters()]

    def evaluate() -> None:
        with ema.applied(network):
            for name, value in network.state_dict().items():
                assert torch.equal(value, average[name])
            assert not torch.equal(network[0].weight, own["0.weight"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate()
    assert [id(parameter) for parameter in network.parameters()] == identities
    for name, value in network.state_dict().items():
        assert torch.equal(value, own[name])
    for name, value in ema.state_dict().items():
        assert torch.equal(value, average[name])


def test_average_can_be_put_into_another_module() -> None:
    network = module()
    ema = Ema(network, 1.0, 0.75, 0.9999)
    for _ in range(4):
        train_a_little(network)
        ema.update(network)
    other = module()
    x = torch.randn(5, 3)
    with ema.applied(network):
        expected = network.eval()(x)
    with ema.applied(other):
        assert torch.equal(other.eval()(x), expected)


def test_the_average_is_not_used_while_it_is_applied() -> None:
    network = module()
    ema = Ema(network, 1.0, 0.75, 0.9999)
    with ema.applied(network):
        with pytest.raises(RuntimeError, match="nested"), ema.applied(network):
            pass
        with pytest.raises(RuntimeError, match="after `applied`"):
            ema.update(network)


def test_saved_and_loaded_average_continues_bit_for_bit(tmp_path: Path) -> None:
    network = module()
    ema = Ema(network, 1.0, 0.75, 0.9999)
    for _ in range(5):
        train_a_little(network)
        ema.update(network)
    save_file(ema.state_dict(), tmp_path / "ema.safetensors")
    resumed = Ema(module(), 1.0, 0.75, 0.9999)
    resumed.load_state_dict(load_file(tmp_path / "ema.safetensors"))
    for _ in range(5):
        train_a_little(network)
        ema.update(network)
        resumed.update(network)
    assert resumed.num_updates == 10
    for name, value in ema.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def test_averages_of_another_module_are_refused() -> None:
    ema = Ema(module(), 1.0, 0.75, 0.9999)
    with pytest.raises(ValueError, match=r"0\.weight has shape \(4, 9\), expected \(4, 3\)"):
        ema.load_state_dict(ema.state_dict() | {"0.weight": torch.zeros(4, 9)})
    with pytest.raises(ValueError, match="missing or unknown"):
        ema.load_state_dict(Ema(nn.Linear(2, 2), 1.0, 0.75, 0.9999).state_dict())
