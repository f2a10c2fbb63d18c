"The laws of compression for every waveform encoder and every unit: see DESIGN.md."
from copy import deepcopy
import pytest, torch
from avcomp.compress.dims import count_params, size_polynomial
from avcomp.compress.gates import gate_
from avcomp.compress.pruning import prune_
from avcomp.models.hubert import hubert_config
from laws import check_merging, check_open_gates, check_rounds, close, multiplications, numel, set_logits

LARGE = dict(conv_norm='layer', conv_bias=True, norm_first=True, normalize_wav=True)
CHANNELS = 10, 12, 8, 8, 8, 14, 16
MODELS = {
    'hubert': ('hubert_tiny', {}),
    'hubert large': ('hubert_tiny', LARGE),
    'hubert layer, post-norm': ('hubert_tiny', dict(conv_norm='layer')),
    'wav2vec2': ('wav2vec2_tiny', dict(conv_bias=True)),
    'wavlm': ('wavlm_tiny', {}),
    'wavlm large': ('wavlm_tiny', LARGE),
    'wavlm merged': ('wavlm_tiny', dict(shared='QK')),
    'hubert ctc': ('hubert_tiny', dict(vocab_size=9, mask_emb=True, head='predict')),
    'wide heads': ('hubert_tiny', dict(head_dim=20)),
    'narrow heads': ('hubert_tiny', LARGE | dict(head_dim=5, shared='KV')),
    'no projection': ('hubert_tiny', dict(conv_dims=CHANNELS[:6] + (48,), project=False)),
    'no projection, large': ('hubert_tiny', LARGE | dict(conv_dims=CHANNELS[:6] + (48,), project=False)),
}
ALL = 'conv', 'head', 'ffn', 'attn_layer', 'ffn_layer'
UNITS = [*((unit,) for unit in ALL), ALL[:3], ALL]
LOGITS = {
    'random': lambda p: torch.randn_like(p)*2,
    'closed': lambda p: torch.full_like(p, -9.),
    'half': lambda p: torch.arange(len(p)) % 2*8. - 4,
}
FRAMES = 6
N = 400 + 320*(FRAMES-1)
WAV, LENGTHS = torch.randn(2, N, generator=torch.Generator().manual_seed(1)), torch.tensor([N, N-500])
pytestmark = pytest.mark.filterwarnings('ignore:Initializing zero-element')


def build(name):
    "A small model with norms, biases and constants away from their defaults."
    size, kwargs = MODELS[name]
    torch.manual_seed(0)
    small = dict(conv_dims=CHANNELS, embed_dim=48, ffn_dim=20, num_layers=2, pos_kernel=8, pos_groups=4)
    config = hubert_config(size, **small | kwargs)
    model = config.model_cls(config).eval()
    with torch.no_grad():
        for n, p in model.named_parameters():
            if n.endswith('bias') or 'norm' in n or 'gate_const' in n: p.add_(torch.randn_like(p)*.3)
            elif 'rel_embed' in n: p.normal_()
            elif 'layers' in n: p.mul_(5)
    return model


@torch.no_grad()
def run(model):
    out = model(WAV, LENGTHS)
    return torch.cat([h[~out.padding_mask] for h in [*out.hidden_states, out.last]], -1)

def flops(model): return multiplications(model, WAV[:1])


@pytest.mark.parametrize('name', MODELS)
def test_open_gates_change_nothing(name):
    check_open_gates(build(name), UNITS[-1], run, flops, FRAMES)


CASES = [(name, units) for i, name in enumerate(MODELS) for units in UNITS[0 if i < 6 else -2:]]

@pytest.mark.parametrize('name, units', CASES)
def test_sliced_is_gated(name, units, tmp_path):
    dense = build(name)
    for logits in list(LOGITS.values())[:1 if len(units) == 1 else None]:
        assert check_rounds(deepcopy(dense), units, logits, run, flops, FRAMES, tmp_path/'model')


