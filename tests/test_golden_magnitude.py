"Golden numbers of magnitude pruning, and the published sizes of SparseVSR: see tests/golden/magnitude."
import json, math
from pathlib import Path
import numpy as np
import pytest, torch
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file
from avcomp.compress.magnitude import apply_masks_, densities, magnitude_masks, prunable_weights, smallest_masked
from avcomp.models.checkpoints import load_model
from avcomp.models.contract import unfilled_model
from avcomp.models.vsr import VSR, vsr_config

CASE = Path(__file__).parent/'golden'/'magnitude'/'vsr_tiny'
WEIGHTS = CASE.parent.parent/'vsr'/'autoavsr_tiny'/'weights.safetensors'
EXPECTED = json.loads((CASE/'expected.json').read_text())
LEVELS = {level['sparsity_percent']: level for level in EXPECTED['levels']}

@pytest.fixture(scope='module')
def weights():
    "The prunable tensors by their public names, sorted."
    state = load_file(WEIGHTS)
    return {p['name']: state[p['name']] for p in sorted(EXPECTED['prunable'], key=lambda p: p['name'])}

@pytest.mark.parametrize('percent', LEVELS)
def test_masks(weights, percent):
    level, masks = LEVELS[percent], smallest_masked(weights, percent/100)
    kept = {name: int(m.sum()) for name, m in masks.items()}
    assert kept == level['kept_per_tensor'] and sum(kept.values()) == level['kept']
    assert {n: k/weights[n].numel() for n, k in kept.items()} == densities(masks)
    largest = max(w[~masks[n]].abs().max().item() for n, w in weights.items() if not masks[n].all())
    smallest = min(w[masks[n]].abs().min().item() for n, w in weights.items() if masks[n].any())
    assert (largest, smallest) == (level['largest_pruned'], level['smallest_kept'])

@pytest.mark.parametrize('percent', [10, 50, 90])
def test_masks_bit_by_bit(weights, percent):
    packed = load_arrays(CASE/'io.safetensors')[f'mask_{percent}_packed']
    masks = smallest_masked(weights, percent/100)
    bits = np.concatenate([masks[name].numpy().ravel() for name in sorted(masks)])
    assert np.array_equal(np.packbits(bits), packed)

@pytest.fixture(scope='module')
def public(tmp_path_factory):
    "The model as a public file."
    path = tmp_path_factory.mktemp('vsr')/'tiny.pth'
    torch.save(load_file(WEIGHTS), path)
    return path

@pytest.mark.parametrize('percent', LEVELS)
def test_model(public, percent):
    "The same through the door: some tensors of the file are two of ours, the threshold is one."
    model, level = load_model(public), LEVELS[percent]
    masks, found = magnitude_masks(model, percent/100), prunable_weights(model)
    assert sum(w.numel() for w in found.values()) == EXPECTED['total_prunable']
    assert sum(p.numel() for p in model.parameters()) == EXPECTED['total_params']
    assert max(w[~masks[n]].abs().max() for n, w in found.items() if not masks[n].all()) == level['largest_pruned']
    assert sum(int((w == 0).sum()) for w in prunable_weights(apply_masks_(model, masks)).values()) == level['pruned']

SIZES = {'base_s': (56_350_770, 54_879_040), 'base_l': (250_383_410, 246_099_776)}
COLUMN = 225.7, 201.1, 176.5, 151.9, 127.3, 102.7, 78.1, 53.5, 28.8   # Fernandez-Lopez et al. 2023, table 2, cut

@pytest.mark.parametrize('size', SIZES)
def test_published_sizes(size):
    model, (total, prunable) = unfilled_model(VSR, vsr_config(size)), SIZES[size]
    assert sum(p.numel() for p in model.parameters()) == total
    assert sum(w.numel() for w in prunable_weights(model).values()) == prunable

def test_published_column():
    total, prunable = SIZES['base_l']
    assert tuple(math.floor((total - round(k/10*prunable))/1e5)/10 for k in range(1, 10)) == COLUMN
