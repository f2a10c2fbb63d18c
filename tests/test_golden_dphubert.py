"DPHuBERT files, gates, sizes and losses against numbers recorded from the reference (tests/golden/dphubert)."
import json
from pathlib import Path
import numpy as np, pytest, torch
from safetensors.torch import load_file
from avcomp.compress.dims import count_params
from avcomp.compress.gated import load_gated
from avcomp.compress.pruning import prune_
from avcomp.distill.objectives import distill_loss
from avcomp.models.checkpoints import load_model
from avcomp.models.formats.dphubert import DPHUBERT_GATES
from avcomp.models.formats.dphubert_writing import save_dphubert
from avcomp.models.formats.tables import renamer
from test_golden_avhubert import make_weights

GOLDEN = Path(__file__).parent/'golden/dphubert'
CASES = [p.parent.name for p in sorted(GOLDEN.glob('*/pruned.pth'))]
CLOSE = dict(rtol=1e-4, atol=5e-5)
FLAGS = {
    'conv': 'extractor_prune_conv_channels',
    'head': 'encoder_prune_attention_heads',
    'attlayer': 'encoder_prune_attention_layer',
    'interm': 'encoder_prune_feed_forward_intermediate',
    'ffnlayer': 'encoder_prune_feed_forward_layer',
}

def read(case):
    meta, expected = (json.loads((GOLDEN/case/f'{name}.json').read_text()) for name in ('meta', 'expected'))
    return load_file(GOLDEN/case/'io.safetensors'), meta, expected

def close(got, want): torch.testing.assert_close(got, want, **CLOSE)

def check(model, io, kind, large):
    "A batch of two: valid frames where padding does not leak in the reference, else the first clip, which has none."
    out = model(io['waveforms'], io['lengths'])
    valid = ~out.padding_mask
    assert valid.sum(1).tolist() == io['out_lengths'].tolist()
    rows = valid if large else slice(1)
    for k, state in enumerate(out.hidden_states): close(state[rows], io[f'{kind}_padded.state_{k}'][rows])
    alone = model(io['waveforms'][:1]).hidden_states
    if kind == 'pruned': close(alone[-1], io['pruned_full.state_last'])
    else:
        for k, state in enumerate(alone): close(state, io[f'{kind}_full.state_{k}'])
    return out

@pytest.mark.parametrize('case', CASES)
@torch.no_grad()
def test_dense(case):
    io, meta, expected = read(case)
    model, large = load_model(GOLDEN/case/'unpruned.pth'), meta['config']['extractor_mode'] == 'layer_norm'
    out = check(model, io, 'dense', large)
    n = io['out_lengths'][1]
    close(out.hidden_states[-1][1, :n], io['dense_single1.state_last'][0])
    close(*((t[1, :n] if large else t[0]) for t in (out.last, io['dense_padded.forward'])))
    assert count_params(model) + len(model.frontend.scale) == expected['teacher_total_incl_dummy']