@pytest.mark.parametrize('name', MODELS)
def test_padding_changes_nothing(name):
    "The second clip alone, for a model whose gates are on and for its slices."
    model = build(name)
    gates = gate_(model, UNITS[-1][:3])
    set_logits(gates, LOGITS['random'])
    for _ in range(2):
        n = model.num_frames(N-500)
        with torch.no_grad(): both, alone = model(WAV, LENGTHS), model(WAV[1:, :N-500])
        for s, t in zip([*both.hidden_states, both.last], [*alone.hidden_states, alone.last]): close(s[1, :n], t[0])
        if gates: gates = prune_(model, gates) and None


@pytest.mark.parametrize('name', MODELS)
def test_maps_on_request(name):
    "Maps change no output, and a sliced model has a map for each head that it has left."
    model = build(name)
    gates = gate_(model, ('head', 'attn_layer'))
    set_logits(gates, LOGITS['half'])
    for _ in range(2):
        with torch.no_grad(): plain, seen = model(WAV, LENGTHS), model(WAV, LENGTHS, maps=True)
        close(seen.last[seen.valid], plain.last[plain.valid])
        assert plain.maps is None and len(seen.maps) == 2
        for m, layer in zip(seen.maps, model.encoder.layers):
            assert (m is None) == (layer.self_attn is None)
            if m is not None:
                assert m.shape == (2, layer.self_attn.num_heads, FRAMES, FRAMES)
                close(m.sum(-1), torch.ones(m.shape[:3]))
        if gates: gates = prune_(model, gates) and None


@pytest.mark.parametrize('kind', ['QKV', 'QK', 'QV', 'KV'])
@pytest.mark.parametrize('name', ['hubert', 'wavlm large'])
def test_merging(name, kind):
    check_merging(build(name), kind, ('conv', 'head', 'ffn'), LOGITS['random'], run, flops, FRAMES)


def test_wavlm_survives_without_its_first_attention():
    "The relative positions belong to the encoder: closing attention 0 and some heads above leaves the rest as it was."
    model = build('wavlm')
    gates = gate_(model, ('head', 'attn_layer'))
    set_logits(gates, lambda p: torch.full_like(p, 9.))
    with torch.no_grad():
        gates.gates['encoder.layers.0.attn_layer'].log_alpha.fill_(-9.)
        gates.gates['encoder.layers.1.heads'].log_alpha[::2] = -9.
    before = run(model)
    prune_(model, gates)
    close(run(model), before)
    first, second = model.encoder.layers
    assert first.self_attn is None and second.self_attn.head_ids.tolist() == [1, 3]
    with torch.no_grad(): model.encoder.rel_embed.weight.zero_()
    assert (run(model) - before).abs().max() > 1e-3


def test_training_reaches_every_weight():
    "With gates on, one loss has gradients for weights, logits and the relative positions."
    model = build('wavlm large').train()
    gate_(model, UNITS[-1])
    model(WAV, LENGTHS).last.square().sum().backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert dead == []


def test_shared_gates_draw_in_order():
    "A channel has up to three gates; the first of the module order draws, and all use that draw."
    model = build('hubert large').train()
    gates = gate_(model, 'conv')
    set_logits(gates, torch.zeros_like)
    first, second, third = model.frontend.convs[6].pre_gate, model.frontend.convs[6].gate, model.feature_gate
    model(WAV)
    assert first.link[1] is None and second.link[1] is first and third.link[1] is first
    z, ones = first.z, torch.ones(1, 1, 16)
    close(second(ones).flatten(), z)
    close(third(ones).flatten(), z)


PUBLISHED = {'hubert_base': 94_370_944, 'wav2vec2_base': 94_370_944, 'wavlm_base_plus': 94_381_168,
             'hubert_large': 315_434_112, 'wavlm_large': 315_452_096}

@pytest.mark.parametrize('name, published', PUBLISHED.items())
def test_published_sizes(name, published):
    config = hubert_config(name)
    with torch.device('meta'): model = config.model_cls(config)
    assert numel(model) == count_params(model) == published
    gates = gate_(model, UNITS[-1])
    for g in gates.gates.values(): g.to_empty(device='cpu')
    set_logits(gates, lambda p: torch.full_like(p, 100.))
    assert gates.expected_params().item() == published
    kept = {n: max(d.min_size, d.size//3) for n, d in gates.table.dims.items()}
    with torch.device('meta'): small = config.model_cls(config.resized(kept))
    assert size_polynomial(gates.table)(kept) == numel(small)
