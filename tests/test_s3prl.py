"""The folder that `write_s3prl` makes, used as S3PRL uses an upstream.

S3PRL itself is not needed: its loader and featurizer are written here after its protocol."""
import sys
import pytest, torch
from torch import nn
import torch.nn.functional as F
from avcomp.compress.l1 import l1_masks
from avcomp.compress.pruning import cut_
from avcomp.core import FAMILIES
from avcomp.evaluate.s3prl import write_s3prl
from avcomp.models.armhubert import armhubert_config
from avcomp.models.hubert import hubert_config
from avcomp.models.checkpoints import load_model, save_model

RATE = 16000

def thin(name): return made(armhubert_config(name, conv_dims=(8,)*8 + (96,)))
def make(name, **kwargs): return made(hubert_config(name, **kwargs))

def made(config):
    torch.manual_seed(0)
    model = FAMILIES[config.family][1](config).eval()
    with torch.no_grad():    # layers that do something, so that their states differ
        for p in model.encoder.layers.parameters():
            if p.ndim == 2: p.mul_(3)
    return model

def pruned(name):
    model = make(name)
    cut_(model, l1_masks(model, 0.4))
    removed = ('layers.1.attn_layer', 'layers.1.ffn_layer', 'layers.3.attn_layer')
    config = model.config.resized({f'encoder.{name}': 0 for name in removed})
    small = FAMILIES[config.family][1](config).eval()
    state = model.state_dict()
    small.load_state_dict({k: state[k] for k in small.state_dict()})
    return small

MODELS = {
    'hubert': lambda: make('hubert_tiny'),
    'wavlm': lambda: make('wavlm_tiny'),
    'normalising': lambda: make('hubert_tiny', normalize_wav=True, conv_norm='layer', norm_first=True),
    'pruned hubert': lambda: pruned('hubert_tiny'),
    'pruned wavlm': lambda: pruned('wavlm_tiny'),
    'armhubert': lambda: thin('armhubert_tiny'),
    'starhubert': lambda: thin('starhubert_tiny'),
}

class Hub:
    "S3PRL's hub: every public callable of the hubconf modules that were star-imported."
    def __init__(self, root, *names):
        sys.path.insert(0, str(root))
        try:
            for name in names: exec(f'from {name}.hubconf import *', self.__dict__)
        finally: sys.path.remove(str(root))

    def options(self): return [n for n, f in vars(self).items() if not n.startswith('_') and callable(f)]

class Featurizer(nn.Module):
    "A weighted sum of the upstream's layers, cut to the length of each clip."
    def __init__(self, upstream, selection='hidden_states', normalize=False):
        super().__init__()
        upstream.eval()
        with torch.no_grad(): states = upstream([torch.randn(RATE)])[selection]    # the probe: one second of noise
        self.selection, self.normalize = selection, normalize
        self.rate = upstream.get_downsample_rates(selection)
        self.weights = nn.Parameter(torch.zeros(len(states)))
        self.output_dim = states[0].shape[-1]

    def forward(self, wavs, result):
        states = torch.stack(tuple(result[self.selection]))
        if self.normalize: states = F.layer_norm(states, states.shape[-1:])
        x = (self.weights.softmax(0)[:, None] * states.flatten(1)).sum(0).view(states.shape[1:])
        assert x.ndim == 3 and abs(x.shape[1] - round(max(map(len, wavs))/self.rate)) < 5
        return [row[:round(len(w)/self.rate)] for row, w in zip(x, wavs, strict=True)]

def pad_short(wavs):
    "A batch shorter than 0.05 s is padded with zeros."
    least = int(0.05*RATE)
    return [F.pad(w, (0, least - len(w))) for w in wavs] if max(map(len, wavs)) < least else wavs

