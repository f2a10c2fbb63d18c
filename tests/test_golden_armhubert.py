"ARMHuBERT, MaskHuBERT and STaRHuBERT against numbers of the reference (tests/golden/armhubert)."
import json, shutil
from dataclasses import replace
from pathlib import Path
import pytest, torch
from safetensors.torch import load_file
from avcomp.models.checkpoints import build_model, load_model, read_checkpoint, save_model

GOLDEN = Path(__file__).parent/'golden/armhubert'
CASES = sorted(p.parent.name for p in GOLDEN.glob('*/checkpoint.ckpt'))
CLOSE = dict(rtol=1e-4, atol=1e-4)

def close(got, want): torch.testing.assert_close(got, want, **CLOSE)

def check(out, io, prefix, row=0):
    "All that was recorded of a clip alone; `row` is its place in our batch."
    seen = [k.removeprefix(f'{prefix}.') for k in io if k.startswith(f'{prefix}.')]
    n = next(io[f'{prefix}.{k}'].shape[1] for k in seen if k.startswith(('layer', 'projection')))
    for name in seen:
        kind, _, number = name.rpartition('_')
        if name == 'encoder_input': got = out.hidden_states[0]
        elif kind == 'layer': got = out.hidden_states[int(number)]
        elif kind == 'projection': got = out.projections[int(number)-1]
        elif kind == 'attn': got = out.maps[int(number)-1].mean(1)[..., :n]
        elif name == 'x': got = out.last
        else: continue   # states that our models do not return
        close(got[row:row+1, :n], io[f'{prefix}.{name}'])
    return len(seen)

@pytest.fixture(params=CASES)
def case(request):
    "Name, model, recorded tensors, samples of both clips."
    folder = GOLDEN/request.param
    meta = json.loads((folder/'meta.json').read_text())
    return request.param, load_model(folder/'checkpoint.ckpt'), load_file(folder/'io.safetensors'), meta['lengths']

@torch.no_grad()
def test_clips_alone(case, tmp_path):
    name, model, io, lengths = case
    c, arm, reuses = model.config, 'arm' in name, 'arm' in name
    assert model.family == ('starhubert' if 'star' in name else 'armhubert')
    assert (bool(c.own_maps), c.reuse_softmax) == (reuses, 'twice' if reuses else 'once')
    assert (c.layer_grad_scale, c.mask_emb, c.features == 'encoder') == (arm, 'star' not in name, 'star' in name)
    assert c.project == ('pattern' in name)
    for m in (model, load_model(save_model(model, tmp_path/'model'))):
        for i, n in enumerate(lengths): assert check(m(io['source'][i:i+1, :n], maps=True), io, f'single{i}') > 4
        assert check(m(io['second_full_clip'][None], maps=True), io, 'single_flip') > 4

@torch.no_grad()
def test_batches_are_clips_alone(case):
    "Where the reference mixes up maps in a batch, and lets padding into its group norm, we agree with single clips."
    name, model, io, lengths = case
    both = model(torch.stack([io['source'][0], io['second_full_clip']]), maps=True)
    check(both, io, 'single0', 0)
    check(both, io, 'single_flip', 1)
    last, n = f'reference_batch_of_2.layer_{model.config.num_layers}', torch.tensor(lengths)
    assert ((both.last - io[last]).abs()[1].max() > 1e-2) == ('arm' in name)
    padded = model(io['source'], n, maps=True)
    check(padded, io, 'single0', 0)
    check(padded, io, 'single1', 1)

@torch.no_grad()
def test_masked_frames(case):
    name, model, io, _ = case
    if 'star' in name: return
    mask = io['mask_indices'].bool()
    assert mask.any() and check(model(io['source'][:1], mask=mask), io, 'masked0') > 3

@pytest.mark.parametrize('name', [c for c in CASES if 'arm' in c])
@torch.no_grad()
def test_one_softmax(name):
    "The paper's arithmetic on the same weights, alone and in a batch."
    found, io = read_checkpoint(GOLDEN/name/'checkpoint.ckpt'), load_file(GOLDEN/name/'io.safetensors')
    once = build_model(replace(found, config=replace(found.config, reuse_softmax='once')), name)
    assert check(once(io['source'][:1]), io, 'once0') > 3
    check(once(torch.stack([io['source'][0], io['second_full_clip']])), io, 'once0')
    assert all((m.sum(-1) - 1).abs().max() < 1e-5 for m in once(io['source'][:1], maps=True).maps)

def test_settings_beside(tmp_path):
    "Without its hyper-parameters a file needs its yaml; another student's yaml does not fit."
    path = GOLDEN/'armhubert_pattern_proj'
    content = read_tensors(path/'checkpoint.ckpt')
    torch.save({'state_dict': content}, tmp_path/'bare.ckpt')
    with pytest.raises(ValueError, match="section 'distiller'"): load_model(tmp_path/'bare.ckpt')
    shutil.copy(GOLDEN/'maskhubert_tiny/config.yaml', tmp_path)
    with pytest.raises(ValueError, match='of another shape|unexpected'): load_model(tmp_path/'bare.ckpt')
    shutil.copy(path/'config.yaml', tmp_path)
    io = load_file(path/'io.safetensors')
    with torch.no_grad(): check(load_model(tmp_path/'bare.ckpt')(io['source'][:1]), io, 'single0')

def read_tensors(path):
    "The student's tensors of a recorded file."
    return {k: v for k, v in torch.load(path, weights_only=True)['state_dict'].items() if k.startswith('student_model')}
