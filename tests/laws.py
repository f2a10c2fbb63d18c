"What the tests of the laws of compression share, for any model: see DESIGN.md."
from copy import deepcopy
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from avcomp.compress.dims import collect, count_macs, count_params, size_polynomial
from avcomp.compress.gates import gate_
from avcomp.compress.merging import collapse_, merge_
from avcomp.compress.pruning import prune_
from avcomp.models.checkpoints import load_model, save_model

def close(a, b): torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5*b.abs().max().item())

def numel(model): return sum(p.numel() for p in model.parameters())

def set_logits(gates, logits):
    with torch.no_grad():
        for p in gates.parameters(): p.copy_(logits(p))

def multiplications(model, *inputs):
    "PyTorch's own count."
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH): model(*inputs)
    return counter.get_total_flops()//2

def check_open_gates(dense, units, run, flops, frames):
    "Open gates change no output and no size; nor does taking them off."
    gated = deepcopy(dense)
    gates = gate_(gated, units)
    set_logits(gates, lambda p: torch.full_like(p, 100.))
    close(run(gated), run(dense))
    assert gates.expected_params().item() == numel(dense) == count_params(dense) == count_params(gated)
    assert gates.expected_macs(frames).item() == count_macs(dense, frames) == flops(dense)
    assert gates.sparsity().item() == 0
    prune_(gated, gates)
    close(run(gated), run(dense))

def check_rounds(model, units, logits, run, flops, frames, folder):
    """Gate, slice, save, load, and again: the sliced model is the gated one, and as large and costly as computed.
    Returns the number of rounds: one where nothing of a unit was left."""
    for round_ in range(2):
        if not set(units) <= set(collect(model).units()): return round_
        gates = gate_(model, units)
        set_logits(gates, logits)
        before = run(model)
        left = gates.table.sizes() | {n: int((z > 0).sum()) for n, z in gates.masks().items()}
        prune_(model, gates)
        close(run(model), before)
        assert numel(model) == count_params(model) == size_polynomial(gates.table)(left)
        assert flops(model) == count_macs(model, frames) == size_polynomial(gates.table, frames)(left)
        model = load_model(save_model(model, folder))
        close(run(model), before)
    return 2

def check_merging(model, kind, units, logits, run, flops, frames):
    "Merging keeps an optimizer's hold; the merged model is pruned, becomes one projection, and is pruned again."
    params = list(model.parameters())
    merge_(model, kind)
    assert all(a is b for a, b in zip(params, model.parameters()))
    gates = gate_(model, units, merged=kind)
    set_logits(gates, logits)
    before = run(model)
    prune_(model, gates)
    collapse_(model, kind)
    close(run(model), before)
    assert model.config.shared == kind and numel(model) == count_params(model)
    assert flops(model) == count_macs(model, frames)
    again = gate_(model, ('head', 'ffn'))
    set_logits(again, logits)
    before = run(model)
    prune_(model, again)
    close(run(model), before)