@pytest.fixture(params=MODELS)
def case(request, tmp_path):
    "A model, and its upstream from the hub."
    model, name = MODELS[request.param](), f'student_{request.param.replace(" ", "_")}'
    write_s3prl(model, tmp_path/name, name)
    hub = Hub(tmp_path, name)
    assert hub.options() == [name]
    return model, getattr(hub, name)(ckpt=None, model_config=None, refresh=False)

def width(model): return 96 if model.family == 'starhubert' else 128
def count(model): return model.config.num_layers + (model.family not in ('armhubert', 'starhubert'))

def clips(*lengths):
    rng = torch.Generator().manual_seed(1)
    return [0.1*torch.randn(n, generator=rng) for n in lengths]

@torch.no_grad()
def test_states_are_those_of_the_model(case):
    model, upstream = case
    assert isinstance(upstream, nn.Module) and not upstream.model.training
    assert upstream.get_downsample_rates('hidden_states') == 320
    wavs = clips(16000, 7000, 23456)
    result = upstream(wavs)
    assert {tuple(s.shape) for s in result['hidden_states']} == {(3, model.num_frames(23456), width(model))}
    for i, w in enumerate(wavs):    # padded in a batch or alone, through S3PRL or not
        out = model(w[None])
        states = out.projections or out.hidden_states[model.first_state:]
        last = states[-1] if out.projections else out.last
        assert len(states) == count(model)
        single = upstream([w])['hidden_states']
        for state, own, only in zip(result['hidden_states'], states, single, strict=True):
            torch.testing.assert_close(state[i, :own.shape[1]], own[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(only, own, atol=0, rtol=0)
        torch.testing.assert_close(result['last_hidden_state'][i, :last.shape[1]], last[0], atol=1e-5, rtol=1e-5)

@pytest.mark.parametrize('normalize', [False, True])
def test_featurizer(case, normalize):
    model, upstream = case
    featurizer = Featurizer(upstream, normalize=normalize)
    assert featurizer.output_dim == width(model) and len(featurizer.weights) == count(model)
    for lengths in ((16000, 7000, 23456), (48000,), (16000, 15999, 16001)):
        wavs = clips(*lengths)
        with torch.no_grad(): result = upstream(wavs)
        features = featurizer(wavs, result)
        assert [len(f) for f in features] == [min(round(n/320), model.num_frames(max(lengths))) for n in lengths]
    sum(f.square().sum() for f in features).backward()
    assert featurizer.weights.grad.abs().max() > 0 and all(p.grad is None for p in upstream.parameters())

def test_short_batch(case):
    _, upstream = case
    with torch.no_grad(): result = upstream(pad_short(clips(300, 500)))
    assert result['hidden_states'][0].shape[:2] == (2, 2)

def test_fine_tuning(case):
    "With `-f` the upstream trains: as many states, and gradients everywhere."
    _, upstream = case
    upstream.train()
    result = upstream(clips(8000))
    sum(s.square().mean() for s in result['hidden_states']).backward()
    without = [n for n, p in upstream.named_parameters() if p.grad is None and p.numel()]
    assert [n for n in without if not n.startswith(('model.encoder.norm', 'model.mask_emb'))] == []

def test_checkpoint_and_reload(tmp_path):
    "`-k` gives another checkpoint, and the folder is also a folder for `load_model`."
    model, other = make('hubert_tiny'), make('hubert_tiny', num_layers=2)
    write_s3prl(model, tmp_path/'up', 'up')
    save_model(other, tmp_path/'other')
    up = Hub(tmp_path, 'up').up
    w = clips(4000)
    with torch.no_grad():
        state = up(ckpt=str(tmp_path/'other'))(w)['hidden_states'][2]
        torch.testing.assert_close(state, other(w[0][None]).hidden_states[2])
        torch.testing.assert_close(load_model(tmp_path/'up')(w[0][None]).last, model(w[0][None]).last)
    write_s3prl(tmp_path/'other', tmp_path/'up', 'up')    # replaced as a whole
    assert len(up()(w)['hidden_states']) == 3