@pytest.mark.parametrize('case', CASES)
@torch.no_grad()
def test_gated(case, tmp_path):
    "Gates, their expected size, the sliced model."
    io, meta, expected = read(case)
    content = torch.load(GOLDEN/case/'unpruned.pth', weights_only=True)
    logits = {k.removeprefix('gate.'): v for k, v in io.items() if k.endswith('log_alpha')}
    config, state = content['config'] | {FLAGS[u]: True for u in meta['units']}, content['state_dict'] | logits
    torch.save({'config': config, 'state_dict': state}, tmp_path/'gated.pth')
    model, gates = load_gated(tmp_path/'gated.pth')
    check(model, io, 'gated', meta['config']['extractor_mode'] == 'layer_norm')
    rename, masks = renamer(DPHUBERT_GATES), gates.masks()
    assert len(gates.gates) == len(expected['gates'])
    for theirs, want in expected['gates'].items():
        name = rename(f'{theirs}.log_alpha')
        assert gates.gates[name].l0_norm().item() == pytest.approx(want['l0_norm'], rel=1e-5)
        assert (len(masks[name]), int((masks[name] > 0).sum())) == (want['n'], want['kept'])
        close(masks[name], io[f'gate.{theirs}.eval_mask'])
    last = gates.gates.get('frontend.conv6')
    dummy = len(model.frontend.scale) if last is None else last.l0_norm().item()
    # of WavLM, which the reference does not count
    positions = expected['teacher_total_incl_dummy'] - expected['dense_get_num_params']
    assert gates.expected_params().item() + dummy == pytest.approx(expected['expected_params'] + positions, rel=1e-6)
    prune_(model, gates)
    if case != 'hubert_emptied_branches':   # where ours keeps output biases
        check(model, io, 'pruned', meta['config']['extractor_mode'] == 'layer_norm')
        assert count_params(model) + len(model.frontend.scale) == expected['pruned_param_count_incl_dummy']
        saved = torch.load(save_dphubert(model, tmp_path/'pruned.pth'), weights_only=True)
        want = torch.load(GOLDEN/case/'pruned.pth', weights_only=True)
        assert saved['config'] == want['config'] and saved['state_dict'].keys() == want['state_dict'].keys()
        for k, v in want['state_dict'].items(): close(saved['state_dict'][k], v)

@pytest.mark.parametrize('case', CASES)
@torch.no_grad()
def test_pruned(case, tmp_path):
    io, meta, expected = read(case)
    model = load_model(GOLDEN/case/'pruned.pth')
    check(model, io, 'pruned', meta['config']['extractor_mode'] == 'layer_norm')
    assert count_params(model) + len(model.frontend.scale) == expected['pruned_param_count_incl_dummy']
    assert set(model.left_out) == {f'distill_linear_projs.{i}.{t}' for i in range(3) for t in ('weight', 'bias')}

@torch.no_grad()
def test_base_full_size(tmp_path):
    io, meta, expected = read('hubert_base_full_size_recipe')
    weights = dict(make_weights(expected['key_shapes'], meta['seed']))
    weights |= {k: torch.ones_like(v) for k, v in weights.items() if k.endswith('dummy_weight')}
    assert len(weights) == expected['entries']
    torch.save({'state_dict': weights, 'config': meta['config']}, tmp_path/'base.pth')
    model = load_model(tmp_path/'base.pth')
    assert count_params(model) + 512 == expected['param_count_incl_dummy'] == 94_371_456
    wav = torch.from_numpy(0.1*np.random.RandomState(meta['seed']).standard_normal((1, 4000))).float()
    torch.testing.assert_close(wav.flatten()[:8], io['input_check'])
    states = model(wav).hidden_states
    for k in (0, 1, 6, 12): torch.testing.assert_close(states[k], io[f'state_{k}'], rtol=1e-3, atol=2e-4)

def test_distill_loss():
    case, rename = GOLDEN/'distill_loss', {'l1': 'l1', 'mse': 'l2', 'cos': 'cos'}
    io, expected = load_file(case/'io.safetensors'), json.loads((case/'expected.json').read_text())
    masked = expected.pop('masked_formula')
    for want in expected.values():
        weights = dict(l1=want['l1_weight'], l2=want['l2_weight'], cos=want['cos_weight'])
        got = distill_loss(io['student'], io['teacher'], cos_type=want['cos_type'], **weights)
        assert got['total'].item() == pytest.approx(want['total'], rel=1e-5)
        for theirs, ours in rename.items():
            assert got.get(ours, torch.tensor(0.)).item() == pytest.approx(want[theirs], rel=1e-5)
    valid = torch.arange(io['student'].shape[2]) < torch.tensor(masked['lengths'])[:, None]
    for kind in ('raw', 'log_sig'):
        got = distill_loss(io['student'], io['teacher'], valid, l2=1., cos_type=kind)
        want = [masked['l1'], masked['mse'], masked[f'cos_{kind}']]
        assert [got[k].item() for k in ('l1', 'l2', 'cos')] == pytest.approx(want, rel=1e-5)
